//! What load balancers are told of this node: the answers, byte for byte as kube-proxy gives them. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use jiff::Timestamp;
use model::{
    Family, NodeConfig, NodePortAddresses, Port, Protocol, ServiceName, ServicePort, ServicePortId, Update,
};

/// An update that waits longer than this makes the proxy unhealthy (twice kube-proxy's sync period).
pub(crate) const LATE_AFTER: Duration = Duration::from_secs(60);

/// The Services whose local endpoints are asked for, and how many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checks {
    ports: BTreeMap<ServiceName, BTreeMap<(String, Protocol, Family), Local>>,
    /// Where the ports are listened on; `None`: on every address.
    pub(crate) addresses: Option<Vec<IpAddr>>,
}

/// What one port of a Service contributes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Local {
    health_check_port: Port,
    ready: BTreeSet<IpAddr>,
}

/// One health-check port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) port: Port,
    /// Ready endpoints on this node, each address once, however many ports it serves.
    pub(crate) endpoints: usize,
}

impl Checks {
    /// Takes in what moved; returns whether any answer may differ.
    pub(crate) fn advance(&mut self, update: &Update) -> bool {
        let mut changed = false;
        if let Some(node) = &update.node {
            let addresses = listened_at(node);
            changed = self.addresses != addresses;
            self.addresses = addresses;
        }
        for (id, port) in &update.services {
            let local = port.as_deref().and_then(local);
            changed |= self.set(id, local);
        }
        changed
    }

    fn set(&mut self, id: &ServicePortId, local: Option<Local>) -> bool {
        let key = (id.port.clone(), id.protocol, id.family);
        let Some(local) = local else {
            let Some(ports) = self.ports.get_mut(&id.service) else { return false };
            let removed = ports.remove(&key).is_some();
            if ports.is_empty() {
                self.ports.remove(&id.service);
            }
            return removed;
        };
        let ports = self.ports.entry(id.service.clone()).or_default();
        let same = ports.get(&key) == Some(&local);
        ports.insert(key, local);
        !same
    }

    /// Every check, by Service.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&ServiceName, Check)> {
        self.ports.iter().filter_map(|(service, ports)| {
            let port = ports.values().next()?.health_check_port;
            // A dual-stack pod is one endpoint with two addresses.
            let of_family = |family| {
                let ports = ports.iter().filter(move |((.., f), _)| *f == family);
                ports.flat_map(|(_, local)| &local.ready).collect::<BTreeSet<_>>().len()
            };
            let endpoints = Family::ALL.into_iter().map(of_family).max().unwrap_or_default();
            Some((service, Check { port, endpoints }))
        })
    }
}

/// Where node ports are served, there are their health checks.
fn listened_at(node: &NodeConfig) -> Option<Vec<IpAddr>> {
    let all = || Family::ALL.into_iter().flat_map(|family| node.node_port_addresses(family)).collect();
    (node.node_ports != NodePortAddresses::All).then(all)
}

fn local(port: &ServicePort) -> Option<Local> {
    let ready = port.local.iter().filter(|backend| !backend.terminating);
    Some(Local {
        health_check_port: port.health_check_port?,
        ready: ready.map(|backend| backend.address.ip()).collect(),
    })
}

/// A whole HTTP answer, dates and lengths aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
}

/// On a Service's health-check port, whatever the path.
pub(crate) fn of_service(service: &ServiceName, endpoints: usize, proxy_healthy: bool) -> Answer {
    let ServiceName { namespace, name } = service;
    let mut answer = json(endpoints > 0 && proxy_healthy);
    answer.headers.push(("x-load-balancing-endpoint-weight", endpoints.to_string()));
    answer.body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\t\
         \"localEndpoints\": {endpoints},\n\t\"serviceProxyHealthy\": {proxy_healthy}\n}}"
    );
    answer
}

/// The proxy's own health at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proxy {
    pub(crate) now: Timestamp,
    /// Families that the node has.
    pub(crate) families: BTreeMap<Family, FamilyProgress>,
    pub(crate) node_eligible: bool,
}

/// How far the dataplane is with one family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FamilyProgress {
    /// When the dataplane accepted the last update; `None` while it starts up.
    pub(crate) updated: Option<Timestamp>,
    /// How long an update has been waiting.
    pub(crate) waited: Option<Duration>,
}

impl FamilyProgress {
    fn is_healthy(&self) -> bool {
        self.waited.is_none_or(|waited| waited < LATE_AFTER)
    }
}

impl Proxy {
    /// Starting up is healthy; a family of which an update is late is not, however the other is.
    pub(crate) fn is_healthy(&self) -> bool {
        self.families.values().all(FamilyProgress::is_healthy)
    }

    /// `/healthz`: load balancers send no traffic to a node that is going away.
    pub(crate) fn healthz(&self) -> Answer {
        self.answer(self.is_healthy() && self.node_eligible, true)
    }

    /// `/livez`: a node that is going away is no reason to restart the proxy.
    pub(crate) fn livez(&self) -> Answer {
        self.answer(self.is_healthy(), false)
    }

    fn answer(&self, healthy: bool, with_node: bool) -> Answer {
        // Go's zero time.
        let never = || "0001-01-01T00:00:00Z".to_owned();
        let updated = self.families.values().filter_map(|family| family.updated).max();
        let last =
            if healthy { self.now.to_string() } else { updated.map_or_else(never, |at| at.to_string()) };
        let eligible =
            if with_node { format!(",\"nodeEligible\":{}", self.node_eligible) } else { String::new() };
        let status: Vec<_> = self
            .families
            .iter()
            .filter_map(|(family, progress)| {
                let (updated, healthy) = (progress.updated?, progress.is_healthy());
                let family = match family {
                    Family::V4 => "IPv4",
                    Family::V6 => "IPv6",
                };
                Some(format!("\"{family}\":{{\"lastUpdated\":\"{updated}\",\"healthy\":{healthy}}}"))
            })
            .collect();
        let status =
            if status.is_empty() { String::new() } else { format!(",\"status\":{{{}}}", status.join(",")) };
        let mut answer = json(healthy);
        answer.body = format!(
            "{{\"lastUpdated\":\"{last}\",\"currentTime\":\"{}\"{eligible},\"healthy\":{healthy}{status}}}",
            self.now
        );
        answer
    }
}

/// Any other path, as Go's HTTP server answers it.
pub(crate) fn not_found() -> Answer {
    Answer {
        status: 404,
        headers: vec![
            ("content-type", "text/plain; charset=utf-8".into()),
            ("x-content-type-options", "nosniff".into()),
        ],
        body: "404 page not found\n".into(),
    }
}

fn json(healthy: bool) -> Answer {
    Answer {
        status: if healthy { 200 } else { 503 },
        headers: vec![
            ("content-type", "application/json".into()),
            ("x-content-type-options", "nosniff".into()),
        ],
        body: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::{Backend, Generation};

    use super::*;

    fn service() -> ServiceName {
        ServiceName { namespace: "ns".into(), name: "web".into() }
    }

    /// A port of ns/web with local endpoints, each an address and whether it terminates.
    fn port(name: &str, family: Family, health_check: Option<u16>, local: &[(&str, bool)]) -> Update {
        let id = ServicePortId { service: service(), port: name.into(), protocol: Protocol::Tcp, family };
        let backend = |(address, terminating): &(&str, bool)| Backend {
            address: address.parse().expect("address"),
            local: true,
            terminating: *terminating,
        };
        let port = ServicePort {
            id: id.clone(),
            frontends: vec![],
            cluster: vec![],
            local: local.iter().map(backend).collect(),
            usable_anywhere: true,
            endpoints: vec![],
            affinity_seconds: None,
            health_check_port: health_check.and_then(Port::new),
        };
        Update {
            generation: Generation(1),
            services: [(id, Some(Arc::new(port)))].into(),
            ..Update::default()
        }
    }

    fn counted(checks: &Checks) -> Vec<(u16, usize)> {
        checks.all().map(|(_, check)| (check.port.get(), check.endpoints)).collect()
    }

    #[test]
    fn fact_88_distinct_ready_addresses_over_all_ports_count() {
        let mut checks = Checks::default();
        checks.advance(&port(
            "a",
            Family::V4,
            Some(32000),
            &[("10.20.0.2:80", false), ("10.20.0.3:80", false)],
        ));
        assert_eq!(counted(&checks), [(32000, 2)]);
        checks.advance(&port("b", Family::V4, Some(32000), &[("10.20.0.2:443", false)]));
        assert_eq!(counted(&checks), [(32000, 2)], "the same pod on another port");
        checks.advance(&port("a", Family::V6, Some(32000), &[("[fd20::2]:80", false)]));
        assert_eq!(counted(&checks), [(32000, 2)], "the same pod in another family");
        checks.advance(&port("a", Family::V4, Some(32000), &[("10.20.0.2:80", true)]));
        assert_eq!(counted(&checks), [(32000, 1)], "what terminates does not count; port b still does");
    }

    #[test]
    fn fact_89_checks_come_change_and_go_with_the_service() {
        let mut checks = Checks::default();
        assert!(!checks.advance(&port("a", Family::V4, None, &[("10.20.0.2:80", false)])), "asks for none");
        let wanted = port("a", Family::V4, Some(32000), &[]);
        assert!(checks.advance(&wanted));
        assert!(!checks.advance(&wanted), "nothing new");
        assert!(checks.advance(&port("a", Family::V4, Some(32001), &[])));
        assert_eq!(counted(&checks), [(32001, 0)]);
        let gone = Update {
            services: wanted.services.keys().map(|id| (id.clone(), None)).collect(),
            ..Update::default()
        };
        assert!(checks.advance(&gone));
        assert_eq!(counted(&checks), []);
    }

    #[test]
    fn facts_86_91_checks_are_listened_on_where_node_ports_are_served() {
        let addresses = ["10.128.0.11", "192.0.2.11"].map(|ip| ip.parse().expect("address")).to_vec();
        let update = |node_ports| Update {
            node: Some(NodeConfig { addresses: addresses.clone(), node_ports, ..NodeConfig::default() }),
            ..Update::default()
        };
        let mut checks = Checks::default();
        assert!(!checks.advance(&update(NodePortAddresses::All)));
        assert_eq!(checks.addresses, None);
        assert!(checks.advance(&update(NodePortAddresses::Primary)));
        assert_eq!(checks.addresses.as_deref(), Some(&addresses[..1]));
    }

    #[test]
    fn fact_86_no_endpoint_or_an_unhealthy_proxy_is_503() {
        let status = |endpoints, healthy| of_service(&service(), endpoints, healthy).status;
        assert_eq!([status(1, true), status(0, true), status(1, false)], [200, 503, 503]);
        assert!(of_service(&service(), 1, false).body.contains("\"serviceProxyHealthy\": false"));
    }

    #[test]
    fn facts_92_94_a_late_family_is_unhealthy_until_it_is_done_whatever_the_other_does() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().expect("time");
        let starting =
            Proxy { now, families: [(Family::V4, FamilyProgress::default())].into(), node_eligible: true };
        assert_eq!(
            starting.healthz().body,
            "{\"lastUpdated\":\"2026-01-02T03:04:05Z\",\"currentTime\":\"2026-01-02T03:04:05Z\",\
             \"nodeEligible\":true,\"healthy\":true}"
        );
        let progress =
            |updated: &str, waited| FamilyProgress { updated: Some(updated.parse().expect("time")), waited };
        let of = |v4, v6| Proxy { families: [(Family::V4, v4), (Family::V6, v6)].into(), ..starting.clone() };
        let (done, late) =
            (progress("2026-01-02T03:00:00Z", None), progress("2026-01-02T02:00:00Z", Some(LATE_AFTER)));
        for (v4, v6, answers) in [
            (done, done, (200, 200)),
            (late, done, (503, 503)),
            (done, late, (503, 503)),
            (late, late, (503, 503)),
        ] {
            assert_eq!((of(v4, v6).healthz().status, of(v4, v6).livez().status), answers);
        }
        assert_eq!(
            of(late, done).livez().body,
            "{\"lastUpdated\":\"2026-01-02T03:00:00Z\",\"currentTime\":\"2026-01-02T03:04:05Z\",\
             \"healthy\":false,\"status\":{\"IPv4\":{\"lastUpdated\":\"2026-01-02T02:00:00Z\",\"healthy\":false},\
             \"IPv6\":{\"lastUpdated\":\"2026-01-02T03:00:00Z\",\"healthy\":true}}}"
        );
        let waiting = progress("2026-01-02T02:00:00Z", Some(LATE_AFTER - Duration::from_millis(1)));
        assert_eq!(of(waiting, done).healthz().status, 200, "not late yet");
        let leaving = Proxy { node_eligible: false, ..of(done, done) };
        assert_eq!((leaving.healthz().status, leaving.livez().status), (503, 200));
    }
}
