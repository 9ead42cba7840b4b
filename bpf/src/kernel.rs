//! The packet context, and the few things of the kernel that aya-ebpf has no safe word for.

use core::{ffi::c_void, mem, ptr};

use abi::CAST_TO_KERN_CTX;
use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS, BPF_F_RECOMPUTE_CSUM},
    helpers::generated as helper,
};

use crate::parse::Bytes;

/// Continue with the next program, then the stack: `TCX_NEXT`, and `TC_ACT_UNSPEC` where clsact runs us.
pub const NEXT: i32 = -1;
/// `TC_ACT_SHOT`.
pub const DROP: i32 = 2;
/// Length of an Ethernet header.
pub const ETHERNET: usize = 14;

/// Byte offset of the bit field `ip_summed` in the running kernel's `struct sk_buff`; 0 where the loader found none, or where
/// the kernel has no kfunc to read it. Set at load.
#[unsafe(no_mangle)]
static IP_SUMMED_OFFSET: u32 = 0;
/// How far right the field lies in its byte. Set at load.
#[unsafe(no_mangle)]
static IP_SUMMED_SHIFT: u32 = 0;

/// The packet that a program runs on.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Context(*mut __sk_buff);

/// A packet's linear bytes: `data` up to, not including, `data_end`.
///
/// Parsers take any, so that they serve contexts of other kinds than [`Context`], such as XDP's.
pub trait Frame: Copy {
    fn data(self) -> usize;
    fn data_end(self) -> usize;
}

/// `skb->ip_summed` (`include/linux/skbuff.h`), as far as rewriting must tell its values apart.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Summed {
    /// The field holds a complete checksum: NONE or UNNECESSARY.
    Whole,
    /// The field holds the pseudo header's sum; the device or the stack completes it.
    Partial,
    /// COMPLETE, or not known on this kernel: only a helper can do it right.
    ByHelper,
}

#[inline(always)]
pub fn jiffies() -> u32 {
    // SAFETY: takes nothing, reads a kernel variable.
    unsafe { helper::bpf_jiffies64() as u32 }
}

/// Adds in one instruction, which nothing on this CPU can cut in two.
///
/// # Safety
/// Points to a number that is there, aligned.
#[inline(always)]
pub unsafe fn add(number: *mut u64, more: u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller's. The target has the instruction, but no `AtomicU64::fetch_add`.
    unsafe {
        core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::Relaxed }>(
            number, more,
        );
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's.
    unsafe {
        core::sync::atomic::AtomicU64::from_ptr(number)
            .fetch_add(more, core::sync::atomic::Ordering::Relaxed);
    }
}

#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: takes nothing.
    unsafe { helper::bpf_get_prandom_u32() }
}

/// The unfolded one's-complement sum of `bytes`, a multiple of four, from the word at `first` on.
#[inline(always)]
pub fn sum_behind<const N: usize>(words: &mut [u32; N], first: usize, bytes: u32) -> u32 {
    if first > N || bytes > 4 * (N - first) as u32 {
        return 0;
    }
    // SAFETY: at most as long as what is left of the words.
    unsafe { helper::bpf_csum_diff(ptr::null_mut(), 0, words.as_mut_ptr().add(first), bytes, 0) as u32 }
}

impl Frame for Context {
    #[inline(always)]
    fn data(self) -> usize {
        // SAFETY: the kernel passes a valid context; the verifier rewrites the access.
        unsafe { (*self.0).data as usize }
    }

    #[inline(always)]
    fn data_end(self) -> usize {
        // SAFETY: as in `data`.
        unsafe { (*self.0).data_end as usize }
    }
}

impl Context {
    pub fn new(skb: *mut __sk_buff) -> Self {
        Self(skb)
    }

    #[inline(always)]
    pub fn raw(self) -> *mut __sk_buff {
        self.0
    }

    /// Bytes, with the Ethernet header.
    #[inline(always)]
    pub fn length(self) -> u32 {
        // SAFETY: the kernel passes a valid context; the verifier rewrites the access.
        unsafe { (*self.0).len }
    }

    /// Payload per segment of a packet that is yet to be cut; 0 for an ordinary one.
    #[inline(always)]
    pub fn segment_payload(self) -> u32 {
        // SAFETY: as in `length`.
        unsafe { (*self.0).gso_size }
    }

    /// EtherType, in network order.
    #[inline(always)]
    pub fn protocol(self) -> u16 {
        // SAFETY: as in `length`.
        unsafe { (*self.0).protocol as u16 }
    }

    #[inline(always)]
    pub fn interface(self) -> u32 {
        // SAFETY: as in `length`.
        unsafe { (*self.0).ifindex }
    }

    /// The device that it came in by; 0: it was sent here (`skb_iif`).
    #[inline(always)]
    pub fn received_on(self) -> u32 {
        // SAFETY: as in `length`.
        unsafe { (*self.0).ingress_ifindex }
    }

    /// A note between this node's programs: a redirect out of a device meets the egress program there.
    ///
    /// `tc_index` and not `mark`: policy routing, netfilter and others own the mark.
    #[inline(always)]
    pub fn set_note(self, note: u16) {
        // SAFETY: as in `length`; tc programs may write `tc_index`.
        unsafe { (*self.0).tc_index = note as u32 }
    }

    #[inline(always)]
    pub fn note(self) -> u16 {
        // SAFETY: as in `length`.
        unsafe { (*self.0).tc_index as u16 }
    }

    /// Makes the first `want` bytes, or all there are, readable in place.
    #[inline(never)]
    pub fn pull(self, want: u32) -> bool {
        let len = self.length();
        // SAFETY: the helper checks the length.
        unsafe { helper::bpf_skb_pull_data(self.0, if want < len { want } else { len }) == 0 }
    }

    /// How the transport checksum of this packet stands.
    #[inline(always)]
    pub fn summed(self) -> Summed {
        // SAFETY: reads a constant that the loader set; volatile, so that the compiler does not fold its initial value.
        let (offset, shift) = unsafe {
            (ptr::read_volatile(&raw const IP_SUMMED_OFFSET), ptr::read_volatile(&raw const IP_SUMMED_SHIFT))
        };
        if offset == 0 {
            return Summed::ByHelper;
        }
        // SAFETY: the loader made this number a call of the kfunc, or set the offset to 0 so that it is never reached.
        let cast: unsafe extern "C" fn(*mut __sk_buff) -> *const u8 =
            unsafe { mem::transmute(CAST_TO_KERN_CTX as usize) };
        // SAFETY: the kfunc returns the `struct sk_buff` behind the context; the verifier checks the offset by BTF.
        let byte = unsafe { ptr::read_volatile(cast(self.0).add(offset as usize)) };
        match (byte >> (shift & 7)) & 3 {
            3 => Summed::Partial,
            2 => Summed::ByHelper,
            _ => Summed::Whole,
        }
    }

    /// Adds `delta` to the checksum at `offset`, whatever state it is in.
    #[inline(always)]
    pub fn replace_checksum(self, offset: usize, delta: u16, flags: u64) -> bool {
        // SAFETY: the helper checks the offset. Size 0 means: `to` is the difference.
        unsafe { helper::bpf_l4_csum_replace(self.0, offset as u32, 0, delta as u64, flags) == 0 }
    }

    /// Like [`Self::replace_checksum`], for an IPv4 header.
    #[inline(always)]
    pub fn replace_header_checksum(self, offset: u32, delta: u16) -> bool {
        // SAFETY: as in `replace_checksum`.
        unsafe { helper::bpf_l3_csum_replace(self.0, offset, 0, delta as u64, 0) == 0 }
    }

    #[inline(always)]
    pub fn change_tail(self, len: u32) -> bool {
        // SAFETY: the helper checks the length.
        unsafe { helper::bpf_skb_change_tail(self.0, len, 0) == 0 }
    }

    /// Removes `bytes` between the Ethernet header and the network header.
    #[inline(always)]
    pub fn cut_front(self, bytes: i32) -> bool {
        const AFTER_ETHERNET: u32 = 1; // BPF_ADJ_ROOM_MAC
        // SAFETY: the helper checks the length.
        unsafe { helper::bpf_skb_adjust_room(self.0, -bytes, AFTER_ETHERNET, 0) == 0 }
    }

    /// Like [`Self::load`], in place and without a helper; false where the bytes, whole words, are not linear.
    #[inline(always)]
    pub fn read<const BYTES: usize, const N: usize>(self, offset: usize, words: &mut [u32; N]) -> bool {
        const { assert!(BYTES <= 4 * N && BYTES.is_multiple_of(4)) };
        let Some(bytes) = Bytes::<BYTES>::at(self, offset) else { return false };
        for (index, word) in words[..BYTES / 4].iter_mut().enumerate() {
            *word = bytes.word(index);
        }
        true
    }

    #[inline(always)]
    pub fn load<const N: usize>(self, offset: usize, words: &mut [u32; N], bytes: u32) -> bool {
        // SAFETY: at most as long as the destination.
        bytes <= 4 * N as u32
            && unsafe {
                helper::bpf_skb_load_bytes(
                    self.0.cast_const().cast(),
                    offset as u32,
                    words.as_mut_ptr().cast::<c_void>(),
                    bytes,
                ) == 0
            }
    }

    /// Like [`Self::load`], into `words` from the one at `first` on.
    #[inline(always)]
    pub fn load_behind<const N: usize>(
        self,
        offset: usize,
        words: &mut [u32; N],
        first: usize,
        bytes: u32,
    ) -> bool {
        // SAFETY: at most as long as what is left of the destination.
        first <= N
            && bytes <= 4 * (N - first) as u32
            && unsafe {
                helper::bpf_skb_load_bytes(
                    self.0.cast_const().cast(),
                    offset as u32,
                    words.as_mut_ptr().add(first).cast::<c_void>(),
                    bytes,
                ) == 0
            }
    }

    #[inline(always)]
    pub fn store<const N: usize>(self, offset: usize, words: &[u32; N], bytes: u32) -> bool {
        // SAFETY: at most as long as the source.
        bytes <= 4 * N as u32
            && unsafe {
                helper::bpf_skb_store_bytes(self.0, offset as u32, words.as_ptr().cast(), bytes, 0) == 0
            }
    }

    /// Like [`Self::store`], and keeps a checksum that the device has computed over the packet right.
    #[inline(always)]
    pub fn store_summed<const N: usize>(self, offset: usize, words: &[u32; N], bytes: u32) -> bool {
        // SAFETY: as in `store`.
        bytes <= 4 * N as u32
            && unsafe {
                let flags = BPF_F_RECOMPUTE_CSUM as u64;
                helper::bpf_skb_store_bytes(self.0, offset as u32, words.as_ptr().cast(), bytes, flags) == 0
            }
    }

    /// Out of the device the packet is on, or, `inwards`, in through it.
    #[inline(always)]
    pub fn bounce(self, inwards: bool) -> i32 {
        let flags = if inwards { BPF_F_INGRESS as u64 } else { 0 };
        // SAFETY: takes numbers only.
        unsafe { helper::bpf_redirect(self.interface(), flags) as i32 }
    }
}
