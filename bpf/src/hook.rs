//! The four hook points, the fast path, and what an outcome means to the kernel.

use abi::{Config, Reason, Tuple};

use crate::{
    conntrack, counters,
    family::{Family, Ipv4, Ipv6},
    icmp,
    kernel::{Context, DROP, NEXT, jiffies},
    maps, nat,
    parse::{self, Irregular},
    reject, slow,
};

/// Note on packets that one of our programs sent out of a device: the egress program there lets them go.
pub const HANDLED: u16 = 0x7450;

/// What became of a packet.
#[must_use]
#[derive(Clone, Copy)]
pub struct Outcome {
    pub reason: Reason,
    /// The helper's answer, where the packet is forwarded or refused; else not looked at.
    pub verdict: i32,
}

impl Outcome {
    #[inline(always)]
    pub fn pass(reason: Reason) -> Self {
        Self { reason, verdict: NEXT }
    }

    #[inline(always)]
    pub fn drop(reason: Reason) -> Self {
        Self { reason, verdict: DROP }
    }

    /// To be refused by [`reject`], once this program's stack is free again: all of a call chain's frames share 512 bytes.
    #[inline(always)]
    pub fn refuse() -> Self {
        Self { reason: Reason::RefusedTcp, verdict: TO_BE_REFUSED }
    }
}

/// No verdict of the kernel's.
const TO_BE_REFUSED: i32 = i32::MIN;

/// Where a program runs.
pub trait Hook {
    /// On receipt; else on the way out of a device.
    const INGRESS: bool;
    /// Flows may start here.
    const OPENS: bool;
    /// Packets come from other machines.
    const FROM_OUTSIDE: bool;

    /// A cheap first question: may this packet be any of our business? Answers yes too often, never too seldom.
    fn concerns<F: Family>(config: &Config, tuple: &Tuple<F::Address>) -> bool;
}

/// From a pod, at the host's end of its veth.
pub struct FromPod;
/// To a pod, from the host's stack: its answers as a backend, and its ICMP errors.
pub struct ToPod;
/// From the network, on an uplink.
pub struct FromWire;
/// To the network, on an uplink: what this node's processes send to frontends or answer as backends.
pub struct ToWire;

impl Hook for FromPod {
    const INGRESS: bool = true;
    const OPENS: bool = true;
    const FROM_OUTSIDE: bool = false;

    #[inline(always)]
    fn concerns<F: Family>(_config: &Config, _tuple: &Tuple<F::Address>) -> bool {
        true
    }
}

impl Hook for ToPod {
    const INGRESS: bool = false;
    const OPENS: bool = false;
    const FROM_OUTSIDE: bool = false;

    #[inline(always)]
    fn concerns<F: Family>(_config: &Config, tuple: &Tuple<F::Address>) -> bool {
        maps::may_have(tuple.source, tuple.source_port, tuple.protocol)
    }
}

impl Hook for FromWire {
    const INGRESS: bool = true;
    const OPENS: bool = true;
    const FROM_OUTSIDE: bool = true;

    #[inline(always)]
    fn concerns<F: Family>(config: &Config, tuple: &Tuple<F::Address>) -> bool {
        config.masquerades(tuple.destination_port)
            || maps::may_have(tuple.destination, abi::Be16::default(), 0)
            || maps::may_have(tuple.destination, tuple.destination_port, tuple.protocol)
    }
}

impl Hook for ToWire {
    const INGRESS: bool = false;
    const OPENS: bool = true;
    const FROM_OUTSIDE: bool = false;

    #[inline(always)]
    fn concerns<F: Family>(_config: &Config, tuple: &Tuple<F::Address>) -> bool {
        maps::may_have(tuple.destination, tuple.destination_port, tuple.protocol)
            || maps::may_have(tuple.source, tuple.source_port, tuple.protocol)
    }
}

/// A whole program: returns what the kernel is to do.
#[inline(always)]
pub fn run<H: Hook>(ctx: Context) -> i32 {
    let length = ctx.length();
    let outcome = match ctx.protocol() {
        _ if !H::INGRESS && ctx.note() == HANDLED => Outcome::pass(Reason::PassedHandled),
        Ipv4::ETHERTYPE => handle::<Ipv4, H>(ctx),
        Ipv6::ETHERTYPE => handle::<Ipv6, H>(ctx),
        _ => Outcome::pass(Reason::PassedProtocol),
    };
    finish::<H>(ctx, outcome, length)
}

#[inline(always)]
fn handle<F: Family, H: Hook>(ctx: Context) -> Outcome {
    let outcome = fast::<F, H>(ctx);
    if outcome.verdict == TO_BE_REFUSED { reject::run::<F, H>(ctx) } else { outcome }
}

/// One lookup for a packet of a known, steady flow.
#[inline(always)]
fn fast<F: Family, H: Hook>(ctx: Context) -> Outcome {
    let Some(config) = maps::config() else { return Outcome::pass(Reason::PassedUnrelated) };
    let packet = match parse::packet::<F>(ctx) {
        Ok(packet) => packet,
        Err(Irregular::Icmp) => return icmp::run::<F, H>(ctx),
        Err(Irregular::Pass(reason)) => return Outcome::pass(reason),
    };
    if !H::concerns::<F>(config, &packet.tuple) {
        return Outcome::pass(Reason::PassedUnrelated);
    }
    if let Some(flow) = F::flows().get_ptr_mut(&packet.tuple) {
        // SAFETY: as in `conntrack::find`.
        let flow = unsafe { &mut *flow };
        if conntrack::is_steady(&packet, flow, config, jiffies()) {
            return nat::forward::<F, H>(ctx, &packet, flow, Reason::ForwardedEstablished);
        }
    }
    slow::run::<F, H>(ctx)
}

/// Outcome to action and count. The one place that returns to the kernel.
#[inline(always)]
fn finish<H: Hook>(ctx: Context, outcome: Outcome, length: u32) -> i32 {
    counters::packet(outcome.reason, length);
    let verdict = match outcome.reason {
        Reason::ForwardedEstablished
        | Reason::ForwardedXdp
        | Reason::ForwardedNew
        | Reason::ForwardedUpdated
        | Reason::ForwardedIcmpError
        | Reason::RefusedTcp
        | Reason::RefusedUdp => outcome.verdict,
        Reason::PassedProtocol
        | Reason::PassedUnparsed
        | Reason::PassedFragment
        | Reason::PassedUnrelated
        | Reason::PassedHandled
        | Reason::PassedTimeToLive
        | Reason::PassedTooBig => NEXT,
        Reason::DroppedReset
        | Reason::DroppedSourceRange
        | Reason::DroppedNoPort
        | Reason::DroppedNoNodeAddress
        | Reason::DroppedTableFull
        | Reason::DroppedInternal => DROP,
    };
    if H::INGRESS && verdict == NEXT {
        // Another node's note may have come along over a veth.
        ctx.set_note(0);
    }
    verdict
}
