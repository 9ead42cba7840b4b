//! Addresses and ports of one direction of a tracked flow, as netlink's attributes have them
//! (`linux/netfilter/nfnetlink_conntrack.h`). Pure.

use std::net::IpAddr;

use model::told::{Transport, Tuple};

use crate::kernel::netlink::{find, number};

/// `CTA_TUPLE_*`.
const ADDRESSES: u16 = 1;
const PROTOCOL: u16 = 2;
/// `CTA_IP_V4_SRC`, `CTA_IP_V4_DST`; those of IPv6 follow.
const SOURCE: u16 = 1;
const DESTINATION: u16 = 2;
/// `CTA_PROTO_*`.
const NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
const ICMP_V4_TYPE: u16 = 5;
const ICMP_V4_CODE: u16 = 6;
const ICMP_V6_TYPE: u16 = 8;
const ICMP_V6_CODE: u16 = 9;

/// Reads a `CTA_TUPLE_ORIG` or `CTA_TUPLE_REPLY`; `None`: it lacks what every tuple has.
pub(crate) fn read(tuple: &[u8]) -> Option<Tuple> {
    let addresses = find(tuple, ADDRESSES)?;
    let address = |v4: u16| match (find(addresses, v4), find(addresses, v4 + 2)) {
        (Some(v4), _) => Some(IpAddr::from(<[u8; 4]>::try_from(v4).ok()?)),
        (None, Some(v6)) => Some(IpAddr::from(<[u8; 16]>::try_from(v6).ok()?)),
        (None, None) => None,
    };
    let transport = transport(find(tuple, PROTOCOL)?)?;
    Some(Tuple { source: address(SOURCE)?, destination: address(DESTINATION)?, transport })
}

fn transport(bytes: &[u8]) -> Option<Transport> {
    let byte = |kind| find(bytes, kind).map(|value| number(value) as u8);
    let port = |kind| find(bytes, kind).map(|value| number(value) as u16);
    let ports = || Some((port(SOURCE_PORT)?, port(DESTINATION_PORT)?));
    Some(match byte(NUMBER)? {
        6 => ports().map(|(source, destination)| Transport::Tcp { source, destination })?,
        17 => ports().map(|(source, destination)| Transport::Udp { source, destination })?,
        132 => ports().map(|(source, destination)| Transport::Sctp { source, destination })?,
        1 => Transport::IcmpV4 { kind: byte(ICMP_V4_TYPE)?, code: byte(ICMP_V4_CODE)? },
        58 => Transport::IcmpV6 { kind: byte(ICMP_V6_TYPE)?, code: byte(ICMP_V6_CODE)? },
        other => Transport::Other(other),
    })
}
