//! The accepted differences between the planes, each written down once.

use serde::{Deserialize, Serialize};

use crate::{
    Masquerade, Snapshot, Target,
    oracle::{Outcome, Packet, lookup},
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
    /// To the first packet of a flow. A scenario alone tells what happens to open ones.
    applies: fn(&Situation<'_>) -> bool,
}

/// Every accepted difference. Anything else is a bug in one of the planes.
pub const DIVERGENCES: &[Divergence] = &[
    Divergence {
        name: "no-local-endpoints",
        reason: "kube-proxy drops under Local policy without a local endpoint, and the client waits for its timeout; \
                 the eBPF plane refuses, so that the client can try again at once",
        ebpf: Some(Answer::Refused),
        iptables: Some(Answer::Silence),
        applies: |situation| matches!(situation.outcome, Outcome::NoLocalEndpoints),
    },
    Divergence {
        name: HAIRPIN,
        reason: "the eBPF plane chooses a pod's backend when it connects, before there is a packet that could be masqueraded; \
                 a pod that is given itself talks to itself directly, and sees its own address instead of its node's",
        ebpf: None,
        iptables: None,
        applies: |situation| situation.is_direct_hairpin(),
    },
    Divergence {
        name: "connected-datagrams-close",
        reason: "a datagram socket that is connected to a Service is connected to a backend by the eBPF plane; when the \
                 backend serves no more the socket is closed, so that its owner learns of it, where kube-proxy moves \
                 the flow; a socket that is not connected moves on either plane",
        ebpf: None,
        iptables: None,
        // To open flows; a new one is served alike.
        applies: |_| false,
    },
    Divergence {
        name: "affinity-per-way",
        reason: "the eBPF plane knows a socket by its network namespace and a packet by its source; a pod that uses a \
                 Service by an address that masquerades it (by packets) and by one that does not (by socket) has a \
                 backend of its own for each, where kube-proxy remembers one",
        ebpf: None,
        iptables: None,
        // To what a client was given before; each backend is one it may be given.
        applies: |_| false,
    },
    Divergence {
        name: "node-port-on-localhost",
        reason: "kube-proxy serves node ports to the node itself at 127.0.0.1, in its iptables mode and in IPv4 only, and needs \
                 route_localnet for it; the eBPF plane leaves loopback to the programs that listen there, in either \
                 family, as kube-proxy's nftables mode does",
        ebpf: None,
        iptables: None,
        // The model knows no Service there; what the iptables plane does beyond is its own.
        applies: |_| false,
    },
];

const HAIRPIN: &str = "hairpin";

impl Situation<'_> {
    /// Whether a pod may be given itself by a frontend that masquerades no pod.
    fn is_direct_hairpin(&self) -> bool {
        let Some((service, frontend)) = lookup(self.packet, self.snapshot) else { return false };
        let source = self.packet.source.ip();
        matches!(
            service.target(frontend, self.snapshot.node.origin(source)),
            Target::Backends(backends, Masquerade::No)
                if frontend.source_ranges.is_empty() && backends.iter().any(|it| it.address.ip() == source)
        )
    }
}

impl Plane {
    /// Whether a backend that a socket's owner is given and that is the owner itself sees its own address.
    pub fn shows_itself(self, situation: &Situation<'_>) -> bool {
        let differs = |it: &Divergence| it.name == HAIRPIN && (it.applies)(situation);
        self == Self::Ebpf && DIVERGENCES.iter().any(differs)
    }

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
