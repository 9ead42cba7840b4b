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
    let Some((service, frontend)) = lookup(packet, snapshot) else { return Outcome::Untouched };
    if !frontend.allows(packet.source.ip()) && service.usable_anywhere {
        return Outcome::SourceDenied;
    }
    match service.target(frontend, snapshot.node.origin(packet.source.ip())) {
        Target::NoEndpoints => Outcome::NoEndpoints,
        Target::NoLocalEndpoints => Outcome::NoLocalEndpoints,
        Target::Backends(backends, masquerade) => Outcome::Forwarded {
            choices: backends
                .iter()
                .map(|backend| Choice {
                    backend: backend.address,
                    masquerade: hairpin_or(masquerade, packet.source.ip(), backend.address.ip()),
                })
                .collect(),
        },
    }
}

/// A backend that reaches itself through its Service must see another address than its own.
fn hairpin_or(masquerade: Masquerade, source: IpAddr, backend: IpAddr) -> Masquerade {
    if source == backend { Masquerade::Yes } else { masquerade }
}

/// The frontend that `packet` is addressed to. An exact address wins over a node port.
fn lookup<'a>(packet: &Packet, snapshot: &'a Snapshot) -> Option<(&'a ServicePort, &'a Frontend)> {
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
        frontend.address == FrontendAddress::Node
            && service.id.family == crate::Family::of(packet.destination.ip())
            && is_node_address(&snapshot.node, packet.destination.ip())
    };
    frontends().find(exact).or_else(|| frontends().find(node_port))
}

fn is_node_address(node: &NodeConfig, address: IpAddr) -> bool {
    node.addresses.contains(&address)
}
