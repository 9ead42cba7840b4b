//! Which tracked UDP flows a changed service leaves without a backend. Pure; deletion is the caller's.
//!
//! A UDP client that keeps its source port keeps its conntrack entry, and with it a backend that may be gone.
//! A flow keeps a backend that serves, whether new flows would still be given it or not.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    rc::Rc,
};

use model::{FrontendAddress, Protocol, ServicePort};

use crate::kernel::conntrack::Entry;

/// Where UDP services are reached, and the endpoints that may answer there.
#[derive(Debug, Default)]
pub(crate) struct UdpServices {
    by_address: HashMap<SocketAddr, Rc<BTreeSet<SocketAddr>>>,
    by_node_port: HashMap<u16, Rc<BTreeSet<SocketAddr>>>,
}

impl UdpServices {
    /// Services of other protocols and services without a serving endpoint are left out: entries of the latter
    /// would only be made again, without translation.
    pub(crate) fn of<'a>(services: impl IntoIterator<Item = &'a ServicePort>) -> Self {
        let mut all = Self::default();
        for service in services {
            if service.id.protocol != Protocol::Udp {
                continue;
            }
            let serving = service.endpoints.iter().filter(|endpoint| endpoint.serving);
            let serving: Rc<BTreeSet<_>> = Rc::new(serving.map(|endpoint| endpoint.address).collect());
            if serving.is_empty() {
                continue;
            }
            for frontend in &service.frontends {
                match frontend.address {
                    FrontendAddress::Ip(address) => {
                        let address = SocketAddr::new(address, frontend.port.get());
                        all.by_address.insert(address, Rc::clone(&serving));
                    }
                    FrontendAddress::Node => {
                        all.by_node_port.insert(frontend.port.get(), Rc::clone(&serving));
                    }
                }
            }
        }
        all
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_address.is_empty() && self.by_node_port.is_empty()
    }

    /// Whether a flow goes where none of its service's endpoints serves: to one that is gone, to an old port of
    /// one, or untranslated to the frontend itself.
    ///
    /// A node port counts whatever address it was sent to: the kernel's local addresses are not known here.
    pub(crate) fn is_stale(&self, entry: &Entry) -> bool {
        if entry.protocol != Protocol::Udp {
            return false;
        }
        let destination = entry.original.destination;
        let serving =
            self.by_address.get(&destination).or_else(|| self.by_node_port.get(&destination.port()));
        serving.is_some_and(|serving| !serving.contains(&entry.reply.source))
    }
}

#[cfg(test)]
mod tests {
    use model::{
        Family, Frontend, FrontendKind, KnownEndpoint, Port, ServiceName, ServicePortId, TrafficPolicy,
    };

    use super::*;
    use crate::kernel::conntrack::Direction;

    const BACKEND: &str = "10.20.0.1:8053";

    /// Cluster IP 10.24.0.2:53, external IP 198.51.100.7:53, VIP 203.0.113.7:53 and node port 30053; none of its
    /// endpoints is chosen for new flows.
    fn dns(protocol: Protocol, endpoints: &[(&str, bool)]) -> ServicePort {
        let endpoint = |(address, serving): &(&str, bool)| KnownEndpoint {
            address: address.parse().expect("address"),
            serving: *serving,
        };
        let frontend = |kind, address, port| Frontend {
            kind,
            address,
            port: Port::new(port).expect("port"),
            policy: TrafficPolicy::Cluster,
            source_ranges: vec![],
        };
        ServicePort {
            id: ServicePortId {
                service: ServiceName { namespace: "d".into(), name: "dns".into() },
                port: String::new(),
                protocol,
                family: Family::V4,
            },
            frontends: vec![
                frontend(FrontendKind::ClusterIp, FrontendAddress::Ip([10, 24, 0, 2].into()), 53),
                frontend(FrontendKind::ExternalIp, FrontendAddress::Ip([198, 51, 100, 7].into()), 53),
                frontend(FrontendKind::LoadBalancer, FrontendAddress::Ip([203, 0, 113, 7].into()), 53),
                frontend(FrontendKind::NodePort, FrontendAddress::Node, 30053),
            ],
            cluster: vec![],
            local: vec![],
            usable_anywhere: !endpoints.is_empty(),
            endpoints: endpoints.iter().map(endpoint).collect(),
            affinity_seconds: None,
            health_check_port: None,
        }
    }

    fn flow(protocol: Protocol, to: &str, answered_by: &str) -> Entry {
        let client: SocketAddr = "10.20.0.9:40000".parse().expect("address");
        let (to, backend) = (to.parse().expect("address"), answered_by.parse().expect("address"));
        Entry {
            protocol,
            original: Direction { source: client, destination: to },
            reply: Direction { source: backend, destination: client },
            tcp_state: None,
            timeout_seconds: None,
            packets: None,
            bytes: None,
            key: vec![],
        }
    }

    #[test]
    fn flows_without_a_serving_endpoint_are_stale() {
        let services = UdpServices::of([&dns(Protocol::Udp, &[(BACKEND, true), ("10.20.0.3:8053", false)])]);
        for (to, answered_by, stale) in [
            ("10.24.0.2:53", BACKEND, false),
            ("198.51.100.7:53", BACKEND, false),
            ("203.0.113.7:53", BACKEND, false),
            ("10.24.0.2:53", "10.20.0.2:8053", true),
            ("198.51.100.7:53", "10.20.0.2:8053", true),
            ("203.0.113.7:53", "10.20.0.2:8053", true),
            // Listed, but serves no more.
            ("10.24.0.2:53", "10.20.0.3:8053", true),
            // The target port changed.
            ("10.24.0.2:53", "10.20.0.1:9053", true),
            // Never translated: there was no endpoint when it began.
            ("10.24.0.2:53", "10.24.0.2:53", true),
            ("10.128.0.11:30053", BACKEND, false),
            ("10.128.0.11:30053", "10.20.0.2:8053", true),
            ("10.128.0.11:30053", "10.128.0.11:30053", true),
            // Other ports and other addresses are no business of the service's.
            ("10.24.0.2:54", "10.20.0.2:8053", false),
            ("10.24.0.3:53", "10.20.0.2:8053", false),
        ] {
            let flow = flow(Protocol::Udp, to, answered_by);
            assert_eq!(services.is_stale(&flow), stale, "{to} by {answered_by}");
            assert!(!services.is_stale(&Entry { protocol: Protocol::Tcp, ..flow.clone() }), "TCP to {to}");
            assert!(!services.is_stale(&Entry { protocol: Protocol::Sctp, ..flow }), "SCTP to {to}");
        }
    }

    #[test]
    fn only_udp_services_with_a_serving_endpoint_count() {
        let services = [
            dns(Protocol::Tcp, &[(BACKEND, true)]),
            dns(Protocol::Sctp, &[(BACKEND, true)]),
            dns(Protocol::Udp, &[]),
            dns(Protocol::Udp, &[(BACKEND, false)]),
        ];
        assert!(UdpServices::of(&services).is_empty());
    }
}
