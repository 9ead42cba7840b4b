//! IPv4 (RFC 791).

use abi::{
    AffinityKey, AffinityValue, Backend, BackendKey, Config, Endpoint, Flow, FragmentKey, FragmentPorts,
    Frontend, FrontendKey, MaglevChunk, MaglevKey, MemberKey, RangeKey, Reason, Tuple, V4, protocol,
};
use aya_ebpf::{
    bindings::bpf_fib_lookup,
    btf_maps::{HashMap, LpmTrie, LruHashMap, PerCpuArray},
    macros::btf_map,
};

use super::{Family, MESSAGE_WORDS, Scratch, family_maps};
use crate::{
    checksum::{Delta, adjust, fold, sum},
    headers::{BUFFER_WORDS, Headers, Shape, addressed, length_by_word},
    kernel::{self, Context, ETHERNET, Frame},
    maps::{
        AFFINITY_ROWS, BACKEND_ROWS, ENDPOINT_ROWS, FLOW_ROWS, FRAGMENT_ROWS, FRONTEND_ROWS, GROWS,
        MAGLEV_ROWS, ORIGIN_ROWS, RANGE_ROWS,
    },
    parse::Bytes,
};

const LENGTH: usize = 20;
const AF_INET: u8 = 2;
const DO_NOT_FRAGMENT: u16 = 0x4000u16.to_be();
const MORE_FRAGMENTS: u16 = 0x2000u16.to_be();
const FRAGMENT_OFFSET: u16 = 0x1fffu16.to_be();
/// TTL is the first byte of its 16-bit word.
const ONE_TTL: u16 = 0x0100u16.to_be();
const FRESH_TTL: u8 = 64;

pub struct Ipv4;

impl Family for Ipv4 {
    type Address = V4;
    type Header = Bytes<LENGTH>;

    const ETHERTYPE: u16 = 0x0800u16.to_be();
    const VERSION: u8 = 4;
    const TRANSPORT: usize = ETHERNET + LENGTH;
    const ADDRESS_FAMILY: u8 = AF_INET;
    const ICMP: u8 = protocol::ICMP;
    /// Destination unreachable, port unreachable (RFC 792).
    const PORT_UNREACHABLE: u32 = 0x0303_0000u32.to_be();
    /// Destination unreachable, fragmentation needed (RFC 1191).
    const TOO_BIG: u32 = 0x0304_0000u32.to_be();
    const ICMP_SUMS_ADDRESSES: bool = false;
    const FRAGMENTS_NAME_PROTOCOL: bool = true;

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
        tuple: &mut Tuple<V4>,
    ) -> Result<(), Reason> {
        let in_place = at == ETHERNET as u32 && ctx.read::<LENGTH, _>(ETHERNET, words);
        if !in_place && !ctx.load(at as usize, words, LENGTH as u32) {
            return Err(Reason::DroppedTruncated);
        }
        let [first, _, high, low] = words[0].to_ne_bytes();
        let own = (first & 15) as u32 * 4;
        let total = length_by_word(ctx, at, u16::from_be_bytes([high, low]) as u32, 0);
        if first >> 4 != 4 {
            return Err(Reason::DroppedVersion);
        }
        if own < LENGTH as u32 {
            return Err(Reason::DroppedHeaderLength);
        }
        if total < own {
            return Err(Reason::DroppedLength);
        }
        let mut header_sum = sum(&[words[0], words[1], words[2], words[3], words[4]]);
        if own > LENGTH as u32 {
            if !ctx.load(at as usize, words, own) {
                return Err(Reason::DroppedTruncated);
            }
            header_sum = kernel::sum_behind(words, 0, own);
            options(words, own)?;
        }
        headers.begin(total - own, fold(header_sum));
        headers.transport = at + own;
        let [a, b, c, d] = words[1].to_ne_bytes();
        let place = u16::from_ne_bytes([c, d]);
        if place & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0 {
            let offset = u16::from_be(place & FRAGMENT_OFFSET) as u32 * 8;
            headers.fragment(u16::from_ne_bytes([a, b]) as u32, offset, place & MORE_FRAGMENTS != 0);
        } else if own > LENGTH as u32 {
            headers.shape = Shape::Whole;
        }
        let [_, number, ..] = words[2].to_ne_bytes();
        addressed::<Self>(tuple, V4(words[3]), V4(words[4]), number);
        Ok(())
    }

    #[inline(always)]
    fn is_plain(header: Self::Header) -> bool {
        header.read::<u8, 0>() == 0x45 && header.read::<u16, 6>() & (MORE_FRAGMENTS | FRAGMENT_OFFSET) == 0
    }

    #[inline(always)]
    fn may_be_cut(header: Self::Header) -> bool {
        header.read::<u16, 6>() & DO_NOT_FRAGMENT == 0
    }

    /// Destination unreachable, time exceeded, parameter problem (RFC 792).
    #[inline(always)]
    fn is_icmp_error(kind: u8) -> bool {
        kind == 3 || kind == 11 || kind == 12
    }

    /// Router advertisement and solicitation (RFC 1256).
    #[inline(always)]
    fn is_link_control(kind: u8) -> bool {
        kind == 9 || kind == 10
    }

    #[inline(always)]
    fn is_free_message(kind: u8) -> bool {
        kind == 0
    }

    #[inline(always)]
    fn protocol(header: Self::Header) -> u8 {
        header.read::<u8, 9>()
    }

    #[inline(always)]
    fn payload(header: Self::Header) -> u32 {
        (u16::from_be(header.read::<u16, 2>()) as u32).wrapping_sub(LENGTH as u32)
    }

    #[inline(always)]
    fn time_to_live(header: Self::Header) -> u8 {
        header.read::<u8, 8>()
    }

    #[inline(always)]
    fn addresses(header: Self::Header) -> (V4, V4) {
        (V4(header.read::<u32, 12>()), V4(header.read::<u32, 16>()))
    }

    /// Neither "this" network, nor loopback, nor multicast, nor class E with the broadcast address (RFC 6890).
    #[inline(always)]
    fn is_unicast(address: V4) -> bool {
        let [first, ..] = address.0.to_ne_bytes();
        first != 0 && first != 127 && first < 224
    }

    #[inline(always)]
    fn rewrite(header: Self::Header, (source, destination): (V4, V4), step: u8, delta: u16) {
        let ttl = header.read::<u8, 8>();
        let checksum = header.read::<u16, 10>();
        header.write::<u8, 8>(ttl.wrapping_sub(step));
        header.write::<u16, 10>(adjust(checksum, delta));
        header.write::<u32, 12>(source.0);
        header.write::<u32, 16>(destination.0);
    }

    #[inline(always)]
    fn rewrite_quoted(ctx: Context, at: u32, (source, destination): (V4, V4), delta: u16) -> bool {
        ctx.replace_header_checksum(at + 10, delta)
            && ctx.store(at as usize + 12, &[source.0, destination.0], 8)
    }

    #[inline(always)]
    fn turn_around(header: Self::Header) {
        let (source, destination) = Self::addresses(header);
        let [ttl, number] = header.read::<u16, 8>().to_ne_bytes();
        let fresh = u16::from_ne_bytes([FRESH_TTL, number]);
        let delta = Delta::none().word(u16::from_ne_bytes([ttl, number]), fresh).fold();
        header.write::<u16, 8>(fresh);
        Self::rewrite(header, (destination, source), 0, delta);
    }

    #[inline(always)]
    fn header_delta(old: (V4, V4), new: (V4, V4), step: u8) -> u16 {
        let delta = Delta::none().long(old.0.0, new.0.0).long(old.1.0, new.1.0);
        if step == 0 { delta.fold() } else { delta.word(ONE_TTL, 0).fold() }
    }

    #[inline(always)]
    fn address_delta(delta: Delta, old: V4, new: V4) -> Delta {
        delta.long(old.0, new.0)
    }

    #[inline(always)]
    fn compose(message: &mut [u32; MESSAGE_WORDS], tuple: &Tuple<V4>, protocol: u8, payload: u16) -> usize {
        message[0] = (0x4500_0000 | (LENGTH as u32 + payload as u32)).to_be();
        message[1] = 0x4000u32.to_be(); // not to be fragmented, so that it needs no identification
        message[2] = u32::from_ne_bytes([FRESH_TTL, protocol, 0, 0]);
        message[3] = tuple.source.0;
        message[4] = tuple.destination.0;
        let [low, high] = (!fold(sum(&message[..LENGTH / 4]))).to_ne_bytes();
        message[2] = u32::from_ne_bytes([FRESH_TTL, protocol, low, high]);
        LENGTH / 4
    }

    #[inline(always)]
    fn pseudo_sum(tuple: &Tuple<V4>, protocol: u8, payload: u16) -> u32 {
        sum(&[tuple.source.0, tuple.destination.0, ((protocol as u32) << 16 | payload as u32).to_be()])
    }

    #[inline(always)]
    fn set_fib_addresses(query: &mut bpf_fib_lookup, source: V4, destination: V4) {
        query.__bindgen_anon_3.ipv4_src = source.0;
        query.__bindgen_anon_4.ipv4_dst = destination.0;
    }

    #[inline(always)]
    fn next_hop(answer: &bpf_fib_lookup) -> [u32; 5] {
        // SAFETY: the kernel wrote the member that the family tells; an IPv4 route may have an IPv6 gateway.
        let [a, b, c, d] = unsafe { answer.__bindgen_anon_4.ipv6_dst };
        if answer.family == AF_INET {
            [AF_INET as u32, a, 0, 0, 0]
        } else {
            [answer.family as u32, a, b, c, d]
        }
    }

    #[inline(always)]
    fn direct_next_hop(destination: V4) -> [u32; 5] {
        [AF_INET as u32, destination.0, 0, 0, 0]
    }

    #[inline(always)]
    fn node_address(config: &Config) -> V4 {
        config.node_v4
    }

    #[inline(always)]
    fn tunnel_address(config: &Config) -> V4 {
        config.tunnel_v4
    }

    family_maps!(
        V4,
        FLOWS_V4,
        FRONTENDS_V4,
        BACKENDS_V4,
        MEMBERS_V4,
        RANGES_V4,
        AFFINITY_V4,
        ENDPOINTS_V4,
        ORIGINS_V4,
        FRAGMENTS_V4,
        MAGLEV_V4,
        SCRATCH_V4
    );
}

/// Looks for what sends a packet elsewhere: loose and strict source routes (RFC 791, section 3.1). No sender has as many
/// options, filling included, as are looked at: more are broken.
#[inline(always)]
fn options(words: &[u32; BUFFER_WORDS], length: u32) -> Result<(), Reason> {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    const LOOSE: u8 = 131;
    const STRICT: u8 = 137;
    const OPTIONS: u32 = 12;
    let byte = |at: u32| (u32::from_le(words[(at / 4) as usize % BUFFER_WORDS]) >> (at % 4 * 8)) as u8;
    let mut at = LENGTH as u32;
    for _ in 0..OPTIONS {
        if at >= length {
            return Ok(());
        }
        match byte(at) {
            END => return Ok(()),
            NOTHING => at += 1,
            LOOSE | STRICT => return Err(Reason::DroppedSourceRoute),
            _ => {
                let own = byte(at + 1) as u32;
                if own < 2 || at + own > length {
                    return Err(Reason::DroppedHeaderLength);
                }
                at += own;
            }
        }
    }
    if at >= length { Ok(()) } else { Err(Reason::DroppedHeaderLength) }
}
