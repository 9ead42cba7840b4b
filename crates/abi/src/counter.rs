//! Why a packet went where it went. The one list of reasons; every name and text is generated from it.

use crate::plain;

/// Element of the per-CPU array `COUNTERS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub packets: u64,
    /// Whole frames, as the program saw them; 0 for lookups.
    pub bytes: u64,
}

/// An enumeration with one word and one sentence per variant.
macro_rules! named {
    ($(#[$attribute:meta])* pub enum $enum:ident { $(#[doc = $text:literal] $name:ident = $word:literal,)+ }) => {
        $(#[$attribute])*
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $enum {
            $(#[doc = $text] $name,)+
        }

        impl $enum {
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Snake case: the word in the CLI, the metrics and the documentation.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $word),+ }
            }

            /// One sentence.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$name => $text.trim_ascii()),+ }
            }
        }
    };
}

named! {
/// What became of a packet. Each packet counts under exactly one.
pub enum Reason {
    /// Forwarded by one lookup in the connection table.
    ForwardedEstablished = "forwarded_established",
    /// The same, on receipt from the driver (XDP): the stack never saw it.
    ForwardedXdp = "forwarded_xdp",
    /// First packet of a flow, forwarded.
    ForwardedNew = "forwarded_new",
    /// Known flow, forwarded after its state or its route was brought up to date.
    ForwardedUpdated = "forwarded_updated",
    /// ICMP error about a translated flow, translated like the packet it quotes.
    ForwardedIcmpError = "forwarded_icmp_error",
    /// Left to the stack: no IP, a protocol without ports, or an ICMP message that is no error.
    PassedProtocol = "passed_protocol",
    /// Left to the stack: a routing header that leads elsewhere, or an ICMP error that quotes too little.
    PassedUnparsed = "passed_unparsed",
    /// Left to the stack: a fragment whose datagram's first fragment was not seen.
    PassedFragment = "passed_fragment",
    /// Left to the stack: concerns no frontend, no tracked flow and no local pod.
    PassedUnrelated = "passed_unrelated",
    /// Left to the stack: already handled by another program of this node.
    PassedHandled = "passed_handled",
    /// Left to the stack, which answers that the time to live is over.
    PassedTimeToLive = "passed_time_to_live",
    /// Left to the stack, which answers that the packet is too big for the route.
    PassedTooBig = "passed_too_big",
    /// TCP refused with a reset: the frontend has no backend for this client.
    RefusedTcp = "refused_tcp",
    /// UDP refused with a port-unreachable message: the frontend has no backend for this client.
    RefusedUdp = "refused_udp",
    /// SCTP refused with a port-unreachable message: the frontend has no backend for this client.
    RefusedSctp = "refused_sctp",
    /// Dropped: the frame ends inside a header.
    DroppedTruncated = "dropped_truncated",
    /// Dropped: an IP version that is not its EtherType's.
    DroppedVersion = "dropped_version",
    /// Dropped: an IPv4 header shorter than five words, or an option that runs over its end.
    DroppedHeaderLength = "dropped_header_length",
    /// Dropped: a wrong IPv4 header checksum; on the fast path it stays wrong, for the receiver to see.
    DroppedHeaderChecksum = "dropped_header_checksum",
    /// Dropped: a length that is longer than the frame or the packet, or too short for the headers.
    DroppedLength = "dropped_length",
    /// Dropped: a TCP data offset below five words or beyond the packet.
    DroppedDataOffset = "dropped_data_offset",
    /// Dropped: IPv6 extension headers that are too many, too long, or not in an order that receivers accept.
    DroppedExtensionChain = "dropped_extension_chain",
    /// Dropped: a source route, by an IPv4 option or a routing header of type 0.
    DroppedSourceRoute = "dropped_source_route",
    /// Dropped: a fragment that cuts or overlaps the transport header, or runs beyond the longest datagram.
    DroppedFragment = "dropped_fragment",
    /// Dropped: TCP or SCTP from port 0 to a frontend.
    DroppedZeroPort = "dropped_zero_port",
    /// Dropped: to a frontend from an address that is no host's (multicast, broadcast, loopback, none).
    DroppedSource = "dropped_source",
    /// Dropped: to a frontend from its own address.
    DroppedLand = "dropped_land",
    /// Dropped: refused, and not answered, because it was sent to many.
    DroppedUnanswerable = "dropped_unanswerable",
    /// Answered with the size that fits: too big for the route to the backend, and not to be cut on the way.
    AnsweredTooBig = "answered_too_big",
    /// Dropped: a reset for a connection that is refused anyway; a reset is never answered.
    DroppedReset = "dropped_reset",
    /// Dropped: outside the frontend's source ranges.
    DroppedSourceRange = "dropped_source_range",
    /// Dropped: a policy of the pod that it comes from does not allow it.
    DroppedPolicyEgress = "dropped_policy_egress",
    /// Dropped: a policy of the pod that it is for does not allow it.
    DroppedPolicyIngress = "dropped_policy_ingress",
    /// Dropped: no free port to translate to, towards this backend.
    DroppedNoPort = "dropped_no_port",
    /// Dropped: the node has no address of this family to masquerade with.
    DroppedNoNodeAddress = "dropped_no_node_address",
    /// Dropped: the connection table refused the entry.
    DroppedTableFull = "dropped_table_full",
    /// Dropped: a row is missing, or the kernel refused to rewrite the packet.
    DroppedInternal = "dropped_internal",
}
}

named! {
/// Work of the slow path. A packet adds several, or none: the fast path makes exactly one lookup, in the connection
/// table, and its packets are [`Reason::ForwardedEstablished`].
pub enum Lookup {
    /// Lookups in the connection table, made by the slow path.
    Conntrack = "slow_conntrack_lookups",
    /// Lookups in the frontend table, made by the slow path.
    Frontend = "slow_frontend_lookups",
    /// Lookups of a backend, its membership, affinity or source ranges, made by the slow path.
    Backend = "slow_backend_lookups",
    /// Lookups of an origin, an endpoint or a route, made by the slow path.
    Route = "slow_route_lookups",
    /// Lookups of a pod's policy, its peers and ports, made by the slow path.
    Policy = "slow_policy_lookups",
    /// Source ports found taken while one was looked for to masquerade with.
    PortTaken = "slow_port_collisions",
    /// Source ports taken over from flows that are over, because no free one was found.
    PortReused = "slow_port_reuses",
}
}

named! {
/// What became of a socket's call that named a frontend.
pub enum SocketCall {
    /// Given a backend.
    Translated = "socket_translated",
    /// Left to the packet path: what the client gets depends on its address.
    Left = "socket_left_to_packets",
    /// Refused: the frontend has no backend for this client.
    Refused = "socket_refused",
    /// Denied: the node is outside the frontend's source ranges.
    Denied = "socket_denied",
}
}

impl Reason {
    /// Row of `COUNTERS`.
    pub const fn row(self) -> u32 {
        self as u32
    }
}

impl Lookup {
    /// Row of `COUNTERS`, after the reasons.
    pub const fn row(self) -> u32 {
        Reason::ALL.len() as u32 + self as u32
    }
}

impl SocketCall {
    /// Row of `COUNTERS`, after the lookups.
    pub const fn row(self) -> u32 {
        (Reason::ALL.len() + Lookup::ALL.len()) as u32 + self as u32
    }
}

/// Rows of `COUNTERS`.
pub const COUNTERS: usize = Reason::ALL.len() + Lookup::ALL.len() + SocketCall::ALL.len();

const _: () = assert!(size_of::<Count>() == 16);
plain!(Count);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_numbered_without_gaps_and_named_once() {
        let reasons = Reason::ALL.iter().map(|reason| (reason.row(), reason.name(), reason.description()));
        let lookups = Lookup::ALL.iter().map(|lookup| (lookup.row(), lookup.name(), lookup.description()));
        let calls = SocketCall::ALL.iter().map(|call| (call.row(), call.name(), call.description()));
        let mut all = reasons.chain(lookups).chain(calls);
        let rows: [(u32, &str, &str); COUNTERS] = core::array::from_fn(|_| all.next().expect("a row"));
        assert_eq!(all.next(), None);
        for (index, (row, name, description)) in rows.iter().enumerate() {
            assert_eq!(*row as usize, index);
            assert!(description.ends_with('.') && !description.starts_with(' '), "{name}");
            assert_eq!(rows.iter().filter(|(_, other, _)| other == name).count(), 1, "{name}");
        }
    }
}
