//! Per-CPU counts: one reason per packet, and the slow path's lookups.

use abi::{Lookup, Reason};

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
    if let Some(count) = COUNTERS.get_ptr_mut(kind.row()) {
        // SAFETY: as in `packet`.
        unsafe { (*count).packets += 1 }
    }
}
