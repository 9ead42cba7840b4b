//! What is told of calls that name a frontend: what was named and what was given instead, in one record.
//!
//! A socket's program may be interrupted by a packet's, and by another socket's: counts are added to in one instruction.

use abi::{Address, Be16, EventKind, EventLevel, HOST_IDENTITY, Point, Reason, event_flags};
use aya_ebpf::helpers::generated as helper;

use super::{EVENT_COUNTS, EVENTS, blank};
use crate::{
    identity::{self, Identities},
    kernel::add,
    maps,
    sock::Call,
};

/// What happened to a call. Aligned as one word, so that it is passed in a register.
#[repr(align(8))]
#[derive(Clone, Copy)]
pub struct What {
    pub kind: EventKind,
    pub point: Point,
    /// As for a packet that this would have happened to.
    pub reason: Reason,
}

/// The other side's address, before and after.
pub struct Ends<A> {
    pub before: (A, Be16),
    pub after: (A, Be16),
}

/// Whether anyone wants to hear of calls that say nothing new: each datagram, each answer.
#[inline(always)]
pub fn every() -> bool {
    maps::config().is_some_and(|config| config.event_level > EventLevel::Flows as u32)
}

/// Tells of a call.
#[inline(never)]
pub fn offer<F: Identities>(call: Call, what: What, ends: &Ends<F::Address>) {
    let Some(config) = maps::config() else { return };
    if config.event_level == EventLevel::Off as u32 {
        return;
    }
    let Some(count) = EVENT_COUNTS.get_ptr_mut(what.kind as u32) else { return };
    // SAFETY: a valid row of the map, this CPU's own.
    unsafe { add(&raw mut (*count).offered, 1) };
    let Some(mut room) = EVENTS.reserve(0) else {
        // SAFETY: as above.
        unsafe { add(&raw mut (*count).lost, 1) };
        return;
    };
    let ([low, high], [cookie_low, cookie_high]) = (call.namespace(), call.cookie());
    let event = blank(&mut room);
    event.kind = what.kind as u8;
    event.point = what.point as u8;
    event.family = F::VERSION;
    event.protocol = call.protocol();
    event.flags = if what.kind as u8 == EventKind::Translated as u8 { event_flags::TRANSLATED } else { 0 };
    event.reason = what.reason as u32;
    event.source_identity = if call.is_of_host() { HOST_IDENTITY } else { identity::UNKNOWN };
    event.destination_identity = identity::of::<F>(ends.after.0);
    event.revision = config.revision;
    event.packets = (cookie_high as u64) << 32 | cookie_low as u64;
    // SAFETY: takes nothing.
    event.bytes = unsafe { helper::bpf_get_current_cgroup_id() };
    event.source = [low, high, 0, 0];
    (event.destination, event.destination_port) = (ends.before.0.words(), ends.before.1);
    (event.new_destination, event.new_destination_port) = (ends.after.0.words(), ends.after.1);
    room.submit(0);
}
