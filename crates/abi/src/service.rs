//! Frontends, backend sets, and what else the slow path looks up.

use core::fmt;

use crate::{Address, Be16, plain};

/// A frontend's address. Hash key of `FRONTENDS_*`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey<A> {
    pub address: A,
    pub port: Be16,
    pub protocol: u8,
    pub padding: u8,
}

/// What a frontend leads to.
///
/// One row holds both scopes: `inside` for this cluster's pods and this node, `outside` for everyone else. One lookup
/// serves either, and a change reaches both at once.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frontend {
    pub inside: BackendSet,
    pub outside: BackendSet,
    /// For whole packets that another node sent on through the tunnel: the backends of this node, whatever the policy.
    pub tunnel: BackendSet,
    /// Allowed sources: prefixes of this id in `RANGES_*`, where [`frontend_flags::SOURCE_RANGES`] is set.
    pub ranges: SetId,
    /// ClientIP affinity in seconds; 0: none.
    pub affinity_seconds: u32,
    /// Of [`frontend_flags`].
    pub flags: u32,
    /// Entries of the lookup table of `outside`, in [`maglev::CHUNK`]s in `MAGLEV_*`; 0: it has none.
    pub table_size: u32,
}

/// Rows `0..len` of `BACKENDS_*` under `set`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendSet {
    pub set: SetId,
    pub len: u32,
}

/// Names a backend set or a list of source ranges: a 64-bit hash of what it belongs to, so that a restarted agent finds
/// its own rows. Two words, to keep keys aligned to four bytes.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId {
    pub high: u32,
    pub low: u32,
}

impl From<u64> for SetId {
    fn from(id: u64) -> Self {
        Self { high: (id >> 32) as u32, low: id as u32 }
    }
}

impl fmt::Debug for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}{:08x}", self.high, self.low)
    }
}

/// Bits of [`Frontend::flags`].
pub mod frontend_flags {
    pub const MASQUERADE_POD: u32 = 1;
    pub const MASQUERADE_NODE: u32 = 1 << 1;
    pub const MASQUERADE_EXTERNAL: u32 = 1 << 2;
    /// Only sources in the frontend's ranges are served.
    pub const SOURCE_RANGES: u32 = 1 << 3;
    /// Some node has a usable backend. Without it, source ranges do not matter: everyone is refused.
    pub const USABLE: u32 = 1 << 4;
    /// Traffic policy Local. For display: the sets already follow it.
    pub const LOCAL: u32 = 1 << 5;
    /// Clients from outside keep their address where their backend is on another node ([`crate::Config::direct_return`]).
    pub const DIRECT_RETURN: u32 = 1 << 6;
    /// Three bits, for display: 0 cluster IP, 1 external IP, 2 load balancer, 3 node port, 4 host port.
    pub const KIND_SHIFT: u32 = 8;
    pub const KIND_MASK: u32 = 7;
}

/// Hash key of `BACKENDS_*`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendKey {
    pub set: SetId,
    pub slot: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend<A> {
    pub address: A,
    pub port: Be16,
    /// Of [`backend_flags`]. For display: the datapath decides nothing by them.
    pub flags: u16,
}

/// Bits of [`Backend::flags`].
pub mod backend_flags {
    pub const LOCAL: u16 = 1;
    pub const TERMINATING: u16 = 1 << 1;
}

/// Hash key of `MEMBERS_*`: tells whether a set still has a backend, without walking its slots.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberKey<A> {
    pub set: SetId,
    pub address: A,
    pub port: Be16,
    pub padding: u16,
}

/// Hash key of `MAGLEV_*`: a part of the lookup table of a backend set.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MaglevKey {
    pub set: SetId,
    pub chunk: u32,
}

/// Entries `CHUNK * chunk ..` of a lookup table: slots of the set.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaglevChunk(pub [u16; maglev::CHUNK]);

impl Default for MaglevChunk {
    fn default() -> Self {
        Self([0; maglev::CHUNK])
    }
}

/// How a client from outside is led to its backend: by the same number on every node.
pub mod maglev {
    use super::Address;

    /// Entries per row of `MAGLEV_*`.
    pub const CHUNK: usize = 64;

    /// A number for a flow, the same on every node and after every start. `ports` is source and destination port in host
    /// order; 0 where only the client counts (affinity).
    ///
    /// The destination address is left out: the frontend's table stands for it, and the address of a node port differs
    /// from node to node.
    #[inline(always)]
    pub fn hash<A: Address>(source: A, ports: u32, protocol: u8) -> u32 {
        let state = source.fold(mix(0x7450, (protocol as u64) << 32 | ports as u64));
        (state ^ state >> 29).wrapping_mul(MULTIPLIER).wrapping_shr(32) as u32
    }

    /// The entry that `hash` leads to in a table, or the slot in a set without one.
    #[inline(always)]
    pub fn scale(hash: u32, size: u32) -> u32 {
        ((hash as u64 * size as u64) >> 32) as u32
    }

    /// 2^64 over the golden ratio: the high bits of a product depend on every bit of the word.
    const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

    /// Takes one more word in.
    #[inline(always)]
    pub fn mix(state: u64, word: u64) -> u64 {
        let state = (state ^ word).wrapping_mul(MULTIPLIER);
        state ^ state >> 32
    }
}

/// LRU hash key of `AFFINITY_*`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct AffinityKey<A> {
    pub set: SetId,
    /// Zero for a socket.
    pub client: A,
    /// Low and high half of the cookie of a socket's network namespace: its address is not known yet. Zero for a packet.
    pub namespace: [u32; 2],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AffinityValue<A> {
    pub address: A,
    pub port: Be16,
    pub padding: u16,
    /// Jiffies, low 32 bits, of the last new flow.
    pub last_used: u32,
}

/// Prefix data of `RANGES_*`: the id is always matched whole.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RangeKey<A> {
    pub ranges: SetId,
    pub address: A,
}

/// A pod of this node. Value of `ENDPOINTS_*`, by address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Of the host's end of the veth pair.
    pub interface: u32,
    /// Of the pod's end.
    pub mac: [u8; 6],
    /// Of the host's end.
    pub host_mac: [u8; 6],
    /// What may be read of its packets, of [`crate::l7_flags`].
    pub l7: u32,
}

/// Who sends or receives. Value of the prefix map `ORIGINS_*`; no match: outside. Numbers are part of the ABI.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    External = 0,
    Pod = 1,
    Node = 2,
}

/// A bit array before the service table: a clear bit says that no frontend is there, at the price of an array lookup.
///
/// Bits are set for frontends, for local pods (port and protocol 0), and for backends that are processes of this node.
pub mod prefilter {
    use super::{Address, Be16};

    /// Bits, a power of two: 32 KiB, so that it stays in the first cache level.
    pub const BITS: u32 = 1 << 18;
    /// Words of 64 bits.
    pub const WORDS: usize = BITS as usize / 64;

    /// The bit of an address and port.
    #[inline(always)]
    pub fn bit<A: Address>(address: A, port: Be16, protocol: u8) -> u32 {
        let word = address.mix() ^ ((port.raw() as u32) << 8) ^ protocol as u32;
        // Fibonacci hashing: the high bits of the product depend on every bit of the word.
        word.wrapping_mul(0x9E37_79B1) >> (32 - BITS.trailing_zeros())
    }
}

const _: () = {
    use crate::{V4, V6};
    assert!(size_of::<FrontendKey<V4>>() == 8 && size_of::<FrontendKey<V6>>() == 20);
    assert!(size_of::<Frontend>() == 56);
    assert!(size_of::<MaglevKey>() == 12 && size_of::<MaglevChunk>() == 128);
    assert!(size_of::<BackendKey>() == 12);
    assert!(size_of::<Backend<V4>>() == 8 && size_of::<Backend<V6>>() == 20);
    assert!(size_of::<MemberKey<V4>>() == 16 && size_of::<MemberKey<V6>>() == 28);
    assert!(size_of::<AffinityKey<V4>>() == 20 && size_of::<AffinityKey<V6>>() == 32);
    assert!(size_of::<AffinityValue<V4>>() == 12 && size_of::<AffinityValue<V6>>() == 24);
    assert!(size_of::<RangeKey<V4>>() == 12 && size_of::<RangeKey<V6>>() == 24);
    assert!(size_of::<Endpoint>() == 20);
};
plain!(Frontend, BackendKey, MaglevKey, MaglevChunk, Endpoint);
plain!(per family: FrontendKey, Backend, MemberKey, AffinityKey, AffinityValue, RangeKey);
