//! What is told of flows: one record each for the first packet of either direction, the FIN of either side (or one RST),
//! every few seconds in between, and for every packet that is dropped or refused. From the slow path only: the fast path sends a packet there when its flow is due.
//!
//! Never waits, never wakes anyone who is busy (`bpf_ringbuf_submit` wakes a reader that has read everything). A record is
//! counted before the ring is asked for room, and counted again where there is none.

use abi::{
    Address, EVENT_RING_BYTES, EVENT_VERSION, Event, EventCount, EventKind, Flow, Reason, Tuple, coarse,
    event_flags, flow_flags,
};
use aya_ebpf::{
    btf_maps::{PerCpuArray, RingBuf},
    helpers::generated as helper,
    macros::btf_map,
};

use crate::{
    family::Family,
    hook::Hook,
    identity::{self, Identities},
    kernel::{Context, jiffies},
    maps,
};

#[btf_map]
static EVENTS: RingBuf<Event, { EVENT_RING_BYTES as usize }> = RingBuf::new();

#[btf_map]
static EVENT_COUNTS: PerCpuArray<EventCount, { EventKind::ALL.len() }> = PerCpuArray::new();

/// Bits of [`crate::family::Scratch::noted`].
pub const READ: u32 = 1;
pub const ENDS: u32 = 1 << 1;

/// Whether it is time to tell of this direction of a flow again.
#[inline(always)]
pub fn is_due<A>(flow: &Flow<A>, interval: u32, now: u32) -> bool {
    interval != 0 && coarse(now).wrapping_sub(flow.told) as u32 >= interval
}

/// Tells of the packet in the scratch, if there is anything to tell.
#[inline(never)]
pub fn offer<F: Identities, H: Hook>(ctx: Context, reason: Reason) {
    let (Some(config), Some(scratch)) = (maps::config(), F::scratch()) else { return };
    let read = scratch.noted & READ != 0;
    let flow = if read { F::flows().get_ptr_mut(&scratch.key) } else { None };
    // SAFETY: as in `conntrack::find`.
    let mut flow = flow.map(|flow| unsafe { &mut *flow });
    let now = jiffies();
    let kind = match reason {
        Reason::ForwardedNew => EventKind::New,
        Reason::ForwardedUpdated | Reason::ForwardedEstablished => match &mut flow {
            _ if scratch.noted & ENDS != 0 => EventKind::Closed,
            Some(flow) if flow.packets == 0 => EventKind::New,
            Some(flow) if is_due(flow, config.event_interval, now) => {
                flow.told = coarse(now);
                EventKind::Ongoing
            }
            _ => return,
        },
        Reason::RefusedTcp | Reason::RefusedUdp | Reason::RefusedSctp | Reason::AnsweredTooBig => {
            EventKind::Refused
        }
        Reason::ForwardedXdp
        | Reason::ForwardedIcmpError
        | Reason::PassedProtocol
        | Reason::PassedUnparsed
        | Reason::PassedFragment
        | Reason::PassedUnrelated
        | Reason::PassedHandled
        | Reason::PassedTimeToLive
        | Reason::PassedTooBig => return,
        _ => EventKind::Dropped,
    };
    let Some(count) = EVENT_COUNTS.get_ptr_mut(kind as u32) else { return };
    // SAFETY: this CPU's own, and nothing interrupts a program with another of the same CPU.
    let count = unsafe { &mut *count };
    count.offered += 1;
    let Some(mut room) = EVENTS.reserve(0) else {
        count.lost += 1;
        return;
    };
    let mut event = Event {
        version: EVENT_VERSION,
        kind: kind as u8,
        point: H::POINT as u8,
        family: F::VERSION,
        reason: reason as u32,
        interface: ctx.interface(),
        revision: config.revision,
        // SAFETY: takes nothing.
        time: unsafe { helper::bpf_ktime_get_boot_ns() },
        flags: event_flags::UNREADABLE,
        ..Event::default()
    };
    if read {
        event.tcp_flags = scratch.headers.flags;
        describe::<F>(&mut event, &scratch.key, flow.as_deref());
    }
    room.write(event);
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

/// Who it was, and what became of the packet.
#[inline(always)]
pub fn describe<F: Identities>(event: &mut Event, key: &Tuple<F::Address>, flow: Option<&Flow<F::Address>>) {
    event.flags = 0;
    event.protocol = key.protocol;
    (event.source, event.destination) = (key.source.words(), key.destination.words());
    (event.source_port, event.destination_port) = (key.source_port, key.destination_port);
    event.source_identity = identity::of::<F>(key.source);
    let destination = match flow {
        None => key.destination,
        Some(flow) => {
            event.flags = event_flags::TRACKED;
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
    };
    event.destination_identity = identity::of::<F>(destination);
}
