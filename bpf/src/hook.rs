//! The four hook points, the fast path, and what an outcome means to the kernel.

use abi::{Config, Point, Reason, Tuple, flow_flags};

use crate::{
    conntrack, counters, events,
    family::{Family, Ipv4, Ipv6},
    icmp,
    identity::Identities,
    inspect,
    kernel::{Context, DROP, NEXT, jiffies},
    l7, maps, nat, parse, policy, reject, send, slow,
};

/// Note on packets that one of our programs sent out of a device: the egress program there lets them go.
pub const HANDLED: u16 = 0x7450;

/// What became of a packet. Aligned as one word, so that functions return it in a register: a pair would be written through a
/// hidden pointer, and the verifier refuses a function that still has that in its return register.
#[must_use]
#[repr(align(8))]
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

    /// To be refused by [`reject`].
    #[inline(always)]
    pub fn refuse() -> Self {
        Self { reason: Reason::RefusedTcp, verdict: TO_BE_REFUSED }
    }

    /// To be answered with the size that fits; the scratch has its tuple and headers.
    #[inline(always)]
    pub fn too_big() -> Self {
        Self { reason: Reason::AnsweredTooBig, verdict: TO_BE_TOLD }
    }

    /// Left to the stack; where policies are in force, tracked at pods ([`slow::leave`]).
    #[inline(always)]
    pub fn leave() -> Self {
        Self { reason: Reason::PassedUnrelated, verdict: TO_BE_LEFT }
    }

    /// To be done as the scratch says ([`slow::proceed`]), unless a policy denies what it asks.
    #[inline(always)]
    pub fn judge() -> Self {
        Self { reason: Reason::DroppedInternal, verdict: TO_BE_JUDGED }
    }

    /// To be sent by the entry of its tuple ([`send`]).
    #[inline(always)]
    pub fn send(reason: Reason) -> Self {
        Self { reason, verdict: TO_BE_SENT }
    }

    /// Read in full: the scratch has its tuple and headers.
    #[inline(always)]
    pub fn known() -> Self {
        Self { reason: Reason::DroppedInternal, verdict: TO_BE_LOOKED_UP }
    }

    /// An ICMP message ([`icmp`]); the scratch has its headers.
    #[inline(always)]
    pub fn message() -> Self {
        Self { reason: Reason::DroppedInternal, verdict: A_MESSAGE }
    }
}

/// No verdicts of the kernel's: what is to be done next, by a function with a stack of its own.
const TO_BE_REFUSED: i32 = i32::MIN;
const TO_BE_SENT: i32 = i32::MIN + 1;
const TO_BE_LOOKED_UP: i32 = i32::MIN + 2;
const A_MESSAGE: i32 = i32::MIN + 3;
const TO_BE_TOLD: i32 = i32::MIN + 4;
const TO_BE_JUDGED: i32 = i32::MIN + 5;
const TO_BE_LEFT: i32 = i32::MIN + 6;

/// Where a program runs.
pub trait Hook {
    const POINT: Point;
    /// On receipt; else on the way out of a device.
    const INGRESS: bool;
    /// Flows may start here.
    const OPENS: bool;
    /// Packets come from other machines.
    const FROM_OUTSIDE: bool;
    /// On a pod's device.
    const OF_POD: bool = false;
    /// Packets come from other nodes of the cluster, and to a frontend only whole ([`abi::flow_flags::WHOLE`]).
    const FROM_TUNNEL: bool = false;

    /// A cheap first question: may this packet be any of our business? Answers yes too often, never too seldom.
    fn concerns<F: Family>(config: &Config, tuple: &Tuple<F::Address>) -> bool;
}

/// From a pod, at the host's end of its veth.
pub struct FromPod;
/// To a pod, from the host's stack: its answers as a backend, and its ICMP errors.
pub struct ToPod;
/// From the network, on an uplink.
pub struct FromWire;
/// From another node, on the tunnel.
pub struct FromTunnel;
/// To the network, on an uplink: what this node's processes send to frontends or answer as backends.
pub struct ToWire;

impl Hook for FromPod {
    const POINT: Point = Point::FromPod;
    const OF_POD: bool = true;
    const INGRESS: bool = true;
    const OPENS: bool = true;
    const FROM_OUTSIDE: bool = false;

    #[inline(always)]
    fn concerns<F: Family>(_config: &Config, _tuple: &Tuple<F::Address>) -> bool {
        true
    }
}

impl Hook for ToPod {
    const POINT: Point = Point::ToPod;
    const OF_POD: bool = true;
    const INGRESS: bool = false;
    const OPENS: bool = false;
    const FROM_OUTSIDE: bool = false;

    #[inline(always)]
    fn concerns<F: Family>(config: &Config, tuple: &Tuple<F::Address>) -> bool {
        policy::is_on(config) || maps::may_have(tuple.source, tuple.source_port, tuple.protocol)
    }
}

impl Hook for FromWire {
    const POINT: Point = Point::FromWire;
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

impl Hook for FromTunnel {
    const POINT: Point = Point::FromTunnel;
    const INGRESS: bool = true;
    const OPENS: bool = true;
    const FROM_OUTSIDE: bool = true;
    const FROM_TUNNEL: bool = true;

    #[inline(always)]
    fn concerns<F: Family>(config: &Config, tuple: &Tuple<F::Address>) -> bool {
        FromWire::concerns::<F>(config, tuple)
    }
}

impl Hook for ToWire {
    const POINT: Point = Point::ToWire;
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

/// Each step of the slow path runs after the one before has given back its stack: all of a call chain's frames share 512
/// bytes.
#[inline(always)]
fn handle<F: Identities, H: Hook>(ctx: Context) -> Outcome {
    let is_absent = match fast::<F, H>(ctx) {
        Ok(outcome) => return outcome,
        Err(row) => row == Row::Absent,
    };
    let mut outcome = inspect::run::<F, H>(ctx);
    let Some(scratch) = F::scratch() else { return Outcome::drop(Reason::DroppedInternal) };
    scratch.noted |= if is_absent { events::ABSENT } else { 0 };
    let policy_is_on = maps::config().is_some_and(policy::is_on);
    if outcome.verdict == A_MESSAGE {
        let read = icmp::read::<F>(ctx);
        if policy_is_on && policy::is_at_pod::<H>() && matches!(read, Ok(()) | Err(Reason::PassedProtocol)) {
            policy::excuse::<F>(read.is_ok());
        }
        outcome = match read {
            Ok(()) => icmp::run::<F, H>(ctx),
            Err(reason) => Outcome::pass(reason),
        };
    } else if outcome.verdict == TO_BE_LOOKED_UP {
        outcome = slow::run::<F, H>(ctx);
    }
    if outcome.verdict == TO_BE_LEFT {
        outcome = match policy_is_on && policy::is_at_pod::<H>() {
            true => slow::leave::<F, H>(ctx),
            false => Outcome::pass(Reason::PassedUnrelated),
        };
    }
    if policy_is_on
        && outcome.verdict == NEXT
        && policy::is_at_pod::<H>()
        && is_left_alone(outcome.reason)
        && policy::untracked::<F, H>(ctx, outcome.reason)
    {
        outcome = Outcome::judge();
    }
    if outcome.verdict == TO_BE_JUDGED {
        let denied = if policy_is_on { policy::judge::<F, H>(ctx) } else { None };
        outcome = match denied {
            Some(reason) => Outcome::drop(reason),
            None => slow::proceed::<F, H>(ctx),
        };
    }
    if outcome.verdict == TO_BE_SENT {
        scratch.reason = outcome.reason;
        outcome = send::run::<F, H>(ctx);
    }
    outcome = match outcome.verdict {
        TO_BE_REFUSED => reject::run::<F, H>(ctx),
        TO_BE_TOLD => reject::too_big::<F, H>(ctx),
        _ => outcome,
    };
    if maps::config().is_some_and(|config| config.l7 != 0) {
        l7::offer::<F, H>(ctx, outcome.reason);
    }
    if maps::config().is_some_and(|config| config.event_level != 0) {
        scratch.reason = outcome.reason;
        events::offer::<F, H>(ctx);
    }
    outcome
}

/// No flow is kept of the packet, and the stack forwards it.
#[inline(always)]
fn is_left_alone(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::PassedProtocol | Reason::PassedUnparsed | Reason::PassedFragment | Reason::PassedUnrelated
    )
}

/// Why the fast path sent nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Row {
    /// The connection table has no entry of the packet.
    Absent,
    /// It may have one, which the fast path cannot use.
    NotSteady,
}

/// One lookup for a plain packet of a known, steady flow; an error for the slow path.
#[inline(always)]
fn fast<F: Family, H: Hook>(ctx: Context) -> Result<Outcome, Row> {
    let Some(config) = maps::config() else { return Ok(Outcome::pass(Reason::PassedUnrelated)) };
    let Some(packet) = parse::packet::<F>(ctx) else { return Err(Row::NotSteady) };
    if !H::concerns::<F>(config, &packet.tuple) {
        let to_pod = H::POINT as u8 == Point::ToPod as u8;
        if to_pod && config.l7 != 0 && l7::is_open::<F>(&packet.tuple) {
            return Err(Row::NotSteady);
        }
        return Ok(Outcome::pass(Reason::PassedUnrelated));
    }
    let Some(flow) = F::flows().get_ptr_mut(&packet.tuple) else { return Err(Row::Absent) };
    // SAFETY: as in `conntrack::find`.
    let flow = unsafe { &mut *flow };
    if !conntrack::is_steady(packet.flags, flow, config, jiffies()) || flow.has(flow_flags::L7) {
        return Err(Row::NotSteady);
    }
    let outcome = nat::forward::<F, H>(ctx, &packet, flow, Reason::ForwardedEstablished);
    // An answer quotes what the slow path has read.
    if outcome.verdict == TO_BE_TOLD { Err(Row::NotSteady) } else { Ok(outcome) }
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
        | Reason::AnsweredTooBig
        | Reason::RefusedTcp
        | Reason::RefusedUdp
        | Reason::RefusedSctp => outcome.verdict,
        Reason::PassedProtocol
        | Reason::PassedUnparsed
        | Reason::PassedFragment
        | Reason::PassedUnrelated
        | Reason::PassedHandled
        | Reason::PassedTimeToLive
        | Reason::PassedTooBig => NEXT,
        Reason::DroppedTruncated
        | Reason::DroppedVersion
        | Reason::DroppedHeaderLength
        | Reason::DroppedHeaderChecksum
        | Reason::DroppedLength
        | Reason::DroppedDataOffset
        | Reason::DroppedExtensionChain
        | Reason::DroppedSourceRoute
        | Reason::DroppedFragment
        | Reason::DroppedZeroPort
        | Reason::DroppedSource
        | Reason::DroppedLand
        | Reason::DroppedUnanswerable
        | Reason::DroppedReset
        | Reason::DroppedSourceRange
        | Reason::DroppedPolicyEgress
        | Reason::DroppedPolicyIngress
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
