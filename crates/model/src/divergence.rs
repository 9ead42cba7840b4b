//! The accepted differences between the planes, each written down once.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    FrontendAddress, FrontendKind, Snapshot,
    oracle::{Origin, Outcome, Packet},
};

/// A dataplane this project has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Plane {
    Ebpf,
    Iptables,
}

impl Plane {
    pub const ALL: [Self; 2] = [Self::Iptables, Self::Ebpf];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::Iptables => "iptables",
        }
    }
}

impl std::fmt::Display for Plane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Plane {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "ebpf" => Ok(Self::Ebpf),
            "iptables" => Ok(Self::Iptables),
            _ => Err(format!("unknown dataplane {s:?}: want ebpf or iptables")),
        }
    }
}

/// What a client notices, where the model alone does not settle it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// TCP RST or ICMP port unreachable, at once.
    Refused,
    /// Nothing: the client times out.
    Silence,
}

/// What a divergence may depend on: a packet at a node, and what the oracle says of it.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    pub packet: &'a Packet,
    pub snapshot: &'a Snapshot,
    pub outcome: &'a Outcome,
}

/// One accepted difference.
#[derive(Clone, Copy, Debug)]
pub struct Divergence {
    /// Stable name; the scenario that tests it carries the same one.
    pub name: &'static str,
    pub reason: &'static str,
    /// `None`: as the oracle's outcome has it.
    pub ebpf: Option<Answer>,
    pub iptables: Option<Answer>,
    applies: fn(&Situation<'_>) -> bool,
}

/// Every accepted difference. Anything else is a bug in one of the planes.
pub const DIVERGENCES: &[Divergence] = &[
    Divergence {
        name: "host-to-own-addresses",
        reason: "the eBPF plane translates on devices; what a node sends to an address of its own (a node port, a \
                 load-balancer address that is local) passes none, and its own stack refuses it; nor can what \
                 left by a device come back to its sender, so that a process of the node is given other backends \
                 than the node itself, and is refused where there is none",
        ebpf: Some(Answer::Refused),
        iptables: None,
        applies: |situation| situation.is_from_host_to_itself() || situation.leads_host_to_itself(),
    },
    Divergence {
        name: "no-local-endpoints",
        reason: "kube-proxy drops under Local policy without a local endpoint, and the client waits for its timeout; \
                 the eBPF plane refuses, so that the client can try again at once",
        ebpf: Some(Answer::Refused),
        iptables: Some(Answer::Silence),
        applies: |situation| matches!(situation.outcome, Outcome::NoLocalEndpoints),
    },
];

impl Situation<'_> {
    fn is_from_host_to_itself(&self) -> bool {
        let (source, destination) = (self.packet.source.ip(), self.packet.destination.ip());
        let node = &self.snapshot.node;
        // IPv4 chooses a local destination as the source, too; IPv6 an address that an interface has.
        source == destination
            || node.origin(source) == Origin::Node
                && (node.addresses.contains(&destination) || self.is_load_balancer(destination))
    }

    /// Whether a load balancer hands packets to this address to its nodes, and it is local there.
    fn is_load_balancer(&self, address: IpAddr) -> bool {
        let mut frontends = self.snapshot.services.values().flat_map(|service| &service.frontends);
        frontends.any(|frontend| {
            frontend.kind == FrontendKind::LoadBalancer && frontend.address == FrontendAddress::Ip(address)
        })
    }

    /// Whether a process of the node has no other backend than the node itself.
    fn leads_host_to_itself(&self) -> bool {
        let Outcome::Forwarded { choices } = self.outcome else { return false };
        let node = &self.snapshot.node;
        node.origin(self.packet.source.ip()) == Origin::Node
            && choices.iter().all(|choice| node.addresses.contains(&choice.backend.ip()))
    }
}

impl Plane {
    /// What a client notices instead of an answer; `None` where packets flow.
    pub fn answer(self, situation: &Situation<'_>) -> Option<Answer> {
        let divergence = DIVERGENCES.iter().find(|divergence| (divergence.applies)(situation));
        let own = divergence.and_then(|divergence| match self {
            Self::Ebpf => divergence.ebpf,
            Self::Iptables => divergence.iptables,
        });
        own.or(match situation.outcome {
            Outcome::Untouched | Outcome::Forwarded { .. } => None,
            Outcome::NoEndpoints => Some(Answer::Refused),
            Outcome::NoLocalEndpoints | Outcome::SourceDenied => Some(Answer::Silence),
        })
    }
}
