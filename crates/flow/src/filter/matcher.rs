//! One field of a filter, ready to be asked. Never parses.

use std::net::IpAddr;

use ipnet::IpNet;
use regex::Regex;

use super::{
    labels::Selector,
    pattern::{NameGlob, NodeGlob, canonical},
};
use crate::{
    event::{Endpoint, Flow, L4, Label, Names, Seen, Service, TcpFlags},
    names::{EventType, trace_sub_type},
    proto::flow::{DropReason as Reason, HttpHeader, NetworkInterface, Verdict, Workload, layer7::Record},
};

/// Which end of a flow a field is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Destination,
}

/// One field: one of its values must match.
#[derive(Debug)]
pub(super) enum Matcher {
    Uuid(Vec<String>),
    Ip(End, Vec<Addresses>),
    SourceXlated(Vec<Addresses>),
    Pod(End, Vec<Prefix>),
    Service(End, Vec<Prefix>),
    Fqdn(End, Vec<NameGlob>),
    Labels(End, Vec<Selector>),
    Workload(End, Vec<Workload>),
    Cluster(End, Vec<String>),
    Identity(End, Vec<u32>),
    Port(End, Vec<u16>),
    Direction(Vec<i32>),
    Verdict(Vec<i32>),
    DropReason(Vec<i32>),
    Interface(Vec<NetworkInterface>),
    Event(Vec<EventFilter>),
    HttpStatus(Vec<String>),
    HttpMethod(Vec<String>),
    HttpPath(Vec<Regex>),
    HttpUrl(Vec<Regex>),
    HttpHeader(Vec<HttpHeader>),
    DnsQuery(Vec<Regex>),
    Protocol(Vec<Protocol>),
    Reply(Vec<bool>),
    TcpFlags(Vec<TcpFlags>),
    Node(Vec<NodeGlob>),
    NodeLabels(Vec<Selector>),
    IpVersion(Vec<i32>),
    TraceId(Vec<String>),
    IpTraceId(Vec<u64>),
    Encrypted(Vec<bool>),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Addresses {
    One(IpAddr),
    Range(IpNet),
}

/// A namespace (`None`: any) and how a name in it begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Prefix {
    pub namespace: Option<String>,
    pub name: String,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct EventFilter {
    /// `None`: any.
    pub kind: Option<i32>,
    pub sub_type: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp,
    Udp,
    Sctp,
    Icmp,
    IcmpV4,
    IcmpV6,
    Vrrp,
    Igmp,
    Dns,
    Http,
    Kafka,
}

impl Matcher {
    pub(super) fn matches(&self, flow: &Flow) -> bool {
        match self {
            Self::Uuid(ids) => ids.iter().any(|id| !flow.uuid.is_nil() && *id == flow.uuid.to_string()),
            Self::Ip(end, ranges) => flow.ip.is_some_and(|ip| {
                let address = end.of(ip.source, ip.destination);
                ranges.iter().any(|range| range.contains(address))
            }),
            Self::SourceXlated(ranges) => flow
                .ip
                .and_then(|ip| ip.source_xlated)
                .is_some_and(|address| ranges.iter().any(|range| range.contains(address))),
            Self::Pod(end, prefixes) => {
                let endpoint = end.endpoint(flow);
                prefixes.iter().any(|prefix| prefix.matches(&endpoint.namespace, &endpoint.pod))
            }
            Self::Service(end, prefixes) => end.service(flow).is_some_and(|service| {
                prefixes.iter().any(|prefix| prefix.matches(&service.namespace, &service.name))
            }),
            Self::Fqdn(end, globs) => end.names(flow).iter().flat_map(|names| names.iter()).any(|name| {
                let name = canonical(name);
                globs.iter().any(|glob| glob.matches(&name))
            }),
            Self::Labels(end, selectors) => {
                selectors.iter().any(|selector| selector.matches(end.endpoint(flow).labels.iter()))
            }
            Self::Workload(end, wanted) => end.endpoint(flow).workloads.iter().any(|workload| {
                wanted.iter().any(|wanted| {
                    (wanted.name.is_empty() || wanted.name == workload.name)
                        && (wanted.kind.is_empty() || wanted.kind == workload.kind)
                })
            }),
            Self::Cluster(end, names) => names.contains(&end.endpoint(flow).cluster),
            Self::Identity(end, identities) => identities.contains(&end.endpoint(flow).identity),
            Self::Port(end, ports) => flow
                .l4
                .ports()
                .is_some_and(|(source, destination)| ports.contains(&end.of(source, destination))),
            Self::Direction(directions) => directions.contains(&(flow.direction as i32)),
            Self::Verdict(verdicts) => verdicts.contains(&(flow.verdict as i32)),
            Self::DropReason(reasons) => reasons.contains(&drop_reason(flow)),
            Self::Interface(wanted) => flow.interface.as_deref().is_some_and(|interface| {
                wanted.iter().any(|wanted| {
                    (wanted.index == 0 || wanted.index == interface.index)
                        && (wanted.name.is_empty() || wanted.name == interface.name)
                })
            }),
            Self::Event(wanted) => {
                let (kind, sub_type) = event_type(flow);
                wanted.iter().any(|wanted| {
                    wanted.kind.is_none_or(|wanted| wanted == kind)
                        && wanted.sub_type.is_none_or(|wanted| wanted == sub_type)
                })
            }
            Self::HttpStatus(_)
            | Self::HttpMethod(_)
            | Self::HttpPath(_)
            | Self::HttpUrl(_)
            | Self::HttpHeader(_)
            | Self::DnsQuery(_) => self.matches_l7(flow),
            Self::Protocol(protocols) => protocols.iter().any(|protocol| protocol.matches(flow)),
            Self::Reply(wanted) => {
                // A dropped packet never was an answer to anything, as Hubble sees it.
                let dropped = flow.verdict == Verdict::Dropped;
                flow.is_reply.or(dropped.then_some(false)).is_some_and(|reply| wanted.contains(&reply))
            }
            Self::TcpFlags(wanted) => match flow.l4 {
                L4::Tcp { flags, .. } => wanted.iter().any(|wanted| flags.contains(*wanted)),
                _ => false,
            },
            Self::Node(globs) => globs.iter().any(|glob| glob.matches(&flow.node.name)),
            Self::NodeLabels(selectors) => {
                let labels: Vec<Label> = flow.node.labels.iter().map(|label| Label::parse(label)).collect();
                selectors.iter().any(|selector| selector.matches(labels.iter()))
            }
            Self::IpVersion(versions) => versions.contains(&match flow.ip.map(|ip| ip.source) {
                None => 0,
                Some(IpAddr::V4(_)) => 1,
                Some(IpAddr::V6(_)) => 2,
            }),
            Self::TraceId(ids) => ids.contains(&flow.rare().trace_id),
            Self::IpTraceId(ids) => ids.contains(&flow.rare().ip_trace_id),
            Self::Encrypted(wanted) => flow.ip.is_some_and(|ip| wanted.contains(&ip.encrypted)),
        }
    }

    fn matches_l7(&self, flow: &Flow) -> bool {
        let record = flow.l7().and_then(|l7| l7.record.as_ref());
        let Some(Record::Http(http)) = record else {
            return match (self, record) {
                (Self::DnsQuery(patterns), Some(Record::Dns(dns))) => {
                    patterns.iter().any(|pattern| pattern.is_match(&dns.query))
                }
                _ => false,
            };
        };
        match self {
            Self::HttpStatus(wanted) => {
                let code = format!("{:03}", http.code);
                http.code != 0
                    && wanted.iter().any(|wanted| match wanted.strip_suffix('+') {
                        Some(prefix) => code.starts_with(prefix),
                        None => code == *wanted,
                    })
            }
            Self::HttpMethod(methods) => {
                methods.iter().any(|method| method.eq_ignore_ascii_case(&http.method))
            }
            Self::HttpPath(patterns) => {
                let path = path(&http.url);
                patterns.iter().any(|pattern| pattern.is_match(&path))
            }
            Self::HttpUrl(patterns) => patterns.iter().any(|pattern| pattern.is_match(&http.url)),
            Self::HttpHeader(wanted) => wanted.iter().any(|wanted| http.headers.contains(wanted)),
            _ => false,
        }
    }
}

impl End {
    fn of<T>(self, source: T, destination: T) -> T {
        match self {
            Self::Source => source,
            Self::Destination => destination,
        }
    }

    fn endpoint(self, flow: &Flow) -> &Endpoint {
        self.of(&flow.source, &flow.destination)
    }

    fn service(self, flow: &Flow) -> Option<&Service> {
        self.of(&flow.source_service, &flow.destination_service).as_deref()
    }

    fn names(self, flow: &Flow) -> &Names {
        self.of(&flow.source_names, &flow.destination_names)
    }
}

impl Addresses {
    fn contains(&self, address: IpAddr) -> bool {
        match self {
            Self::One(one) => *one == address,
            Self::Range(range) => range.contains(&address),
        }
    }
}

impl Prefix {
    fn matches(&self, namespace: &str, name: &str) -> bool {
        !(namespace.is_empty() && name.is_empty())
            && self.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
            && name.starts_with(&self.name)
    }
}

impl Protocol {
    fn matches(self, flow: &Flow) -> bool {
        let record = || flow.l7().and_then(|l7| l7.record.as_ref());
        match self {
            Self::Tcp => matches!(flow.l4, L4::Tcp { .. }),
            Self::Udp => matches!(flow.l4, L4::Udp { .. }),
            Self::Sctp => matches!(flow.l4, L4::Sctp { .. }),
            Self::Icmp => matches!(flow.l4, L4::IcmpV4 { .. } | L4::IcmpV6 { .. }),
            Self::IcmpV4 => matches!(flow.l4, L4::IcmpV4 { .. }),
            Self::IcmpV6 => matches!(flow.l4, L4::IcmpV6 { .. }),
            Self::Vrrp => matches!(flow.l4, L4::Vrrp),
            Self::Igmp => matches!(flow.l4, L4::Igmp),
            Self::Dns => matches!(record(), Some(Record::Dns(_))),
            Self::Http => matches!(record(), Some(Record::Http(_))),
            Self::Kafka => matches!(record(), Some(Record::Kafka(_))),
        }
    }
}

fn drop_reason(flow: &Flow) -> i32 {
    match flow.seen {
        Seen::Drop(reason) => reason as i32,
        Seen::PolicyVerdict(_) if flow.verdict == Verdict::Dropped => Reason::PolicyDenied as i32,
        _ => 0,
    }
}

fn event_type(flow: &Flow) -> (i32, i32) {
    let (kind, sub_type) = match &flow.seen {
        Seen::Trace { point, .. } => (EventType::Trace, trace_sub_type(*point)),
        Seen::Drop(reason) => (EventType::Drop, *reason as i32),
        Seen::PolicyVerdict(_) => (EventType::PolicyVerdict, 0),
        Seen::L7(_) => (EventType::L7, 0),
        Seen::Socket { point, .. } => (EventType::TraceSock, *point as i32),
    };
    (kind as i32, sub_type)
}

/// The decoded path of a URL, absolute or not.
fn path(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let path = match url.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("", |slash| &rest[slash..]),
        None => url,
    };
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let escaped = if byte == b'%' { two_digits(bytes.clone()) } else { None };
        if escaped.is_some() {
            bytes.nth(1);
        }
        decoded.push(escaped.unwrap_or(byte));
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn two_digits(mut ahead: std::str::Bytes<'_>) -> Option<u8> {
    let mut digit = || char::from(ahead.next()?).to_digit(16);
    let (high, low) = (digit()?, digit()?);
    u8::try_from(high * 16 + low).ok()
}
