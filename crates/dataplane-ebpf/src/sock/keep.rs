//! Which backends sockets may stay connected to. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use model::{Protocol, ServicePort, ServicePortId, Snapshot};

/// The Services by frontend, as they are now.
#[derive(Debug, Default)]
pub(super) struct Keep {
    frontends: BTreeMap<(Protocol, SocketAddr), Arc<ServicePort>>,
    services: BTreeMap<ServicePortId, (Arc<ServicePort>, Vec<SocketAddr>)>,
}

/// Which sockets are to be looked at.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    protocols: BTreeSet<Protocol>,
    /// Frontends whose Service is gone, and with it every socket.
    gone: BTreeSet<(Protocol, SocketAddr)>,
}

impl Keep {
    /// Takes note of `services`; returns what is to be swept, because a Service lost a backend, or was not known before: a
    /// former agent's sockets may be connected to what is gone since.
    ///
    /// To be called before `services` are programmed: a socket must not be closed because its backend is too new.
    pub(super) fn update(&mut self, snapshot: &Snapshot, services: &BTreeSet<ServicePortId>) -> Sweep {
        let mut sweep = Sweep::default();
        for id in services {
            let old = self.services.remove(id);
            for frontend in old.iter().flat_map(|(_, frontends)| frontends) {
                self.frontends.remove(&(id.protocol, *frontend));
            }
            if let Some(service) = snapshot.services.get(id) {
                let frontends = frontends(service, snapshot);
                let of = |frontend: &SocketAddr| ((id.protocol, *frontend), Arc::clone(service));
                self.frontends.extend(frontends.iter().map(of));
                if old.is_none_or(|(old, _)| candidates(&old).any(|backend| !stays(service, backend))) {
                    sweep.protocols.insert(id.protocol);
                }
                self.services.insert(id.clone(), (Arc::clone(service), frontends));
            } else if id.protocol == Protocol::Udp
                && let Some((_, frontends)) = old
            {
                // TCP that is open may finish, as on the packet path.
                sweep.protocols.insert(id.protocol);
                sweep.gone.extend(frontends.into_iter().map(|frontend| (id.protocol, frontend)));
            }
        }
        sweep
    }

    /// Whether a socket that asked for `frontend` and got `backend` is to be closed.
    pub(super) fn condemns(
        &self,
        sweep: &Sweep,
        protocol: Protocol,
        frontend: SocketAddr,
        backend: SocketAddr,
    ) -> bool {
        match self.frontends.get(&(protocol, frontend)) {
            Some(service) => !stays(service, backend),
            None => sweep.gone.contains(&(protocol, frontend)),
        }
    }
}

/// Every backend that a socket may be connected to.
fn candidates(service: &ServicePort) -> impl Iterator<Item = SocketAddr> {
    let any_state = service.id.protocol != Protocol::Udp;
    let stay = service.endpoints.iter().filter(move |endpoint| any_state || endpoint.serving);
    // What is chosen is never closed, listed or not.
    let chosen = service.cluster.iter().chain(&service.local).map(|backend| backend.address);
    stay.map(|endpoint| endpoint.address).chain(chosen)
}

/// UDP stays with what serves, TCP with what is listed at all.
fn stays(service: &ServicePort, backend: SocketAddr) -> bool {
    candidates(service).any(|candidate| candidate == backend)
}

fn frontends(service: &ServicePort, snapshot: &Snapshot) -> Vec<SocketAddr> {
    let of = |frontend: &model::Frontend| {
        let addresses = snapshot.node.addresses_at(frontend, service.id.family);
        let port = frontend.port.get();
        addresses.into_iter().map(move |address| SocketAddr::new(address, port))
    };
    service.frontends.iter().flat_map(of).collect()
}

impl Sweep {
    /// Adds another's.
    pub(super) fn merge(&mut self, other: Self) {
        self.protocols.extend(other.protocols);
        self.gone.extend(other.gone);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.protocols.is_empty()
    }

    pub(super) fn protocols(&self) -> impl Iterator<Item = Protocol> {
        self.protocols.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use model::{
        Family, Frontend, FrontendAddress, FrontendKind, KnownEndpoint, Port, ServiceName, TrafficPolicy,
    };

    use super::*;

    const FRONTEND: &str = "10.24.0.1:53";
    const NODE_PORT: &str = "10.128.0.11:30053";

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("socket address")
    }

    fn id(protocol: Protocol) -> ServicePortId {
        let service = ServiceName { namespace: "d".into(), name: "dns".into() };
        ServicePortId { service, port: String::new(), protocol, family: Family::V4 }
    }

    fn snapshot(protocol: Protocol, endpoints: &[(&str, bool)]) -> Snapshot {
        let frontend = |kind, address, port| Frontend {
            kind,
            address,
            port: Port::new(port).expect("port"),
            policy: TrafficPolicy::Cluster,
            source_ranges: vec![],
        };
        let known =
            |(address, serving): &(&str, bool)| KnownEndpoint { address: at(address), serving: *serving };
        let service = ServicePort {
            id: id(protocol),
            frontends: vec![
                frontend(FrontendKind::ClusterIp, FrontendAddress::Ip(at(FRONTEND).ip()), 53),
                frontend(FrontendKind::NodePort, FrontendAddress::Node, 30053),
            ],
            cluster: vec![],
            local: vec![],
            usable_anywhere: true,
            endpoints: endpoints.iter().map(known).collect(),
            affinity_seconds: None,
            health_check_port: None,
        };
        let mut snapshot = Snapshot::default();
        snapshot.node.addresses.push(at(NODE_PORT).ip());
        snapshot.services.insert(service.id.clone(), Arc::new(service));
        snapshot
    }

    const BOTH: [(&str, bool); 2] = [("10.20.0.1:53", true), ("10.20.0.2:53", true)];

    /// Which of the two backends a socket would be taken off, once the Service changed from `BOTH` to these.
    fn condemned(protocol: Protocol, endpoints: &[(&str, bool)]) -> Vec<&'static str> {
        let mut keep = Keep::default();
        let services = BTreeSet::from([id(protocol)]);
        keep.update(&snapshot(protocol, &BOTH), &services);
        let sweep = keep.update(&snapshot(protocol, endpoints), &services);
        let is = |frontend: &str, backend: &str| keep.condemns(&sweep, protocol, at(frontend), at(backend));
        let backends = BOTH.into_iter().map(|(backend, _)| backend);
        let condemned: Vec<_> =
            backends.filter(|backend| is(FRONTEND, backend) && is(NODE_PORT, backend)).collect();
        assert_eq!(sweep.is_empty(), condemned.is_empty(), "nothing is swept for nothing");
        condemned
    }

    #[test]
    fn udp_stays_with_what_serves_and_tcp_with_what_is_listed() {
        let unready = [BOTH[0], ("10.20.0.2:53", false)];
        assert_eq!(condemned(Protocol::Udp, &unready), ["10.20.0.2:53"]);
        assert_eq!(condemned(Protocol::Tcp, &unready), [""; 0]);
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            assert_eq!(condemned(protocol, &BOTH[..1]), ["10.20.0.2:53"]);
            assert_eq!(condemned(protocol, &[]), ["10.20.0.1:53", "10.20.0.2:53"]);
            assert_eq!(condemned(protocol, &[BOTH[0], BOTH[1], ("10.20.0.3:53", true)]), [""; 0]);
        }
    }

    #[test]
    fn other_frontends_and_protocols_are_nobodys_business() {
        let mut keep = Keep::default();
        let sweep = keep.update(&snapshot(Protocol::Udp, &[]), &BTreeSet::from([id(Protocol::Udp)]));
        let gone = at("10.20.0.9:53");
        assert!(keep.condemns(&sweep, Protocol::Udp, at(FRONTEND), gone), "a former agent's socket");
        assert!(!keep.condemns(&sweep, Protocol::Tcp, at(FRONTEND), gone));
        assert!(!keep.condemns(&sweep, Protocol::Udp, at("10.24.0.2:53"), gone));
        assert!(sweep.protocols().eq([Protocol::Udp]));
    }

    #[test]
    fn with_the_service_go_its_datagrams_only() {
        for (protocol, closed) in [(Protocol::Udp, true), (Protocol::Tcp, false)] {
            let mut keep = Keep::default();
            let services = BTreeSet::from([id(protocol)]);
            keep.update(&snapshot(protocol, &BOTH), &services);
            let sweep = keep.update(&Snapshot::default(), &services);
            assert_eq!(keep.condemns(&sweep, protocol, at(FRONTEND), at(BOTH[0].0)), closed);
        }
    }

    /// A sweep that was asked for earlier meets what is true when it runs.
    #[test]
    fn what_came_since_is_safe() {
        let mut keep = Keep::default();
        let services = BTreeSet::from([id(Protocol::Udp)]);
        keep.update(&snapshot(Protocol::Udp, &BOTH), &services);
        let sweep = keep.update(&snapshot(Protocol::Udp, &BOTH[..1]), &services);
        assert!(keep.update(&snapshot(Protocol::Udp, &BOTH), &services).is_empty());
        assert!(!keep.condemns(&sweep, Protocol::Udp, at(FRONTEND), at(BOTH[1].0)));
    }
}
