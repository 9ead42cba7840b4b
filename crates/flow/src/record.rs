//! The datapath's records as flows. Pure: the clock's offset, names and randomness are arguments. Never invents: what a record
//! does not say stays unset.
//!
//! A flow's source is the one that the packet came with, its destination the one that it leaves for: who talked to whom. The
//! frontend between them, if there was one, is told by its Service, and a masqueraded source by `source_xlated`.

mod call;
mod reasons;
mod verdict;

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use abi::{Address as _, EventCount, EventKind, Point, Reason, V4, V6, event_flags, protocol};
use uuid::{Builder, Uuid};

use self::{reasons::drop_reason, verdict::SharedRules};
use crate::{
    directory::Directory,
    event::{Body, Endpoint, Event, Flow, Interface, Ip, L4, Node, Seen, TcpFlags, Time},
    l7::{Conversations, SeenNames},
    proto::flow::{
        DropReason, LostEvent, LostEventSource, TraceObservationPoint, TraceReason, TrafficDirection, Verdict,
    },
};

/// Interfaces whose names are remembered; nodes that had more ask again.
const MAX_INTERFACES: usize = 4096;

/// A record of numbers that this version does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read record: unknown kind {kind}, point {point}, reason {reason} or family {family}")]
pub struct UnknownRecord {
    kind: u8,
    point: u8,
    reason: u32,
    family: u8,
}

/// The name of an interface, by its index.
pub type NameOf = Box<dyn Fn(u32) -> Option<String> + Send>;

/// Makes flows of one node's records.
pub struct Decoder {
    node: Arc<Node>,
    name_of: NameOf,
    interfaces: HashMap<u32, Option<Arc<Interface>>>,
    last: Time,
    random: u64,
    rules: SharedRules,
    pub(crate) conversations: Conversations,
    pub(crate) names: SeenNames,
}

impl Decoder {
    /// `random` makes the flows' UUIDs differ from other nodes'.
    pub fn new(node: Arc<Node>, name_of: NameOf, random: u64) -> Self {
        Self {
            node,
            name_of,
            interfaces: HashMap::new(),
            last: Time(i64::MIN),
            random,
            rules: SharedRules::default(),
            conversations: Conversations::new(),
            names: SeenNames::new(),
        }
    }

    /// Adds what a record says to `into`: a flow, after the verdicts of policies about it; or two of a socket's call, as it was
    /// named and as it was translated.
    ///
    /// `boot` is when the record's clock began. Times never go back: records of several CPUs may overtake one another.
    ///
    /// # Errors
    /// The record has a number that this version does not know.
    pub fn decode(
        &mut self,
        record: &abi::Event,
        directory: &Directory,
        boot: Time,
        into: &mut Vec<Event>,
    ) -> Result<(), UnknownRecord> {
        let parts = Parts::of(record)?;
        let time = self.time(record, boot);
        let mut add = |flow| into.push(Event { time, body: Body::Flow(flow) });
        match parts.point {
            Point::Call | Point::Answer => self.call(record, parts, directory).into_iter().for_each(add),
            _ => {
                let flow = self.flow(record, parts, directory, time);
                let mut rules = std::mem::take(&mut self.rules);
                let shared = (&mut rules, directory);
                verdict::verdicts((record, parts), &flow, shared, || self.uuid())
                    .into_iter()
                    .for_each(&mut add);
                self.rules = rules;
                add(flow);
            }
        }
        Ok(())
    }

    pub(crate) fn time(&mut self, record: &abi::Event, boot: Time) -> Time {
        let time = i64::try_from(record.time).unwrap_or(i64::MAX);
        self.not_before(Time(boot.0.saturating_add(time)))
    }

    /// The same for an event that is no record's.
    pub fn not_before(&mut self, time: Time) -> Time {
        self.last = self.last.max(time);
        self.last
    }

    pub(crate) fn flow(
        &mut self,
        record: &abi::Event,
        parts: Parts,
        directory: &Directory,
        time: Time,
    ) -> Flow {
        let has = |flag| record.flags & flag != 0;
        let tracked = has(event_flags::TRACKED);
        let known_reply = parts.is_reply(record);
        let is_reply = known_reply == Some(true);
        let source = (parts.address)(record.source);
        let (to, to_port) = match tracked {
            true => (record.new_destination, record.new_destination_port),
            false => (record.destination, record.destination_port),
        };
        let destination = (parts.address)(to);
        let is_readable = !has(event_flags::UNREADABLE);
        let end = |address: Option<IpAddr>, identity| match address.filter(|_| is_readable) {
            Some(address) => directory.endpoint(address, identity),
            None => Arc::default(),
        };
        let service = |words, port: abi::Be16| {
            let address = (parts.address)(words).filter(|_| is_readable)?;
            directory.service(address, port.get(), record.protocol)
        };
        let masqueraded = has(event_flags::MASQUERADED) && !is_reply;
        let ends = (end(source, record.source_identity), end(destination, record.destination_identity));
        let mut names = |of: &Endpoint, address: Option<IpAddr>| self.names.of(of.id, address?, time);
        let (source_names, destination_names) = (names(&ends.1, source), names(&ends.0, destination));
        Flow {
            uuid: self.uuid(),
            verdict: parts.verdict,
            seen: parts.seen(is_reply),
            direction: parts.direction(known_reply),
            is_reply: known_reply.filter(|_| parts.verdict == Verdict::Forwarded),
            ethernet: None,
            ip: source.zip(destination).filter(|_| is_readable).map(|(source, destination)| Ip {
                source,
                destination,
                source_xlated: if masqueraded { (parts.address)(record.new_source) } else { None },
                encrypted: false,
            }),
            l4: l4(record, (record.source_port.get(), to_port.get())),
            source: ends.0,
            destination: ends.1,
            source_names,
            destination_names,
            source_service: (is_reply && tracked)
                .then(|| service(record.new_source, record.new_source_port))
                .flatten(),
            destination_service: (!is_reply)
                .then(|| service(record.destination, record.destination_port))
                .flatten(),
            interface: self.interface(record.interface, directory),
            node: Arc::clone(&self.node),
            rules: self.rules.of(record, directory),
            rare: None,
        }
    }

    fn interface(&mut self, index: u32, directory: &Directory) -> Option<Arc<Interface>> {
        if let Some(of_pod) = directory.interface(index) {
            return Some(Arc::clone(of_pod));
        }
        if self.interfaces.len() >= MAX_INTERFACES {
            self.interfaces.clear();
        }
        let named = || (self.name_of)(index).map(|name| Arc::new(Interface { index, name }));
        self.interfaces.entry(index).or_insert_with(named).clone()
    }

    fn uuid(&mut self) -> Uuid {
        let words = [self.next_random(), self.next_random()];
        let bytes: [u8; 16] = std::array::from_fn(|i| words[i / 8].to_ne_bytes()[i % 8]);
        Builder::from_random_bytes(bytes).into_uuid()
    }

    /// SplitMix64.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("node", &self.node).finish_non_exhaustive()
    }
}

/// What a record's numbers mean.
#[derive(Clone, Copy)]
pub(crate) struct Parts {
    kind: EventKind,
    point: Point,
    reason: Reason,
    /// The stack forwards it from here.
    passed: bool,
    verdict: Verdict,
    drop: DropReason,
    pub(crate) address: fn([u32; 4]) -> Option<IpAddr>,
}

impl Parts {
    pub(crate) fn of(record: &abi::Event) -> Result<Self, UnknownRecord> {
        Self::known(record).ok_or(UnknownRecord {
            kind: record.kind,
            point: record.point,
            reason: record.reason,
            family: record.family,
        })
    }

    fn known(record: &abi::Event) -> Option<Self> {
        let kind = EventKind::ALL.into_iter().find(|kind| *kind as u8 == record.kind)?;
        let point = Point::ALL.into_iter().find(|point| *point as u8 == record.point)?;
        let reason = *Reason::ALL.get(record.reason as usize)?;
        let (verdict, drop) = match kind {
            EventKind::New | EventKind::Closed | EventKind::Ongoing | EventKind::L7 => {
                (Verdict::Forwarded, DropReason::Unknown)
            }
            EventKind::Dropped | EventKind::Refused => (Verdict::Dropped, drop_reason(reason)?),
            EventKind::Translated => (Verdict::Translated, DropReason::Unknown),
        };
        let is_call = matches!(point, Point::Call | Point::Answer);
        let fits = match kind {
            EventKind::Translated => is_call,
            EventKind::Dropped | EventKind::Refused => true,
            EventKind::New | EventKind::Closed | EventKind::Ongoing | EventKind::L7 => !is_call,
        };
        if !fits {
            return None;
        }
        let passed = matches!(reason, Reason::PassedUnrelated | Reason::PassedProtocol);
        let address: fn([u32; 4]) -> Option<IpAddr> = match record.family {
            4 => |words| Some(V4(words[0]).to_ip()),
            6 => |words| Some(V6(words).to_ip()),
            // The frame ended before it said so.
            0 if record.flags & event_flags::UNREADABLE != 0 => |_| None,
            _ => return None,
        };
        Some(Self { kind, point, reason, passed, verdict, drop, address })
    }

    fn seen(self, is_reply: bool) -> Seen {
        let reason = match self.kind {
            EventKind::Dropped | EventKind::Refused => return Seen::Drop(self.drop),
            _ if is_reply => TraceReason::Reply,
            EventKind::New => TraceReason::New,
            EventKind::Closed | EventKind::Ongoing | EventKind::L7 => TraceReason::Established,
            // A call's ([`call`]).
            EventKind::Translated => TraceReason::Unknown,
        };
        let point = match self.point {
            Point::FromPod if self.passed => TraceObservationPoint::ToStack,
            Point::FromPod => TraceObservationPoint::FromEndpoint,
            Point::ToPod => TraceObservationPoint::ToEndpoint,
            Point::FromWire => TraceObservationPoint::FromNetwork,
            Point::ToWire => TraceObservationPoint::ToNetwork,
            Point::FromTunnel => TraceObservationPoint::FromOverlay,
            Point::Call | Point::Answer => TraceObservationPoint::UnknownPoint,
        };
        Seen::Trace { point, reason }
    }

    /// Whether the packet answers; `None`: nobody saw the flow begin.
    fn is_reply(self, record: &abi::Event) -> Option<bool> {
        let has = |flag| record.flags & flag != 0;
        match (record.protocol, record.source_port.get()) {
            _ if has(event_flags::TRACKED) => Some(has(event_flags::REPLY)),
            _ if has(event_flags::REPLY) => Some(true),
            _ if has(event_flags::OPENS) => Some(false),
            // Echo request and reply (RFC 792, RFC 4443).
            (protocol::ICMP, 8) | (protocol::ICMPV6, 128) => Some(false),
            (protocol::ICMP, 0) | (protocol::ICMPV6, 129) => Some(true),
            _ => None,
        }
    }

    /// Of the connection, as this node sees it: replies have that of what they answer.
    pub(crate) fn direction(self, is_reply: Option<bool>) -> TrafficDirection {
        match self.reason {
            // Of the pod whose policy it is.
            Reason::DroppedPolicyEgress => return TrafficDirection::Egress,
            Reason::DroppedPolicyIngress => return TrafficDirection::Ingress,
            _ => {}
        }
        let is_from_here = matches!(self.point, Point::FromPod | Point::ToWire);
        let is_reply = match (is_reply, self.verdict) {
            (Some(is_reply), Verdict::Forwarded) => is_reply,
            (None, Verdict::Forwarded) => return TrafficDirection::Unknown,
            _ => false,
        };
        if is_from_here != is_reply { TrafficDirection::Egress } else { TrafficDirection::Ingress }
    }
}

fn l4(record: &abi::Event, (source, destination): (u16, u16)) -> L4 {
    match record.protocol {
        protocol::TCP => L4::Tcp { source, destination, flags: TcpFlags(record.tcp_flags.into()) },
        protocol::UDP => L4::Udp { source, destination },
        protocol::SCTP => L4::Sctp { source, destination },
        protocol::ICMP | protocol::ICMPV6 => {
            let [kind, code] = [record.source_port, record.destination_port].map(|number| number.get() as u8);
            if record.protocol == protocol::ICMP {
                L4::IcmpV4 { kind, code }
            } else {
                L4::IcmpV6 { kind, code }
            }
        }
        _ => L4::Unknown,
    }
}

/// What was lost before anyone could read it, as events: each loss is told once.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    /// By CPU, of all kinds together.
    told: Vec<u64>,
    since: Option<Time>,
}

impl Losses {
    /// What the kernel had no room for since the last call, one event per CPU. The first call tells of all that was lost
    /// since the counts began: whoever reads then never saw it either.
    pub fn of_kernel(&mut self, counts: &[(EventKind, Vec<EventCount>)], now: Time) -> Vec<Event> {
        let cpus = counts.iter().map(|(_, counts)| counts.len()).max().unwrap_or_default();
        self.told.resize(cpus.max(self.told.len()), 0);
        let since = self.since.replace(now);
        let mut events = vec![];
        for (cpu, told) in self.told.iter_mut().enumerate() {
            let lost = counts.iter().filter_map(|(_, counts)| counts.get(cpu)).map(|count| count.lost).sum();
            let more = u64::saturating_sub(lost, *told);
            *told = lost;
            if more > 0 {
                let cpu = i32::try_from(cpu).ok();
                events.push(lost_event((LostEventSource::PerfEventRingBuffer, cpu), more, since, now));
            }
        }
        events
    }

    /// What sockets had no room for since the last call, of a count since the sockets were opened.
    pub fn of_sockets(&mut self, lost: u64, now: Time) -> Option<Event> {
        self.told.resize(self.told.len().max(1), 0);
        let since = self.since.replace(now);
        let more = lost.saturating_sub(std::mem::replace(&mut self.told[0], lost));
        (more > 0).then(|| lost_event((LostEventSource::PerfEventRingBuffer, None), more, since, now))
    }

    /// Records that arrived and could not be read.
    pub fn unreadable(count: u64, now: Time) -> Option<Event> {
        (count > 0).then(|| lost_event((LostEventSource::ObserverEventsQueue, None), count, None, now))
    }
}

fn lost_event(
    (source, cpu): (LostEventSource, Option<i32>),
    count: u64,
    since: Option<Time>,
    now: Time,
) -> Event {
    let lost = LostEvent {
        source: source.into(),
        num_events_lost: count,
        cpu,
        first: since.map(Into::into),
        last: Some(now.into()),
    };
    Event { time: now, body: Body::Lost(lost) }
}

mod l7;
mod told;

#[cfg(test)]
mod tests;
