//! Which tracked UDP flows a changed service leaves without a backend. Pure; deletion is the caller's.
//!
//! A UDP client that keeps its source port keeps its conntrack entry, and with it a backend that may be gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use model::{FrontendAddress, Protocol, ServicePort};

use crate::{kernel::conntrack::Entry, render::reachable};

/// Where UDP services are reached, and the backends that may answer there.
#[derive(Debug, Default)]
pub(crate) struct UdpServices {
    by_address: BTreeMap<SocketAddr, BTreeSet<SocketAddr>>,
    by_node_port: BTreeMap<u16, BTreeSet<SocketAddr>>,
}

impl UdpServices {
    /// Services of other protocols and services without endpoints are left out: entries of the latter would
    /// only be made again, without translation.
    pub(crate) fn of<'a>(services: impl IntoIterator<Item = &'a ServicePort>) -> Self {
        let mut all = Self::default();
        for service in services {
            let backends: BTreeSet<_> = reachable(service).into_iter().collect();
            if service.id.protocol != Protocol::Udp || backends.is_empty() {
                continue;
            }
            for frontend in &service.frontends {
                match frontend.address {
                    FrontendAddress::Ip(address) => {
                        let address = SocketAddr::new(address, frontend.port.get());
                        all.by_address.insert(address, backends.clone());
                    }
                    FrontendAddress::Node => {
                        all.by_node_port.insert(frontend.port.get(), backends.clone());
                    }
                }
            }
        }
        all
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_address.is_empty() && self.by_node_port.is_empty()
    }

    /// Whether a flow goes where none of its service's backends is: to a backend that is gone, to an old port of
    /// one, or untranslated to the frontend itself.
    pub(crate) fn is_stale(&self, entry: &Entry) -> bool {
        if entry.protocol != Protocol::Udp {
            return false;
        }
        let destination = entry.original.destination;
        let backends =
            self.by_address.get(&destination).or_else(|| self.by_node_port.get(&destination.port()));
        backends.is_some_and(|backends| !backends.contains(&entry.reply.source))
    }
}

#[cfg(test)]
mod tests {
    use model::{Backend, Family, Frontend, FrontendKind, Port, ServiceName, ServicePortId, TrafficPolicy};

    use super::*;
    use crate::kernel::conntrack::Direction;

    const BACKEND: &str = "10.20.0.1:8053";

    /// Cluster IP 10.24.0.2:53 and node port 30053.
    fn dns(protocol: Protocol, backends: &[&str]) -> ServicePort {
        let backend = |address: &&str| Backend {
            address: address.parse().expect("address"),
            local: true,
            terminating: false,
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
                frontend(FrontendKind::NodePort, FrontendAddress::Node, 30053),
            ],
            cluster: backends.iter().map(backend).collect(),
            local: vec![],
            usable_anywhere: !backends.is_empty(),
            endpoints: vec![],
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
    fn flows_without_their_backend_are_stale() {
        let services = UdpServices::of([&dns(Protocol::Udp, &[BACKEND])]);
        for (to, answered_by, stale) in [
            ("10.24.0.2:53", BACKEND, false),
            ("10.24.0.2:53", "10.20.0.2:8053", true),
            ("10.24.0.2:53", "10.20.0.1:9053", true),
            // Never translated: there was no endpoint when it began.
            ("10.24.0.2:53", "10.24.0.2:53", true),
            ("10.128.0.11:30053", BACKEND, false),
            ("10.128.0.11:30053", "10.20.0.2:8053", true),
            ("10.24.0.2:54", "10.20.0.2:8053", false),
            ("10.24.0.3:53", "10.20.0.2:8053", false),
        ] {
            assert_eq!(
                services.is_stale(&flow(Protocol::Udp, to, answered_by)),
                stale,
                "{to} by {answered_by}"
            );
        }
    }

    #[test]
    fn only_udp_services_with_endpoints_count() {
        let services = [dns(Protocol::Tcp, &[BACKEND]), dns(Protocol::Udp, &[])];
        assert!(UdpServices::of(&services).is_empty());
        let services = UdpServices::of([&dns(Protocol::Udp, &[BACKEND])]);
        assert!(!services.is_stale(&flow(Protocol::Tcp, "10.24.0.2:53", "10.20.0.2:8053")));
    }
}
