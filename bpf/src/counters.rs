//! Per-CPU counts: one reason per packet, and the slow path's lookups.

use abi::{Lookup, Reason, SocketCall};

use crate::maps::COUNTERS;

#[inline(always)]
pub fn packet(reason: Reason, bytes: u32) {
    if let Some(count) = COUNTERS.get_ptr_mut(reason.row()) {
        // SAFETY: the row is this CPU's own, and nothing interrupts a program with another of the same CPU.
        unsafe {
            (*count).packets += 1;
            (*count).bytes += bytes as u64;
        }
    }
}

#[inline(always)]
pub fn lookup(kind: Lookup) {
    one(kind.row());
}

#[inline(always)]
pub fn socket(kind: SocketCall) {
    one(kind.row());
}

#[inline(always)]
fn one(row: u32) {
    if let Some(count) = COUNTERS.get_ptr_mut(row) {
        // SAFETY: as in `packet`; a preempted socket's program may lose a count.
        unsafe { (*count).packets += 1 }
    }
}
