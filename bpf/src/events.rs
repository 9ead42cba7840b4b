//! What is told of flows: one record each for the first packet of either direction, the FIN of either side (or one RST),
//! every few seconds in between, and for every packet that is dropped or refused. From the slow path only: the fast path sends
//! a packet there when its flow is due, and where every packet is told of ([`abi::EventLevel`]), each is.
//!
//! XDP tells of nothing: what is due, new or ending is not steady, and goes to the tc program behind it.
//!
//! Never waits, never wakes anyone who is busy (`bpf_ringbuf_submit` wakes a reader that has read everything). A record is
//! counted before the ring is asked for room, and counted again where there is none.

pub mod call;
mod lately;

use abi::{
    Address, Config, EVENT_RING_BYTES, EVENT_VERSION, Event, EventCount, EventKind, EventLevel, Flow, Reason,
    Tuple, coarse, event_flags, flow_flags, protocol,
};
use aya_ebpf::{
    btf_maps::{PerCpuArray, RingBuf},
    helpers::generated as helper,
    macros::btf_map,
    maps::ring_buf::RingBufEntry,
};

use crate::{
    family::{Family, Scratch},
    headers::Headers,
    hook::Hook,
    identity::{self, Identities},
    kernel::{Context, jiffies},
    maps,
    parse::tcp,
    policy::Asked,
};

#[btf_map]
static EVENTS: RingBuf<Event, { EVENT_RING_BYTES as usize }> = RingBuf::new();

#[btf_map]
static EVENT_COUNTS: PerCpuArray<EventCount, { EventKind::ALL.len() }> = PerCpuArray::new();

/// Bits of [`crate::family::Scratch::noted`].
pub const READ: u32 = 1;
pub const ENDS: u32 = 1 << 1;
pub const BEGINS: u32 = 1 << 2;
/// Policies had their say, or have none.
pub const JUDGED: u32 = 1 << 3;
/// A policy denies it, and is audited only.
pub const AUDITED: u32 = 1 << 4;
/// The connection table had no entry of it. Of plain packets only.
pub const ABSENT: u32 = 1 << 5;
/// Its new entry is as the scratch's flow has it. Of plain packets only.
pub const COPIED: u32 = 1 << 6;
/// The scratch says what is known of the opposite direction.
pub const LOOKED_BACK: u32 = 1 << 7;
/// The scratch says whether the new flow's destination is a pod of this node.
pub const RESOLVED: u32 = 1 << 8;
/// From here on: the bits of [`abi::asked_flags`].
pub const ASKED_SHIFT: u32 = 16;

/// What is told, and what is known of who opened the flow, of [`event_flags`].
type Tale = (EventKind, u8);

/// Whether it is time to tell of this direction of a flow again.
#[inline(always)]
pub fn is_due<A>(flow: &Flow<A>, interval: u32, now: u32) -> bool {
    coarse(now).wrapping_sub(flow.told) as u32 >= interval
}

/// Tells of the packet in the scratch, if there is anything to tell: after it was sent, so that what became of it is known.
/// Its reason is in the scratch, too.
#[inline(never)]
pub fn offer<F: Identities, H: Hook>(ctx: Context) {
    let (Some(config), Some(scratch)) = (maps::config(), F::scratch()) else { return };
    let Scratch { key, headers, reason, noted, rules, matched, asked, identities, flow: copy, .. } = scratch;
    let read = *noted & READ != 0;
    let mut flow = match *noted {
        noted if !read || noted & (ABSENT | COPIED) == ABSENT => None,
        noted if noted & COPIED != 0 => Some(copy),
        // SAFETY: as in `conntrack::find`.
        _ => F::flows().get_ptr_mut(&*key).map(|flow| unsafe { &mut *flow }),
    };
    let packet = (&*key, &*headers, *reason, *noted);
    let Some((kind, role)) = tale::<F, H>(config, packet, flow.as_deref_mut()) else { return };
    let Some(count) = EVENT_COUNTS.get_ptr_mut(kind as u32) else { return };
    // SAFETY: this CPU's own, and nothing interrupts a program with another of the same CPU.
    let count = unsafe { &mut *count };
    count.offered += 1;
    let Some(mut room) = EVENTS.reserve(0) else {
        count.lost += 1;
        return;
    };
    let event = blank(&mut room);
    event.kind = kind as u8;
    event.point = H::POINT as u8;
    event.family = F::VERSION;
    event.reason = *reason as u32;
    event.interface = ctx.interface();
    event.revision = config.revision;
    [event.egress_rule, event.ingress_rule] = *rules;
    [event.egress_match, event.ingress_match] = *matched;
    event.policy = (*noted >> ASKED_SHIFT) as u8;
    event.flags = event_flags::UNREADABLE;
    if read {
        event.flags = role;
        event.tcp_flags = headers.flags;
        let mut destination = describe(event, key, flow.as_deref());
        if flow.is_none() && matches!(reason, Reason::DroppedPolicyEgress | Reason::DroppedPolicyIngress) {
            destination = describe_denied(event, key, asked);
        }
        let [sender, receiver] = *identities;
        let receiver = if destination == asked.destination { receiver } else { 0 };
        identify::<F>(event, (key.source, destination), [sender, receiver]);
        event.flags |= if *noted & AUDITED != 0 { event_flags::AUDITED } else { 0 };
    }
    room.submit(0);
}

/// Tells what is made already.
#[inline(always)]
pub fn hand_over(kind: EventKind, record: &[u8]) {
    let Some(count) = EVENT_COUNTS.get_ptr_mut(kind as u32) else { return };
    // SAFETY: as in `offer`.
    let count = unsafe { &mut *count };
    count.offered += 1;
    if EVENTS.output_untyped::<[u8]>(record, 0).is_err() {
        count.lost += 1;
    }
}

/// To whom a packet was, of a flow that was not opened: the backend is known by then.
#[inline(always)]
fn describe_denied<A: Address>(event: &mut Event, key: &Tuple<A>, asked: &Asked<A>) -> A {
    if asked.protocol == 0 || asked.flags & flow_flags::REPLY != 0 {
        return key.destination;
    }
    event.flags |= event_flags::TRACKED;
    if asked.destination != key.destination || asked.port != key.destination_port {
        event.flags |= event_flags::TRANSLATED;
    }
    (event.new_source, event.new_destination) = (asked.source.words(), asked.destination.words());
    (event.new_source_port, event.new_destination_port) = (key.source_port, asked.port);
    asked.destination
}

/// Who the sender and the receiver are, as far as that was not found before (`known`; 0: not).
#[inline(always)]
pub fn identify<F: Identities>(
    event: &mut Event,
    (source, destination): (F::Address, F::Address),
    known: [u32; 2],
) {
    let [sender, receiver] = known;
    event.source_identity = if sender != 0 { sender } else { identity::of::<F>(source) };
    event.destination_identity = if receiver != 0 { receiver } else { identity::of::<F>(destination) };
}

/// A record of now, in place: it is too big for the stack.
#[inline(always)]
fn blank(room: &mut RingBufEntry<Event>) -> &mut Event {
    // SAFETY: the ring's own room for one record, and every pattern is one.
    let event = unsafe { &mut *room.as_mut_ptr() };
    *event = Event::default();
    event.version = EVENT_VERSION;
    // SAFETY: takes nothing.
    event.time = unsafe { helper::bpf_ktime_get_boot_ns() };
    event
}

#[inline(always)]
fn tale<F: Family, H: Hook>(
    config: &Config,
    (key, headers, reason, noted): (&Tuple<F::Address>, &Headers, Reason, u32),
    flow: Option<&mut Flow<F::Address>>,
) -> Option<Tale> {
    let (now, told) = (jiffies(), |kind| Some((kind, 0)));
    match reason {
        Reason::ForwardedNew => told(EventKind::New),
        Reason::ForwardedUpdated | Reason::ForwardedEstablished => match flow {
            _ if noted & ENDS != 0 => told(EventKind::Closed),
            _ if noted & BEGINS != 0 => told(EventKind::New),
            // What would have been dropped is told of once, like what is.
            _ if noted & AUDITED != 0 => told(EventKind::Ongoing),
            Some(flow) if is_due(flow, config.event_interval, now) && !is_left_out(config, key, headers) => {
                flow.told = coarse(now);
                told(EventKind::Ongoing)
            }
            _ => None,
        },
        // Messages, and what a pod sends that the stack takes from here, have no entry.
        Reason::ForwardedIcmpError => lately::tale::<F>(config, key, headers.flags, now),
        Reason::PassedUnrelated | Reason::PassedProtocol => {
            let is_message = key.protocol == F::ICMP;
            let concerns = H::OF_POD && noted & READ != 0 && (H::INGRESS || is_message);
            let left_out = is_left_out(config, key, headers)
                || (is_message && F::is_link_control(key.source_port.get() as u8));
            if concerns && !left_out { lately::tale::<F>(config, key, headers.flags, now) } else { None }
        }
        Reason::RefusedTcp | Reason::RefusedUdp | Reason::RefusedSctp | Reason::AnsweredTooBig => {
            told(EventKind::Refused)
        }
        Reason::ForwardedXdp
        | Reason::PassedUnparsed
        | Reason::PassedFragment
        | Reason::PassedHandled
        | Reason::PassedTimeToLive
        | Reason::PassedTooBig => None,
        _ => told(EventKind::Dropped),
    }
}

/// A bare acknowledgement, where those are not told of.
#[inline(always)]
fn is_left_out<A>(config: &Config, key: &Tuple<A>, headers: &Headers) -> bool {
    const SAYS_MORE: u8 = tcp::SYN | tcp::FIN | tcp::RST;
    config.event_level == EventLevel::Substance as u32
        && key.protocol == protocol::TCP
        && headers.flags & SAYS_MORE == 0
        && headers.length <= headers.transport_header
}

/// What became of the packet; returns to whom it was in the end, for [`identify`]. The flags stay, and more are added.
#[inline(always)]
pub fn describe<A: Address>(event: &mut Event, key: &Tuple<A>, flow: Option<&Flow<A>>) -> A {
    event.protocol = key.protocol;
    (event.source, event.destination) = (key.source.words(), key.destination.words());
    (event.source_port, event.destination_port) = (key.source_port, key.destination_port);
    match flow {
        None => key.destination,
        Some(flow) => {
            event.flags |= event_flags::TRACKED;
            if flow.has(flow_flags::REPLY) {
                event.flags |= event_flags::REPLY;
            }
            if flow.has(flow_flags::TRANSLATED) {
                event.flags |= event_flags::TRANSLATED;
            }
            if flow.has(flow_flags::MASQUERADED) {
                event.flags |= event_flags::MASQUERADED;
            }
            (event.packets, event.bytes) = (flow.packets, flow.bytes);
            (event.new_source, event.new_destination) = (flow.source.words(), flow.destination.words());
            (event.new_source_port, event.new_destination_port) = (flow.source_port, flow.destination_port);
            flow.destination
        }
    }
}
