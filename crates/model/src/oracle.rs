//! The reference model: what one packet must experience, answered by looking at everything, every time.
//!
//! Deliberately naive: no index, no state, no conntrack. The planes are tested against it.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{
    Frontend, FrontendAddress, Masquerade, NodeConfig, Port, Protocol, ServicePort, Snapshot, Target,
};

/// Who sends: decides traffic-policy short-cuts and masquerading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Origin {
    Pod,
    Node,
    External,
}

/// The first packet of a flow, as it enters the node or leaves a local socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub protocol: Protocol,
}

/// What the node does with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Concerns no Service: routed as it is.
    Untouched,
    /// Goes to one of `choices`, in order of address.
    Forwarded { choices: Vec<Choice> },
    /// No usable backend on any node.
    NoEndpoints,
    /// Usable backends, but none that Local policy lets this client reach.
    NoLocalEndpoints,
    /// Outside the frontend's source ranges: dropped without an answer.
    SourceDenied,
}

/// One way a packet may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    pub backend: SocketAddr,
    pub masquerade: Masquerade,
}

/// What `snapshot`'s node does with `packet`.
pub fn forward(packet: &Packet, snapshot: &Snapshot) -> Outcome {
    let Some((service, frontend)) = addressed(packet, snapshot) else { return Outcome::Untouched };
    let (origin, allowed) = sender(packet, frontend, &snapshot.node);
    if !allowed && service.usable_anywhere {
        return Outcome::SourceDenied;
    }
    match service.target(frontend, origin) {
        Target::NoEndpoints => Outcome::NoEndpoints,
        Target::NoLocalEndpoints => Outcome::NoLocalEndpoints,
        Target::Backends(backends, masquerade) => Outcome::Forwarded {
            choices: backends
                .iter()
                .map(|backend| Choice {
                    backend: backend.address,
                    masquerade: if stays(origin, backend.address.ip(), &snapshot.node) {
                        Masquerade::No
                    } else {
                        hairpin_or(masquerade, packet.source.ip(), backend.address.ip())
                    },
                })
                .collect(),
        },
    }
}

/// Where `packet` comes from, and whether the frontend's source ranges let it in.
///
/// An address that a load balancer hands to its nodes is local there: what a node itself sends to it has it as
/// the source, too, and passes the ranges where the node's own address does (kube-proxy's KUBE-FW chain).
fn sender(packet: &Packet, frontend: &Frontend, node: &NodeConfig) -> (Origin, bool) {
    let source = packet.source.ip();
    if source == packet.destination.ip() {
        let family = crate::Family::of(source);
        let own = node.addresses.iter().find(|address| crate::Family::of(**address) == family);
        return (Origin::Node, frontend.allows(source) || own.is_some_and(|own| frontend.allows(*own)));
    }
    (node.origin(source), frontend.allows(source))
}

/// What others send and a process of this node receives never leaves the node again: nothing masquerades it.
fn stays(origin: Origin, backend: IpAddr, node: &NodeConfig) -> bool {
    origin != Origin::Node && node.addresses.contains(&backend)
}

/// A backend that reaches itself through its Service must see another address than its own.
fn hairpin_or(masquerade: Masquerade, source: IpAddr, backend: IpAddr) -> Masquerade {
    if source == backend { Masquerade::Yes } else { masquerade }
}

/// The frontend that `packet` is addressed to. An exact address wins over one that stands for the whole node.
pub fn addressed<'a>(packet: &Packet, snapshot: &'a Snapshot) -> Option<(&'a ServicePort, &'a Frontend)> {
    let frontends = || {
        snapshot
            .services
            .values()
            .filter(|service| service.id.protocol == packet.protocol)
            .flat_map(|service| service.frontends.iter().map(move |frontend| (&**service, frontend)))
            .filter(|(_, frontend)| Some(frontend.port) == Port::new(packet.destination.port()))
    };
    let exact = |(_, frontend): &(&ServicePort, &Frontend)| {
        frontend.address == FrontendAddress::Ip(packet.destination.ip())
    };
    let node_port = |(service, frontend): &(&ServicePort, &Frontend)| {
        let at = snapshot.node.addresses_at(frontend, service.id.family);
        frontend.address == FrontendAddress::Node && at.contains(&packet.destination.ip())
    };
    frontends().find(exact).or_else(|| frontends().find(node_port))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Backend, Family, FrontendKind, ServiceName, ServicePortId, TrafficPolicy};

    const POD: &str = "10.20.0.5:40000";
    const HOST: &str = "10.128.0.11:40000";
    const OUTSIDE: &str = "198.51.100.10:40000";
    const LOCAL: &str = "10.20.0.11:8080";
    const REMOTE: &str = "10.20.1.11:8080";
    const CLUSTER_IP: &str = "10.24.0.1:80";
    const VIP: &str = "203.0.113.10:80";
    const NODE_PORT: &str = "10.128.0.11:30080";

    /// One local and one remote backend behind a cluster IP, a VIP and a node port of `policy`.
    fn web(policy: TrafficPolicy) -> ServicePort {
        let backend = |address: &str, local| Backend {
            address: address.parse().expect("address"),
            local,
            terminating: false,
        };
        let frontend = |kind, at: &str, policy| {
            let at: SocketAddr = at.parse().expect("address");
            let address = if kind == FrontendKind::NodePort {
                FrontendAddress::Node
            } else {
                FrontendAddress::Ip(at.ip())
            };
            Frontend {
                kind,
                address,
                port: Port::new(at.port()).expect("port"),
                policy,
                source_ranges: vec![],
            }
        };
        ServicePort {
            id: ServicePortId {
                service: ServiceName { namespace: "d".into(), name: "web".into() },
                port: String::new(),
                protocol: Protocol::Tcp,
                family: Family::V4,
            },
            frontends: vec![
                frontend(FrontendKind::ClusterIp, CLUSTER_IP, TrafficPolicy::Cluster),
                frontend(FrontendKind::LoadBalancer, VIP, policy),
                frontend(FrontendKind::NodePort, NODE_PORT, policy),
            ],
            cluster: vec![backend(LOCAL, true), backend(REMOTE, false)],
            local: vec![backend(LOCAL, true)],
            usable_anywhere: true,
            endpoints: vec![],
            affinity_seconds: None,
            health_check_port: None,
        }
    }

    fn outcome(service: ServicePort, source: &str, destination: &str) -> Outcome {
        let node = NodeConfig {
            name: "node-a".into(),
            addresses: vec!["10.128.0.11".parse().expect("address")],
            pod_cidrs: vec!["10.20.0.0/24".parse().expect("prefix")],
            cluster_cidrs: vec!["10.20.0.0/16".parse().expect("prefix")],
            ..NodeConfig::default()
        };
        let services = [(service.id.clone(), Arc::new(service))].into();
        let packet = Packet {
            source: source.parse().expect("address"),
            destination: destination.parse().expect("address"),
            protocol: Protocol::Tcp,
        };
        forward(&packet, &Snapshot { node, services, ..Default::default() })
    }

    fn to(backends: &[&str], masquerade: Masquerade) -> Outcome {
        let choice = |address: &&str| Choice { backend: address.parse().expect("address"), masquerade };
        Outcome::Forwarded { choices: backends.iter().map(choice).collect() }
    }

    #[test]
    fn policies_and_origins() {
        use Masquerade::{No, Yes};
        use TrafficPolicy::{Cluster, Local};
        for (policy, source, destination, want) in [
            (Cluster, POD, CLUSTER_IP, to(&[LOCAL, REMOTE], No)),
            (Cluster, HOST, CLUSTER_IP, to(&[LOCAL, REMOTE], Yes)),
            (Cluster, OUTSIDE, CLUSTER_IP, to(&[LOCAL, REMOTE], Yes)),
            (Cluster, POD, VIP, to(&[LOCAL, REMOTE], Yes)),
            (Cluster, OUTSIDE, NODE_PORT, to(&[LOCAL, REMOTE], Yes)),
            (Local, OUTSIDE, VIP, to(&[LOCAL], No)),
            (Local, OUTSIDE, NODE_PORT, to(&[LOCAL], No)),
            (Local, POD, VIP, to(&[LOCAL, REMOTE], No)),
            (Local, HOST, NODE_PORT, to(&[LOCAL, REMOTE], Yes)),
            (Local, OUTSIDE, CLUSTER_IP, to(&[LOCAL, REMOTE], Yes)),
        ] {
            assert_eq!(
                outcome(web(policy), source, destination),
                want,
                "{policy:?} {source} to {destination}"
            );
        }
    }

    #[test]
    fn what_is_no_frontend_is_untouched() {
        for destination in ["10.24.0.1:81", "10.24.0.2:80", "10.128.0.12:30080", "203.0.113.10:30080"] {
            assert_eq!(
                outcome(web(TrafficPolicy::Cluster), POD, destination),
                Outcome::Untouched,
                "{destination}"
            );
        }
    }

    #[test]
    fn without_a_backend_anywhere_every_client_is_refused() {
        let mut service = web(TrafficPolicy::Local);
        service.cluster.clear();
        service.local.clear();
        service.usable_anywhere = false;
        service.frontends[1].source_ranges = vec!["192.0.2.0/24".parse().expect("prefix")];
        for destination in [CLUSTER_IP, VIP, NODE_PORT] {
            assert_eq!(outcome(service.clone(), OUTSIDE, destination), Outcome::NoEndpoints, "{destination}");
        }
    }

    #[test]
    fn without_a_local_backend_local_policy_stops_outside_clients_only() {
        let mut service = web(TrafficPolicy::Local);
        service.cluster.remove(0);
        service.local.clear();
        assert_eq!(outcome(service.clone(), OUTSIDE, VIP), Outcome::NoLocalEndpoints);
        assert_eq!(outcome(service.clone(), POD, VIP), to(&[REMOTE], Masquerade::No));
        assert_eq!(outcome(service, HOST, NODE_PORT), to(&[REMOTE], Masquerade::Yes));
    }

    #[test]
    fn a_backend_given_itself_is_masqueraded() {
        let itself = "10.20.0.11:40000";
        let Outcome::Forwarded { choices } = outcome(web(TrafficPolicy::Cluster), itself, CLUSTER_IP) else {
            panic!("forwarded")
        };
        let masquerades: Vec<_> = choices.iter().map(|choice| choice.masquerade).collect();
        assert_eq!(masquerades, [Masquerade::Yes, Masquerade::No]);
    }

    #[test]
    fn source_ranges_guard_their_frontend_only() {
        let mut service = web(TrafficPolicy::Cluster);
        service.frontends[1].source_ranges = vec!["10.128.0.0/24".parse().expect("prefix")];
        assert_eq!(outcome(service.clone(), OUTSIDE, VIP), Outcome::SourceDenied);
        assert_eq!(outcome(service.clone(), POD, VIP), Outcome::SourceDenied);
        assert_eq!(outcome(service.clone(), HOST, VIP), to(&[LOCAL, REMOTE], Masquerade::Yes));
        assert_eq!(outcome(service, OUTSIDE, NODE_PORT), to(&[LOCAL, REMOTE], Masquerade::Yes));
    }

    /// A node has the VIP itself as the source of what it sends there.
    #[test]
    fn a_node_reaches_its_own_vip_where_its_address_may() {
        let itself = "203.0.113.10:40000";
        let mut service = web(TrafficPolicy::Local);
        assert_eq!(outcome(service.clone(), itself, VIP), to(&[LOCAL, REMOTE], Masquerade::Yes));
        service.frontends[1].source_ranges = vec!["10.128.0.0/24".parse().expect("prefix")];
        assert_eq!(outcome(service.clone(), itself, VIP), to(&[LOCAL, REMOTE], Masquerade::Yes));
        service.frontends[1].source_ranges = vec!["192.0.2.0/24".parse().expect("prefix")];
        assert_eq!(outcome(service, itself, VIP), Outcome::SourceDenied);
    }
}
