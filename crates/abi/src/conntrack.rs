//! The connection table: one entry per direction of a flow, with all that a packet of it needs.

use core::fmt;

use crate::{Address, Be16, plain};

/// A flow's direction, as its packets look before translation. 16 bytes for IPv4, 40 for IPv6.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple<A> {
    pub source: A,
    pub destination: A,
    pub source_port: Be16,
    pub destination_port: Be16,
    pub protocol: u8,
    pub padding: [u8; 3],
}

impl<A: Address> Tuple<A> {
    /// The tuple of packets that go the other way.
    #[inline(always)]
    pub fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
            padding: [0; 3],
        }
    }
}

impl<A: fmt::Debug> fmt::Debug for Tuple<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {:?}:{:?} -> {:?}:{:?}",
            self.protocol, self.source, self.source_port, self.destination, self.destination_port
        )
    }
}

/// What is done with every packet of one direction of a flow.
///
/// Checksum deltas are folded one's-complement sums of what is added, less what is taken away.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow<A> {
    /// [`crate::Config::revision`] under which this was validated; 0: not yet.
    pub revision: u32,
    /// Jiffies, low 32 bits.
    pub last_seen: u32,
    /// Idle jiffies after which the entry is dead.
    pub timeout: u32,
    /// A [`State`].
    pub state: u8,
    /// Of [`flow_flags`].
    pub flags: u8,
    /// A [`Route`].
    pub route: u8,
    /// Taken from TTL or hop limit: 1 where this node acts as a router, else 0.
    pub ttl_step: u8,
    /// For the IPv4 header, TTL step included.
    pub l3_delta: u16,
    /// For the transport checksum: addresses, through the pseudo header.
    pub address_delta: u16,
    /// For the transport checksum: ports.
    pub port_delta: u16,
    /// When this direction was last told of ([`coarse`]).
    pub told: u16,
    /// The packet after translation; equal to the key where nothing is translated.
    pub source: A,
    pub destination: A,
    pub source_port: Be16,
    pub destination_port: Be16,
    /// Interface index of a redirect.
    pub interface: u32,
    /// Largest IP packet that the route takes, in bytes.
    pub mtu: u32,
    /// [`Route::Neighbour`]: a `struct bpf_redir_neigh`, handed to the helper in place.
    /// [`Route::Peer`]: the first twelve bytes are the Ethernet destination and source.
    pub next_hop: [u32; 5],
    /// [`Route::Neighbour`], for XDP, which no kernel code resolves a neighbour for: Ethernet destination and source, and when
    /// they were looked up (jiffies, low 32 bits; 0: never).
    pub link: [u32; 3],
    pub link_checked: u32,
    pub packets: u64,
    /// Of IP packets, without the link header.
    pub bytes: u64,
}

impl<A: Address> Flow<A> {
    /// The key of the opposite direction's entry.
    #[inline(always)]
    pub fn reply_key(&self, protocol: u8) -> Tuple<A> {
        Tuple {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol,
            padding: [0; 3],
        }
    }

    #[inline(always)]
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// A clock of few bits: 256 jiffies to the unit.
#[inline(always)]
pub const fn coarse(jiffies: u32) -> u16 {
    (jiffies >> 8) as u16
}

/// Bits of [`Flow::flags`].
pub mod flow_flags {
    /// Packets of this direction answer the flow.
    pub const REPLY: u8 = 1;
    /// Addresses or ports change: the flow belongs to a frontend.
    pub const TRANSLATED: u8 = 1 << 1;
    /// The source is replaced by the node's address.
    pub const MASQUERADED: u8 = 1 << 2;
    /// A FIN went this way.
    pub const FIN: u8 = 1 << 3;
    /// To a frontend, and sent as it is through the tunnel to the node of a backend. The only entry of its flow: answers do
    /// not come this way.
    pub const WHOLE: u8 = 1 << 4;
    /// One end lets its packets be read: all of them leave the fast path.
    pub const L7: u8 = 1 << 5;
}

/// Where an entry is in its life. Numbers are part of the ABI.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// TCP or SCTP before its handshake is through.
    Opening = 0,
    /// TCP or SCTP, both sides are done; a SYN or INIT starts a new flow.
    Closed = 1,
    /// TCP or SCTP after its handshake.
    Established = 2,
    /// TCP or SCTP, one side is done.
    HalfClosed = 3,
    /// UDP, nothing came back yet.
    Unanswered = 4,
    /// UDP, answered.
    Answered = 5,
}

impl State {
    /// From here on a packet without TCP control flags changes no state, and may take the fast path.
    pub const FIRST_STEADY: u8 = Self::Established as u8;

    /// As the connection list spells it.
    pub fn name(number: u8) -> &'static str {
        const NAMES: [&str; 6] =
            ["opening", "closed", "established", "half-closed", "unanswered", "answered"];
        NAMES.get(number as usize).copied().unwrap_or("unknown")
    }
}

/// How a packet leaves. Numbers are part of the ABI.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Up the stack, or on along the device it is on.
    Stack = 0,
    /// Out of [`Flow::interface`], to the neighbour in [`Flow::next_hop`].
    Neighbour = 1,
    /// Into the network namespace of [`Flow::interface`]'s peer.
    Peer = 2,
}

/// A datagram in fragments: only the first carries ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentKey<A> {
    pub source: A,
    pub destination: A,
    /// As it lies in the packet.
    pub identification: u32,
    /// 0 for IPv6.
    pub protocol: u8,
    pub padding: [u8; 3],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentPorts {
    pub source: Be16,
    pub destination: Be16,
    /// Jiffies, low 32 bits, of the first fragment.
    pub seen: u32,
    pub protocol: u8,
    pub padding: [u8; 3],
}

const _: () = {
    use crate::{V4, V6};
    assert!(size_of::<Tuple<V4>>() == 16 && size_of::<Tuple<V6>>() == 40);
    assert!(size_of::<Flow<V4>>() == 96 && size_of::<Flow<V6>>() == 120);
    assert!(size_of::<FragmentKey<V4>>() == 16 && size_of::<FragmentKey<V6>>() == 40);
};
plain!(FragmentPorts);
plain!(per family: Tuple, Flow, FragmentKey);
