//! Refuses at once: a reset for TCP, port unreachable for UDP and SCTP, back out of the device the packet came from. What does
//! not fit the way to its backend is told what does, as by a router: the stack knows no route for what is not translated yet.
//!
//! A message is composed in place of the packet. Its checksum state must be known for that, also where the packet came
//! with a partial checksum: see [`replace`].

use abi::{Reason, Tuple, protocol};

use crate::{
    checksum::{Delta, fold, sum},
    conntrack,
    family::{Family, MESSAGE_WORDS, QUOTE_WORDS, Scratch},
    headers::{BUFFER_WORDS, Headers, Shape},
    hook::{HANDLED, Hook, Outcome},
    kernel::{self, Context, ETHERNET},
    maps::{self, Space},
    nat,
    parse::{self, Bytes, Packet, Transport, tcp},
};

const TCP_HEADER: u16 = 20;
const ICMP_HEADER: u16 = 8;
/// Bytes quoted of a transport header.
const QUOTED: u32 = 8;

#[inline(never)]
pub fn run<F: Family, H: Hook>(ctx: Context) -> Outcome {
    let Some(scratch) = F::scratch() else { return Outcome::drop(Reason::DroppedInternal) };
    let Scratch { key, headers, words, .. } = scratch;
    let reason = match key.protocol {
        protocol::TCP => Reason::RefusedTcp,
        protocol::UDP => Reason::RefusedUdp,
        _ => Reason::RefusedSctp,
    };
    if headers.shape == Shape::Later {
        // The first fragment is answered.
        return Outcome::drop(reason);
    }
    if headers.flags & tcp::RST != 0 {
        return Outcome::drop(Reason::DroppedReset);
    }
    if !is_answerable::<F>(ctx, key) {
        return Outcome::drop(Reason::DroppedUnanswerable);
    }
    let done = match key.protocol {
        protocol::TCP => reset::<F>(ctx, key, headers, words),
        _ => icmp_error::<F>(ctx, key, headers, Error { kind: F::PORT_UNREACHABLE, detail: 0 }),
    };
    if !done || !swap_link_addresses(ctx) {
        return Outcome::drop(Reason::DroppedInternal);
    }
    ctx.set_note(HANDLED);
    // A process of this node hears the answer as if it had come from the network.
    Outcome { reason, verdict: ctx.bounce(!H::INGRESS) }
}

/// One sender, and one receiver: nothing is answered that was sent to many, or that would be answered to many (RFC 1122,
/// section 3.2.2; RFC 9293, section 3.10.7.2).
#[inline(always)]
fn is_answerable<F: Family>(ctx: Context, key: &Tuple<F::Address>) -> bool {
    const GROUP: u8 = 1;
    let to_one = Bytes::<ETHERNET>::at(ctx, 0).is_some_and(|header| header.read::<u8, 0>() & GROUP == 0);
    to_one && F::is_unicast(key.source) && F::is_unicast(key.destination)
}

/// Tells the sender what size fits its flow's route.
#[inline(never)]
pub fn too_big<F: Family, H: Hook>(ctx: Context) -> Outcome {
    let Some(scratch) = F::scratch() else { return Outcome::drop(Reason::DroppedInternal) };
    let Scratch { key, headers, .. } = scratch;
    let Some(flow) = conntrack::find::<F>(key) else { return Outcome::drop(Reason::DroppedInternal) };
    if headers.shape == Shape::Later {
        // The first fragment is answered.
        return Outcome::drop(Reason::AnsweredTooBig);
    }
    if !is_answerable::<F>(ctx, key) {
        return Outcome::drop(Reason::DroppedUnanswerable);
    }
    let error = Error { kind: F::TOO_BIG, detail: flow.mtu.to_be() };
    if !icmp_error::<F>(ctx, key, headers, error) || !swap_link_addresses(ctx) {
        return Outcome::drop(Reason::DroppedInternal);
    }
    ctx.set_note(HANDLED);
    Outcome { reason: Reason::AnsweredTooBig, verdict: ctx.bounce(!H::INGRESS) }
}

/// First and second word of an ICMP error, its checksum 0.
#[derive(Clone, Copy)]
struct Error {
    kind: u32,
    detail: u32,
}

/// What a reset carries (RFC 9293, section 3.10.7.1), in network order.
#[derive(Clone, Copy)]
struct Reset {
    sequence: u32,
    acknowledgment: u32,
    flags: u8,
}

impl Reset {
    #[inline(always)]
    fn to(header: &[u32; BUFFER_WORDS], flags: u8, payload: u32) -> Self {
        if flags & tcp::ACK != 0 {
            return Self { sequence: header[2], acknowledgment: 0, flags: tcp::RST };
        }
        let length = payload + (flags & tcp::SYN != 0) as u32 + (flags & tcp::FIN != 0) as u32;
        let next = u32::from_be(header[1]).wrapping_add(length);
        Self { sequence: 0, acknowledgment: next.to_be(), flags: tcp::RST | tcp::ACK }
    }
}

#[inline(always)]
fn reset<F: Family>(
    ctx: Context,
    key: &Tuple<F::Address>,
    headers: &Headers,
    words: &mut [u32; BUFFER_WORDS],
) -> bool {
    if !ctx.load(headers.transport as usize, words, TCP_HEADER as u32) {
        return false;
    }
    // By the header's word, not the frame's length: short frames are padded.
    let payload = headers.length.wrapping_sub(headers.transport_header);
    let reset = Reset::to(words, headers.flags, payload);
    if headers.shape == Shape::Plain
        && payload == 0
        && let Some(packet) = parse::packet::<F>(ctx)
        && let Transport::Tcp(header) = packet.transport
    {
        reset_in_place(ctx, &packet, header, reset)
    } else {
        compose_reset::<F>(ctx, key, headers, reset)
    }
}

/// Nearly every refused packet is a SYN: its header becomes the answer's, options and all.
#[inline(always)]
fn reset_in_place<F: Family>(ctx: Context, packet: &Packet<F>, header: Bytes<20>, reset: Reset) -> bool {
    F::turn_around(packet.network);
    header.write::<u16, 0>(packet.tuple.destination_port.raw());
    header.write::<u16, 2>(packet.tuple.source_port.raw());
    let (sequence, acknowledgment) = (header.read::<u32, 4>(), header.read::<u32, 8>());
    let [offset, flags] = header.read::<u16, 12>().to_ne_bytes();
    header.write::<u32, 4>(reset.sequence);
    header.write::<u32, 8>(reset.acknowledgment);
    header.write::<u8, 13>(reset.flags);
    let delta = Delta::none()
        .long(sequence, reset.sequence)
        .long(acknowledgment, reset.acknowledgment)
        .word(u16::from_ne_bytes([offset, flags]), u16::from_ne_bytes([offset, reset.flags]))
        .fold();
    // Swapped addresses and ports keep their sum. A partial checksum holds nothing of the rest: the helper knows.
    delta == 0 || ctx.replace_checksum(F::TRANSPORT + 16, delta, 0)
}

#[inline(always)]
fn compose_reset<F: Family>(ctx: Context, key: &Tuple<F::Address>, headers: &Headers, reset: Reset) -> bool {
    let answer = key.reversed();
    let Some(Space { message, .. }) = maps::space() else { return false };
    let at = F::compose(message, &answer, protocol::TCP, TCP_HEADER);
    message[at] = nat::port_word(answer.source_port, answer.destination_port);
    message[at + 1] = reset.sequence;
    message[at + 2] = reset.acknowledgment;
    message[at + 3] = u32::from_ne_bytes([0x50, reset.flags, 0, 0]);
    message[at + 4] = 0;
    let total = F::pseudo_sum(&answer, protocol::TCP, TCP_HEADER) + sum(&message[at..at + 5]);
    let [low, high] = (!fold(total)).to_ne_bytes();
    message[at + 4] = u32::from_ne_bytes([low, high, 0, 0]);
    replace::<F>(ctx, headers, TCP_HEADER as u32) && store::<F>(ctx, message, TCP_HEADER)
}

/// Quotes everything up to the ports and what identifies a packet, the least that RFC 792 asks for.
#[inline(always)]
fn icmp_error<F: Family>(ctx: Context, key: &Tuple<F::Address>, headers: &Headers, error: Error) -> bool {
    let answer = key.reversed();
    let Some(Space { message, .. }) = maps::space() else { return false };
    let wanted = headers.transport - ETHERNET as u32 + QUOTED;
    let bytes = if wanted < 4 * QUOTE_WORDS as u32 { wanted } else { 4 * QUOTE_WORDS as u32 };
    let payload = ICMP_HEADER + bytes as u16;
    let at = F::compose(message, &answer, F::ICMP, payload);
    message[at] = error.kind;
    message[at + 1] = error.detail;
    if bytes == 0 || !ctx.load_behind(ETHERNET, message, at + 2, bytes) {
        return false;
    }
    let mut total = fold(kernel::sum_behind(message, at, payload as u32)) as u32;
    if F::ICMP_SUMS_ADDRESSES {
        total += F::pseudo_sum(&answer, F::ICMP, payload);
    }
    let [low, high] = (!fold(total)).to_ne_bytes();
    let [kind, code, ..] = error.kind.to_ne_bytes();
    message[at] = u32::from_ne_bytes([kind, code, low, high]);
    replace::<F>(ctx, headers, payload as u32) && store::<F>(ctx, message, payload)
}

/// Turns the packet into an empty one with room for `payload` bytes behind the network header.
///
/// Growing the tail and cutting as much from the front moves the data past where a partial checksum would start, at which
/// the kernel takes the packet for one without (`skb_postpull_rcsum`): what we write then goes out as we wrote it.
#[inline(always)]
fn replace<F: Family>(ctx: Context, headers: &Headers, payload: u32) -> bool {
    let spare = headers.transport + 2;
    ctx.change_tail(F::TRANSPORT as u32 + payload + spare) && ctx.cut_front(spare as i32)
}

#[inline(always)]
fn store<F: Family>(ctx: Context, message: &[u32; MESSAGE_WORDS], payload: u16) -> bool {
    ctx.store(ETHERNET, message, (F::TRANSPORT - ETHERNET) as u32 + payload as u32)
}

#[inline(always)]
fn swap_link_addresses(ctx: Context) -> bool {
    let Some(header) = Bytes::<ETHERNET>::at(ctx, 0) else { return false };
    let destination = (header.read::<u32, 0>(), header.read::<u16, 4>());
    let source = (header.read::<u32, 6>(), header.read::<u16, 10>());
    header.write::<u32, 0>(source.0);
    header.write::<u16, 4>(source.1);
    header.write::<u32, 6>(destination.0);
    header.write::<u16, 10>(destination.1);
    true
}
