//! Frontends as the kernel's rules have them. Reads rules, never a desired state; what rules cannot say
//! (which backend terminates) is asked of the caller.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use dataplane::{BackendRow, BackendState, ServiceRow};
use model::{
    Backend, Family, FrontendKind, NodeConfig, Protocol, ServiceName, ServicePort, ServicePortId,
    TrafficPolicy,
};

use crate::{
    names::{self, ChainName},
    parse::{Saved, SavedRule},
    rule::{Match, Rule, Target},
    ruleset::Table,
};

/// What rules do not hold.
pub(crate) struct Known<'a> {
    pub family: Family,
    pub node: &'a NodeConfig,
    pub service: &'a dyn Fn(&ServicePortId) -> Option<&'a ServicePort>,
}

/// All frontends in `saved`, sorted.
pub(crate) fn services(saved: &Saved, known: &Known<'_>) -> Vec<ServiceRow> {
    let nat = Chains::read(saved, Table::Nat);
    let filter = Chains::read(saved, Table::Filter);
    let portals = [
        (&nat, names::SERVICES),
        (&nat, names::NODE_PORTS),
        (&nat, names::HOST_PORTS),
        (&filter, names::SERVICES),
        (&filter, names::EXTERNAL_SERVICES),
    ];
    let mut rows: BTreeMap<_, ServiceRow> = BTreeMap::new();
    for (chains, portal) in portals {
        for rule in chains.of(portal) {
            for row in rows_of(rule, &nat, known) {
                // Under Local policy without a local endpoint a frontend has a rule in both tables.
                rows.entry((row.frontend, row.protocol)).or_insert(row);
            }
        }
    }
    let rows: BTreeSet<_> = rows.into_values().collect();
    rows.into_iter().collect()
}

/// Chains of one table, without rules of others.
struct Chains(BTreeMap<ChainName, Vec<Rule>>);

impl Chains {
    fn read(saved: &Saved, table: Table) -> Self {
        let rules = |rules: &[SavedRule]| rules.iter().filter_map(|rule| rule.rule().ok()).collect();
        Self(saved.chains(table).map(|(name, saved)| (name.clone(), rules(saved))).collect())
    }

    fn of(&self, chain: &str) -> &[Rule] {
        self.0.get(chain).map_or(&[], Vec::as_slice)
    }

    /// Where a packet of an outside client leaves a chain to, if any rule there takes it unconditionally.
    fn exit(&self, chain: &str) -> Option<&ChainName> {
        let open = |rule: &&Rule| rule.source.is_none() && !rule.matches.contains(&Match::SourceLocal);
        let mut exits = self.of(chain).iter().filter(open).filter_map(Rule::jumps_to);
        exits.rfind(|to| to.as_str() != names::MARK_MASQ)
    }
}

/// What a comment in a shared chain says.
struct Described<'a> {
    name: &'a str,
    kind: Option<FrontendKind>,
}

fn describe(comment: &str) -> Described<'_> {
    for (suffix, kind) in [
        (" cluster IP", Some(FrontendKind::ClusterIp)),
        (" external IP", Some(FrontendKind::ExternalIp)),
        (" loadbalancer IP", Some(FrontendKind::LoadBalancer)),
        (" host port", Some(FrontendKind::HostPort)),
        (" has no endpoints", None),
        (" has no local endpoints", None),
    ] {
        if let Some(name) = comment.strip_suffix(suffix) {
            return Described { name, kind };
        }
    }
    Described { name: comment, kind: Some(FrontendKind::NodePort) }
}

/// The rows of one rule of a shared chain: one, or one per node address.
fn rows_of(rule: &Rule, nat: &Chains, known: &Known<'_>) -> Vec<ServiceRow> {
    let loopback = |net: ipnet::IpNet| net.addr().is_loopback();
    let (Some(comment), Some(protocol), Some(port)) =
        (rule.comment_text(), rule.protocol, rule.destination_port())
    else {
        return vec![];
    };
    let address = rule.destination.map(|prefix| prefix.net);
    let only_logs = matches!(rule.target, Some(Target::Log { .. }));
    if only_logs || address.is_some_and(loopback) {
        return vec![];
    }
    let described = describe(comment);
    let id = id_of(described.name, protocol, known.family);
    let service = id.as_ref().and_then(known.service);
    let host_port = id.as_ref().is_some_and(ServicePortId::is_host_port);
    let addresses: Vec<IpAddr> = match address {
        Some(net) => vec![net.addr()],
        None if host_port => known.node.addresses_of(known.family).collect(),
        None => known.node.node_port_addresses(known.family).collect(),
    };
    let reach = Reach::of(rule, nat);
    let row = |address: IpAddr| {
        let frontend = SocketAddr::new(address, port.get());
        let kind = described.kind.unwrap_or_else(|| kind_of(rule, address, service));
        ServiceRow {
            service: id.as_ref().map(|id| id.service.clone()),
            port_name: id.as_ref().map(|id| id.port.clone()).unwrap_or_default(),
            kind,
            frontend,
            protocol,
            policy: reach.policy.unwrap_or_else(|| policy_of(kind, service)),
            backends: reach
                .backends
                .iter()
                .map(|backend| backend_row(*backend, service, known.node))
                .collect(),
            affinity_seconds: reach.affinity_seconds,
            source_ranges: reach.ranges_without(address),
        }
    };
    addresses.into_iter().map(row).collect()
}

/// `namespace/name:port` or `namespace/name`.
fn id_of(name: &str, protocol: Protocol, family: Family) -> Option<ServicePortId> {
    let (namespace, rest) = name.split_once('/')?;
    let (name, port) = rest.split_once(':').unwrap_or((rest, ""));
    let service = ServiceName { namespace: namespace.to_owned(), name: name.to_owned() };
    Some(ServicePortId { service, port: port.to_owned(), protocol, family })
}

/// A rule that refuses does not say which kind of address it refuses for.
fn kind_of(rule: &Rule, address: IpAddr, service: Option<&ServicePort>) -> FrontendKind {
    if service.is_some_and(|service| service.id.is_host_port()) {
        return FrontendKind::HostPort;
    }
    if rule.matches.contains(&Match::DestinationLocal) {
        return FrontendKind::NodePort;
    }
    let frontends = service.into_iter().flat_map(|service| &service.frontends);
    let known = frontends.filter(|frontend| frontend.address == model::FrontendAddress::Ip(address));
    known.map(|frontend| frontend.kind).next().unwrap_or(FrontendKind::ClusterIp)
}

fn policy_of(kind: FrontendKind, service: Option<&ServicePort>) -> TrafficPolicy {
    let frontends = service.into_iter().flat_map(|service| &service.frontends);
    let known = frontends.filter(|frontend| frontend.kind == kind).map(|frontend| frontend.policy).next();
    known.unwrap_or(TrafficPolicy::Cluster)
}

fn backend_row(address: SocketAddr, service: Option<&ServicePort>, node: &NodeConfig) -> BackendRow {
    let mut backends = service.into_iter().flat_map(|service| service.cluster.iter().chain(&service.local));
    let known: Option<&Backend> = backends.find(|backend| backend.address == address);
    let terminating = known.is_some_and(|backend| backend.terminating);
    BackendRow {
        address,
        state: if terminating { BackendState::Terminating } else { BackendState::Active },
        local: match known {
            Some(backend) => backend.local,
            None => node.pod_cidrs.iter().any(|cidr| cidr.contains(&address.ip())),
        },
    }
}

/// What lies behind a rule of a shared chain.
#[derive(Default)]
struct Reach {
    policy: Option<TrafficPolicy>,
    backends: Vec<SocketAddr>,
    affinity_seconds: Option<u32>,
    source_ranges: Vec<ipnet::IpNet>,
}

impl Reach {
    fn of(rule: &Rule, nat: &Chains) -> Self {
        let mut reach = Self::default();
        match &rule.target {
            // Dropped, not rejected: there are endpoints, but Local policy rules them out.
            Some(Target::Drop) => reach.policy = Some(TrafficPolicy::Local),
            Some(Target::Jump(chain)) => reach.follow(chain.as_str(), nat),
            _ => {}
        }
        reach
    }

    fn follow(&mut self, chain: &str, nat: &Chains) {
        if chain.starts_with("KUBE-FW-") {
            let ranges = nat.of(chain).iter().filter_map(|rule| Some((rule.source?, rule.jumps_to()?)));
            let mut behind = None;
            for (range, to) in ranges {
                self.source_ranges.push(range.net);
                behind = Some(to);
            }
            if let Some(behind) = behind {
                self.follow(behind.as_str(), nat);
            }
        } else if chain.starts_with("KUBE-EXT-") {
            let masquerades = |rule: &Rule| {
                rule.jumps_to().is_some_and(|to| to.as_str() == names::MARK_MASQ) && rule.matches.len() == 1
            };
            let cluster = nat.of(chain).first().is_some_and(masquerades);
            self.policy = Some(if cluster { TrafficPolicy::Cluster } else { TrafficPolicy::Local });
            if let Some(behind) = nat.exit(chain) {
                self.endpoints(behind.as_str(), nat);
            }
        } else if chain.starts_with("KUBE-HP-") {
            self.policy = Some(TrafficPolicy::Local);
            self.backends = translations(nat.of(chain)).collect();
        } else {
            let local = chain.starts_with("KUBE-SVL-");
            self.policy = Some(if local { TrafficPolicy::Local } else { TrafficPolicy::Cluster });
            self.endpoints(chain, nat);
        }
    }

    fn endpoints(&mut self, chain: &str, nat: &Chains) {
        let mut backends = BTreeSet::new();
        for rule in nat.of(chain) {
            let remembered = rule.matches.iter().find_map(|condition| match condition {
                Match::RecentCheck { seconds, .. } => Some(*seconds),
                _ => None,
            });
            self.affinity_seconds = self.affinity_seconds.or(remembered);
            let endpoint = rule.jumps_to().map_or(&[][..], |chain| nat.of(chain.as_str()));
            backends.extend(translations(endpoint));
        }
        self.backends = backends.into_iter().collect();
    }

    /// The address itself may be among them, for what the node sends to it.
    fn ranges_without(&self, address: IpAddr) -> Vec<String> {
        let own = ipnet::IpNet::from(address);
        self.source_ranges.iter().filter(|range| **range != own).map(ToString::to_string).collect()
    }
}

fn translations(rules: &[Rule]) -> impl Iterator<Item = SocketAddr> {
    rules.iter().filter_map(|rule| match rule.target {
        Some(Target::Dnat(address)) => Some(address),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of a recorded state, as the node of the recordings shows them; nothing is known but the rules.
    fn rows(rules: &str) -> Vec<String> {
        let node = NodeConfig {
            name: "node1".into(),
            addresses: vec!["192.168.50.2".parse().expect("address")],
            pod_cidrs: vec!["10.128.1.0/24".parse().expect("prefix")],
            cluster_cidrs: vec![],
            ..NodeConfig::default()
        };
        let known = Known { family: Family::V4, node: &node, service: &|_| None };
        let show = |row: ServiceRow| {
            let backends: Vec<_> = row
                .backends
                .iter()
                .map(|b| format!("{}{}", b.address, if b.local { "*" } else { "" }))
                .collect();
            let name = row.service.map(|service| format!("{service}:{}", row.port_name)).unwrap_or_default();
            let limits = format!("{:?} {}", row.affinity_seconds, row.source_ranges.join(","));
            format!(
                "{name} {:?} {} {:?} [{}] {limits}",
                row.kind,
                row.frontend,
                row.policy,
                backends.join(" ")
            )
        };
        services(&Saved::parse(rules), &known).into_iter().map(show).collect()
    }

    const KUBERNETES: &str = "default/kubernetes:https ClusterIp 10.96.0.1:443 Cluster [] None ";

    #[test]
    fn local_policy_shows_what_outside_clients_reach() {
        let all = "[10.128.1.10:8080* 10.128.2.10:8080 10.128.3.10:8080] None ";
        assert_eq!(
            rows(include_str!("../tests/golden/02-lb-etp-local-1local-of-3.rules")),
            [
                &format!("d/l3:http ClusterIp 10.96.90.226:80 Cluster {all}"),
                "d/l3:http LoadBalancer 192.0.2.10:80 Local [10.128.1.10:8080*] None ",
                "d/l3:http NodePort 192.168.50.2:31701 Local [10.128.1.10:8080*] None ",
                KUBERNETES,
            ]
        );
        assert_eq!(
            rows(include_str!("../tests/golden/03-lb-etp-local-0local-of-3.rules")),
            [
                &format!("d/l0:http ClusterIp 10.97.142.226:80 Cluster {all}"),
                "d/l0:http LoadBalancer 192.0.2.10:80 Local [] None ",
                "d/l0:http NodePort 192.168.50.2:32134 Local [] None ",
                KUBERNETES,
            ]
        );
    }

    #[test]
    fn ranges_and_affinity_are_read_from_the_rules() {
        let all = "[10.128.1.10:8080* 10.128.2.10:8080 10.128.3.10:8080] Some(600) ";
        assert_eq!(
            rows(include_str!("../tests/golden/05-lb-sourceranges-affinity-externalip.rules")),
            [
                &format!("d/r3:http ClusterIp 10.98.90.14:80 Cluster {all}"),
                &format!("d/r3:http ExternalIp 198.51.100.7:80 Cluster {all}"),
                &format!("d/r3:http LoadBalancer 192.0.2.10:80 Cluster {all}203.0.113.0/25,192.168.50.0/24"),
                &format!("d/r3:http NodePort 192.168.50.2:32265 Cluster {all}"),
                KUBERNETES,
            ]
        );
    }
}
