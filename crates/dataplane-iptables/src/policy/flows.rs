//! Which tracked flows the table of policies denies: rules judge a flow's first packet, this judges it again when policies change.
//! Pure; the marks are the caller's.
//!
//! A flow that is denied keeps its entry, with a mark that a rule drops by. Were the entry deleted, the server's next packet would
//! open a flow of its own in the other direction, which nobody denies (`nf_conntrack_tcp_loose`), and the client's would be its
//! answers; and a translated flow would be given another backend. Flows that stay allowed are not touched.

use std::{collections::BTreeMap, net::IpAddr};

use model::{
    PodName, Protocol, Snapshot,
    policy::{Direction, L4, Mode, PeerAddress, Question, Verdict},
    told::{Transport, Tuple},
};

use super::sets::longest;

/// The bit of connection marks that says "denied".
pub(crate) const DENIED: u32 = 0x0010_0000;

/// Answers for one snapshot.
pub(crate) struct Judge<'a> {
    snapshot: &'a Snapshot,
    local: BTreeMap<IpAddr, &'a PodName>,
}

impl<'a> Judge<'a> {
    pub(crate) fn new(snapshot: &'a Snapshot) -> Self {
        let endpoints = snapshot.endpoints.values();
        let local = endpoints.flat_map(|endpoint| endpoint.addresses.iter().map(|ip| (*ip, &endpoint.pod)));
        Self { snapshot, local: local.collect() }
    }

    /// Whether one of the node's pods may not send, or not receive, what opened the flow: it went from `original`'s source to
    /// `reply`'s, whatever it was addressed to.
    pub(crate) fn denies(&self, original: &Tuple, reply: &Tuple) -> bool {
        let (client, server) = (original.source, reply.source);
        let l4 = l4(reply.transport);
        let pods = (self.local.get(&client), self.local.get(&server));
        let loopback = pods.0.is_some() && pods.0 == pods.1;
        let denied = |pod: Option<&&PodName>, direction, peer| {
            pod.is_some_and(|pod| self.denied(pod, direction, peer, l4, loopback))
        };
        denied(pods.0, Direction::Egress, server) || denied(pods.1, Direction::Ingress, client)
    }

    fn denied(&self, endpoint: &PodName, direction: Direction, peer: IpAddr, l4: L4, loopback: bool) -> bool {
        let table = &self.snapshot.policy;
        if table.endpoints.get(endpoint).is_some_and(|policy| policy.mode == Mode::Audit) {
            return false;
        }
        let identity = longest(&self.snapshot.addresses, peer).unwrap_or_default();
        let peer = PeerAddress { identity, prefix: longest(&table.prefixes, peer) };
        table.decide(&Question { endpoint, direction, peer, l4, loopback }).verdict == Verdict::Deny
    }
}

/// Of the answer's tuple: its source port is the port that was asked.
fn l4(reply: Transport) -> L4 {
    match reply {
        Transport::Tcp { source, .. } => L4::Port(Protocol::Tcp, source),
        Transport::Udp { source, .. } => L4::Port(Protocol::Udp, source),
        Transport::Sctp { source, .. } => L4::Port(Protocol::Sctp, source),
        Transport::IcmpV4 { .. } | Transport::IcmpV6 { .. } | Transport::Other(_) => L4::Other,
    }
}
