//! What flows add up to, on a page that is read whole.

use std::collections::BTreeMap;

use super::*;
use crate::{
    event::{L4, Rules, Time},
    feed::Feed,
    proto::flow::{
        Dns, DropReason, Http, L7FlowType, Layer7, LostEvent, LostEventSource, SocketTranslationPoint,
    },
    ring::Capacity,
    testing::{at, openmetrics, syn},
};

/// The sum of a metric's samples that have these labels.
fn sum(page: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let families = openmetrics::parse(page).unwrap_or_else(|error| panic!("{error}\n{page}"));
    let samples = families.values().flat_map(|family| &family.samples).filter(|sample| sample.name == name);
    let has = |all: &BTreeMap<String, String>| {
        labels.iter().all(|(key, value)| all.get(*key).is_some_and(|found| found == value))
    };
    samples.filter(|sample| has(&sample.labels)).map(|sample| sample.value).sum()
}

fn l7(kind: L7FlowType, record: Record) -> Flow {
    let l7 = Layer7 { r#type: kind.into(), latency_ns: 30_000_000, record: Some(record) };
    Flow { seen: Seen::L7(Box::new(l7)), ..syn() }
}

fn dns(qtype: &str, rcode: u32) -> Record {
    Record::Dns(Dns {
        query: "a.".into(),
        qtypes: vec![qtype.into()],
        rrtypes: vec!["A".into(), "A".into()],
        ips: vec!["192.0.2.1".into()],
        rcode,
        ..Dns::default()
    })
}

fn http(method: &str, code: u32) -> Record {
    Record::Http(Http { method: method.into(), protocol: "HTTP/1.1".into(), code, ..Http::default() })
}

fn page_of(flows: impl IntoIterator<Item = Flow>) -> String {
    let mut registry = Registry::default();
    let mut feed = Feed::new(Capacity::DEFAULT);
    feed.register(&mut registry);
    register_build(&mut registry, "agent");
    feed.append(flows.into_iter().map(|flow| at(0, flow)));
    render([&registry])
}

#[test]
fn packets_are_counted_by_what_they_were() {
    let flags = |flags| L4::Tcp { source: 1, destination: 2, flags };
    let dropped = Flow {
        verdict: Verdict::Dropped,
        seen: Seen::Drop(DropReason::PolicyDenied),
        direction: TrafficDirection::Egress,
        ..syn()
    };
    let denied = Flow {
        verdict: Verdict::Dropped,
        seen: Seen::PolicyVerdict(PolicyMatch::L3L4),
        rules: Some(Rules::default().into()),
        ..syn()
    };
    let socket =
        Seen::Socket { point: SocketTranslationPoint::SockXlatePointPreDirectionFwd, cookie: 1, cgroup: 2 };
    let page = page_of([
        syn(),
        Flow { l4: flags(TcpFlags::SYN.with(TcpFlags::ACK)), ..syn() },
        Flow { l4: flags(TcpFlags::FIN.with(TcpFlags::ACK)), ..syn() },
        Flow { l4: flags(TcpFlags::RST), ..syn() },
        Flow {
            l4: L4::Udp { source: 1, destination: 2 },
            seen: socket,
            verdict: Verdict::Translated,
            ..syn()
        },
        dropped,
        denied,
    ]);
    let is = |name, labels: &[(&str, &str)], value| {
        assert_eq!(sum(&page, name, labels), value, "{labels:?}\n{page}")
    };
    is("hubble_flows_processed_total", &[], 7.0);
    let delivered = [("type", "Trace"), ("subtype", "to-endpoint"), ("protocol", "TCP")];
    is("hubble_flows_processed_total", &delivered, 4.0);
    is("hubble_flows_processed_total", &[("verdict", "DROPPED"), ("direction", "egress")], 1.0);
    is("hubble_flows_processed_total", &[("type", "TraceSock"), ("protocol", "UDP")], 1.0);
    let drop = [("reason", "POLICY_DENIED"), ("protocol", "TCP"), ("direction", "egress")];
    is("hubble_drop_total", &drop, 1.0);
    is("hubble_drop_total", &[], 1.0);
    let verdict = [("match", "l3-l4"), ("action", "dropped"), ("direction", "ingress")];
    is("hubble_policy_verdicts_total", &verdict, 1.0);
    for flag in ["SYN", "SYN-ACK", "FIN", "RST"] {
        is("hubble_tcp_flags_total", &[("flag", flag), ("family", "IPv4")], 1.0);
    }
    is("twinplane_flow_ring_events", &[], 7.0);
    is("twinplane_flow_ring_capacity", &[], 4095.0);
    is("twinplane_build_info", &[("role", "agent"), ("version", env!("CARGO_PKG_VERSION"))], 1.0);
}

#[test]
fn messages_are_counted_by_what_they_said() {
    let page = page_of([
        l7(L7FlowType::Request, dns("A", 0)),
        Flow { verdict: Verdict::Dropped, ..l7(L7FlowType::Request, dns("A", 0)) },
        l7(L7FlowType::Response, dns("AAAA", 3)),
        l7(L7FlowType::Response, dns("AAAA", 0)),
        l7(L7FlowType::Request, http("GET", 0)),
        l7(L7FlowType::Response, http("GET", 404)),
        Flow { direction: TrafficDirection::Egress, ..l7(L7FlowType::Response, http("FETCH\n", 7)) },
    ]);
    let is = |name, labels: &[(&str, &str)], value| {
        assert_eq!(sum(&page, name, labels), value, "{labels:?}\n{page}")
    };
    is("hubble_dns_queries_total", &[("rcode", ""), ("qtypes", "A"), ("ips_returned", "1")], 1.0);
    is("hubble_dns_queries_total", &[("rcode", "Policy denied")], 1.0);
    is("hubble_dns_responses_total", &[("rcode", "Non-Existent Domain"), ("qtypes", "AAAA")], 1.0);
    is("hubble_dns_responses_total", &[("rcode", "No Error")], 1.0);
    is("hubble_dns_response_types_total", &[("type", "A"), ("qtypes", "AAAA")], 4.0);
    let get = [("method", "GET"), ("status", "404"), ("protocol", "HTTP/1.1"), ("reporter", "server")];
    is("hubble_http_requests_total", &get, 1.0);
    is(
        "hubble_http_requests_total",
        &[("method", "other"), ("status", "other"), ("reporter", "client")],
        1.0,
    );
    is("hubble_http_request_duration_seconds_count", &[], 2.0);
    is("hubble_http_request_duration_seconds_bucket", &[("method", "GET"), ("le", "0.05")], 1.0);
    is("hubble_http_request_duration_seconds_bucket", &[("method", "GET"), ("le", "0.025")], 0.0);
    is("hubble_flows_processed_total", &[("type", "L7"), ("subtype", "HTTP"), ("protocol", "HTTP")], 3.0);
}

#[test]
fn losses_are_counted_by_who_lost() {
    let mut registry = Registry::default();
    let mut feed = Feed::new(Capacity::new(1).expect("a capacity"));
    feed.register(&mut registry);
    let lost = |source: LostEventSource, count| Event {
        time: Time(0),
        body: Body::Lost(LostEvent { source: source.into(), num_events_lost: count, ..LostEvent::default() }),
    };
    feed.append([
        lost(LostEventSource::PerfEventRingBuffer, 5),
        lost(LostEventSource::ObserverEventsQueue, 2),
        lost(LostEventSource::PerfEventRingBuffer, 1),
    ]);
    feed.readers().0.count_missed(9);
    let page = render([&registry]);
    for (source, count) in
        [("perf_event_ring_buffer", 6.0), ("observer_events_queue", 2.0), ("hubble_ring_buffer", 9.0)]
    {
        assert_eq!(sum(&page, "hubble_lost_events_total", &[("source", source)]), count, "{page}");
    }
}

/// Whoever sends DNS queries of ten thousand types fills no page.
#[test]
fn no_client_makes_the_page_longer_than_its_caps() {
    let flows = (0..10_000).map(|n| l7(L7FlowType::Request, dns(&format!("TYPE{n}"), 0)));
    let page = page_of(flows);
    let families = openmetrics::parse(&page).expect("a page");
    let queries = &families["hubble_dns_queries"].samples;
    assert_eq!(queries.len(), 129);
    assert_eq!(queries.iter().map(|sample| sample.value).sum::<f64>(), 10_000.0);
    assert_eq!(sum(&page, "hubble_dns_queries_total", &[("qtypes", "other")]), 10_000.0 - 128.0);
    let folded = [("metric", "hubble_dns_queries")];
    assert_eq!(sum(&page, "twinplane_metrics_folded_total", &folded), 10_000.0 - 128.0);
}
