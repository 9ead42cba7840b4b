//! A filter's message as matchers: each field that is set becomes one. Never matches anything.

use regex::Regex;

use super::{
    MAX_VALUES,
    labels::Selector,
    matcher::{Addresses, End, EventFilter, Matcher, Prefix, Protocol},
    pattern::{Budget, NameGlob, NodeGlob},
};
use crate::{
    event::TcpFlags,
    names::EventType,
    proto::flow::{DropReason, FlowFilter, IpVersion, TrafficDirection, Verdict},
};

/// Which field of one filter does not parse.
#[derive(Debug)]
pub(super) struct Bad {
    pub field: &'static str,
    pub value: String,
    pub reason: String,
}

/// Collects matchers; the first bad value ends it.
struct Builder(Vec<Matcher>);

impl Builder {
    /// Adds a field if it has values.
    fn add<V: std::fmt::Debug, T>(
        &mut self,
        field: &'static str,
        values: &[V],
        parse: impl FnMut(&V) -> Result<T, String>,
        matcher: impl FnOnce(Vec<T>) -> Matcher,
    ) -> Result<(), Bad> {
        if values.is_empty() {
            return Ok(());
        }
        if values.len() > MAX_VALUES {
            let reason = format!("at most {MAX_VALUES} values are allowed");
            return Err(Bad { field, value: format!("{} values", values.len()), reason });
        }
        let mut parse = parse;
        let parse = |value: &V| parse(value).map_err(|reason| Bad { field, value: shown(value), reason });
        self.0.push(matcher(values.iter().map(parse).collect::<Result<_, _>>()?));
        Ok(())
    }
}

/// A value as an error quotes it: not longer than a line.
fn shown(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(&text);
    text.chars().take(128).collect()
}

pub(super) fn matchers(filter: &FlowFilter, patterns: &mut Budget) -> Result<Vec<Matcher>, Bad> {
    let mut builder = Builder(Vec::new());
    cheap(&mut builder, filter)?;
    ends(&mut builder, filter)?;
    l7(&mut builder, filter, patterns)?;
    if let Some(experimental) = filter.experimental.as_ref().filter(|these| !these.cel_expression.is_empty())
    {
        return Err(Bad {
            field: "experimental.cel_expression",
            value: shown(&experimental.cel_expression[0]),
            reason: "CEL is not supported".into(),
        });
    }
    Ok(builder.0)
}

/// Sets of numbers, which are asked first.
fn cheap(builder: &mut Builder, filter: &FlowFilter) -> Result<(), Bad> {
    builder.add("verdict", &filter.verdict, known::<Verdict>, Matcher::Verdict)?;
    builder.add("drop_reason_desc", &filter.drop_reason_desc, known::<DropReason>, Matcher::DropReason)?;
    let directions = &filter.traffic_direction;
    builder.add("traffic_direction", directions, known::<TrafficDirection>, Matcher::Direction)?;
    builder.add("ip_version", &filter.ip_version, known::<IpVersion>, Matcher::IpVersion)?;
    builder.add("reply", &filter.reply, same, Matcher::Reply)?;
    builder.add("encrypted", &filter.encrypted, same, Matcher::Encrypted)?;
    builder.add("tcp_flags", &filter.tcp_flags, |flags| Ok(TcpFlags::from(flags)), Matcher::TcpFlags)?;
    builder.add("protocol", &filter.protocol, |name| protocol(name), Matcher::Protocol)?;
    builder.add(
        "event_type",
        &filter.event_type,
        |event| {
            Ok(EventFilter {
                kind: (event.r#type != 0).then_some(event.r#type),
                sub_type: event.match_sub_type.then_some(event.sub_type),
            })
        },
        Matcher::Event,
    )?;
    builder.add("interface", &filter.interface, same, Matcher::Interface)?;
    builder.add("uuid", &filter.uuid, same, Matcher::Uuid)?;
    builder.add("trace_id", &filter.trace_id, |text| not_empty(text), Matcher::TraceId)?;
    builder.add("ip_trace_id", &filter.ip_trace_id, same, Matcher::IpTraceId)?;
    builder.add("node_name", &filter.node_name, |name| NodeGlob::parse(name), Matcher::Node)?;
    builder.add("node_labels", &filter.node_labels, |text| Selector::parse(text), Matcher::NodeLabels)
}

/// What is said of either end.
fn ends(builder: &mut Builder, filter: &FlowFilter) -> Result<(), Bad> {
    use End::{Destination, Source};
    let f = filter;
    for (end, field, values) in [
        (Source, "source_identity", &f.source_identity),
        (Destination, "destination_identity", &f.destination_identity),
    ] {
        builder.add(field, values, same, |them| Matcher::Identity(end, them))?;
    }
    for (end, field, values) in
        [(Source, "source_port", &f.source_port), (Destination, "destination_port", &f.destination_port)]
    {
        builder.add(field, values, |text| port(text), |them| Matcher::Port(end, them))?;
    }
    for (end, field, values) in
        [(Source, "source_ip", &f.source_ip), (Destination, "destination_ip", &f.destination_ip)]
    {
        builder.add(field, values, |text| addresses(text), |them| Matcher::Ip(end, them))?;
    }
    builder.add("source_ip_xlated", &f.source_ip_xlated, |text| addresses(text), Matcher::SourceXlated)?;
    for (end, field, values) in
        [(Source, "source_pod", &f.source_pod), (Destination, "destination_pod", &f.destination_pod)]
    {
        builder.add(field, values, |text| prefix(text), |them| Matcher::Pod(end, them))?;
    }
    for (end, field, values) in [
        (Source, "source_service", &f.source_service),
        (Destination, "destination_service", &f.destination_service),
    ] {
        builder.add(field, values, |text| prefix(text), |them| Matcher::Service(end, them))?;
    }
    for (end, field, values) in [
        (Source, "source_cluster_name", &f.source_cluster_name),
        (Destination, "destination_cluster_name", &f.destination_cluster_name),
    ] {
        builder.add(field, values, |text| not_empty(text), |them| Matcher::Cluster(end, them))?;
    }
    for (end, field, values) in [
        (Source, "source_workload", &f.source_workload),
        (Destination, "destination_workload", &f.destination_workload),
    ] {
        builder.add(field, values, same, |them| Matcher::Workload(end, them))?;
    }
    for (end, field, values) in
        [(Source, "source_label", &f.source_label), (Destination, "destination_label", &f.destination_label)]
    {
        builder.add(field, values, |text| Selector::parse(text), |them| Matcher::Labels(end, them))?;
    }
    for (end, field, values) in
        [(Source, "source_fqdn", &f.source_fqdn), (Destination, "destination_fqdn", &f.destination_fqdn)]
    {
        builder.add(field, values, |text| NameGlob::parse(text), |them| Matcher::Fqdn(end, them))?;
    }
    Ok(())
}

/// What is said of messages; with it a filter for event types that leaves no L7 event could never match.
fn l7(builder: &mut Builder, filter: &FlowFilter, patterns: &mut Budget) -> Result<(), Bad> {
    let of_messages = [
        ("http_status_code", filter.http_status_code.is_empty()),
        ("http_method", filter.http_method.is_empty()),
        ("http_path", filter.http_path.is_empty()),
        ("http_url", filter.http_url.is_empty()),
        ("http_header", filter.http_header.is_empty()),
        ("dns_query", filter.dns_query.is_empty()),
    ];
    let without_l7 = !filter.event_type.is_empty()
        && filter.event_type.iter().all(|event| event.r#type != EventType::L7 as i32);
    if let Some((field, _)) = of_messages.into_iter().find(|(_, empty)| without_l7 && !empty) {
        let reason = "requires the event type filter to only match 'l7' events".into();
        return Err(Bad { field, value: String::new(), reason });
    }
    builder.add("http_status_code", &filter.http_status_code, |text| status(text), Matcher::HttpStatus)?;
    builder.add("http_method", &filter.http_method, |text| not_empty(text), Matcher::HttpMethod)?;
    builder.add("http_header", &filter.http_header, same, Matcher::HttpHeader)?;
    let mut regex = |text: &String| -> Result<Regex, String> { patterns.regex(text) };
    builder.add("http_path", &filter.http_path, &mut regex, Matcher::HttpPath)?;
    builder.add("http_url", &filter.http_url, &mut regex, Matcher::HttpUrl)?;
    builder.add("dns_query", &filter.dns_query, &mut regex, Matcher::DnsQuery)
}

fn same<T: Clone>(value: &T) -> Result<T, String> {
    Ok(value.clone())
}

fn not_empty(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("empty".into()) } else { Ok(text.to_owned()) }
}

/// A number of the enum: one that it does not have is a client's mistake, not a filter that matches nothing.
fn known<E: TryFrom<i32>>(number: &i32) -> Result<i32, String> {
    E::try_from(*number).map(|_| *number).map_err(|_| "not a value of this field".into())
}

fn protocol(name: &str) -> Result<Protocol, String> {
    Ok(match name.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        "icmp" => Protocol::Icmp,
        "icmpv4" => Protocol::IcmpV4,
        "icmpv6" => Protocol::IcmpV6,
        "vrrp" => Protocol::Vrrp,
        "igmp" => Protocol::Igmp,
        "dns" => Protocol::Dns,
        "http" => Protocol::Http,
        "kafka" => Protocol::Kafka,
        _ => return Err("unknown protocol".into()),
    })
}

/// Ports are compared as decimal text, so "080" is a port that no flow has, and here an error.
fn port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(port) if port.to_string() == text => Ok(port),
        Ok(_) | Err(_) => Err("not a port number".into()),
    }
}

fn addresses(text: &str) -> Result<Addresses, String> {
    let parsed = if text.contains('/') {
        text.parse().map(Addresses::Range).ok()
    } else {
        text.parse().map(Addresses::One).ok()
    };
    parsed.ok_or_else(|| "must be valid IP address or CIDR".into())
}

/// `namespace/prefix`, `namespace/`, `/prefix`, or a prefix in the namespace `default`.
fn prefix(text: &str) -> Result<Prefix, String> {
    if text.is_empty() {
        return Err("must be [namespace/][<name>]".into());
    }
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    let namespace = (!namespace.is_empty()).then(|| namespace.to_owned());
    Ok(Prefix { namespace, name: name.to_owned() })
}

/// `404`, or the beginning of one: `4+`, `40+`.
fn status(text: &str) -> Result<String, String> {
    let digits = text.strip_suffix('+').unwrap_or(text);
    let length_ok =
        if digits.len() == text.len() { digits.len() == 3 } else { matches!(digits.len(), 1 | 2) };
    let digits_ok =
        digits.starts_with(['1', '2', '3', '4', '5']) && digits.bytes().all(|byte| byte.is_ascii_digit());
    if length_ok && digits_ok { Ok(text.to_owned()) } else { Err("invalid status code prefix".into()) }
}
