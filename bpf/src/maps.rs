//! Maps that both families share. Those of one family are declared with it, in [`crate::family`].
//!
//! User space resizes the tables at load; the numbers here are what it takes by default.

use abi::{COUNTERS as COUNTER_ROWS, Config, Count, Frontend, prefilter};
use aya_ebpf::{
    bindings::bpf_fib_lookup,
    btf_maps::{Array, PerCpuArray},
    macros::btf_map,
};

use crate::family::MESSAGE_WORDS;

#[btf_map]
pub static CONFIG: Array<Config, 1> = Array::new();

#[btf_map]
pub static COUNTERS: PerCpuArray<Count, { COUNTER_ROWS }> = PerCpuArray::new();

#[btf_map]
pub static PREFILTER: Array<u64, { prefilter::WORDS }> = Array::new();

/// A question to the routing table, and a message that is being composed: too big for the stack.
#[repr(C)]
pub struct Space {
    pub query: bpf_fib_lookup,
    pub message: [u32; MESSAGE_WORDS],
}

#[btf_map]
static SPACE: PerCpuArray<Space, 1> = PerCpuArray::new();

/// To be asked for once per use: what it holds is anyone's.
#[inline(always)]
pub fn space() -> Option<&'static mut Space> {
    // SAFETY: this CPU's own, and nothing interrupts a program with another of the same CPU.
    SPACE.get_ptr_mut(0).map(|space| unsafe { &mut *space })
}

/// What the program that runs now may use, read once per packet.
#[inline(always)]
pub fn config() -> Option<&'static Config> {
    CONFIG.get(0)
}

/// Whether the prefilter has this address, port and protocol.
#[inline(always)]
pub fn may_have<A: abi::Address>(address: A, port: abi::Be16, protocol: u8) -> bool {
    let bit = prefilter::bit(address, port, protocol);
    PREFILTER.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 != 0)
}

/// Flags of the tables that may hold tens of thousands of rows and mostly do not: `BPF_F_NO_PREALLOC`.
pub const GROWS: usize = aya_ebpf::bindings::BPF_F_NO_PREALLOC as usize;

pub const FRONTEND_ROWS: usize = 65_536;
pub const BACKEND_ROWS: usize = 131_072;
pub const MAGLEV_ROWS: usize = 262_144;
pub const FLOW_ROWS: usize = 65_536;
pub const RANGE_ROWS: usize = 16_384;
pub const AFFINITY_ROWS: usize = 16_384;
pub const ENDPOINT_ROWS: usize = 1_024;
pub const ORIGIN_ROWS: usize = 1_024;
pub const IDENTITY_ROWS: usize = 524_288;
pub const PREFIX_ROWS: usize = 65_536;
pub const FRAGMENT_ROWS: usize = 4_096;

const _: () = assert!(size_of::<Frontend>().is_multiple_of(8));
