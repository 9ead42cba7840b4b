//! What the kernel told by itself, as flows: see [`model::told`]. Identities are found by address, as of now. Never says FORWARDED:
//! that a flow is tracked was no rule's verdict.

use std::sync::Arc;

use model::{
    Reserved,
    policy::Direction,
    told::{Moment, Side, Stop, Stopped, Told, Tracked, Transport, Tuple},
};

use super::Decoder;
use crate::{
    directory::Directory,
    event::{Body, End, Endpoint, Event, Flow, Ip, L4, PolicyMatch, Rare, Seen, TcpFlags, Time},
    proto::flow::{DropReason, TraceObservationPoint, TraceReason, TrafficDirection, Verdict},
};

/// A denial. How narrow the rule is, no rule says; most often it is a policy's isolation.
const UNMATCHED: Seen = Seen::PolicyVerdict(PolicyMatch::None);

impl Decoder {
    /// `now`: when it was read. A policy's drop comes after its verdict. Nothing: it is of no interest, a flow of the node's own
    /// loopback.
    pub fn decode_told(&mut self, told: &Told, directory: &Directory, now: Time) -> Vec<Event> {
        let flows = match told {
            Told::Tracked(tracked) if is_loopback(tracked) => vec![],
            Told::Tracked(tracked) => vec![self.tracked(tracked, directory)],
            Told::Stopped(stopped) => {
                let flow = self.stopped(stopped, directory);
                let uuid = self.uuid();
                let verdict = || Flow { uuid, seen: UNMATCHED, ..flow.clone() };
                let verdict = (stopped.why == Stop::Policy).then(verdict);
                verdict.into_iter().chain([flow]).collect()
            }
        };
        let time = self.not_before(now);
        flows.into_iter().map(|flow| Event { time, body: Body::Flow(flow) }).collect()
    }

    fn tracked(&mut self, tracked: &Tracked, directory: &Directory) -> Flow {
        let Tracked { original, reply, .. } = tracked;
        let step = Step::of(tracked);
        let (client, server) = (directory.owner(original.source), directory.owner(reply.source));
        let masqueraded = (reply.destination != original.source).then_some(reply.destination);
        let (client_port, frontend_port) = original.transport.ports().unwrap_or_default();
        let (server_port, _) = reply.transport.ports().unwrap_or_default();
        let service = directory.service(original.destination, frontend_port, original.transport.protocol());
        let direction = match (is_here(&client), is_here(&server)) {
            (true, _) => TrafficDirection::Egress,
            (false, true) => TrafficDirection::Ingress,
            (false, false) => TrafficDirection::Unknown,
        };
        let forward = Flow {
            uuid: self.uuid(),
            verdict: Verdict::Unknown,
            // Connection tracking is the stack's: that is all that is known of where.
            seen: Seen::Trace { point: TraceObservationPoint::ToStack, reason: step.reason },
            direction,
            is_reply: step.is_reply,
            ethernet: None,
            ip: Some(Ip {
                source: original.source,
                destination: reply.source,
                source_xlated: masqueraded,
                encrypted: false,
            }),
            l4: l4(original.transport, (client_port, server_port), step.flags),
            source: client,
            destination: server,
            source_names: None,
            destination_names: None,
            source_service: None,
            destination_service: service,
            interface: None,
            node: Arc::clone(&self.node),
            rules: None,
            rare: step.end.map(|end| Box::new(Rare { end: Some(end), ..Rare::default() })),
        };
        if step.is_reply != Some(true) {
            return forward;
        }
        Flow {
            ip: Some(Ip {
                source: reply.source,
                destination: original.source,
                source_xlated: None,
                encrypted: false,
            }),
            l4: l4(reply.transport, (server_port, client_port), step.flags),
            source: forward.destination,
            destination: forward.source,
            source_service: forward.destination_service,
            destination_service: None,
            ..forward
        }
    }

    fn stopped(&mut self, stopped: &Stopped, directory: &Directory) -> Flow {
        let end = |address: Option<_>| address.map_or_else(Arc::default, |address| directory.owner(address));
        let tuple = stopped.tuple;
        let source = end(tuple.map(|tuple| tuple.source));
        let rule = stopped.rule.and_then(|rule| directory.rule(rule.0));
        let direction = match rule.map(|rule| rule.direction) {
            Some(Direction::Egress) => TrafficDirection::Egress,
            Some(Direction::Ingress) => TrafficDirection::Ingress,
            None if is_here(&source) => TrafficDirection::Egress,
            None => TrafficDirection::Ingress,
        };
        let (verdict, seen) = match stopped.why {
            Stop::Audited => (Verdict::Audit, UNMATCHED),
            why => (Verdict::Dropped, Seen::Drop(drop_reason(why))),
        };
        let service = |tuple: Tuple| {
            let (_, port) = tuple.transport.ports()?;
            directory.service(tuple.destination, port, tuple.transport.protocol())
        };
        Flow {
            uuid: self.uuid(),
            verdict,
            seen,
            direction,
            is_reply: (verdict == Verdict::Audit).then_some(false),
            ethernet: None,
            ip: tuple.map(|tuple| Ip {
                source: tuple.source,
                destination: tuple.destination,
                source_xlated: None,
                encrypted: false,
            }),
            l4: tuple.map_or(L4::Unknown, |tuple| {
                let ports = tuple.transport.ports().unwrap_or_default();
                l4(tuple.transport, ports, TcpFlags(stopped.tcp_flags.into()))
            }),
            source,
            destination: end(tuple.map(|tuple| tuple.destination)),
            source_names: None,
            destination_names: None,
            source_service: None,
            destination_service: tuple.and_then(service),
            interface: stopped.device.and_then(|index| self.interface(index, directory)),
            node: Arc::clone(&self.node),
            rules: stopped.rule.and_then(|rule| self.rules.denied(rule.0, directory)),
            rare: None,
        }
    }
}

/// What a moment says of the packet that made it.
struct Step {
    flags: TcpFlags,
    is_reply: Option<bool>,
    reason: TraceReason,
    end: Option<End>,
}

impl Step {
    fn of(tracked: &Tracked) -> Self {
        let step = |flags, is_reply, reason| Self { flags, is_reply, reason, end: None };
        let none = TcpFlags::default();
        let is_tcp = matches!(tracked.original.transport, Transport::Tcp { .. });
        match tracked.moment {
            // Which end began it was before anyone looked.
            Moment::Began { syn: false } if is_tcp => step(none, None, TraceReason::Established),
            Moment::Began { syn } => {
                step(if syn { TcpFlags::SYN } else { none }, Some(false), TraceReason::New)
            }
            Moment::Answered => step(TcpFlags::SYN.with(TcpFlags::ACK), Some(true), TraceReason::Reply),
            Moment::Closing { from: Some(Side::Server) } => {
                step(TcpFlags::FIN, Some(true), TraceReason::Reply)
            }
            Moment::Closing { from } => step(TcpFlags::FIN, from.map(|_| false), TraceReason::Established),
            Moment::Closed => step(TcpFlags::FIN, None, TraceReason::Established),
            Moment::Reset => step(TcpFlags::RST, None, TraceReason::Established),
            Moment::Ended { refused } => {
                let flags = if refused { TcpFlags::RST } else { none };
                let end = Some(End { traffic: tracked.traffic });
                Self { end, ..step(flags, None, TraceReason::Established) }
            }
        }
    }
}

/// Whether a flow leaves the node's loopback at neither end.
fn is_loopback(tracked: &Tracked) -> bool {
    tracked.original.source.is_loopback() && tracked.reply.source.is_loopback()
}

/// A pod of this node, or the node itself.
fn is_here(endpoint: &Endpoint) -> bool {
    endpoint.id != 0 || endpoint.identity == Reserved::Host.id().get()
}

fn l4(transport: Transport, (source, destination): (u16, u16), flags: TcpFlags) -> L4 {
    match transport {
        Transport::Tcp { .. } => L4::Tcp { source, destination, flags },
        Transport::Udp { .. } => L4::Udp { source, destination },
        Transport::Sctp { .. } => L4::Sctp { source, destination },
        Transport::IcmpV4 { kind, code } => L4::IcmpV4 { kind, code },
        Transport::IcmpV6 { kind, code } => L4::IcmpV6 { kind, code },
        Transport::Other(112) => L4::Vrrp,
        Transport::Other(2) => L4::Igmp,
        Transport::Other(_) => L4::Unknown,
    }
}

/// Hubble's reason that says most of ours.
fn drop_reason(stop: Stop) -> DropReason {
    match stop {
        Stop::NoEndpoints | Stop::NoLocalEndpoints => DropReason::ServiceBackendNotFound,
        Stop::SourceRange => DropReason::DeniedByLbSrcRangeCheck,
        Stop::Invalid => DropReason::UnknownConnectionTrackingState,
        Stop::MartianLoopback => DropReason::InvalidSourceIp,
        Stop::Policy | Stop::Audited => DropReason::PolicyDenied,
    }
}

#[cfg(test)]
mod tests;
