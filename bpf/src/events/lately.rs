//! Flows that have no entry in the connection table, because the stack forwards them: which of them were told of, and when.
//!
//! A small table of hashes, where a newer flow takes an older one's row. What it forgets is told of again: too often, never
//! too seldom, but for two flows in 2^32 that look alike.

use core::{mem, ptr};

use abi::{Address, Config, EventKind, LATELY_ROWS, Lately, Tuple, coarse, event_flags, protocol};
use aya_ebpf::{btf_maps::Array, macros::btf_map};

use super::Tale;
use crate::{family::Family, parse::tcp};

#[btf_map]
static LATELY: Array<Lately, { LATELY_ROWS as usize }> = Array::new();

/// What there is to tell of a packet of such a flow, if anything, and takes note of it.
#[inline(always)]
pub fn tale<F: Family>(config: &Config, key: &Tuple<F::Address>, flags: u8, now: u32) -> Option<Tale> {
    const ENDS: u8 = tcp::FIN | tcp::RST;
    let (hash, clock) = (hash(key), coarse(now));
    let row = LATELY.get_ptr_mut((hash >> 1) & (LATELY_ROWS - 1))?;
    // SAFETY: the row is one aligned word, read and written as one.
    let found: Lately = unsafe { mem::transmute(ptr::read_volatile(row.cast::<u64>())) };
    let handshake = flags & (tcp::SYN | tcp::ACK);
    let begins_anew = handshake == tcp::SYN && found.control & ENDS != 0;
    let known = found.hash == hash && !begins_anew;
    let before = if known { found } else { Lately::default() };
    let control = flags & (tcp::SYN | ENDS);
    let news = control & !before.control;
    let due = clock.wrapping_sub(before.told) as u32 >= config.event_interval;
    if known && news == 0 && !due {
        return None;
    }
    let role = match handshake {
        tcp::SYN => event_flags::OPENS,
        _ if handshake == tcp::SYN | tcp::ACK => event_flags::REPLY,
        _ => before.role,
    };
    let told = Lately { hash, told: clock, control: before.control | control, role };
    // SAFETY: as above.
    unsafe { ptr::write_volatile(row.cast::<u64>(), mem::transmute::<Lately, u64>(told)) };
    let kind = if news & ENDS != 0 {
        EventKind::Closed
    } else if news & tcp::SYN != 0 || (!known && key.protocol != protocol::TCP) {
        EventKind::New
    } else {
        EventKind::Ongoing
    };
    Some((kind, role))
}

/// Never 0.
#[inline(always)]
fn hash<A: Address>(key: &Tuple<A>) -> u32 {
    const ODD: u32 = 0x9E37_79B1;
    let ports = (key.source_port.raw() as u32) << 16 | key.destination_port.raw() as u32;
    let mut hash = key.source.mix().wrapping_mul(ODD) ^ (key.destination.mix() ^ ports).rotate_left(13);
    hash = (hash ^ (hash >> 15)).wrapping_mul(0x85EB_CA77) ^ key.protocol as u32;
    hash = (hash ^ (hash >> 13)).wrapping_mul(ODD);
    (hash ^ (hash >> 16)) | 1
}
