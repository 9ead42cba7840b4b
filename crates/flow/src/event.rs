//! A flow as it is kept: small, because a ring holds 65,535 of them, and shared, because most flows have the same few
//! endpoints, services, nodes and rules. Built by whoever decodes kernel events. Never holds what was not observed:
//! what is not known is `None`, empty or an `Unknown` variant.

use std::{net::IpAddr, sync::Arc};

use model::{MacAddress, told::Traffic};
use prost_types::Timestamp;
use uuid::Uuid;

use crate::proto::flow::{
    AgentEvent, DebugEvent, DropReason, Layer7, LostEvent, Policy, SocketTranslationPoint,
    TraceObservationPoint, TraceReason, TrafficDirection, Verdict,
};

/// Nanoseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub i64);

const SECOND: i64 = 1_000_000_000;

impl From<Time> for Timestamp {
    fn from(Time(nanos): Time) -> Self {
        let (seconds, nanos) = (nanos.div_euclid(SECOND), nanos.rem_euclid(SECOND));
        Self { seconds, nanos: i32::try_from(nanos).expect("less than a second") }
    }
}

impl From<Timestamp> for Time {
    /// Times beyond the year 2262 or before 1677 become the nearest that fits: whoever asks for all flows since the
    /// year 1 gets them.
    fn from(time: Timestamp) -> Self {
        let nanos = i128::from(time.seconds) * i128::from(SECOND) + i128::from(time.nanos);
        Self(nanos.clamp(i64::MIN.into(), i64::MAX.into()) as i64)
    }
}

/// What a ring holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub time: Time,
    pub body: Body,
}

/// Each variant has only its own data. `Flow` is stored inline: nearly all events are flows.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    Flow(Flow),
    /// Events that never came this far, as counted by whoever lost them.
    Lost(LostEvent),
    Agent(Box<AgentEvent>),
    Debug(Box<DebugEvent>),
}

/// One observation of one flow.
#[derive(Clone, Debug, PartialEq)]
pub struct Flow {
    pub uuid: Uuid,
    pub verdict: Verdict,
    pub seen: Seen,
    pub direction: TrafficDirection,
    pub is_reply: Option<bool>,
    pub ethernet: Option<Ethernet>,
    pub ip: Option<Ip>,
    pub l4: L4,
    pub source: Arc<Endpoint>,
    pub destination: Arc<Endpoint>,
    pub source_names: Names,
    pub destination_names: Names,
    pub source_service: Option<Arc<Service>>,
    pub destination_service: Option<Arc<Service>>,
    pub interface: Option<Arc<Interface>>,
    pub node: Arc<Node>,
    /// The rules that decided, where rules did.
    pub rules: Option<Arc<Rules>>,
    /// What few flows have.
    pub rare: Option<Box<Rare>>,
}

/// Where and as what a flow was seen.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    Trace { point: TraceObservationPoint, reason: TraceReason },
    Drop(DropReason),
    PolicyVerdict(PolicyMatch),
    L7(Box<Layer7>),
    Socket { point: SocketTranslationPoint, cookie: u64, cgroup: u64 },
}

/// How narrow the rule was that decided. The numbers are Hubble's `policy_match_type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum PolicyMatch {
    #[default]
    None = 0,
    L3Only = 1,
    L3L4 = 2,
    L4Only = 3,
    All = 4,
    L3Proto = 5,
    ProtoOnly = 6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    pub source: MacAddress,
    pub destination: MacAddress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// The source after masquerading.
    pub source_xlated: Option<IpAddr>,
    pub encrypted: bool,
}

/// Ports in host order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum L4 {
    #[default]
    Unknown,
    Tcp {
        source: u16,
        destination: u16,
        flags: TcpFlags,
    },
    Udp {
        source: u16,
        destination: u16,
    },
    Sctp {
        source: u16,
        destination: u16,
    },
    IcmpV4 {
        kind: u8,
        code: u8,
    },
    IcmpV6 {
        kind: u8,
        code: u8,
    },
    Vrrp,
    Igmp,
}

/// The flags of a TCP header: FIN is bit 0, as on the wire (RFC 9293), up to CWR; NS (RFC 3540) is bit 8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFlags(pub u16);

impl TcpFlags {
    pub const FIN: Self = Self(1);
    pub const SYN: Self = Self(1 << 1);
    pub const RST: Self = Self(1 << 2);
    pub const PSH: Self = Self(1 << 3);
    pub const ACK: Self = Self(1 << 4);
    pub const URG: Self = Self(1 << 5);
    pub const ECE: Self = Self(1 << 6);
    pub const CWR: Self = Self(1 << 7);
    pub const NS: Self = Self(1 << 8);

    /// Every flag with its name, in the order in which Hubble names them.
    pub const ALL: [(Self, &'static str); 9] = [
        (Self::SYN, "SYN"),
        (Self::ACK, "ACK"),
        (Self::RST, "RST"),
        (Self::FIN, "FIN"),
        (Self::PSH, "PSH"),
        (Self::URG, "URG"),
        (Self::ECE, "ECE"),
        (Self::CWR, "CWR"),
        (Self::NS, "NS"),
    ];

    /// Are all flags of `other` set?
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Flags of both.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// DNS names of an address; shared, and absent for most.
pub type Names = Option<Arc<[String]>>;

/// One end of a flow, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Local to the node; 0: not an endpoint of this node.
    pub id: u32,
    pub identity: u32,
    pub cluster: String,
    pub namespace: String,
    pub labels: Arc<[Label]>,
    pub pod: String,
    pub workloads: Vec<Workload>,
}

/// `source:key=value`; without a value `source:key`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    /// `k8s`, `reserved`, ...
    pub source: String,
    pub key: String,
    pub value: String,
}

impl Label {
    /// Of a text as [`Label`]'s `Display` writes it; a text without a source is all key and value.
    pub fn parse(text: &str) -> Self {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let (source, key) = name.split_once(':').unwrap_or(("", name));
        Self { source: source.into(), key: key.into(), value: value.into() }
    }
}

impl std::fmt::Display for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.source.is_empty() {
            write!(f, "{}:", self.source)?;
        }
        f.write_str(&self.key)?;
        if self.value.is_empty() { Ok(()) } else { write!(f, "={}", self.value) }
    }
}

/// What a pod belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    pub name: String,
    /// `Deployment`, `DaemonSet`, ...
    pub kind: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    pub name: String,
    pub namespace: String,
}

/// Of the node that saw the flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    pub name: String,
}

/// The node that saw the flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// `node`, or `cluster/node` where the cluster is not the default one.
    pub name: String,
    /// `key=value`.
    pub labels: Vec<String>,
}

/// Rules as flows report them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    pub egress_allowed: Vec<Policy>,
    pub ingress_allowed: Vec<Policy>,
    pub egress_denied: Vec<Policy>,
    pub ingress_denied: Vec<Policy>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rare {
    /// W3C trace id, from an HTTP header; hexadecimal.
    pub trace_id: String,
    /// From an IP option; 0: none.
    pub ip_trace_id: u64,
    /// 0: not sent to a proxy.
    pub proxy_port: u16,
    /// The flow has ended, of which no packet may have told.
    pub end: Option<End>,
}

/// How much a flow was, when it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// Of both directions, where it was counted.
    pub traffic: Option<Traffic>,
}

impl Event {
    /// The flow, if this is one.
    pub fn flow(&self) -> Option<&Flow> {
        match &self.body {
            Body::Flow(flow) => Some(flow),
            Body::Lost(_) | Body::Agent(_) | Body::Debug(_) => None,
        }
    }
}

impl L4 {
    /// Source and destination port, of protocols that have ports.
    pub fn ports(self) -> Option<(u16, u16)> {
        match self {
            Self::Tcp { source, destination, .. }
            | Self::Udp { source, destination }
            | Self::Sctp { source, destination } => Some((source, destination)),
            Self::Unknown | Self::IcmpV4 { .. } | Self::IcmpV6 { .. } | Self::Vrrp | Self::Igmp => None,
        }
    }
}

impl Rare {
    /// Of a flow that has none of it.
    pub const NONE: &'static Self =
        &Self { trace_id: String::new(), ip_trace_id: 0, proxy_port: 0, end: None };
}

impl Flow {
    /// What few flows have, or [`Rare::NONE`].
    pub fn rare(&self) -> &Rare {
        self.rare.as_deref().unwrap_or(Rare::NONE)
    }

    /// What of it happened above the transport, if this is an L7 flow.
    pub fn l7(&self) -> Option<&Layer7> {
        match &self.seen {
            Seen::L7(l7) => Some(l7),
            Seen::Trace { .. } | Seen::Drop(_) | Seen::PolicyVerdict(_) | Seen::Socket { .. } => None,
        }
    }
}

/// An agent with a ring of 65,535 events is to stay under 80 MB: they may take at most 20 of them.
const _: () = assert!(size_of::<Event>() <= 320);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_read_back_as_written() {
        for text in ["k8s:app=nginx", "reserved:world", "k8s:a.b/c=d:e=f", "plain=1", "plain"] {
            assert_eq!(Label::parse(text).to_string(), text);
        }
        assert_eq!(
            Label::parse("k8s:a.b/c=d:e=f"),
            Label { source: "k8s".into(), key: "a.b/c".into(), value: "d:e=f".into() }
        );
    }

    #[test]
    fn times_survive_both_ways() {
        for nanos in [0, 1, -1, 1_763_870_102_934_000_000, i64::MIN, i64::MAX] {
            assert_eq!(Time::from(Timestamp::from(Time(nanos))), Time(nanos));
        }
        assert_eq!(Time::from(Timestamp { seconds: i64::MAX, nanos: 0 }), Time(i64::MAX));
    }
}
