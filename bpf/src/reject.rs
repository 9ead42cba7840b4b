//! Refuses at once: a reset for TCP, port unreachable for UDP, back out of the device the packet came from.
//!
//! A message is composed in place of the packet. Its checksum state must be known for that, also where the packet came
//! with a partial checksum: see [`replace`].

use abi::{Be16, Reason, Tuple};

use crate::{
    checksum::{Delta, fold, sum},
    family::{Family, MESSAGE_WORDS},
    hook::{HANDLED, Hook, Outcome},
    kernel::{Context, ETHERNET},
    maps::{self, Space},
    parse::{self, Bytes, Packet, Transport, tcp},
};

const TCP_HEADER: u16 = 20;
const ICMP_HEADER: u16 = 8;

#[inline(never)]
pub fn run<F: Family, H: Hook>(ctx: Context) -> Outcome {
    let Ok(packet) = parse::packet::<F>(ctx) else { return Outcome::drop(Reason::DroppedInternal) };
    let (reason, done) = match packet.transport {
        Transport::Tcp(_) if packet.flags & tcp::RST != 0 => return Outcome::drop(Reason::DroppedReset),
        Transport::Tcp(header) => (Reason::RefusedTcp, reset::<F>(ctx, &packet, header)),
        Transport::Udp(_) => (Reason::RefusedUdp, unreachable::<F>(ctx, &packet)),
        // The first fragment is answered.
        Transport::Fragment => return Outcome::drop(Reason::RefusedUdp),
    };
    if !done || !swap_link_addresses(ctx) {
        return Outcome::drop(Reason::DroppedInternal);
    }
    ctx.set_note(HANDLED);
    // A process of this node hears the answer as if it had come from the network.
    Outcome { reason, verdict: ctx.bounce(!H::INGRESS) }
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
    fn to(header: Bytes<20>, flags: u8, payload: u32) -> Self {
        if flags & tcp::ACK != 0 {
            return Self { sequence: header.read::<u32, 8>(), acknowledgment: 0, flags: tcp::RST };
        }
        let length = payload + (flags & tcp::SYN != 0) as u32 + (flags & tcp::FIN != 0) as u32;
        let next = u32::from_be(header.read::<u32, 4>()).wrapping_add(length);
        Self { sequence: 0, acknowledgment: next.to_be(), flags: tcp::RST | tcp::ACK }
    }
}

#[inline(always)]
fn reset<F: Family>(ctx: Context, packet: &Packet<F>, header: Bytes<20>) -> bool {
    // By the header's word, not the frame's length: short frames are padded.
    let payload = F::payload(packet.network).wrapping_sub((header.read::<u8, 12>() >> 4) as u32 * 4);
    let reset = Reset::to(header, packet.flags, payload);
    if payload == 0 {
        reset_in_place(ctx, packet, header, reset)
    } else {
        compose_reset::<F>(ctx, packet, reset)
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
fn compose_reset<F: Family>(ctx: Context, packet: &Packet<F>, reset: Reset) -> bool {
    let answer = packet.tuple.reversed();
    let Some(Space { message, .. }) = maps::space() else { return false };
    let at = F::compose(message, &answer, packet.tuple.protocol, TCP_HEADER);
    message[at] = ports(answer.source_port, answer.destination_port);
    message[at + 1] = reset.sequence;
    message[at + 2] = reset.acknowledgment;
    message[at + 3] = u32::from_ne_bytes([0x50, reset.flags, 0, 0]);
    message[at + 4] = 0;
    let total = F::pseudo_sum(&answer, packet.tuple.protocol, TCP_HEADER) + sum(&message[at..at + 5]);
    let [low, high] = (!fold(total)).to_ne_bytes();
    message[at + 4] = u32::from_ne_bytes([low, high, 0, 0]);
    replace::<F>(ctx, TCP_HEADER as u32) && store::<F>(ctx, message, TCP_HEADER)
}

/// Quotes network and UDP header, the least that RFC 792 asks for.
#[inline(always)]
fn unreachable<F: Family>(ctx: Context, packet: &Packet<F>) -> bool {
    let answer: Tuple<F::Address> = packet.tuple.reversed();
    let Some(Space { message, quote, .. }) = maps::space() else { return false };
    let payload = ICMP_HEADER + 4 * F::QUOTE_WORDS as u16;
    let at = F::compose(message, &answer, F::ICMP, payload);
    if !ctx.load(ETHERNET, quote, 4 * F::QUOTE_WORDS as u32) {
        return false;
    }
    message[at] = F::PORT_UNREACHABLE;
    message[at + 1] = 0;
    for word in 0..F::QUOTE_WORDS {
        message[at + 2 + word] = quote[word];
    }
    let mut total = sum(&message[at..at + 2 + F::QUOTE_WORDS]);
    if F::ICMP_SUMS_ADDRESSES {
        total += F::pseudo_sum(&answer, F::ICMP, payload);
    }
    let [low, high] = (!fold(total)).to_ne_bytes();
    let [kind, code, ..] = F::PORT_UNREACHABLE.to_ne_bytes();
    message[at] = u32::from_ne_bytes([kind, code, low, high]);
    replace::<F>(ctx, payload as u32) && store::<F>(ctx, message, payload)
}

/// Turns the packet into an empty one with room for `payload` bytes behind the network header.
///
/// Growing the tail and cutting as much from the front moves the data past where a partial checksum would start, at which
/// the kernel takes the packet for one without (`skb_postpull_rcsum`): what we write then goes out as we wrote it.
#[inline(always)]
fn replace<F: Family>(ctx: Context, payload: u32) -> bool {
    let spare = F::TRANSPORT as u32 + 2;
    ctx.change_tail(F::TRANSPORT as u32 + payload + spare) && ctx.cut_front(spare as i32)
}

#[inline(always)]
fn store<F: Family>(ctx: Context, message: &[u32; MESSAGE_WORDS], payload: u16) -> bool {
    ctx.store(ETHERNET, message, (F::TRANSPORT - ETHERNET) as u32 + payload as u32)
}

#[inline(always)]
fn ports(source: Be16, destination: Be16) -> u32 {
    let ([a, b], [c, d]) = (source.raw().to_ne_bytes(), destination.raw().to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
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
