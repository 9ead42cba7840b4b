//! What a kernel tells of flows by itself, without programs of ours in it: its connection tracking, and rules that log what
//! they stop. Plain data between a plane and `flow`. Never says what the kernel did not.

use std::net::IpAddr;

use crate::policy::RuleId;

/// One thing that was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Tracked(Tracked),
    Stopped(Stopped),
}

/// A tracked flow that moved on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracked {
    pub moment: Moment,
    /// As the client sent.
    pub original: Tuple,
    /// As the answer is sent: from where the packets really go.
    pub reply: Tuple,
    /// Of both directions; only at the end, and only where the kernel counts.
    pub traffic: Option<Traffic>,
}

/// What the packet was that moved a flow on. Packets between these moments move nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The first packet got through. With TCP, a SYN or one of a flow that began before it was tracked.
    Began { syn: bool },
    /// The first answer came; with TCP, SYN and ACK.
    Answered,
    /// The first FIN came, and from whom.
    Closing { from: Option<Side> },
    /// The second FIN came, or both at once; from whom is not told.
    Closed,
    /// A RST came; from whom is not told.
    Reset,
    /// The flow is forgotten. `refused`: by a RST that came before any answer.
    Ended { refused: bool },
}

/// One of a flow's two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

/// A packet that a rule stopped, or would have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    pub why: Stop,
    /// The policy's rule, where one is told and known.
    pub rule: Option<RuleId>,
    /// `None` where its headers could not be read.
    pub tuple: Option<Tuple>,
    /// As in the TCP header: FIN is bit 0, CWR bit 7.
    pub tcp_flags: u8,
    /// Where it came in, or where it would have gone out if the node sent it: the index of a device.
    pub device: Option<u32>,
}

/// Source, destination and what the transport adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub transport: Transport,
}

/// Ports in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp {
        source: u16,
        destination: u16,
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
    /// By its IANA number, or one of the above without its header.
    Other(u8),
}

/// Packets and bytes, from the network layer's header on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub packets: u64,
    pub bytes: u64,
}

/// Why a rule stops packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stop {
    NoEndpoints,
    NoLocalEndpoints,
    SourceRange,
    /// Connection tracking calls it INVALID.
    Invalid,
    /// From outside to 127.0.0.0/8.
    MartianLoopback,
    /// A network policy denies it.
    Policy,
    /// A network policy would deny it, and is only audited: it is let through.
    Audited,
}

impl Stop {
    pub const ALL: [Self; 7] = [
        Self::NoEndpoints,
        Self::NoLocalEndpoints,
        Self::SourceRange,
        Self::Invalid,
        Self::MartianLoopback,
        Self::Policy,
        Self::Audited,
    ];

    /// The word for it in counters and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoEndpoints => "rejected_no_endpoints",
            Self::NoLocalEndpoints => "dropped_no_local_endpoints",
            Self::SourceRange => "dropped_source_range",
            Self::Invalid => "dropped_invalid",
            Self::MartianLoopback => "dropped_martian_loopback",
            Self::Policy => "dropped_policy",
            Self::Audited => "audited_policy",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stop| stop.name() == name)
    }
}

impl Transport {
    /// The IANA number.
    pub const fn protocol(self) -> u8 {
        match self {
            Self::Tcp { .. } => 6,
            Self::Udp { .. } => 17,
            Self::Sctp { .. } => 132,
            Self::IcmpV4 { .. } => 1,
            Self::IcmpV6 { .. } => 58,
            Self::Other(number) => number,
        }
    }

    /// Source and destination port, of protocols that have ports.
    pub const fn ports(self) -> Option<(u16, u16)> {
        match self {
            Self::Tcp { source, destination }
            | Self::Udp { source, destination }
            | Self::Sctp { source, destination } => Some((source, destination)),
            Self::IcmpV4 { .. } | Self::IcmpV6 { .. } | Self::Other(_) => None,
        }
    }
}
