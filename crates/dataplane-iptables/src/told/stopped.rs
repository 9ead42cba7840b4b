//! Packets that rules log before they stop them, as nfnetlink_log has them (`linux/netfilter/nfnetlink_log.h`). Pure.

use std::net::IpAddr;

use etherparse::{LaxPacketHeaders, LaxPayloadSlice, NetHeaders, TransportHeader};
use model::{
    policy::RuleId,
    told::{Stopped, Transport, Tuple},
};

use crate::{
    kernel::netlink::{Message, find, number},
    policy::named,
};

/// `NFNL_SUBSYS_ULOG` with `NFULNL_MSG_PACKET`.
pub(crate) const PACKET: u16 = 4 << 8;

/// `NFULA_*`.
const DEVICE_IN: u16 = 4;
const DEVICE_OUT: u16 = 5;
const PAYLOAD: u16 = 9;
const PREFIX: u16 = 10;
const SEQUENCE: u16 = 12;

/// IANA numbers.
const IGMP: u8 = 2;
const SCTP: u8 = 132;

/// A logged packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Logged {
    /// Counts the packets of the group, modulo 2^32.
    pub sequence: Option<u32>,
    /// `None`: the rule is none of ours.
    pub stopped: Option<Stopped>,
}

/// `rule`: the number of a policy's rule by what logs call it.
pub(crate) fn read(message: Message<'_>, rule: impl FnOnce(&str) -> Option<RuleId>) -> Logged {
    let attributes = message.attributes;
    let index = |kind| find(attributes, kind).map(|value| number(value) as u32);
    let prefix = find(attributes, PREFIX).and_then(|prefix| std::str::from_utf8(prefix).ok());
    let why = prefix.and_then(|prefix| named::read_prefix(prefix.trim_end_matches('\0')));
    let stopped = why.map(|(why, digest)| {
        let (tuple, tcp_flags) = match find(attributes, PAYLOAD).and_then(packet) {
            Some((tuple, tcp_flags)) => (Some(tuple), tcp_flags),
            None => (None, 0),
        };
        let device = index(DEVICE_IN).or_else(|| index(DEVICE_OUT));
        Stopped { why, rule: digest.and_then(rule), tuple, tcp_flags, device }
    });
    Logged { sequence: index(SEQUENCE), stopped }
}

/// Addresses, ports and TCP flags of the beginning of a packet; `None`: it has no whole header of the network layer.
fn packet(bytes: &[u8]) -> Option<(Tuple, u8)> {
    let headers = LaxPacketHeaders::from_ip(bytes).ok()?;
    let (source, destination): (IpAddr, IpAddr) = match headers.net.as_ref()? {
        NetHeaders::Ipv4(header, _) => (header.source.into(), header.destination.into()),
        NetHeaders::Ipv6(header, _) => (header.source.into(), header.destination.into()),
        NetHeaders::Arp(_) => return None,
    };
    let mut tcp_flags = 0;
    let transport = match &headers.transport {
        Some(TransportHeader::Tcp(tcp)) => {
            // The byte as it stands in the header (RFC 9293).
            tcp_flags = tcp.to_bytes()[13];
            Transport::Tcp { source: tcp.source_port, destination: tcp.destination_port }
        }
        Some(TransportHeader::Udp(udp)) => {
            Transport::Udp { source: udp.source_port, destination: udp.destination_port }
        }
        Some(TransportHeader::Icmpv4(icmp)) => {
            let bytes = icmp.to_bytes();
            Transport::IcmpV4 { kind: bytes[0], code: bytes[1] }
        }
        Some(TransportHeader::Icmpv6(icmp)) => {
            let bytes = icmp.to_bytes();
            Transport::IcmpV6 { kind: bytes[0], code: bytes[1] }
        }
        Some(TransportHeader::Igmp(_)) => Transport::Other(IGMP),
        None => without_header(&headers.payload),
    };
    Some((Tuple { source, destination, transport }, tcp_flags))
}

/// SCTP (RFC 9260) begins with its ports; of other protocols, and of later fragments, the number is all.
fn without_header(payload: &LaxPayloadSlice<'_>) -> Transport {
    let LaxPayloadSlice::Ip(payload) = payload else { return Transport::Other(0) };
    let port = |at: usize| payload.payload.get(at..at + 2).map(|two| u16::from_be_bytes([two[0], two[1]]));
    match (payload.ip_number.0, port(0), port(2)) {
        (SCTP, Some(source), Some(destination)) if !payload.fragmented => {
            Transport::Sctp { source, destination }
        }
        (number, ..) => Transport::Other(number),
    }
}
