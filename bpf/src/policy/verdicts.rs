//! What was decided last, by the pair of ends: most new flows are of a pair that had one just before, and who is denied tries
//! again.
//!
//! A small table of hashes for each CPU, where a newer pair takes an older one's row. A row holds as an entry of the connection
//! table does: until the revision moves, which it does after every change of anything that decides. The revision is read before
//! anything is asked, so that what was decided while something changed holds for nobody.

use abi::{Address, Be16, Reason, flow_flags};

use super::{Asked, RULES};
use crate::{family::Scratch, hook::Hook, identity::Identities, kernel::Context};

/// 28 KiB for each CPU (IPv4), 44 KiB (IPv6).
pub const ROWS: usize = 512;

/// Values of [`Verdict::denied`].
pub const BY_NONE: u32 = 0;
pub const BY_SENDER: u32 = 1;
pub const BY_RECEIVER: u32 = 2;

#[repr(C)]
pub struct Verdict<A> {
    /// Without the flags that do not matter.
    pub asked: Asked<A>,
    /// The interfaces of those that were asked; 0: nobody.
    pub ends: [u32; 2],
    /// 0: the row says nothing.
    pub revision: u32,
    /// Whose policy denies it.
    pub denied: u32,
    /// What there is to note of the packet, of the bits in [`crate::events`].
    pub noted: u32,
    /// That decided for the sender, for the receiver; 0: none.
    pub rules: [u32; 2],
    /// How narrow their rows were, of [`abi::matched`].
    pub matched: [u8; 2],
    /// Of `asked.source`, unless that is the receiver itself, and of `asked.destination`; 0: not known.
    pub identities: [u32; 2],
}

impl<A: Address> Verdict<A> {
    #[inline(always)]
    pub fn is_of(&self, asked: &Asked<A>, revision: u32) -> bool {
        self.revision == revision
            && self.asked.source == asked.source
            && self.asked.destination == asked.destination
            && self.asked.sender == asked.sender
            && self.asked.port == asked.port
            && self.asked.protocol == asked.protocol
            && self.asked.flags == asked.flags
    }
}

/// The row of a pair.
#[inline(always)]
fn place<A: Address>(source: A, destination: A, port: Be16) -> u32 {
    const ODD: u32 = 0x9E37_79B1;
    let hash = source.mix().wrapping_mul(ODD) ^ (destination.mix() ^ port.raw() as u32).rotate_left(13);
    (hash.wrapping_mul(0x85EB_CA77) >> 16) & (ROWS as u32 - 1)
}

/// Why the packet in the scratch is dropped, where that is known already of another between the same two ends: asked before
/// anything is looked up for it. For packets that open a flow, are on their way into this node, and go to no frontend.
#[inline(never)]
pub fn is_denied<F: Identities, H: Hook>(ctx: Context) -> Option<Reason> {
    let scratch = F::scratch()?;
    let Scratch { asked, key, revision, .. } = scratch;
    (asked.sender, asked.source, asked.destination) = (key.source, key.source, key.destination);
    (asked.port, asked.protocol, asked.flags) = (key.destination_port, key.protocol, 0);
    let sender = if H::OF_POD { ctx.interface() } else { 0 };
    let verdict = of::<F>(asked)?;
    if !verdict.is_of(asked, *revision) || verdict.ends[0] != sender || verdict.denied == BY_NONE {
        return None;
    }
    pronounce(ctx, scratch, verdict)
}

/// What is known of who is asked about.
#[inline(always)]
pub fn of<F: Identities>(asked: &Asked<F::Address>) -> Option<&'static mut Verdict<F::Address>> {
    let place = place(asked.source, asked.destination, asked.port);
    // SAFETY: this CPU's own, and nothing interrupts a program with another of the same CPU.
    F::verdicts().get_ptr_mut(place).map(|verdict| unsafe { &mut *verdict })
}

/// Notes and counts a verdict on the packet.
#[inline(always)]
pub fn pronounce<A: Address>(ctx: Context, scratch: &mut Scratch<A>, verdict: &Verdict<A>) -> Option<Reason> {
    let Scratch { asked, noted, rules, matched, key, identities, .. } = scratch;
    let [by_sender, by_receiver] = verdict.rules;
    count(ctx, by_sender);
    count(ctx, by_receiver);
    (*rules, *matched) = (verdict.rules, verdict.matched);
    if asked.flags & flow_flags::REPLY == 0 {
        *identities = verdict.identities;
        if asked.source != key.source {
            identities[0] = 0;
        }
    }
    *noted |= verdict.noted;
    match verdict.denied {
        BY_NONE => None,
        BY_SENDER => Some(Reason::DroppedPolicyEgress),
        _ => Some(Reason::DroppedPolicyIngress),
    }
}

/// Counts the packet on a rule that decided about it.
#[inline(always)]
fn count(ctx: Context, rule: u32) {
    if rule != 0
        && let Some(count) = RULES.get_ptr_mut(rule)
    {
        // SAFETY: as in `of`.
        unsafe {
            (*count).packets += 1;
            (*count).bytes += ctx.length() as u64;
        }
    }
}
