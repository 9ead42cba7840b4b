//! IPv6 (RFC 8200).

use abi::{
    AffinityKey, AffinityValue, Backend, BackendKey, Config, Endpoint, Flow, FragmentKey, FragmentPorts,
    Frontend, FrontendKey, MaglevChunk, MaglevKey, MemberKey, RangeKey, Reason, Tuple, V6, protocol,
};
use aya_ebpf::{
    bindings::bpf_fib_lookup,
    btf_maps::{HashMap, LpmTrie, LruHashMap, PerCpuArray},
    macros::btf_map,
};

use super::{Family, MESSAGE_WORDS, Scratch, family_maps};
use crate::{
    checksum::{Delta, sum},
    headers::{BUFFER_WORDS, CHAIN_BYTES, CHAIN_HEADERS, Headers, Shape, addressed, length_by_word},
    kernel::{Context, ETHERNET, Frame},
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
    const VERSION: u8 = 6;
    const TRANSPORT: usize = ETHERNET + LENGTH;
    const ADDRESS_FAMILY: u8 = AF_INET6;
    const ICMP: u8 = protocol::ICMPV6;
    /// Destination unreachable, port unreachable (RFC 4443).
    const PORT_UNREACHABLE: u32 = 0x0104_0000u32.to_be();
    /// Packet too big (RFC 4443).
    const TOO_BIG: u32 = 0x0200_0000u32.to_be();
    const ICMP_SUMS_ADDRESSES: bool = true;
    const FRAGMENTS_NAME_PROTOCOL: bool = false;

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
    fn network(frame: impl Frame) -> Option<(Bytes<ETHERNET>, Self::Header)> {
        let bytes = Bytes::<{ ETHERNET + LENGTH }>::at(frame, 0)?;
        Some((bytes.part::<0, ETHERNET>(), bytes.part::<ETHERNET, LENGTH>()))
    }

    #[inline(always)]
    fn walk(
        ctx: Context,
        at: u32,
        words: &mut [u32; BUFFER_WORDS],
        headers: &mut Headers,
        tuple: &mut Tuple<V6>,
    ) -> Result<(), Reason> {
        if !ctx.load(at as usize, words, LENGTH as u32) {
            return Err(Reason::DroppedTruncated);
        }
        let [first, ..] = words[0].to_ne_bytes();
        if first >> 4 != 6 {
            return Err(Reason::DroppedVersion);
        }
        let [high, low, next, _] = words[1].to_ne_bytes();
        let total = length_by_word(ctx, at, u16::from_be_bytes([high, low]) as u32, LENGTH as u32);
        let [_, _, a, b, c, d, e, f, g, h, ..] = *words;
        addressed::<Self>(tuple, V6([a, b, c, d]), V6([e, f, g, h]), next);
        headers.begin(0, 0xffff);
        let end = at + total;
        tuple.protocol = chain(ctx, (at + LENGTH as u32, end), next, words, headers)?;
        headers.length = end - headers.transport;
        Ok(())
    }

    #[inline(always)]
    fn is_plain(header: Self::Header) -> bool {
        header.read::<u8, 0>() >> 4 == 6
    }

    #[inline(always)]
    fn may_be_cut(_header: Self::Header) -> bool {
        false
    }

    /// Error messages have the high bit clear (RFC 4443, section 2.1); neighbour discovery has it set.
    #[inline(always)]
    fn is_icmp_error(kind: u8) -> bool {
        kind < 128
    }

    /// Groups, neighbours, routers, redirects (RFC 2710, 4861, 3810).
    #[inline(always)]
    fn is_link_control(kind: u8) -> bool {
        kind >= 130 && kind <= 137 || kind == 143
    }

    /// Multicast listeners (RFC 2710, RFC 3810) and neighbour discovery (RFC 4861), besides echo replies.
    #[inline(always)]
    fn is_free_message(kind: u8) -> bool {
        matches!(kind, 129..=137 | 143)
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

    /// Neither unspecified, nor loopback, nor multicast (RFC 4291, section 2.4).
    #[inline(always)]
    fn is_unicast(address: V6) -> bool {
        let [a, b, c, d] = address.0;
        let [first, ..] = a.to_ne_bytes();
        first != 0xff && (a | b | c != 0 || u32::from_be(d) > 1)
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
    fn rewrite_quoted(ctx: Context, at: u32, (source, destination): (V6, V6), _delta: u16) -> bool {
        let ([a, b, c, d], [e, f, g, h]) = (source.0, destination.0);
        ctx.store(at as usize + 8, &[a, b, c, d, e, f, g, h], 32)
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

/// Follows the extension headers in `from..end`; returns the protocol behind them (RFC 8200, section 4).
///
/// A later fragment's ends the walk: what its header names is in the first one.
#[inline(always)]
fn chain(
    ctx: Context,
    (from, end): (u32, u32),
    first: u8,
    words: &mut [u32; BUFFER_WORDS],
    headers: &mut Headers,
) -> Result<u8, Reason> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION_OPTIONS: u8 = 60;
    let (mut next, mut at, mut fragmented) = (first, from, false);
    for index in 0..=CHAIN_HEADERS {
        headers.transport = at;
        if at > end {
            return Err(Reason::DroppedLength);
        }
        match next {
            HOP_BY_HOP if index != 0 => return Err(Reason::DroppedExtensionChain),
            HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS => {}
            _ => return Ok(next),
        }
        if index == CHAIN_HEADERS || at - from > CHAIN_BYTES {
            return Err(Reason::DroppedExtensionChain);
        }
        if at + 8 > end {
            return Err(Reason::DroppedLength);
        }
        if !ctx.load(at as usize, words, 8) {
            return Err(Reason::DroppedTruncated);
        }
        let [following, length, third, fourth] = words[0].to_ne_bytes();
        if headers.shape == Shape::Plain {
            headers.shape = Shape::Whole;
        }
        match next {
            FRAGMENT => {
                if fragmented {
                    return Err(Reason::DroppedExtensionChain);
                }
                fragmented = true;
                let place = u16::from_be_bytes([third, fourth]);
                headers.fragment(words[1], (place & 0xfff8) as u32, place & 1 != 0);
                at += 8;
            }
            ROUTING if third == 0 => return Err(Reason::DroppedSourceRoute),
            // To be sent elsewhere from here, by those who know how.
            ROUTING if fourth != 0 => return Err(Reason::PassedUnparsed),
            AUTHENTICATION => at += (length as u32 + 2) * 4,
            _ => at += (length as u32 + 1) * 8,
        }
        next = following;
        if headers.shape == Shape::Later {
            headers.transport = at;
            return Ok(0);
        }
    }
    Err(Reason::DroppedExtensionChain)
}
