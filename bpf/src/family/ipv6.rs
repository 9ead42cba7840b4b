//! IPv6 (RFC 8200).

use abi::{
    AffinityKey, AffinityValue, Backend, BackendKey, Config, Endpoint, Flow, FragmentKey, FragmentPorts,
    Frontend, FrontendKey, MaglevChunk, MaglevKey, MemberKey, RangeKey, Tuple, V6, protocol,
};
use aya_ebpf::{
    bindings::bpf_fib_lookup,
    btf_maps::{HashMap, LpmTrie, LruHashMap, PerCpuArray},
    macros::btf_map,
};

use super::{Family, MESSAGE_WORDS, Scratch, family_maps};
use crate::{
    checksum::{Delta, sum},
    kernel::{ETHERNET, Frame},
    maps::{
        AFFINITY_ROWS, BACKEND_ROWS, ENDPOINT_ROWS, FLOW_ROWS, FRAGMENT_ROWS, FRONTEND_ROWS, GROWS,
        MAGLEV_ROWS, ORIGIN_ROWS, RANGE_ROWS,
    },
    parse::Bytes,
};

const LENGTH: usize = 40;
const AF_INET6: u8 = 10;
const FRESH_HOP_LIMIT: u8 = 64;

pub struct Ipv6;

impl Family for Ipv6 {
    type Address = V6;
    type Header = Bytes<LENGTH>;

    const ETHERTYPE: u16 = 0x86ddu16.to_be();
    const TRANSPORT: usize = ETHERNET + LENGTH;
    const ADDRESS_FAMILY: u8 = AF_INET6;
    const ICMP: u8 = protocol::ICMPV6;
    /// Destination unreachable, port unreachable (RFC 4443).
    const PORT_UNREACHABLE: u32 = 0x0104_0000u32.to_be();
    const QUOTE_WORDS: usize = (LENGTH + 8) / 4;
    const ICMP_SUMS_ADDRESSES: bool = true;

    #[inline(always)]
    fn headers(frame: impl Frame) -> Option<(Bytes<ETHERNET>, Self::Header, Bytes<8>)> {
        let bytes = Bytes::<{ ETHERNET + LENGTH + 8 }>::at(frame, 0)?;
        Some((
            bytes.part::<0, ETHERNET>(),
            bytes.part::<ETHERNET, LENGTH>(),
            bytes.part::<{ ETHERNET + LENGTH }, 8>(),
        ))
    }

    #[inline(always)]
    fn quoted(frame: impl Frame) -> Option<(Self::Header, Bytes<8>)> {
        let quote = Bytes::<{ LENGTH + 8 }>::at(frame, Self::TRANSPORT + 8)?;
        Some((quote.part::<0, LENGTH>(), quote.part::<LENGTH, 8>()))
    }

    #[inline(always)]
    fn is_plain(header: Self::Header) -> bool {
        header.read::<u8, 0>() >> 4 == 6
    }

    #[inline(always)]
    fn is_first_fragment(_header: Self::Header) -> bool {
        false
    }

    #[inline(always)]
    fn is_later_fragment(_header: Self::Header) -> bool {
        false
    }

    #[inline(always)]
    fn identification(_header: Self::Header) -> u16 {
        0
    }

    /// Hop-by-hop, routing, fragment, authentication, destination options, mobility (RFC 8200, section 4; RFC 7045).
    #[inline(always)]
    fn is_extension(protocol: u8) -> bool {
        matches!(protocol, 0 | 43 | 44 | 51 | 60 | 135)
    }

    /// Error messages have the high bit clear (RFC 4443, section 2.1); neighbour discovery has it set.
    #[inline(always)]
    fn is_icmp_error(kind: u8) -> bool {
        kind < 128
    }

    #[inline(always)]
    fn protocol(header: Self::Header) -> u8 {
        header.read::<u8, 6>()
    }

    #[inline(always)]
    fn payload(header: Self::Header) -> u32 {
        u16::from_be(header.read::<u16, 4>()) as u32
    }

    #[inline(always)]
    fn time_to_live(header: Self::Header) -> u8 {
        header.read::<u8, 7>()
    }

    #[inline(always)]
    fn addresses(header: Self::Header) -> (V6, V6) {
        (
            V6([
                header.read::<u32, 8>(),
                header.read::<u32, 12>(),
                header.read::<u32, 16>(),
                header.read::<u32, 20>(),
            ]),
            V6([
                header.read::<u32, 24>(),
                header.read::<u32, 28>(),
                header.read::<u32, 32>(),
                header.read::<u32, 36>(),
            ]),
        )
    }

    #[inline(always)]
    fn rewrite(header: Self::Header, (source, destination): (V6, V6), step: u8, _delta: u16) {
        let hop_limit = header.read::<u8, 7>();
        header.write::<u8, 7>(hop_limit.wrapping_sub(step));
        let [a, b, c, d] = source.0;
        header.write::<u32, 8>(a);
        header.write::<u32, 12>(b);
        header.write::<u32, 16>(c);
        header.write::<u32, 20>(d);
        let [a, b, c, d] = destination.0;
        header.write::<u32, 24>(a);
        header.write::<u32, 28>(b);
        header.write::<u32, 32>(c);
        header.write::<u32, 36>(d);
    }

    #[inline(always)]
    fn turn_around(header: Self::Header) {
        let (source, destination) = Self::addresses(header);
        header.write::<u8, 7>(FRESH_HOP_LIMIT);
        Self::rewrite(header, (destination, source), 0, 0);
    }

    #[inline(always)]
    fn header_delta(_old: (V6, V6), _new: (V6, V6), _step: u8) -> u16 {
        0
    }

    #[inline(always)]
    fn address_delta(delta: Delta, old: V6, new: V6) -> Delta {
        delta
            .long(old.0[0], new.0[0])
            .long(old.0[1], new.0[1])
            .long(old.0[2], new.0[2])
            .long(old.0[3], new.0[3])
    }

    #[inline(always)]
    fn compose(message: &mut [u32; MESSAGE_WORDS], tuple: &Tuple<V6>, protocol: u8, payload: u16) -> usize {
        message[0] = 0x6000_0000u32.to_be();
        message[1] = ((payload as u32) << 16 | (protocol as u32) << 8 | FRESH_HOP_LIMIT as u32).to_be();
        let ([a, b, c, d], [e, f, g, h]) = (tuple.source.0, tuple.destination.0);
        (message[2], message[3], message[4], message[5]) = (a, b, c, d);
        (message[6], message[7], message[8], message[9]) = (e, f, g, h);
        LENGTH / 4
    }

    #[inline(always)]
    fn pseudo_sum(tuple: &Tuple<V6>, protocol: u8, payload: u16) -> u32 {
        sum(&tuple.source.0)
            + sum(&tuple.destination.0)
            + sum(&[(payload as u32).to_be(), (protocol as u32).to_be()])
    }

    #[inline(always)]
    fn set_fib_addresses(query: &mut bpf_fib_lookup, source: V6, destination: V6) {
        query.__bindgen_anon_3.ipv6_src = source.0;
        query.__bindgen_anon_4.ipv6_dst = destination.0;
    }

    #[inline(always)]
    fn next_hop(answer: &bpf_fib_lookup) -> [u32; 5] {
        // SAFETY: the kernel wrote this member.
        let [a, b, c, d] = unsafe { answer.__bindgen_anon_4.ipv6_dst };
        [AF_INET6 as u32, a, b, c, d]
    }

    #[inline(always)]
    fn direct_next_hop(destination: V6) -> [u32; 5] {
        let [a, b, c, d] = destination.0;
        [AF_INET6 as u32, a, b, c, d]
    }

    #[inline(always)]
    fn node_address(config: &Config) -> V6 {
        config.node_v6
    }

    #[inline(always)]
    fn tunnel_address(config: &Config) -> V6 {
        config.tunnel_v6
    }

    family_maps!(
        V6,
        FLOWS_V6,
        FRONTENDS_V6,
        BACKENDS_V6,
        MEMBERS_V6,
        RANGES_V6,
        AFFINITY_V6,
        ENDPOINTS_V6,
        ORIGINS_V6,
        FRAGMENTS_V6,
        MAGLEV_V6,
        SCRATCH_V6
    );
}
