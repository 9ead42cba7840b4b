//! Bytes that kernel and user space share: map keys and values, counters, configuration.
//!
//! Byte order: addresses and ports are in network order behind typed accessors; everything else is in the
//! machine's own order. Every type is `repr(C)` without implicit padding, and the sizes are checked at compile
//! time, because hash maps compare keys byte by byte.
//!
//! Invariant: no logic beyond conversions. A change to any layout here changes [`ABI_VERSION`].

#![no_std]

mod address;
mod config;
mod conntrack;
mod counter;
mod event;
mod policy;
mod service;
mod socket;

pub use address::{Address, Be16, V4, V6};
pub use config::{Config, Timeouts};
pub use conntrack::{Flow, FragmentKey, FragmentPorts, Route, State, Tuple, coarse, flow_flags};
pub use counter::{COUNTERS, Count, Lookup, Reason, SocketCall};
pub use event::{
    EVENT_RING_BYTES, EVENT_VERSION, Event, EventCount, EventKind, EventLevel, HOST_IDENTITY, L7_BYTES,
    L7Event, LATELY_ROWS, Lately, Point, event_flags, l7_flags,
};
pub use policy::{
    PeerRow, PolicyPeer, PolicyRow, PortAction, PortKey, PortMatch, RuleCount, TIERS, UNRANKED_TIER, action,
    asked_flags, matched, peer, policy_flags,
};
pub use service::{
    AffinityKey, AffinityValue, Backend, BackendKey, BackendSet, Endpoint, Frontend, FrontendKey,
    MaglevChunk, MaglevKey, MemberKey, Origin, RangeKey, SetId, backend_flags, frontend_flags, maglev,
    prefilter,
};
pub use socket::{DatagramKey, DatagramPeer, Socket, datagram_side, socket_flags};

/// Names the directory of pinned maps: two versions never share a map.
pub const ABI_VERSION: u32 = 6;

/// IANA protocol numbers (RFC 792, 9293, 768, 4443, 9260).
pub mod protocol {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
    pub const SCTP: u8 = 132;
}

/// Made-up helper number of `bpf_cast_to_kern_ctx`: the loader turns calls of it into calls of the kfunc, or
/// into nothing where the kernel has none.
pub const CAST_TO_KERN_CTX: u32 = 0x7f00_0001;

/// Tells user space that a type may be copied to and from a map as bytes.
macro_rules! plain {
    (per family: $($type:ident),+ $(,)?) => {$(
        // SAFETY: as below, for the two types that are addresses.
        #[cfg(feature = "user")]
        unsafe impl<A: crate::Address + aya::Pod> aya::Pod for $type<A> {}
    )+};
    ($($type:ty),+ $(,)?) => {$(
        // SAFETY: `repr(C)`, integers only, no implicit padding (checked by the size assertions beside the type).
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $type {}
    )+};
}
use plain;
