//! Where a flow's packets leave: found once per flow and revision, kept in its entry.

use core::mem;

use abi::{Endpoint, Flow, Lookup, Origin, Route, flow_flags};
use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_SKIP_NEIGH, bpf_fib_lookup,
    },
    helpers::generated as helper,
};

use crate::{
    counters,
    family::{Family, origin},
    hook::Hook,
    kernel::Context,
    maps::{self, Space},
};

/// The loopback device of every namespace. What its processes send is routed as if it had come from there
/// (`ip_route_output_key_hash`), and that must be asked: `BPF_FIB_LOOKUP_OUTPUT` looks at the routes of one device only, and
/// the way to a backend may be another than the frontend's, as the tunnel is.
const LOOPBACK: u32 = 1;
/// No limit of ours: a veth takes what the pod's stack takes.
const NO_MTU: u32 = u32::MAX;

/// Who the destination is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A pod of this node.
    Pod,
    /// This node itself.
    Node,
    /// Out of a device.
    Wire,
    /// The routing table has no answer for us: the stack decides.
    Unknown,
}

/// Fills in how packets to `flow.destination` leave.
#[inline(always)]
pub fn resolve<F: Family, H: Hook>(ctx: Context, flow: &mut Flow<F::Address>) -> Way {
    counters::lookup(Lookup::Route);
    flow.link_checked = 0;
    // SAFETY: rows are replaced whole by user space; a reader keeps the old one until its program ends (RCU).
    let way = if let Some(endpoint) = unsafe { F::endpoints().get(flow.destination) } {
        to_pod::<F, H>(flow, endpoint);
        Way::Pod
    } else if origin::<F>(flow.destination) == Origin::Node {
        to_stack(flow);
        Way::Node
    } else if !H::INGRESS && flow.has(flow_flags::REPLY) {
        // The stack has routed this answer of a process of ours already.
        to_stack(flow);
        Way::Wire
    } else {
        to_wire::<F, H>(ctx, flow)
    };
    if !H::INGRESS {
        // What a process of this node sends has not been forwarded yet.
        flow.ttl_step = 0;
    }
    way
}

#[inline(always)]
fn to_pod<F: Family, H: Hook>(flow: &mut Flow<F::Address>, endpoint: &Endpoint) {
    flow.interface = endpoint.interface;
    flow.mtu = NO_MTU;
    flow.ttl_step = 1;
    if !H::INGRESS {
        if flow.has(flow_flags::REPLY) {
            return to_stack(flow);
        }
        // `redirect_peer` works at ingress only (`skb_do_redirect`).
        flow.route = Route::Neighbour as u8;
        flow.next_hop = F::direct_next_hop(flow.destination);
        return;
    }
    flow.route = Route::Peer as u8;
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (endpoint.mac, endpoint.host_mac);
    flow.next_hop = [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        0,
        0,
    ];
}

#[inline(always)]
pub fn to_stack<A>(flow: &mut Flow<A>) {
    flow.route = Route::Stack as u8;
    flow.interface = 0;
    flow.mtu = NO_MTU;
    flow.ttl_step = 0;
}

#[inline(always)]
fn to_wire<F: Family, H: Hook>(ctx: Context, flow: &mut Flow<F::Address>) -> Way {
    let Some(Space { query, .. }) = maps::space() else {
        to_stack(flow);
        return Way::Unknown;
    };
    // SAFETY: all zero is a valid query.
    *query = unsafe { mem::zeroed() };
    query.family = F::ADDRESS_FAMILY;
    query.ifindex = if H::INGRESS { ctx.interface() } else { LOOPBACK };
    // Any length asks for the route's MTU; one byte always fits.
    query.__bindgen_anon_1.tot_len = 1;
    F::set_fib_addresses(query, flow.source, flow.destination);
    // The neighbour is found when the packet leaves; and with it, an unresolved one would hide the MTU.
    let mut answer = ask(ctx, query, BPF_FIB_LOOKUP_SKIP_NEIGH);
    if answer == EINVAL {
        // Kernels before 6.3 know no such flag.
        answer = ask(ctx, query, 0);
    }
    if answer != BPF_FIB_LKUP_RET_SUCCESS as i64 && answer != BPF_FIB_LKUP_RET_NO_NEIGH as i64 {
        to_stack(flow);
        return Way::Unknown;
    }
    flow.route = Route::Neighbour as u8;
    flow.interface = query.ifindex;
    flow.next_hop = F::next_hop(query);
    flow.ttl_step = 1;
    // SAFETY: written by the kernel in answer to `tot_len`.
    flow.mtu = match unsafe { query.__bindgen_anon_1.mtu_result } {
        // Not answered: an older kernel, and an unresolved neighbour.
        0 | 1 => NO_MTU,
        mtu => mtu as u32,
    };
    Way::Wire
}

const EINVAL: i64 = -22;

#[inline(always)]
fn ask(ctx: Context, query: &mut bpf_fib_lookup, flags: u32) -> i64 {
    // SAFETY: the query is as long as we say.
    unsafe {
        helper::bpf_fib_lookup(ctx.raw().cast(), &raw mut *query, size_of::<bpf_fib_lookup>() as i32, flags)
    }
}
