//! ICMP errors about translated packets: sent on like an answer to the packet they quote, which is turned back into what
//! its sender sent. Fragmentation needed and packet too big among them: path MTU discovery works through a frontend.
//!
//! Messages that are no errors are left to the stack, echo requests to a frontend's address too: like kube-proxy, a Service
//! answers no ping. The quoted transport checksum stays as it is: it is not checked by receivers, and mostly not quoted in
//! full (RFC 5508, section 4.2, asks for addresses and ports).

use abi::{Be16, Flow, Reason, Tuple, flow_flags};
use aya_ebpf::bindings::BPF_F_PSEUDO_HDR;

use crate::{
    checksum::Delta,
    conntrack,
    family::{Family, Scratch},
    headers::{self, Shape},
    hook::{Hook, Outcome},
    kernel::{Context, NEXT},
    maps, nat, route,
};

/// Type, code, checksum, and a word that depends on the type.
const HEADER: u32 = 8;
/// What must be quoted of a transport header (RFC 792): ports, and no more is looked at.
const QUOTED: u32 = 8;

/// Any whole ICMP packet, as [`crate::inspect`] left it: finds out whether it is an error, and the tuple that an answer to the
/// packet it quotes has; else why it passes.
#[inline(never)]
pub fn read<F: Family>(ctx: Context) -> Result<(), Reason> {
    let Some(scratch) = F::scratch() else { return Err(Reason::PassedUnparsed) };
    quote::<F>(ctx, scratch)
}

/// Sends on an error that has been read; only those about flows that we translate are touched.
#[inline(never)]
pub fn run<F: Family, H: Hook>(ctx: Context) -> Outcome {
    let (Some(config), Some(scratch)) = (maps::config(), F::scratch()) else {
        return Outcome::drop(Reason::DroppedInternal);
    };
    let Scratch { inner, .. } = &mut *scratch;
    let Some(flow) = conntrack::find::<F>(inner) else { return Outcome::pass(Reason::PassedUnrelated) };
    if H::INGRESS && flow.has(flow_flags::WHOLE) {
        // About an answer that left from the backend's node, which knows to whom it belongs.
        return Outcome { reason: Reason::ForwardedIcmpError, verdict: nat::leave::<F, H>(ctx, flow) };
    }
    if !flow.has(flow_flags::TRANSLATED) {
        return Outcome::pass(Reason::PassedUnrelated);
    }
    if flow.revision != config.revision {
        // The revision stays behind: the flow's next own packet is still to be reviewed.
        route::resolve::<F, H>(ctx, flow);
        nat::set_deltas::<F>(inner, flow);
    }
    if !translate::<F>(ctx, scratch, flow) {
        return Outcome::drop(Reason::DroppedInternal);
    }
    let verdict = if H::INGRESS { nat::leave::<F, H>(ctx, flow) } else { NEXT };
    Outcome { reason: Reason::ForwardedIcmpError, verdict }
}

#[inline(always)]
fn quote<F: Family>(ctx: Context, scratch: &mut Scratch<F::Address>) -> Result<(), Reason> {
    let (at, end) = (scratch.headers.transport, scratch.headers.transport + scratch.headers.length);
    // No kind, should it not be read.
    scratch.words[0] = u32::MAX;
    if scratch.headers.length < HEADER || !ctx.load(at as usize, &mut scratch.words, HEADER) {
        return Err(Reason::PassedProtocol);
    }
    let [kind, code, ..] = scratch.words[0].to_ne_bytes();
    // As events have them.
    (scratch.key.source_port, scratch.key.destination_port) =
        (Be16::new(kind as u16), Be16::new(code as u16));
    if !F::is_icmp_error(kind) {
        return Err(Reason::PassedProtocol);
    }
    if headers::walk::<F>(ctx, at + HEADER, true).is_err() {
        return Err(Reason::PassedUnparsed);
    }
    let Scratch { inner, quoted, words, .. } = scratch;
    if quoted.shape == Shape::Later || !headers::is_tracked(inner.protocol) {
        return Err(Reason::PassedUnrelated);
    }
    // By the headers' word: what follows a shorter message in the frame is padding, outside its checksum.
    if quoted.transport + QUOTED > end || !ctx.load(quoted.transport as usize, words, QUOTED) {
        return Err(Reason::PassedUnparsed);
    }
    let [a, b, c, d] = words[0].to_ne_bytes();
    (inner.source, inner.destination) = (inner.destination, inner.source);
    inner.source_port = Be16::from_raw(u16::from_ne_bytes([c, d]));
    inner.destination_port = Be16::from_raw(u16::from_ne_bytes([a, b]));
    Ok(())
}

#[inline(always)]
fn translate<F: Family>(ctx: Context, scratch: &mut Scratch<F::Address>, flow: &Flow<F::Address>) -> bool {
    let Scratch { key, headers, quoted, inner: answer, .. } = scratch;
    let old = (key.source, key.destination);
    // The quoted packet's sender knows nobody behind the frontend, or behind a masquerading node: as the kernel's NAT does
    // (`nf_nat_icmp_reply_translation`). A router on both ways would not take an error from its own address either.
    let hidden = flow.has(flow_flags::REPLY | flow_flags::MASQUERADED);
    let source = if hidden || old.0 == answer.source { flow.source } else { old.0 };
    let new = (source, flow.destination);
    let (old_quoted, new_quoted) = ((answer.destination, answer.source), (flow.destination, flow.source));

    let delta = F::header_delta(old_quoted, new_quoted, 0);
    let ports = nat::port_word(flow.destination_port, flow.source_port);
    if !F::rewrite_quoted(ctx, headers.transport + HEADER, new_quoted, delta)
        || !ctx.store(quoted.transport as usize, &[ports], 4)
        || !replace_checksum::<F>(ctx, headers.transport + 2, answer, (old, new), flow)
    {
        return false;
    }
    if F::network(ctx).is_none() && !ctx.pull(F::TRANSPORT as u32) {
        return false;
    }
    let Some((ethernet, network)) = F::network(ctx) else { return false };
    let step = if F::time_to_live(network) > 1 { flow.ttl_step } else { 0 };
    F::rewrite(network, new, step, F::header_delta(old, new, step));
    if flow.route == abi::Route::Peer as u8 {
        nat::set_link_addresses(ethernet, flow);
    }
    true
}

/// Of the message: what it quotes has changed, and for ICMPv6 its own addresses.
#[inline(always)]
fn replace_checksum<F: Family>(
    ctx: Context,
    field: u32,
    answer: &Tuple<F::Address>,
    (old, new): ((F::Address, F::Address), (F::Address, F::Address)),
    flow: &Flow<F::Address>,
) -> bool {
    let mut inner = Delta::none()
        .word(answer.destination_port.raw(), flow.destination_port.raw())
        .word(answer.source_port.raw(), flow.source_port.raw());
    let mut outer = Delta::none();
    if F::ICMP_SUMS_ADDRESSES {
        inner = F::address_delta(inner, answer.destination, flow.destination);
        inner = F::address_delta(inner, answer.source, flow.source);
        outer = F::address_delta(F::address_delta(outer, old.0, new.0), old.1, new.1);
    }
    // IPv4: the quoted header's own checksum moves with its addresses, so that their sum stays.
    let (inner, outer) = (inner.fold(), outer.fold());
    (inner == 0 || ctx.replace_checksum(field as usize, inner, 0))
        && (outer == 0 || ctx.replace_checksum(field as usize, outer, BPF_F_PSEUDO_HDR as u64))
}
