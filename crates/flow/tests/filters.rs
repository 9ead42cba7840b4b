//! Filters against flows, field by field: one that matches, one that does not, and what does not parse.

use std::sync::Arc;

use flow::{
    event::{Endpoint, Flow, Interface, Ip, L4, Label, Node, Rare, Seen, Service, TcpFlags, Workload},
    filter::Filters,
    proto::flow::{
        self as wire, Dns, DropReason, EventTypeFilter, FlowFilter, Http, HttpHeader, Layer7,
        NetworkInterface, TraceObservationPoint, TrafficDirection, Verdict, layer7::Record,
    },
    testing::syn,
};

/// A flow in which every field that a filter can ask for has a value.
fn rich() -> Flow {
    let mut flow = syn();
    let pod = |name: &str, identity| {
        Arc::new(Endpoint {
            id: 1,
            identity,
            cluster: "west".into(),
            namespace: "shop".into(),
            labels: [Label::parse("k8s:app=web")].into(),
            pod: name.into(),
            workloads: vec![Workload { name: "web".into(), kind: "Deployment".into() }],
        })
    };
    flow.uuid = uuid::Uuid::from_u128(1);
    flow.source = pod("web-1", 300);
    flow.destination = pod("db-1", 301);
    flow.source_names = Some(Arc::new(["a.example.com".into()]));
    flow.destination_names = Some(Arc::new(["b.example.com".into()]));
    let service = |name: &str| Some(Arc::new(Service { name: name.into(), namespace: "shop".into() }));
    flow.source_service = service("web");
    flow.destination_service = service("db");
    flow.ip = flow.ip.map(|ip| Ip { source_xlated: "192.0.2.1".parse().ok(), ..ip });
    flow.interface = Some(Arc::new(Interface { index: 6, name: "lxc6".into() }));
    flow.node = Arc::new(Node { name: "west/vm".into(), labels: vec!["zone=a".into()] });
    flow.rare = Some(Box::new(Rare { trace_id: "cafe".into(), ip_trace_id: 9, ..Rare::default() }));
    flow
}

fn http() -> Flow {
    let http = Http {
        code: 404,
        method: "GET".into(),
        url: "http://shop/a%20b/list?q=1".into(),
        protocol: "HTTP/1.1".into(),
        headers: vec![HttpHeader { key: "X-A".into(), value: "1".into() }],
    };
    let l7 =
        Layer7 { r#type: wire::L7FlowType::Response.into(), latency_ns: 1, record: Some(Record::Http(http)) };
    Flow { seen: Seen::L7(Box::new(l7)), ..rich() }
}

fn dns() -> Flow {
    let dns = Dns { query: "db.shop.svc.cluster.local.".into(), ..Dns::default() };
    let l7 =
        Layer7 { r#type: wire::L7FlowType::Request.into(), latency_ns: 0, record: Some(Record::Dns(dns)) };
    Flow { seen: Seen::L7(Box::new(l7)), ..rich() }
}

fn matches(filter: FlowFilter, flow: &Flow) -> bool {
    Filters::new(&[filter], &[]).unwrap().keep(flow)
}

/// A filter with one field.
macro_rules! filter {
    ($field:ident: $($value:expr),*) => {
        FlowFilter { $field: vec![$($value.into()),*], ..FlowFilter::default() }
    };
}

fn event(kind: i32, sub_type: Option<i32>) -> EventTypeFilter {
    EventTypeFilter {
        r#type: kind,
        match_sub_type: sub_type.is_some(),
        sub_type: sub_type.unwrap_or_default(),
    }
}

fn workload(name: &str, kind: &str) -> wire::Workload {
    wire::Workload { name: name.into(), kind: kind.into() }
}

fn interface(index: u32, name: &str) -> NetworkInterface {
    NetworkInterface { index, name: name.into() }
}

#[test]
fn each_field_matches_one_of_its_values() {
    let flow = rich();
    let on = "00000000-0000-0000-0000-000000000001";
    for filter in [
        filter!(uuid: "x", on),
        filter!(source_ip: "10.244.0.10"),
        filter!(source_ip: "10.0.0.0/8"),
        filter!(destination_ip: "::1", "10.244.0.11/32"),
        filter!(source_ip_xlated: "192.0.2.0/24"),
        filter!(source_pod: "shop/web"),
        filter!(source_pod: "shop/"),
        filter!(destination_pod: "/db-1"),
        filter!(destination_pod: "/"),
        filter!(source_fqdn: "*.EXAMPLE.com."),
        filter!(destination_fqdn: "b.*"),
        filter!(source_label: "k8s:app in (web, db)"),
        filter!(destination_label: "app=x", "app"),
        filter!(source_service: "shop/w"),
        filter!(destination_service: "/db"),
        filter!(source_workload: workload("web", "")),
        filter!(destination_workload: workload("", "Deployment")),
        filter!(source_cluster_name: "west"),
        filter!(destination_cluster_name: "east", "west"),
        filter!(source_identity: 300_u32),
        filter!(destination_identity: 1_u32, 301_u32),
        filter!(source_port: "44092"),
        filter!(destination_port: "80", "8080"),
        filter!(traffic_direction: TrafficDirection::Ingress),
        filter!(verdict: Verdict::Dropped, Verdict::Forwarded),
        filter!(drop_reason_desc: DropReason::Unknown),
        filter!(interface: interface(0, "lxc6")),
        filter!(interface: interface(6, "")),
        filter!(event_type: event(4, None)),
        filter!(event_type: event(4, Some(0))),
        filter!(event_type: event(0, None)),
        filter!(protocol: "TCP"),
        filter!(reply: false),
        filter!(tcp_flags: wire::TcpFlags { syn: true, ..wire::TcpFlags::default() }),
        filter!(node_name: "west/v*"),
        filter!(node_labels: "zone=a"),
        filter!(ip_version: wire::IpVersion::IPv4),
        filter!(trace_id: "cafe"),
        filter!(ip_trace_id: 9_u64),
        filter!(encrypted: false),
    ] {
        assert!(matches(filter.clone(), &flow), "{filter:?}");
        let empty = Flow { is_reply: None, l4: L4::Unknown, ip: None, ..syn() };
        let of_any = filter.drop_reason_desc.len()
            + filter.verdict.len()
            + filter.traffic_direction.len()
            + filter.event_type.len();
        assert!(of_any > 0 || !matches(filter.clone(), &empty), "matches a flow without it: {filter:?}");
    }
}

#[test]
fn each_field_refuses_other_values() {
    let flow = rich();
    for filter in [
        filter!(source_ip: "10.244.0.11"),
        filter!(destination_ip: "10.244.0.10", "fd00::/8"),
        filter!(source_pod: "shop/eb"),
        filter!(source_pod: "web"),
        filter!(source_pod: "sho/"),
        filter!(source_service: "other/"),
        filter!(source_label: "app!=web"),
        filter!(source_workload: workload("web", "DaemonSet")),
        filter!(source_port: "8080"),
        filter!(verdict: Verdict::Dropped),
        filter!(drop_reason_desc: DropReason::PolicyDenied),
        filter!(interface: interface(7, "lxc6")),
        filter!(event_type: event(4, Some(11))),
        filter!(event_type: event(1, None)),
        filter!(protocol: "udp", "icmp", "sctp", "vrrp", "igmp", "dns", "http", "kafka"),
        filter!(reply: true),
        filter!(tcp_flags: wire::TcpFlags { syn: true, ack: true, ..wire::TcpFlags::default() }),
        filter!(node_name: "east/", "vm2"),
        filter!(ip_version: wire::IpVersion::IPv6, wire::IpVersion::IpNotUsed),
        filter!(encrypted: true),
    ] {
        assert!(!matches(filter.clone(), &flow), "{filter:?}");
    }
}

#[test]
fn messages() {
    for (filter, flow, wanted) in [
        (filter!(http_status_code: "404"), http(), true),
        (filter!(http_status_code: "4+"), http(), true),
        (filter!(http_status_code: "41+", "5+"), http(), false),
        (filter!(http_method: "get"), http(), true),
        (filter!(http_path: "^/a b/l"), http(), true),
        (filter!(http_path: "q=1"), http(), false),
        (filter!(http_url: "q=1$"), http(), true),
        (filter!(http_header: HttpHeader { key: "X-A".into(), value: "1".into() }), http(), true),
        (filter!(http_header: HttpHeader { key: "X-A".into(), value: "2".into() }), http(), false),
        (filter!(dns_query: "db\\..*\\.local"), dns(), true),
        (filter!(dns_query: "^shop"), dns(), false),
        (filter!(dns_query: ".*"), http(), false),
        (filter!(http_url: ".*"), dns(), false),
        (filter!(http_url: ".*"), rich(), false),
        (filter!(protocol: "dns"), dns(), true),
        (filter!(protocol: "http"), http(), true),
    ] {
        assert_eq!(matches(filter.clone(), &flow), wanted, "{filter:?}");
    }
}

#[test]
fn an_unknown_direction_matches_no_reply_unless_dropped() {
    let unknown = Flow { is_reply: None, ..syn() };
    let dropped =
        Flow { verdict: Verdict::Dropped, seen: Seen::Drop(DropReason::PolicyDenied), ..unknown.clone() };
    for (flow, reply, wanted) in
        [(&unknown, false, false), (&unknown, true, false), (&dropped, false, true), (&dropped, true, false)]
    {
        assert_eq!(matches(filter!(reply: reply), flow), wanted);
    }
}

#[test]
fn flags_are_alternatives_each_of_which_is_a_set() {
    let flow =
        Flow { l4: L4::Tcp { source: 1, destination: 2, flags: TcpFlags::SYN.with(TcpFlags::ACK) }, ..syn() };
    let fin = wire::TcpFlags { fin: true, ..wire::TcpFlags::default() };
    let syn_ack = wire::TcpFlags { syn: true, ack: true, ..wire::TcpFlags::default() };
    assert!(matches(filter!(tcp_flags: fin, syn_ack), &flow));
    assert!(!matches(filter!(tcp_flags: wire::TcpFlags { fin: true, ..syn_ack }), &flow));
}

#[test]
fn points_of_observation_go_by_the_datapaths_number() {
    let to_network = Flow {
        seen: Seen::Trace { point: TraceObservationPoint::ToNetwork, reason: wire::TraceReason::Reply },
        ..syn()
    };
    assert!(matches(filter!(event_type: event(4, Some(11))), &to_network));
}

#[test]
fn fields_are_joined_by_and_and_lists_subtract() {
    let flow = rich();
    let both = |port: &str| FlowFilter {
        source_pod: vec!["shop/web".into()],
        destination_port: vec![port.into()],
        ..FlowFilter::default()
    };
    assert!(matches(both("8080"), &flow));
    assert!(!matches(both("80"), &flow));
    let keep = |white: &[FlowFilter], black: &[FlowFilter]| Filters::new(white, black).unwrap().keep(&flow);
    assert!(keep(&[], &[]));
    assert!(keep(&[both("80"), both("8080")], &[]));
    assert!(!keep(&[], &[both("80"), both("8080")]));
    assert!(!keep(&[both("8080")], &[both("8080")]));
    assert!(keep(&[both("8080")], &[both("80")]));
}

#[test]
fn what_does_not_parse_is_named() {
    let cel = FlowFilter {
        experimental: Some(wire::flow_filter::Experimental { cel_expression: vec!["true".into()] }),
        ..FlowFilter::default()
    };
    let without_l7 = FlowFilter { event_type: vec![event(4, None)], ..filter!(http_path: "/") };
    for (filter, text) in [
        (filter!(source_ip: "10.0.0"), "source_ip \"10.0.0\": must be valid IP address or CIDR"),
        (
            filter!(destination_ip: "10.0.0.0/33"),
            "destination_ip \"10.0.0.0/33\": must be valid IP address or CIDR",
        ),
        (filter!(source_pod: ""), "source_pod \"\": must be [namespace/][<name>]"),
        (filter!(destination_service: ""), "destination_service \"\": must be [namespace/][<name>]"),
        (filter!(source_fqdn: "a b"), "source_fqdn \"a b\": ' ': invalid rune in pattern"),
        (filter!(source_label: "a in"), "source_label \"a in\": expected '(' after in or notin"),
        (filter!(source_port: "http"), "source_port \"http\": not a port number"),
        (filter!(destination_port: "080"), "destination_port \"080\": not a port number"),
        (filter!(verdict: 77), "verdict \"77\": not a value of this field"),
        (filter!(http_status_code: "6+"), "http_status_code \"6+\": invalid status code prefix"),
        (filter!(http_status_code: "40"), "http_status_code \"40\": invalid status code prefix"),
        (filter!(protocol: "quic"), "protocol \"quic\": unknown protocol"),
        (filter!(dns_query: "a(b"), "dns_query \"a(b\": unclosed group"),
        (filter!(http_url: "(a{999}){999}"), "http_url \"(a{999}){999}\": needs more than 1048576 bytes"),
        (filter!(node_name: "a/b/c"), "node_name \"a/b/c\": too many slashes in pattern"),
        (cel, "experimental.cel_expression \"true\": CEL is not supported"),
        (without_l7, "http_path \"\": requires the event type filter to only match 'l7' events"),
    ] {
        let error = Filters::new(&[FlowFilter::default(), filter.clone()], &[]).unwrap_err();
        assert_eq!(error.to_string(), format!("parse whitelist[1].{text}"));
        let error = Filters::new(&[], &[filter]).unwrap_err();
        assert_eq!(error.to_string(), format!("parse blacklist[0].{text}"));
    }
}

#[test]
fn too_much_is_refused() {
    let many = FlowFilter { source_identity: (0..2000).collect(), ..FlowFilter::default() };
    assert_eq!(
        Filters::new(&[many], &[]).unwrap_err().to_string(),
        "parse whitelist[0].source_identity \"2000 values\": at most 1024 values are allowed"
    );
    assert_eq!(
        Filters::new(&[], &vec![FlowFilter::default(); 300]).unwrap_err().to_string(),
        "parse blacklist: 300 filters, at most 256 are allowed"
    );
}
