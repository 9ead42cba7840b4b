//! What the datapath tells of flows: one record of fixed size, for both address families.

use crate::{Be16, plain};

/// The first byte of every record. A reader that knows another version counts the record and leaves it.
pub const EVENT_VERSION: u8 = 1;
/// Bytes of the ring that records wait in: room for 7,281 of them.
pub const EVENT_RING_BYTES: u32 = 1 << 20;

/// What happened.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventKind {
    /// The first packet of a direction of a flow was forwarded.
    New = 0,
    /// A side ended the flow with this packet, by its FIN, or both sides by one RST.
    Closed = 1,
    /// A flow goes on, and it is time to say so ([`crate::Config::event_interval`]).
    Ongoing = 2,
    /// The packet was dropped.
    Dropped = 3,
    /// The packet was answered with a refusal, or the call of a socket with an error.
    Refused = 4,
    /// The packet was let pass, and an endpoint that opted in sent or got it: an [`L7Event`], with the payload's first bytes.
    L7 = 5,
    /// A socket's call named a frontend, and was given a backend.
    Translated = 6,
}

impl EventKind {
    pub const ALL: [Self; 7] =
        [Self::New, Self::Closed, Self::Ongoing, Self::Dropped, Self::Refused, Self::L7, Self::Translated];

    /// The word in the CLI and the metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Closed => "closed",
            Self::Ongoing => "ongoing",
            Self::Dropped => "dropped",
            Self::Refused => "refused",
            Self::L7 => "l7",
            Self::Translated => "translated",
        }
    }
}

/// How much is told of flows. Numbers are part of the ABI.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EventLevel {
    /// Nothing at all.
    #[default]
    Off = 0,
    /// When a direction of a flow begins, every [`crate::Config::event_interval`] while it goes on, and when it ends.
    Flows = 1,
    /// Every packet but bare acknowledgements of TCP.
    Substance = 2,
    /// Every packet.
    Packets = 3,
}

/// Element of `LATELY`: a flow without an entry in the connection table that was told of.
///
/// One aligned word: two CPUs cannot mix theirs.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lately {
    /// Of the tuple; 0: none.
    pub hash: u32,
    /// When ([`crate::coarse`]).
    pub told: u16,
    /// SYN, FIN and RST that were told of, as in the TCP header.
    pub control: u8,
    /// [`event_flags::OPENS`] or [`event_flags::REPLY`], where the handshake told which.
    pub role: u8,
}

/// Rows of `LATELY`: a power of two.
pub const LATELY_ROWS: u32 = 4_096;

/// Where the packet was seen. Numbers are part of the ABI.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    FromPod = 0,
    ToPod = 1,
    FromWire = 2,
    ToWire = 3,
    FromTunnel = 4,
    /// No packet: connect(2) or sendmsg(2), before there is one.
    Call = 5,
    /// recvmsg(2) or getpeername(2): the answer's source, as the program sees it.
    Answer = 6,
}

impl Point {
    pub const ALL: [Self; 7] = [
        Self::FromPod,
        Self::ToPod,
        Self::FromWire,
        Self::ToWire,
        Self::FromTunnel,
        Self::Call,
        Self::Answer,
    ];
}

/// Bits of [`Event::flags`].
pub mod event_flags {
    /// The packet answers the flow.
    pub const REPLY: u8 = 1;
    /// Addresses or ports changed: the flow belongs to a frontend.
    pub const TRANSLATED: u8 = 1 << 1;
    /// The source was replaced by the node's address.
    pub const MASQUERADED: u8 = 1 << 2;
    /// There is an entry in the connection table, or would be, had no policy denied it: translation, counts and the flags above
    /// are known.
    pub const TRACKED: u8 = 1 << 3;
    /// Addresses could not be read: they and the identities are zero.
    pub const UNREADABLE: u8 = 1 << 4;
    /// There is no entry, and the packet's sender is known to have opened the flow: its SYN was seen.
    pub const OPENS: u8 = 1 << 5;
    /// A policy denies it, and its pod is audited only: it was let through.
    pub const AUDITED: u8 = 1 << 6;
}

/// Element of the per-CPU array `EVENT_COUNTS`, one per [`EventKind`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventCount {
    /// Counted before the ring is asked for room: what was told is this, less what was lost.
    pub offered: u64,
    /// The ring was full.
    pub lost: u64,
}

/// A record.
///
/// IPv4 addresses are the first word. What is not known is zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// [`EVENT_VERSION`].
    pub version: u8,
    /// An [`EventKind`].
    pub kind: u8,
    /// A [`Point`].
    pub point: u8,
    /// 4 or 6.
    pub family: u8,
    pub protocol: u8,
    /// As in the TCP header; of SCTP, those that say the same as its chunks.
    pub tcp_flags: u8,
    /// Of [`event_flags`].
    pub flags: u8,
    /// Of [`crate::asked_flags`].
    pub policy: u8,
    /// Nanoseconds since boot (`CLOCK_BOOTTIME`).
    pub time: u64,
    /// A [`crate::Reason`]: what became of the packet.
    pub reason: u32,
    /// Interface index of the device that the packet was seen on.
    pub interface: u32,
    /// Of the addresses as the packet came, and of the backend where the flow is translated.
    pub source_identity: u32,
    pub destination_identity: u32,
    /// [`crate::Config::revision`] under which it was decided.
    pub revision: u32,
    /// The policy rule that decided at the sender; 0: none.
    pub egress_rule: u32,
    /// The same at the receiver.
    pub ingress_rule: u32,
    /// How narrow the rows of these rules were, of [`crate::matched`].
    pub egress_match: u8,
    pub ingress_match: u8,
    pub padding: [u8; 2],
    /// Of this direction of the flow, this packet included where it was forwarded. Of a call: the socket's cookie.
    pub packets: u64,
    /// Of IP packets, without the link header. Of a call: the number of the caller's cgroup.
    pub bytes: u64,
    /// As the packet came: the frontend is its destination. Of a call, whose own address nobody knows yet: low and high half
    /// of the cookie of the socket's network namespace.
    pub source: [u32; 4],
    pub destination: [u32; 4],
    /// As it leaves: the backend is its destination.
    pub new_source: [u32; 4],
    pub new_destination: [u32; 4],
    /// Of ICMP: the message's type.
    pub source_port: Be16,
    /// Of ICMP: its code.
    pub destination_port: Be16,
    pub new_source_port: Be16,
    pub new_destination_port: Be16,
}

/// Bytes of payload in a record at most.
pub const L7_BYTES: usize = 512;

/// What a record of [`EventKind::L7`] begins with. The first bytes of the packet's payload follow, up to the record's end:
/// all of it, or [`L7_BYTES`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct L7Event {
    pub event: Event,
    /// Of the TCP header; 0 for UDP.
    pub sequence: u32,
    pub acknowledgment: u32,
    /// Of the packet's whole payload, in bytes.
    pub length: u32,
    pub padding: u32,
}

/// What an endpoint lets be read of its packets: bits of [`crate::Endpoint::l7`].
pub mod l7_flags {
    /// To and from port 53, before or after translation, by UDP or TCP.
    pub const DNS: u32 = 1;
    /// Start lines of HTTP/1, by TCP to and from any other port.
    pub const HTTP: u32 = 1 << 1;
}

/// [`Event::source_identity`] of a call by a process of the node: Hubble's number for the host.
pub const HOST_IDENTITY: u32 = 1;

const _: () = assert!(size_of::<Lately>() == 8 && LATELY_ROWS.is_power_of_two());
const _: () = assert!(size_of::<L7Event>() == 152);
const _: () = assert!(size_of::<Event>() == 136 && size_of::<EventCount>() == 16);
plain!(Event, EventCount, L7Event, Lately);
