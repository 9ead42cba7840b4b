//! The slow path's first step: reads a packet in full and sorts out what nobody would accept, each with its reason.
//!
//! The fast path forwards what belongs to an open flow as it is, and looks at no lengths or checksums: a broken packet changes
//! no state there, and its receiver discards it as it would a direct one. Everything that opens, changes or ends a flow comes
//! through here.

use abi::{Be16, Reason, Tuple, protocol};

use crate::{
    events,
    family::{Family, Scratch},
    fragments,
    headers::{self, Headers, Shape},
    hook::{Hook, Outcome},
    kernel::{Context, ETHERNET},
    maps,
    parse::tcp,
};

const TCP_HEADER: u32 = 20;
const UDP_HEADER: u32 = 8;
/// The common header and the first chunk's (RFC 9260, section 3).
const SCTP_HEADER: u32 = 16;

/// Fills the scratch's tuple and headers, or says what becomes of the packet.
#[inline(never)]
pub fn run<F: Family, H: Hook>(ctx: Context) -> Outcome {
    let (Some(config), Some(scratch)) = (maps::config(), F::scratch()) else {
        return Outcome::drop(Reason::DroppedInternal);
    };
    (scratch.revision, scratch.identities) = (config.revision, [0; 2]);
    (scratch.noted, scratch.rules, scratch.matched) = (0, [0; 2], [0; 2]);
    if let Err(reason) = headers::walk::<F>(ctx, ETHERNET as u32, false) {
        // [`crate::hook`] knows which reasons pass.
        return Outcome::pass(reason);
    }
    scratch.noted = events::READ;
    let Scratch { key, headers, words, .. } = scratch;
    if let Some(reason) = broken(ctx, headers) {
        return Outcome::drop(reason);
    }
    if headers.shape == Shape::Later {
        if !fragments::recall::<F>(headers, key, config) {
            return Outcome::pass(Reason::PassedFragment);
        }
    } else if !headers::is_tracked(key.protocol) {
        let is_message = key.protocol == F::ICMP && !headers.is_fragment();
        return if is_message { Outcome::message() } else { Outcome::pass(Reason::PassedProtocol) };
    }
    if headers.shape != Shape::Later
        && let Err(reason) = transport::<F>(ctx, key, headers, words)
    {
        return Outcome::drop(reason);
    }
    if !H::concerns::<F>(config, key) {
        return Outcome::pass(Reason::PassedUnrelated);
    }
    let reason = match headers.shape {
        Shape::Later => cut(key, headers),
        _ => misfit(key, headers, words),
    };
    if let Some(reason) = reason {
        return Outcome::drop(reason);
    }
    if headers.shape == Shape::First {
        fragments::remember::<F>(headers, key);
    }
    Outcome::known()
}

/// What the stack would not take either, wherever the packet goes (`ip_rcv_core`, `ip6_rcv_core`).
#[inline(always)]
fn broken(ctx: Context, headers: &Headers) -> Option<Reason> {
    if headers.header_sum != 0xffff {
        Some(Reason::DroppedHeaderChecksum)
    } else if headers.transport + headers.length > ctx.length() {
        Some(Reason::DroppedLength)
    } else if headers.runs_over() {
        Some(Reason::DroppedFragment)
    } else {
        None
    }
}

/// Reads ports and the start of the transport header into `words`.
#[inline(always)]
fn transport<F: Family>(
    ctx: Context,
    key: &mut Tuple<F::Address>,
    headers: &mut Headers,
    words: &mut [u32; headers::BUFFER_WORDS],
) -> Result<(), Reason> {
    let at = headers.transport as usize;
    let plain = headers.shape == Shape::Plain;
    let (shortest, loaded) = match key.protocol {
        protocol::TCP if plain && ctx.read::<{ TCP_HEADER as usize }, _>(F::TRANSPORT, words) => {
            (TCP_HEADER, true)
        }
        protocol::TCP => (TCP_HEADER, ctx.load(at, words, TCP_HEADER)),
        protocol::UDP => (UDP_HEADER, ctx.load(at, words, UDP_HEADER)),
        _ => {
            headers.shape = if headers.shape == Shape::Plain { Shape::Whole } else { headers.shape };
            (SCTP_HEADER, ctx.load(at, words, SCTP_HEADER))
        }
    };
    if headers.length < shortest {
        // The rest of a header in the next fragment is a way past filters (RFC 1858, RFC 7112).
        let cut = headers.shape == Shape::First;
        return Err(if cut { Reason::DroppedFragment } else { Reason::DroppedLength });
    }
    if !loaded {
        return Err(Reason::DroppedTruncated);
    }
    let [a, b, c, d] = words[0].to_ne_bytes();
    key.source_port = Be16::from_raw(u16::from_ne_bytes([a, b]));
    key.destination_port = Be16::from_raw(u16::from_ne_bytes([c, d]));
    let [offset, flags, ..] = words[3].to_ne_bytes();
    (headers.flags, headers.transport_header) = match key.protocol {
        protocol::TCP => (flags, (offset >> 4) as u32 * 4),
        protocol::UDP => (0, UDP_HEADER),
        _ => (chunk_flags(offset), SCTP_HEADER),
    };
    Ok(())
}

/// TCP's and UDP's own lengths.
#[inline(always)]
fn misfit<A>(key: &Tuple<A>, headers: &Headers, words: &[u32; headers::BUFFER_WORDS]) -> Option<Reason> {
    match key.protocol {
        protocol::TCP => {
            let fits = headers.transport_header >= TCP_HEADER && headers.transport_header <= headers.length;
            (!fits).then_some(Reason::DroppedDataOffset)
        }
        protocol::UDP => {
            let [a, b, ..] = words[1].to_ne_bytes();
            let length = u16::from_be_bytes([a, b]) as u32;
            let fits = length >= UDP_HEADER && (length <= headers.length || headers.shape == Shape::First);
            (!fits).then_some(Reason::DroppedLength)
        }
        _ => None,
    }
}

/// A later fragment that would write over the header of the first (RFC 1858, section 4.2; RFC 3128).
#[inline(always)]
fn cut<A>(key: &Tuple<A>, headers: &Headers) -> Option<Reason> {
    let header = match key.protocol {
        protocol::TCP => TCP_HEADER,
        protocol::UDP => UDP_HEADER,
        _ => SCTP_HEADER,
    };
    (headers.fragment_offset < header).then_some(Reason::DroppedFragment)
}

/// The TCP flags that say the same about an association as its first chunk (RFC 9260, section 4).
#[inline(always)]
fn chunk_flags(kind: u8) -> u8 {
    const INIT: u8 = 1;
    const INIT_ACK: u8 = 2;
    const ABORT: u8 = 6;
    const SHUTDOWN: u8 = 7;
    const SHUTDOWN_ACK: u8 = 8;
    const SHUTDOWN_COMPLETE: u8 = 14;
    match kind {
        INIT => tcp::SYN,
        INIT_ACK => tcp::SYN | tcp::ACK,
        SHUTDOWN | SHUTDOWN_ACK => tcp::FIN | tcp::ACK,
        ABORT | SHUTDOWN_COMPLETE => tcp::RST,
        _ => tcp::ACK,
    }
}

/// Why nobody may reach a frontend like this: from an address that is no host's, or is the frontend's own, or from no port.
///
/// UDP without a source port is legal: it wants no answer (RFC 768).
#[inline(always)]
pub fn denied<F: Family, H: Hook>(key: &Tuple<F::Address>) -> Option<Reason> {
    if !F::is_unicast(key.source) {
        Some(Reason::DroppedSource)
    } else if H::INGRESS && key.source == key.destination {
        Some(Reason::DroppedLand)
    } else if key.source_port == Be16::default() && key.protocol != protocol::UDP {
        Some(Reason::DroppedZeroPort)
    } else {
        None
    }
}
