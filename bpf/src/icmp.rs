//! ICMP errors about translated packets: sent on like an answer to the packet they quote, which is turned back into what
//! its sender sent.
//!
//! The quoted transport checksum stays as it is: it is not checked by receivers, and mostly not quoted in full (RFC 5508,
//! section 4.2, asks for addresses and ports).

use abi::{Be16, Reason, Tuple, flow_flags, protocol};
use aya_ebpf::bindings::BPF_F_PSEUDO_HDR;

use crate::{
    checksum::Delta,
    conntrack,
    family::Family,
    hook::{Hook, Outcome},
    kernel::{Context, ETHERNET, NEXT},
    maps, nat,
    parse::Bytes,
    route,
};

/// The error and the packet it quotes.
struct Message<F: Family> {
    ethernet: Bytes<ETHERNET>,
    network: F::Header,
    quoted: F::Header,
    quoted_ports: Bytes<8>,
}

/// Any ICMP packet; only errors about flows that we translate are touched.
#[inline(never)]
pub fn run<F: Family, H: Hook>(ctx: Context) -> Outcome {
    let Some((_, _, header)) = F::headers(ctx) else { return Outcome::pass(Reason::PassedProtocol) };
    if !F::is_icmp_error(header.read::<u8, 0>()) {
        return Outcome::pass(Reason::PassedProtocol);
    }
    if F::quoted(ctx).is_none() && !ctx.pull((F::TRANSPORT + 8 + 4 * F::QUOTE_WORDS) as u32) {
        return Outcome::pass(Reason::PassedUnparsed);
    }
    let (Some(message), Some(config), Some(scratch)) = (read::<F>(ctx), maps::config(), F::scratch()) else {
        return Outcome::pass(Reason::PassedUnparsed);
    };
    let Some(key) = answer_key::<F>(&message) else { return Outcome::pass(Reason::PassedUnrelated) };
    scratch.key = key;
    let Some(flow) = conntrack::find::<F>(&scratch.key) else {
        return Outcome::pass(Reason::PassedUnrelated);
    };
    if !flow.has(flow_flags::TRANSLATED) {
        return Outcome::pass(Reason::PassedUnrelated);
    }
    if flow.revision != config.revision {
        // The revision stays behind: the flow's next own packet is still to be reviewed.
        route::resolve::<F, H>(ctx, flow);
        nat::set_deltas::<F>(&scratch.key, flow);
    }
    let step = if F::time_to_live(message.network) > 1 { flow.ttl_step } else { 0 };
    if !translate(ctx, &message, &scratch.key, flow, step) {
        return Outcome::drop(Reason::DroppedInternal);
    }
    let verdict = if H::INGRESS { nat::leave::<F, H>(ctx, flow) } else { NEXT };
    Outcome { reason: Reason::ForwardedIcmpError, verdict }
}

#[inline(always)]
fn read<F: Family>(ctx: Context) -> Option<Message<F>> {
    let (ethernet, network, _) = F::headers(ctx)?;
    let (quoted, quoted_ports) = F::quoted(ctx)?;
    // By the header's word: what follows a shorter message in the frame is padding, outside its checksum.
    let needed = 8 + 4 * F::QUOTE_WORDS as u32;
    if !(needed..=u16::MAX as u32).contains(&F::payload(network)) {
        return None;
    }
    Some(Message { ethernet, network, quoted, quoted_ports })
}

/// The tuple that an answer to the quoted packet would have.
#[inline(always)]
fn answer_key<F: Family>(message: &Message<F>) -> Option<Tuple<F::Address>> {
    let number = F::protocol(message.quoted);
    let tracked = number == protocol::TCP || number == protocol::UDP;
    if !tracked || !F::is_plain(message.quoted) || F::is_later_fragment(message.quoted) {
        return None;
    }
    let (source, destination) = F::addresses(message.quoted);
    Some(Tuple {
        source: destination,
        destination: source,
        source_port: Be16::from_raw(message.quoted_ports.read::<u16, 2>()),
        destination_port: Be16::from_raw(message.quoted_ports.read::<u16, 0>()),
        protocol: number,
        padding: [0; 3],
    })
}

#[inline(always)]
fn translate<F: Family>(
    ctx: Context,
    message: &Message<F>,
    key: &Tuple<F::Address>,
    flow: &abi::Flow<F::Address>,
    step: u8,
) -> bool {
    let old = F::addresses(message.network);
    // An error from the quoted packet's receiver comes from the frontend, as far as its sender knows.
    let source = if old.0 == key.source { flow.source } else { old.0 };
    let new = (source, flow.destination);
    let (old_quoted, new_quoted) = ((key.destination, key.source), (flow.destination, flow.source));

    F::rewrite(message.quoted, new_quoted, 0, F::header_delta(old_quoted, new_quoted, 0));
    message.quoted_ports.write::<u16, 0>(flow.destination_port.raw());
    message.quoted_ports.write::<u16, 2>(flow.source_port.raw());
    F::rewrite(message.network, new, step, F::header_delta(old, new, step));
    if flow.route == abi::Route::Peer as u8 {
        message.ethernet.write::<u32, 0>(flow.next_hop[0]);
        message.ethernet.write::<u32, 4>(flow.next_hop[1]);
        message.ethernet.write::<u32, 8>(flow.next_hop[2]);
    }

    let mut inner = Delta::none()
        .word(key.destination_port.raw(), flow.destination_port.raw())
        .word(key.source_port.raw(), flow.source_port.raw());
    let mut outer = Delta::none();
    if F::ICMP_SUMS_ADDRESSES {
        inner = F::address_delta(inner, old_quoted.0, new_quoted.0);
        inner = F::address_delta(inner, old_quoted.1, new_quoted.1);
        outer = F::address_delta(F::address_delta(outer, old.0, new.0), old.1, new.1);
    }
    // IPv4: the quoted header's own checksum moves with its addresses, so that their sum stays.
    let (inner, outer) = (inner.fold(), outer.fold());
    let offset = F::TRANSPORT + 2;
    (inner == 0 || ctx.replace_checksum(offset, inner, 0))
        && (outer == 0 || ctx.replace_checksum(offset, outer, BPF_F_PSEUDO_HDR as u64))
}
