//! The two address families: headers, checksums and maps. Everything else is generic over [`Family`].

mod ipv4;
mod ipv6;

use abi::{
    Address, AffinityKey, AffinityValue, Backend, BackendKey, Endpoint, Flow, FragmentKey, FragmentPorts,
    Frontend, FrontendKey, MaglevChunk, MaglevKey, MemberKey, Origin, RangeKey, Reason, Tuple,
};
use aya_ebpf::{
    bindings::bpf_fib_lookup,
    btf_maps::{HashMap, LpmTrie, LruHashMap, lpm_trie::Key},
};

pub use self::{ipv4::Ipv4, ipv6::Ipv6};
use crate::{
    checksum::Delta,
    headers::{BUFFER_WORDS, Headers},
    kernel::{Context, ETHERNET, Frame},
    maps::{
        AFFINITY_ROWS, BACKEND_ROWS, ENDPOINT_ROWS, FLOW_ROWS, FRAGMENT_ROWS, FRONTEND_ROWS, GROWS,
        MAGLEV_ROWS, ORIGIN_ROWS, RANGE_ROWS,
    },
    parse::Bytes,
    policy::Asked,
};

/// `u32` words of the longest message that this node composes: IPv6 and ICMPv6 headers, and what is quoted.
pub const MESSAGE_WORDS: usize = 12 + QUOTE_WORDS;
/// `u32` words that an ICMP error quotes at most.
pub const QUOTE_WORDS: usize = 32;

/// Big values of one run of a program: the stack has 512 bytes.
#[repr(C)]
pub struct Scratch<A> {
    /// The packet's own tuple.
    pub key: Tuple<A>,
    /// What its replies will look like.
    pub reply_key: Tuple<A>,
    pub flow: Flow<A>,
    pub reply: Flow<A>,
    pub backend: Backend<A>,
    /// The packet's own.
    pub headers: Headers,
    /// Of the packet that it quotes, and its tuple.
    pub quoted: Headers,
    pub inner: Tuple<A>,
    /// [`abi::Config::revision`] before anything was looked up for the packet: what comes of it holds for no later one.
    pub revision: u32,
    /// Under what the packet counts once it is sent. Here and not in a register: the verifier would look at all that follows
    /// once per reason.
    pub reason: Reason,
    /// What is known of the packet and of its flow, of the bits in [`crate::events`].
    pub noted: u32,
    /// The rules of policies that decided about it, at the sender and at the receiver; 0: none.
    pub rules: [u32; 2],
    /// How narrow their rows were, of [`abi::matched`].
    pub matched: [u8; 2],
    pub asked: Asked<A>,
    /// Whose the packet's source and its destination after translation are, where policies have asked; 0: not known.
    pub identities: [u32; 2],
    /// [`crate::events::LOOKED_BACK`]: what is known of the opposite direction, for [`crate::slow`].
    pub reverse: u32,
    /// [`crate::events::RESOLVED`]: the interface of the new flow's destination, where that is a pod of this node; else 0.
    pub receiver: u32,
    /// What is left to do once policies have had their say, of [`crate::slow::step`].
    pub step: u32,
    /// Headers as they lie in the packet, while they are read.
    pub words: [u32; BUFFER_WORDS],
}

/// What differs between IPv4 and IPv6.
pub trait Family: Sized + 'static {
    type Address: Address;
    /// The network header, without options.
    type Header: Copy;

    /// In network order.
    const ETHERTYPE: u16;
    /// Of the protocol: 4 or 6.
    const VERSION: u8;
    /// Offset of the transport header from the start of the frame.
    const TRANSPORT: usize;
    const ADDRESS_FAMILY: u8;
    /// Protocol number of its ICMP.
    const ICMP: u8;
    /// First word of a port-unreachable message.
    const PORT_UNREACHABLE: u32;
    /// First word of the message that a packet is too big; the second is the size that fits.
    const TOO_BIG: u32;
    /// Its addresses are part of the ICMP checksum.
    const ICMP_SUMS_ADDRESSES: bool;
    /// Every fragment says what is in the datagram.
    const FRAGMENTS_NAME_PROTOCOL: bool;

    /// The frame's headers, up to the ports.
    fn headers(frame: impl Frame) -> Option<(Bytes<ETHERNET>, Self::Header, Bytes<8>)>;
    /// The frame's headers, up to the addresses.
    fn network(frame: impl Frame) -> Option<(Bytes<ETHERNET>, Self::Header)>;
    /// Reads the packet at `at` up to its transport header, by way of `words`. The tuple has no ports yet, and that of a later
    /// fragment no protocol either where `FRAGMENTS_NAME_PROTOCOL` is false.
    fn walk(
        ctx: Context,
        at: u32,
        words: &mut [u32; BUFFER_WORDS],
        headers: &mut Headers,
        tuple: &mut Tuple<Self::Address>,
    ) -> Result<(), Reason>;

    /// Of this version, without options, not a fragment.
    fn is_plain(header: Self::Header) -> bool;
    /// Routers may cut it into fragments.
    fn may_be_cut(header: Self::Header) -> bool;
    fn is_icmp_error(kind: u8) -> bool;
    /// An ICMP message by which a link finds its neighbours, routers and groups: of no flow.
    fn is_link_control(kind: u8) -> bool;
    /// ICMP that no policy is asked about: echo replies, and what a link needs.
    fn is_free_message(kind: u8) -> bool;
    fn protocol(header: Self::Header) -> u8;
    /// Bytes behind the network header, by its own word.
    fn payload(header: Self::Header) -> u32;
    fn time_to_live(header: Self::Header) -> u8;
    fn addresses(header: Self::Header) -> (Self::Address, Self::Address);
    /// May be a host's, and an answer's destination (RFC 1122, section 3.2.2; RFC 4443, section 2.4 (e)). A network's own
    /// broadcast address cannot be told from here.
    fn is_unicast(address: Self::Address) -> bool;

    /// Replaces the addresses and takes `step` from the time to live; `delta` is [`Self::header_delta`] of both.
    fn rewrite(header: Self::Header, addresses: (Self::Address, Self::Address), step: u8, delta: u16);
    /// Replaces the addresses of a packet that is quoted at `at`.
    fn rewrite_quoted(ctx: Context, at: u32, addresses: (Self::Address, Self::Address), delta: u16) -> bool;
    /// Like [`Self::rewrite`], with a fresh time to live.
    fn turn_around(header: Self::Header);
    /// For the header's own checksum; 0 where it has none.
    fn header_delta(
        old: (Self::Address, Self::Address),
        new: (Self::Address, Self::Address),
        step: u8,
    ) -> u16;
    /// Adds the replacement of one address.
    fn address_delta(delta: Delta, old: Self::Address, new: Self::Address) -> Delta;

    /// Writes a network header in front of `payload` bytes; returns how many words it took.
    fn compose(
        message: &mut [u32; MESSAGE_WORDS],
        tuple: &Tuple<Self::Address>,
        protocol: u8,
        payload: u16,
    ) -> usize;
    /// The pseudo header's unfolded sum.
    fn pseudo_sum(tuple: &Tuple<Self::Address>, protocol: u8, payload: u16) -> u32;

    fn set_fib_addresses(query: &mut bpf_fib_lookup, source: Self::Address, destination: Self::Address);
    /// The gateway, or the destination itself, as `struct bpf_redir_neigh` wants it.
    fn next_hop(answer: &bpf_fib_lookup) -> [u32; 5];
    fn direct_next_hop(destination: Self::Address) -> [u32; 5];
    /// The address that masquerades; zero: none.
    fn node_address(config: &abi::Config) -> Self::Address;
    /// The address that masquerades what leaves through the tunnel; zero: none.
    fn tunnel_address(config: &abi::Config) -> Self::Address;

    fn flows() -> &'static LruHashMap<Tuple<Self::Address>, Flow<Self::Address>, FLOW_ROWS>;
    fn frontends() -> &'static HashMap<FrontendKey<Self::Address>, Frontend, FRONTEND_ROWS, GROWS>;
    fn backends() -> &'static HashMap<BackendKey, Backend<Self::Address>, BACKEND_ROWS, GROWS>;
    fn members() -> &'static HashMap<MemberKey<Self::Address>, u32, BACKEND_ROWS, GROWS>;
    fn ranges() -> &'static LpmTrie<RangeKey<Self::Address>, u32, RANGE_ROWS>;
    fn affinity()
    -> &'static LruHashMap<AffinityKey<Self::Address>, AffinityValue<Self::Address>, AFFINITY_ROWS>;
    fn endpoints() -> &'static HashMap<Self::Address, Endpoint, ENDPOINT_ROWS>;
    fn origins() -> &'static LpmTrie<Self::Address, u32, ORIGIN_ROWS>;
    fn fragments() -> &'static LruHashMap<FragmentKey<Self::Address>, FragmentPorts, FRAGMENT_ROWS>;
    fn maglev() -> &'static HashMap<MaglevKey, MaglevChunk, MAGLEV_ROWS, GROWS>;
    fn scratch() -> Option<&'static mut Scratch<Self::Address>>;
}

/// Where an address belongs.
#[inline(always)]
pub fn origin<F: Family>(address: F::Address) -> Origin {
    match F::origins().get(&Key::new(F::Address::BITS, address)).copied() {
        Some(number) if number == Origin::Pod as u32 => Origin::Pod,
        Some(number) if number == Origin::Node as u32 => Origin::Node,
        _ => Origin::External,
    }
}

/// Declares the maps of one family, and the functions of [`Family`] that hand them out.
macro_rules! family_maps {
    (
        $address:ty, $flows:ident, $frontends:ident, $backends:ident, $members:ident, $ranges:ident, $affinity:ident,
        $endpoints:ident, $origins:ident, $fragments:ident, $maglev:ident, $scratch:ident
    ) => {
        fn flows() -> &'static LruHashMap<Tuple<$address>, Flow<$address>, FLOW_ROWS> {
            #[btf_map]
            static $flows: LruHashMap<Tuple<$address>, Flow<$address>, FLOW_ROWS> = LruHashMap::new();
            &$flows
        }

        fn frontends() -> &'static HashMap<FrontendKey<$address>, Frontend, FRONTEND_ROWS, GROWS> {
            #[btf_map]
            static $frontends: HashMap<FrontendKey<$address>, Frontend, FRONTEND_ROWS, GROWS> =
                HashMap::new();
            &$frontends
        }

        fn backends() -> &'static HashMap<BackendKey, Backend<$address>, BACKEND_ROWS, GROWS> {
            #[btf_map]
            static $backends: HashMap<BackendKey, Backend<$address>, BACKEND_ROWS, GROWS> = HashMap::new();
            &$backends
        }

        fn members() -> &'static HashMap<MemberKey<$address>, u32, BACKEND_ROWS, GROWS> {
            #[btf_map]
            static $members: HashMap<MemberKey<$address>, u32, BACKEND_ROWS, GROWS> = HashMap::new();
            &$members
        }

        fn ranges() -> &'static LpmTrie<RangeKey<$address>, u32, RANGE_ROWS> {
            #[btf_map]
            static $ranges: LpmTrie<RangeKey<$address>, u32, RANGE_ROWS> = LpmTrie::new();
            &$ranges
        }

        fn affinity() -> &'static LruHashMap<AffinityKey<$address>, AffinityValue<$address>, AFFINITY_ROWS> {
            #[btf_map]
            static $affinity: LruHashMap<AffinityKey<$address>, AffinityValue<$address>, AFFINITY_ROWS> =
                LruHashMap::new();
            &$affinity
        }

        fn endpoints() -> &'static HashMap<$address, Endpoint, ENDPOINT_ROWS> {
            #[btf_map]
            static $endpoints: HashMap<$address, Endpoint, ENDPOINT_ROWS> = HashMap::new();
            &$endpoints
        }

        fn origins() -> &'static LpmTrie<$address, u32, ORIGIN_ROWS> {
            #[btf_map]
            static $origins: LpmTrie<$address, u32, ORIGIN_ROWS> = LpmTrie::new();
            &$origins
        }

        fn fragments() -> &'static LruHashMap<FragmentKey<$address>, FragmentPorts, FRAGMENT_ROWS> {
            #[btf_map]
            static $fragments: LruHashMap<FragmentKey<$address>, FragmentPorts, FRAGMENT_ROWS> =
                LruHashMap::new();
            &$fragments
        }

        fn maglev() -> &'static HashMap<MaglevKey, MaglevChunk, MAGLEV_ROWS, GROWS> {
            #[btf_map]
            static $maglev: HashMap<MaglevKey, MaglevChunk, MAGLEV_ROWS, GROWS> = HashMap::new();
            &$maglev
        }

        fn scratch() -> Option<&'static mut Scratch<$address>> {
            #[btf_map]
            static $scratch: PerCpuArray<Scratch<$address>, 1> = PerCpuArray::new();
            // SAFETY: this CPU's own, and nothing interrupts a program with another of the same CPU.
            $scratch.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
        }
    };
}
use family_maps;
