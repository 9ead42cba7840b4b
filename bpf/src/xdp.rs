//! XDP on an uplink: load-balancer traffic whose backend is on another node, sent back out before the stack sees it.
//!
//! Only packets of flows that the tc programs opened and keep validated, in and out of the same device. There is no slow
//! path here: what is not simply forwarded is passed, uncounted, to the tc program behind, and nothing is lost by that.
//!
//! Checksums: what a driver receives carries whole ones. Over a veth a sender of this machine may have left its checksum to
//! be completed; such a packet holds just its pseudo header's sum, is told by that, and passed.

use core::{mem, ptr};

use abi::{Config, Flow, Reason, Route};
use aya_ebpf::{
    bindings::{BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup, xdp_action, xdp_md},
    helpers::generated as helper,
};

use crate::{
    checksum::fold,
    conntrack, counters,
    family::{Family, Ipv4, Ipv6},
    hook::{FromWire, Hook as _},
    kernel::{ETHERNET, Frame, jiffies},
    maps::{self, Space},
    nat,
    parse::{self, Bytes, Packet, Transport},
};

/// A received frame, before the stack has made a packet of it.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Received(*mut xdp_md);

impl Received {
    pub fn new(md: *mut xdp_md) -> Self {
        Self(md)
    }

    #[inline(always)]
    fn interface(self) -> u32 {
        // SAFETY: the kernel passes a valid context; the verifier rewrites the access.
        unsafe { (*self.0).ingress_ifindex }
    }
}

impl Frame for Received {
    #[inline(always)]
    fn data(self) -> usize {
        // SAFETY: as in `interface`.
        unsafe { (*self.0).data as usize }
    }

    #[inline(always)]
    fn data_end(self) -> usize {
        // SAFETY: as in `interface`.
        unsafe { (*self.0).data_end as usize }
    }
}

/// A whole program: returns an `xdp_action`.
#[inline(always)]
pub fn run(frame: Received) -> u32 {
    let Some(ethernet) = Bytes::<ETHERNET>::at(frame, 0) else { return xdp_action::XDP_PASS };
    let sent = match ethernet.read::<u16, 12>() {
        Ipv4::ETHERTYPE => forward::<Ipv4>(frame),
        Ipv6::ETHERTYPE => forward::<Ipv6>(frame),
        _ => None,
    };
    match sent {
        Some(length) => {
            counters::packet(Reason::ForwardedXdp, length);
            send_back(frame)
        }
        None => xdp_action::XDP_PASS,
    }
}

/// Not 0: devices take a redirect to themselves, but not `XDP_TX`. Set at load.
///
/// A veth takes `XDP_TX` only where its peer runs XDP as well (`veth_xdp_flush`); for a redirect, receive queues of the
/// peer will do (`veth_xdp_xmit`).
#[unsafe(no_mangle)]
static BACK_BY_REDIRECT: u32 = 0;

#[inline(always)]
fn send_back(frame: Received) -> u32 {
    // SAFETY: reads a constant that the loader set; volatile, so that the compiler does not fold its initial value.
    if unsafe { ptr::read_volatile(&raw const BACK_BY_REDIRECT) } == 0 {
        return xdp_action::XDP_TX;
    }
    // SAFETY: takes numbers only.
    unsafe { helper::bpf_redirect(frame.interface(), 0) as u32 }
}

/// Rewrites the frame and says how long it is; `None`: it is as it came, and not for this program.
#[inline(always)]
fn forward<F: Family>(frame: Received) -> Option<u32> {
    // First, while there are registers: the verifier lets no half of a packet pointer be put aside.
    let length = (frame.data_end() - frame.data()) as u32;
    let config = maps::config()?;
    let packet = read::<F>(frame, length)?;
    if !FromWire::concerns::<F>(config, &packet.tuple) {
        return None;
    }
    // SAFETY: as in `conntrack::find`.
    let flow = unsafe { &mut *F::flows().get_ptr_mut(&packet.tuple)? };
    let may = is_ours(frame, &packet, flow, config)
        && length - ETHERNET as u32 <= flow.mtu
        && F::time_to_live(packet.network) > 1
        && !is_partial(&packet)
        && refresh_link::<F>(frame, flow);
    if !may {
        return None;
    }
    F::rewrite(packet.network, (flow.source, flow.destination), flow.ttl_step, flow.l3_delta);
    nat::rewrite_whole(packet.transport, flow);
    packet.ethernet.write::<u32, 0>(flow.link[0]);
    packet.ethernet.write::<u32, 4>(flow.link[1]);
    packet.ethernet.write::<u32, 8>(flow.link[2]);
    conntrack::account(flow, length - ETHERNET as u32);
    Some(length)
}

/// Headers without options or extensions, no fragment, and as long as they say.
#[inline(always)]
fn read<F: Family>(frame: Received, length: u32) -> Option<Packet<F>> {
    let packet = parse::packet::<F>(frame)?;
    let end = F::TRANSPORT as u32 + F::payload(packet.network);
    if end > length { None } else { Some(packet) }
}

/// Steady, and out of the device that it came in by.
#[inline(always)]
fn is_ours<F: Family>(frame: Received, packet: &Packet<F>, flow: &Flow<F::Address>, config: &Config) -> bool {
    flow.route == Route::Neighbour as u8
        && flow.interface == frame.interface()
        && conntrack::is_steady(packet.flags, flow, config, jiffies())
}

/// Whether the checksum is still to be completed by whoever sends the packet out of the machine.
///
/// One whole checksum in 65,536 looks the same, and is passed for nothing.
#[inline(always)]
fn is_partial<F: Family>(packet: &Packet<F>) -> bool {
    let field = match packet.transport {
        Transport::Tcp(header) => header.read::<u16, 16>(),
        Transport::Udp(header) => header.read::<u16, 6>(),
        _ => return true,
    };
    let payload = F::payload(packet.network) as u16;
    field == fold(F::pseudo_sum(&packet.tuple, packet.tuple.protocol, payload))
}

/// Sees to it that the entry's link addresses are at most a second old.
///
/// `false`: the neighbour is not known, or the route leads elsewhere now; the tc program sends the packet, and makes the
/// kernel find out.
#[inline(always)]
fn refresh_link<F: Family>(frame: Received, flow: &mut Flow<F::Address>) -> bool {
    let now = jiffies();
    let hz = maps::config().map_or(0, |config| config.hz);
    let is_fresh = flow.link_checked != 0 && now.wrapping_sub(flow.link_checked) < hz;
    is_fresh || look_up_link::<F>(frame, flow, now)
}

/// Finds the Ethernet addresses towards the flow's next hop. Out of line: one packet in thousands comes here.
#[inline(never)]
fn look_up_link<F: Family>(frame: Received, flow: &mut Flow<F::Address>, now: u32) -> bool {
    let Some(Space { query, .. }) = maps::space() else { return false };
    // SAFETY: all zero is a valid query.
    *query = unsafe { mem::zeroed() };
    query.family = F::ADDRESS_FAMILY;
    query.ifindex = frame.interface();
    F::set_fib_addresses(query, flow.source, flow.destination);
    // SAFETY: the query is as long as we say.
    let answer = unsafe {
        helper::bpf_fib_lookup(frame.0.cast(), &raw mut *query, size_of::<bpf_fib_lookup>() as i32, 0)
    };
    if answer != BPF_FIB_LKUP_RET_SUCCESS as i64 || query.ifindex != frame.interface() {
        return false;
    }
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (query.dmac, query.smac);
    flow.link = [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
    ];
    flow.link_checked = now.max(1);
    true
}
