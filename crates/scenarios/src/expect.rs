//! What a case asks and what it wants, and what the oracle says of it. Pure.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use model::{
    Answer, Family, Masquerade, Plane, Protocol, Situation, Snapshot,
    oracle::{Outcome, Packet, forward},
};

use crate::places::{Node, Place, Pod, To, VIPS};

/// One question, asked over connections of their own: in a case of any family, or of one.
#[derive(Clone, Copy, Debug)]
pub struct Probe<T = To> {
    pub from: Place,
    pub to: T,
    pub protocol: Protocol,
    /// Which node the edge sends the load-balancer address to.
    pub via: Node,
    /// How many connections.
    pub times: usize,
    /// Bytes of a UDP question and of its answer.
    pub datagram: usize,
    /// The client is no process of its node's, so that no program sees its socket, only its packets.
    pub by_packets: bool,
}

/// A probe of one family.
pub type Question = Probe<SocketAddr>;

impl<T> Probe<T> {
    /// TCP, by node-a where that matters, often enough to meet each of three backends.
    ///
    /// Missing one of three in 40 tries has a chance of 3 × (2/3)^40 < 10^-6.
    pub fn tcp(from: Place, to: T) -> Self {
        Self { from, to, protocol: Protocol::Tcp, via: Node::A, times: 40, datagram: 64, by_packets: false }
    }

    pub fn udp(from: Place, to: T) -> Self {
        Self { protocol: Protocol::Udp, ..Self::tcp(from, to) }
    }

    #[must_use]
    pub fn via(mut self, node: Node) -> Self {
        self.via = node;
        self
    }

    #[must_use]
    pub fn datagram(mut self, size: usize) -> Self {
        self.datagram = size;
        self
    }

    /// From a socket that no program of the node sees.
    #[must_use]
    pub fn by_packets(mut self) -> Self {
        self.by_packets = true;
        self
    }

    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }
}

impl Probe {
    /// The same question in one family.
    pub fn of(self, family: Family) -> Question {
        let Self { from, to, protocol, via, times, datagram, by_packets } = self;
        Probe { from, to: to.of(family), protocol, via, times, datagram, by_packets }
    }
}

impl Question {
    /// The same port of the node that the edge sends it to.
    #[must_use]
    pub fn at_the_node(self) -> Self {
        let address = self.via.address(Family::of(self.to.ip()));
        Self { to: SocketAddr::new(address, self.to.port()), ..self }
    }
}

/// Whose address a backend sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    /// The client's own.
    Own,
    /// Masqueraded by a node.
    Node(Node),
    Other(IpAddr),
}

/// What a case says must happen, independently of the oracle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// Every one of these answers, and no other.
    Backends(BTreeMap<Pod, Seen>),
    /// No usable backend anywhere.
    NoEndpoints,
    /// None on this node, and Local policy.
    NoLocalEndpoints,
    SourceDenied,
    /// Nothing of a Service: whatever lies at the address answers.
    NotAService,
}

/// All of `pods` answer and see the client itself.
pub fn own(pods: &[Pod]) -> Want {
    Want::Backends(pods.iter().map(|pod| (*pod, Seen::Own)).collect())
}

/// All of `pods` answer and see `node`.
pub fn masqueraded(node: Node, pods: &[Pod]) -> Want {
    Want::Backends(pods.iter().map(|pod| (*pod, Seen::Node(node))).collect())
}

/// All of these answer, each seeing another's address.
pub fn mixed(pods: &[(Pod, Seen)]) -> Want {
    Want::Backends(pods.iter().copied().collect())
}

/// The nodes' snapshots, and what they do with probes.
#[derive(Debug, Default)]
pub struct Oracle {
    pub snapshots: BTreeMap<Node, Snapshot>,
}

impl Oracle {
    /// The outcome at the node that decides: the first that knows the destination.
    pub fn outcome(&self, probe: &Question) -> (Node, Outcome) {
        let first = first_node(probe);
        let outcome = self.at(first, probe);
        match Node::owner(probe.to.ip()) {
            // A node's own address is routed to it, and it decides.
            Some(owner) if outcome == Outcome::Untouched && owner != first => (owner, self.at(owner, probe)),
            _ => (first, outcome),
        }
    }

    /// What a client notices on `plane` instead of an answer; `None` where packets flow.
    pub fn answer(&self, plane: Plane, probe: &Question) -> Option<Answer> {
        let (node, outcome) = self.outcome(probe);
        plane.answer(&Situation {
            packet: &packet(probe),
            snapshot: &self.snapshots[&node],
            outcome: &outcome,
        })
    }

    /// `want`, as a client of `plane` sees it: a pod that its socket gives to itself sees itself.
    pub fn on(&self, plane: Plane, probe: &Question, want: Want) -> Want {
        let (node, outcome) = self.outcome(probe);
        let packet = packet(probe);
        let situation = Situation { packet: &packet, snapshot: &self.snapshots[&node], outcome: &outcome };
        match (want, probe.from) {
            (Want::Backends(mut backends), Place::Pod(pod))
                if !probe.by_packets && plane.shows_itself(&situation) =>
            {
                backends.insert(pod, Seen::Own);
                Want::Backends(backends)
            }
            (want, _) => want,
        }
    }

    fn at(&self, node: Node, probe: &Question) -> Outcome {
        forward(&packet(probe), &self.snapshots[&node])
    }

    /// What the oracle's outcome means for a client.
    pub fn want(&self, probe: &Question) -> Want {
        let (node, outcome) = self.outcome(probe);
        match outcome {
            Outcome::Untouched => Want::NotAService,
            Outcome::NoEndpoints => Want::NoEndpoints,
            Outcome::NoLocalEndpoints => Want::NoLocalEndpoints,
            Outcome::SourceDenied => Want::SourceDenied,
            Outcome::Forwarded { choices } => Want::Backends(
                choices
                    .iter()
                    .map(|choice| {
                        let pod = Pod::at(choice.backend.ip()).expect("a backend is a pod");
                        let seen = match choice.masquerade {
                            Masquerade::No => Seen::Own,
                            Masquerade::Yes => Seen::Node(node),
                        };
                        (pod, seen.of(probe.from))
                    })
                    .collect(),
            ),
        }
    }
}

impl Seen {
    /// A host's own address is its node's: nobody can tell whether it was masqueraded.
    #[must_use]
    pub fn of(self, from: Place) -> Self {
        match (self, from) {
            (Self::Node(node), Place::Host(host)) if node == host => Self::Own,
            _ => self,
        }
    }

    pub fn from_address(address: IpAddr, from: Place) -> Self {
        if from.addresses().contains(address) {
            return Self::Own;
        }
        Node::at(address).map_or(Self::Other(address), Self::Node).of(from)
    }
}

/// The first packet of a connection.
fn packet(probe: &Question) -> Packet {
    let source = SocketAddr::new(source(probe.from, probe.to.ip()), 40_000);
    Packet { source, destination: probe.to, protocol: probe.protocol }
}

/// The address that the client's kernel chooses: to a local address of the machine itself, that one in IPv4; in IPv6
/// one that an interface has (`ipv6_dev_get_saddr`).
pub fn source(from: Place, to: IpAddr) -> IpAddr {
    let is_vip = VIPS.iter().any(|vip| vip.contains(to));
    match from {
        Place::Host(node) if node.second_addresses().contains(to) => to,
        Place::Host(_) if to.is_ipv4() && is_vip => to,
        from => from.address(Family::of(to)),
    }
}

/// The node whose rules a probe's packets meet first.
fn first_node(probe: &Question) -> Node {
    match probe.from {
        Place::Pod(pod) => pod.node(),
        Place::Host(node) => node,
        Place::Client => Node::owner(probe.to.ip()).unwrap_or(probe.via),
    }
}
