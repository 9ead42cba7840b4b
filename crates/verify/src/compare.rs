//! What is wanted of a probe, what came of it, and whether that is equal, divergent by name, or different. Pure.

use std::{collections::BTreeSet, fmt, net::SocketAddr};

use model::{
    Answer, Divergence, Family, Masquerade, Plane, Situation, Snapshot,
    oracle::{self, Origin, Outcome, Packet},
};
use serde::Serialize;

use crate::probe::Probe;

/// One way that a packet may be forwarded: the backend, and whether it sees the node instead of the client.
pub type Way = (SocketAddr, bool);

/// What a client can notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// To these. What is wanted: any of them, and no other.
    To(BTreeSet<Way>),
    Refused,
    Dropped,
    /// Not a Service's.
    Untouched,
    /// Nothing that a plane should do.
    Other(String),
}

/// How complete the ways are that an executor has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// Those that chance took.
    Some,
    /// All there are.
    All,
}

/// How a comparison ends.
#[derive(Clone, Debug)]
pub enum Verdict {
    Equal(Seen),
    /// As a named divergence has it.
    Divergent(&'static Divergence),
    Different(Difference),
}

/// A bug in something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub executor: &'static str,
    pub probe: String,
    pub wanted: String,
    pub got: String,
}

/// What the oracle says of a packet; decides every comparison. A test's own may be wrong on purpose.
pub type Oracle = fn(&Packet, &Snapshot) -> Outcome;

/// What `outcome` looks like to a client.
pub fn seen(outcome: &Outcome, packet: &Packet, snapshot: &Snapshot) -> Seen {
    match outcome {
        Outcome::Untouched => Seen::Untouched,
        Outcome::NoEndpoints => Seen::Refused,
        Outcome::NoLocalEndpoints | Outcome::SourceDenied => Seen::Dropped,
        Outcome::Forwarded { choices } => {
            let ways = choices.iter().map(|choice| {
                (choice.backend, choice.masquerade == Masquerade::Yes && is_noticed(packet, snapshot))
            });
            Seen::To(ways.collect())
        }
    }
}

/// Nobody can tell whether a node's own address was masqueraded by it.
pub fn is_noticed(packet: &Packet, snapshot: &Snapshot) -> bool {
    packet.source.ip() != packet.destination.ip() && snapshot.node.origin(packet.source.ip()) != Origin::Node
}

/// The divergence of `plane` that applies, what is agreed, and what is wanted of this plane.
pub fn wanted(
    plane: Plane,
    packet: &Packet,
    snapshot: &Snapshot,
    oracle: Oracle,
) -> (Option<&'static Divergence>, Seen, Seen) {
    let outcome = oracle(packet, snapshot);
    let divergence = plane.divergence(&Situation { packet, snapshot, outcome: &outcome });
    let agreed = seen(&outcome, packet, snapshot);
    let wanted = match divergence {
        Some((_, Answer::Refused)) => Seen::Refused,
        Some((_, Answer::Silence)) => Seen::Dropped,
        Some((_, Answer::Untouched)) => Seen::Untouched,
        Some((_, Answer::NodePort)) => {
            let packet = at_the_node(packet, snapshot);
            seen(&oracle(&packet, snapshot), &packet, snapshot)
        }
        None => agreed.clone(),
    };
    (divergence.map(|(divergence, _)| divergence), agreed, wanted)
}

/// Compares what `plane` did with what `oracle` says.
pub fn compare(
    (plane, executor): (Plane, &'static str),
    (probe, packet, snapshot): (&Probe, &Packet, &Snapshot),
    (got, coverage): (Seen, Coverage),
    oracle: Oracle,
) -> Verdict {
    let (divergence, agreed, wanted) = wanted(plane, packet, snapshot, oracle);
    if !is_as_wanted(&wanted, &got, coverage) {
        let difference = Difference {
            executor,
            probe: probe.to_string(),
            wanted: wanted.to_string(),
            got: got.to_string(),
        };
        return Verdict::Different(difference);
    }
    match divergence {
        Some(divergence) if wanted != agreed => Verdict::Divergent(divergence),
        _ => Verdict::Equal(wanted),
    }
}

/// The same packet to the node's own address.
fn at_the_node(packet: &Packet, snapshot: &Snapshot) -> Packet {
    let own = snapshot.node.addresses_of(Family::of(packet.destination.ip())).next();
    let Some(own) = own else { return *packet };
    let mut packet = *packet;
    if packet.source.ip() == packet.destination.ip() {
        packet.source.set_ip(own);
    }
    packet.destination.set_ip(own);
    packet
}

fn is_as_wanted(wanted: &Seen, got: &Seen, coverage: Coverage) -> bool {
    match (wanted, got, coverage) {
        (Seen::To(wanted), Seen::To(got), Coverage::Some) => !got.is_empty() && got.is_subset(wanted),
        (wanted, got, _) => wanted == got,
    }
}

/// Compares the objects, read naively, with what `cluster` and `model` make of them.
pub fn compare_reference(
    (probe, packet, snapshot): (&Probe, &Packet, &Snapshot),
    reference: &Outcome,
) -> Verdict {
    let outcome = oracle::forward(packet, snapshot);
    if outcome == *reference {
        return Verdict::Equal(seen(&outcome, packet, snapshot));
    }
    Verdict::Different(Difference {
        executor: "oracle",
        probe: probe.to_string(),
        wanted: format!("{reference:?}"),
        got: format!("{outcome:?}"),
    })
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::To(ways) => {
                let way = |(to, masqueraded): &Way| {
                    format!("{to}{}", if *masqueraded { " masqueraded" } else { "" })
                };
                write!(f, "to {}", ways.iter().map(way).collect::<Vec<_>>().join(", "))
            }
            Self::Refused => f.write_str("refused"),
            Self::Dropped => f.write_str("dropped"),
            Self::Untouched => f.write_str("untouched"),
            Self::Other(what) => f.write_str(what),
        }
    }
}
