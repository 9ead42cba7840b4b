//! Flows for tests and benchmarks. Never part of what the product shows.

pub mod openmetrics;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use model::{
    Family, Frontend, FrontendAddress, FrontendKind, Port, Protocol, ServiceName, ServicePort, ServicePortId,
    TrafficPolicy,
};
use uuid::Uuid;

use crate::{
    event::{Body, Endpoint, Event, Flow, Ip, L4, Label, Node, PolicyMatch, Seen, TcpFlags, Time},
    proto::flow::{
        Dns, DropReason, Http, L7FlowType, Layer7, LostEvent, LostEventSource, TraceObservationPoint,
        TraceReason, TrafficDirection, Verdict, layer7::Record,
    },
};

/// A report of so many events lost in the kernel.
pub fn lost(events: u64) -> Body {
    Body::Lost(LostEvent {
        source: LostEventSource::PerfEventRingBuffer.into(),
        num_events_lost: events,
        ..LostEvent::default()
    })
}

/// Events that together move every metric of flows: a SYN, a drop, a verdict, DNS and HTTP both ways, a loss.
pub fn one_of_each() -> Vec<Event> {
    let l7 = |kind: L7FlowType, record| {
        let l7 = Layer7 { r#type: kind.into(), latency_ns: 1_000_000, record: Some(record) };
        Flow { seen: Seen::L7(Box::new(l7)), ..syn() }
    };
    let dns = || {
        let (qtypes, rrtypes) = (vec!["A".into()], vec!["A".into()]);
        Record::Dns(Dns { query: "nginx.".into(), qtypes, rrtypes, ..Dns::default() })
    };
    let http = |code| {
        let (method, protocol) = ("GET".into(), "HTTP/1.1".into());
        Record::Http(Http { method, protocol, url: "http://nginx/".into(), code, ..Http::default() })
    };
    let dropped = Verdict::Dropped;
    let flows = [
        syn(),
        Flow { verdict: dropped, is_reply: None, seen: Seen::Drop(DropReason::PolicyDenied), ..syn() },
        Flow { verdict: dropped, is_reply: None, seen: Seen::PolicyVerdict(PolicyMatch::None), ..syn() },
        l7(L7FlowType::Request, dns()),
        l7(L7FlowType::Response, dns()),
        l7(L7FlowType::Request, http(0)),
        l7(L7FlowType::Response, http(200)),
    ];
    let lost = Event { time: Time(0), body: lost(1) };
    flows.into_iter().map(|flow| at(0, flow)).chain([lost]).collect()
}

/// A pod with the labels that pods have.
pub fn pod(namespace: &str, name: &str, identity: u32) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        id: 1277,
        identity,
        cluster: "default".into(),
        namespace: namespace.into(),
        labels: [Label::parse("k8s:app=nginx"), Label::parse("k8s:io.kubernetes.pod.namespace=default")]
            .into(),
        pod: name.into(),
        workloads: vec![],
    })
}

/// A SYN from 10.244.0.10:44092 to 10.244.0.11:8080 between two endpoints without names, delivered.
pub fn syn() -> Flow {
    let endpoint = |identity| Arc::new(Endpoint { identity, ..Endpoint::default() });
    Flow {
        uuid: Uuid::nil(),
        verdict: Verdict::Forwarded,
        seen: Seen::Trace { point: TraceObservationPoint::ToEndpoint, reason: TraceReason::New },
        direction: TrafficDirection::Ingress,
        is_reply: Some(false),
        ethernet: None,
        ip: Some(Ip {
            source: IpAddr::V4(Ipv4Addr::new(10, 244, 0, 10)),
            destination: IpAddr::V4(Ipv4Addr::new(10, 244, 0, 11)),
            source_xlated: None,
            encrypted: false,
        }),
        l4: L4::Tcp { source: 44092, destination: 8080, flags: TcpFlags::SYN },
        source: endpoint(27793),
        destination: endpoint(23938),
        source_names: None,
        destination_names: None,
        source_service: None,
        destination_service: None,
        interface: None,
        node: Arc::new(Node { name: "vm".into(), labels: vec![] }),
        rules: None,
        rare: None,
    }
}

/// `flow` at a time.
pub fn at(nanos: i64, flow: Flow) -> Event {
    Event { time: Time(nanos), body: Body::Flow(flow) }
}

/// A cluster IP for TCP without backends.
pub fn service(
    namespace: &str,
    name: &str,
    address: IpAddr,
    port: u16,
) -> (ServicePortId, Option<Arc<ServicePort>>) {
    let service = ServiceName { namespace: namespace.into(), name: name.into() };
    let family = Family::of(address);
    let id = ServicePortId { service, port: String::new(), protocol: Protocol::Tcp, family };
    let frontend = Frontend {
        kind: FrontendKind::ClusterIp,
        address: FrontendAddress::Ip(address),
        port: Port::new(port).expect("not 0"),
        policy: TrafficPolicy::Cluster,
        source_ranges: vec![],
    };
    let port = ServicePort {
        id: id.clone(),
        frontends: vec![frontend],
        cluster: vec![],
        local: vec![],
        usable_anywhere: true,
        endpoints: vec![],
        affinity_seconds: None,
        health_check_port: None,
    };
    (id, Some(Arc::new(port)))
}

/// A DNS message that asks for `name` (labels without escapes, and a final dot) and a type by its number.
pub fn dns_question(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = [id.to_be_bytes(), [1, 0], [0, 1]].concat();
    bytes.extend([0; 6]);
    push_name(&mut bytes, name);
    bytes.extend([kind.to_be_bytes(), [0, 1]].concat());
    bytes
}

/// The answer to `question`: a CNAME where there is one, then the addresses, all with this time to live.
pub fn dns_answer(question: &[u8], code: u8, cname: Option<&str>, addresses: &[IpAddr], ttl: u32) -> Vec<u8> {
    const OF_THE_QUESTION: [u8; 2] = [0xc0, 12];
    let mut bytes = question.to_vec();
    bytes[2..4].copy_from_slice(&[0x81, 0x80 | code]);
    bytes[7] = addresses.len() as u8 + u8::from(cname.is_some());
    let mut record = |kind: u16, data: &[u8]| {
        bytes.extend(OF_THE_QUESTION);
        bytes.extend([kind.to_be_bytes(), [0, 1]].concat());
        bytes.extend(ttl.to_be_bytes());
        bytes.extend((data.len() as u16).to_be_bytes());
        bytes.extend(data);
    };
    if let Some(name) = cname {
        let mut data = vec![];
        push_name(&mut data, name);
        record(5, &data);
    }
    for address in addresses {
        match address {
            IpAddr::V4(address) => record(1, &address.octets()),
            IpAddr::V6(address) => record(28, &address.octets()),
        }
    }
    bytes
}

fn push_name(bytes: &mut Vec<u8>, name: &str) {
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
}
