//! The accepted differences between the planes, each written down once.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    Family, Frontend, FrontendAddress, FrontendKind, IdentityId, Masquerade, NodePortAddresses, ServicePort,
    Snapshot, Target, TrafficPolicy,
    oracle::{Origin, Outcome, Packet, addressed},
    policy::{Direction, L4, PeerAddress, Question, Verdict},
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
    /// Whatever lies at the address, as if no Service were there.
    Untouched,
    /// What the node port of that number gives at the node's own address.
    NodePort,
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
        name: "host-to-outside-addresses",
        reason: "kube-proxy refuses outside addresses on the way in and through, not on the way out: what a process of \
                 the node sends to an external IP without endpoints leaves the node as if no Service were there; the \
                 eBPF plane refuses it, as it does for every other client",
        ebpf: None,
        iptables: Some(Answer::Untouched),
        applies: |situation| {
            matches!(situation.outcome, Outcome::NoEndpoints) && situation.is_from_host_to_external_ip()
        },
    },
    Divergence {
        name: "node-port-at-load-balancer-address",
        reason: "kube-proxy answers node ports on every address that the node's routing calls local, so also on a \
                 load-balancer address, which is there for the balancer's ports alone; the eBPF plane answers them on \
                 the addresses of the node",
        ebpf: None,
        iptables: Some(Answer::NodePort),
        applies: |situation| {
            matches!(situation.outcome, Outcome::Untouched) && situation.has_node_port_at_balancer()
        },
    },
    Divergence {
        name: "filtered-node-port-without-endpoints",
        reason: "kube-proxy refuses a node port without endpoints on every local address, also where its filter does not \
                 serve node ports; the eBPF plane leaves those addresses alone",
        ebpf: None,
        iptables: Some(Answer::Refused),
        applies: |situation| situation.filtered_node_port().is_some_and(|service| !service.usable_anywhere),
    },
    Divergence {
        name: "filtered-node-port-without-local-endpoints",
        reason: "kube-proxy drops what goes to a node port of Local policy without local endpoints on every local \
                 address, also where its filter does not serve node ports; the eBPF plane leaves those addresses alone",
        ebpf: None,
        iptables: Some(Answer::Silence),
        applies: |situation| {
            let lacks = |service: &ServicePort| service.usable_anywhere && service.local.is_empty();
            situation.filtered_node_port().is_some_and(lacks)
        },
    },
    Divergence {
        name: "no-local-endpoints",
        reason: "kube-proxy drops under Local policy without a local endpoint, and the client waits for its timeout; \
                 the eBPF plane refuses, so that the client can try again at once",
        ebpf: Some(Answer::Refused),
        iptables: Some(Answer::Silence),
        applies: |situation| matches!(situation.outcome, Outcome::NoLocalEndpoints),
    },
    Divergence {
        name: "denied-without-endpoints",
        reason: "on the iptables plane policies are asked before any rule of the filter table, also kube-proxy's that \
                 refuses for want of endpoints: a pod that may not send to a Service's address waits for its timeout; the \
                 eBPF plane asks about backends, and refuses where there is none to ask about",
        ebpf: None,
        iptables: Some(Answer::Silence),
        applies: |situation| {
            matches!(situation.outcome, Outcome::NoEndpoints) && situation.is_denied_to_its_pod()
        },
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
        let Some((service, frontend)) = addressed(self.packet, self.snapshot) else { return false };
        let source = self.packet.source.ip();
        matches!(
            service.target(frontend, self.snapshot.node.origin(source)),
            Target::Backends(backends, Masquerade::No)
                if frontend.source_ranges.is_empty() && backends.iter().any(|it| it.address.ip() == source)
        )
    }

    /// Whether a pod of the node may not send to the address as it is.
    fn is_denied_to_its_pod(&self) -> bool {
        let Packet { source, destination, protocol } = *self.packet;
        let Snapshot { endpoints, addresses, policy, .. } = self.snapshot;
        let sender = endpoints.values().find(|endpoint| endpoint.addresses.contains(&source.ip()));
        let Some(sender) = sender.filter(|sender| policy.endpoints.contains_key(&sender.pod)) else {
            return false;
        };
        let owner = |known: &BTreeMap<IpNet, IdentityId>| {
            let holding = known.iter().filter(|(net, _)| net.contains(&destination.ip()));
            holding.max_by_key(|(net, _)| net.prefix_len()).map(|(_, id)| *id)
        };
        let peer =
            PeerAddress { identity: owner(addresses).unwrap_or_default(), prefix: owner(&policy.prefixes) };
        let question = Question {
            endpoint: &sender.pod,
            direction: Direction::Egress,
            peer,
            l4: L4::Port(protocol, destination.port()),
            loopback: false,
        };
        policy.decide(&question).verdict == Verdict::Deny
    }

    fn is_from_host_to_external_ip(&self) -> bool {
        let addressed = addressed(self.packet, self.snapshot);
        self.snapshot.node.origin(self.packet.source.ip()) == Origin::Node
            && addressed.is_some_and(|(_, frontend)| frontend.kind == FrontendKind::ExternalIp)
            && !self.snapshot.node.addresses.contains(&self.packet.destination.ip())
    }

    /// Where node ports are served on all addresses; host ports are everywhere.
    fn has_node_port_at_balancer(&self) -> bool {
        let everywhere = self.serves_node_ports_everywhere();
        let served = |frontend: &Frontend| everywhere || frontend.kind == FrontendKind::HostPort;
        self.snapshot.is_load_balancer(self.packet.destination.ip()) && self.node_port(served).is_some()
    }

    /// No filter, or none of this family.
    fn serves_node_ports_everywhere(&self) -> bool {
        let is_v4 = self.packet.destination.is_ipv4();
        match &self.snapshot.node.node_ports {
            NodePortAddresses::All => true,
            NodePortAddresses::Primary => false,
            NodePortAddresses::Within(prefixes) => {
                !prefixes.iter().any(|prefix| prefix.addr().is_ipv4() == is_v4)
            }
        }
    }

    /// The Service port whose node port this would be, did the filter serve it at this address of the node. Under Local
    /// policy only where that may matter.
    fn filtered_node_port(&self) -> Option<&ServicePort> {
        let destination = self.packet.destination.ip();
        let is_local = self.snapshot.node.addresses.contains(&destination)
            || self.snapshot.is_load_balancer(destination);
        let untouched = matches!(self.outcome, Outcome::Untouched);
        if !untouched || !is_local || self.serves_node_ports_everywhere() {
            return None;
        }
        let (service, frontend) = self.node_port(|frontend| frontend.kind == FrontendKind::NodePort)?;
        (frontend.policy == TrafficPolicy::Local || !service.usable_anywhere).then_some(service)
    }

    /// The node port with this packet's port and protocol.
    fn node_port(&self, served: impl Fn(&Frontend) -> bool) -> Option<(&ServicePort, &Frontend)> {
        let Packet { destination, protocol, .. } = *self.packet;
        let services = self.snapshot.services.values().filter(|service| {
            service.id.protocol == protocol && service.id.family == Family::of(destination.ip())
        });
        let mut all = services.flat_map(|service| service.frontends.iter().map(move |f| (&**service, f)));
        all.find(|(_, frontend)| {
            frontend.address == FrontendAddress::Node
                && frontend.port.get() == destination.port()
                && served(frontend)
        })
    }
}

impl Plane {
    /// Whether a backend that a socket's owner is given and that is the owner itself sees its own address.
    pub fn shows_itself(self, situation: &Situation<'_>) -> bool {
        let differs = |it: &Divergence| it.name == HAIRPIN && (it.applies)(situation);
        self == Self::Ebpf && DIVERGENCES.iter().any(differs)
    }

    /// The accepted difference between this plane and the oracle that applies, if one does, and what clients notice by it.
    pub fn divergence(self, situation: &Situation<'_>) -> Option<(&'static Divergence, Answer)> {
        let mut applying = DIVERGENCES.iter().filter(|divergence| (divergence.applies)(situation));
        applying.find_map(|divergence| {
            let answer = match self {
                Self::Ebpf => divergence.ebpf,
                Self::Iptables => divergence.iptables,
            };
            answer.map(|answer| (divergence, answer))
        })
    }

    /// What a client notices instead of an answer; `None` where packets flow.
    pub fn answer(self, situation: &Situation<'_>) -> Option<Answer> {
        self.divergence(situation).map(|(_, answer)| answer).or(match situation.outcome {
            Outcome::Untouched | Outcome::Forwarded { .. } => None,
            Outcome::NoEndpoints => Some(Answer::Refused),
            Outcome::NoLocalEndpoints | Outcome::SourceDenied => Some(Answer::Silence),
        })
    }
}
