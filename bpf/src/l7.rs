//! What endpoints that opted in say: the first bytes of their DNS messages and of HTTP/1 start lines, for user space to read.
//!
//! From the slow path only. An entry of a flow that one of them is part of keeps its packets there ([`flow_flags::L7`]), and is
//! marked when it is validated anew, as every change of an endpoint has it. No entry tells of what a pod and the stack exchange
//! without a service: there the pod itself is looked up, where any endpoint of this node opted in.
//!
//! Never changes a packet, and never what becomes of it.

use core::slice;

use abi::{
    Be16, EVENT_VERSION, EventKind, Flow, L7_BYTES, L7Event, Point, Reason, Tuple, flow_flags, l7_flags,
    protocol,
};
use aya_ebpf::{btf_maps::PerCpuArray, helpers::generated as helper, macros::btf_map};

use crate::{
    events,
    family::{Family, Scratch},
    headers::Shape,
    hook::Hook,
    identity::Identities,
    kernel::Context,
    maps,
};

const DNS_PORT: u16 = 53;
/// A DNS header (RFC 1035, section 4.1.1); start lines are longer.
const SHORTEST: u32 = 12;

/// A record while it is made: too big for the stack.
#[repr(C)]
struct Space {
    event: L7Event,
    payload: [u32; L7_BYTES / 4],
}

#[btf_map]
static L7_SPACE: PerCpuArray<Space, 1> = PerCpuArray::new();

/// Whether the destination is an endpoint of this node that lets any of its packets be read. Never inlined: the fast path's
/// stack is short.
#[inline(never)]
pub fn is_open<F: Family>(tuple: &Tuple<F::Address>) -> bool {
    allowed::<F>(tuple.destination) != 0
}

/// Tells what the packet in the scratch says, if it may be read and says anything.
#[inline(never)]
pub fn offer<F: Identities, H: Hook>(ctx: Context, reason: Reason) {
    let (Some(config), Some(scratch)) = (maps::config(), F::scratch()) else { return };
    let Scratch { key, headers, noted, .. } = &*scratch;
    let has_ports = key.protocol == protocol::TCP || key.protocol == protocol::UDP;
    if *noted & events::READ == 0 || headers.shape == Shape::Later || !has_ports {
        return;
    }
    let flow = F::flows().get_ptr_mut(key);
    // SAFETY: as in `conntrack::find`.
    let mut flow = flow.map(|flow| unsafe { &mut *flow });
    let wanted = wanted(key, flow.as_deref());
    if config.l7 & wanted == 0 {
        return;
    }
    if !may_be_read::<F, H>(key, flow.as_deref_mut(), reason, wanted) {
        return;
    }
    let at = headers.transport + headers.transport_header;
    let length = headers.length.wrapping_sub(headers.transport_header);
    if headers.length < headers.transport_header || length < SHORTEST {
        return;
    }
    // SAFETY: this CPU's own, and nothing interrupts a program with another of the same CPU.
    let Some(space) = L7_SPACE.get_ptr_mut(0).map(|space| unsafe { &mut *space }) else { return };
    if !ctx.load(at as usize, &mut space.payload, 4) {
        return;
    }
    let begins = space.payload[0];
    let says = match wanted {
        l7_flags::HTTP => is_start_line(begins),
        _ if key.protocol == protocol::TCP => holds_message(begins, length),
        _ => true,
    };
    if !says {
        return;
    }
    // By way of the payload's place: the stack is short.
    if key.protocol == protocol::TCP && !ctx.load(headers.transport as usize + 4, &mut space.payload, 8) {
        return;
    }
    let numbers = if key.protocol == protocol::TCP { [space.payload[0], space.payload[1]] } else { [0; 2] };
    space.event = L7Event::default();
    space.event.sequence = u32::from_be(numbers[0]);
    space.event.acknowledgment = u32::from_be(numbers[1]);
    space.event.length = length;
    let event = &mut space.event.event;
    event.version = EVENT_VERSION;
    event.kind = EventKind::L7 as u8;
    event.point = H::POINT as u8;
    event.family = F::VERSION;
    event.tcp_flags = headers.flags;
    // SAFETY: takes nothing.
    event.time = unsafe { helper::bpf_ktime_get_boot_ns() };
    event.reason = reason as u32;
    event.interface = ctx.interface();
    event.revision = config.revision;
    let destination = events::describe(event, key, flow.as_deref());
    events::identify::<F>(event, (key.source, destination), [0; 2]);
    hand_over(ctx, space, at, length);
}

/// What has to be allowed for a packet of this tuple to be read. A service may serve its port 53 at another.
#[inline(always)]
fn wanted<A>(key: &Tuple<A>, flow: Option<&Flow<A>>) -> u32 {
    let dns = Be16::new(DNS_PORT);
    let translated = flow.is_some_and(|flow| flow.source_port == dns || flow.destination_port == dns);
    if key.source_port == dns || key.destination_port == dns || translated {
        l7_flags::DNS
    } else if key.protocol == protocol::TCP {
        l7_flags::HTTP
    } else {
        0
    }
}

#[inline(always)]
fn allowed<F: Family>(address: F::Address) -> u32 {
    // SAFETY: rows are replaced whole by user space; a reader keeps the old one until its program ends (RCU).
    unsafe { F::endpoints().get(address) }.map_or(0, |endpoint| endpoint.l7)
}

/// Whether one end allows it. Each packet is seen at one hook only: on its way out of the pod that sends it, or else where it is
/// delivered.
#[inline(always)]
fn may_be_read<F: Family, H: Hook>(
    key: &Tuple<F::Address>,
    flow: Option<&mut Flow<F::Address>>,
    reason: Reason,
    wanted: u32,
) -> bool {
    let from_pod = H::POINT as u8 == Point::FromPod as u8;
    let to_pod = H::POINT as u8 == Point::ToPod as u8;
    match (reason, flow) {
        (Reason::ForwardedEstablished, Some(flow)) => flow.has(flow_flags::L7),
        (Reason::ForwardedNew | Reason::ForwardedUpdated, Some(flow)) => {
            let is_allowed = (from_pod && allowed::<F>(key.source) & wanted != 0)
                || allowed::<F>(flow.destination) & wanted != 0;
            flow.flags = if is_allowed { flow.flags | flow_flags::L7 } else { flow.flags & !flow_flags::L7 };
            is_allowed
        }
        (Reason::PassedUnrelated, _) if from_pod => allowed::<F>(key.source) & wanted != 0,
        (Reason::PassedUnrelated, _) if to_pod => allowed::<F>(key.destination) & wanted != 0,
        _ => false,
    }
}

/// Four bytes that an answer or a request by one of the usual methods begins with (RFC 9112, section 2.1; RFC 9110, section 9.1;
/// RFC 5789).
#[inline(always)]
fn is_start_line(word: u32) -> bool {
    const fn word_of(text: &[u8; 4]) -> u32 {
        u32::from_ne_bytes(*text)
    }
    const STARTS: [u32; 10] = [
        word_of(b"HTTP"),
        word_of(b"GET "),
        word_of(b"HEAD"),
        word_of(b"POST"),
        word_of(b"PUT "),
        word_of(b"DELE"),
        word_of(b"OPTI"),
        word_of(b"PATC"),
        word_of(b"TRAC"),
        word_of(b"CONN"),
    ];
    STARTS.contains(&word)
}

/// Whether a segment holds at least one whole message, behind its length (RFC 1035, section 4.2.2).
#[inline(always)]
fn holds_message(word: u32, length: u32) -> bool {
    let [a, b, ..] = word.to_ne_bytes();
    let message = u16::from_be_bytes([a, b]) as u32;
    message >= SHORTEST && message + 2 <= length
}

#[inline(always)]
fn hand_over(ctx: Context, space: &mut Space, at: u32, length: u32) {
    let copied = if length > L7_BYTES as u32 { L7_BYTES as u32 } else { length };
    // SAFETY: at most as long as the payload; not empty, as the verifier wants it.
    let loaded = unsafe {
        helper::bpf_skb_load_bytes(
            ctx.raw().cast_const().cast(),
            at,
            space.payload.as_mut_ptr().cast(),
            copied,
        ) == 0
    };
    if loaded {
        let start = (&raw const *space).cast::<u8>();
        // SAFETY: the record's head, and as much of the payload behind it as was just copied.
        let record = unsafe { slice::from_raw_parts(start, size_of::<L7Event>() + copied as usize) };
        events::hand_over(EventKind::L7, record);
    }
}
