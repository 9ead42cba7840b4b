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
    event::{Body, Endpoint, Event, Flow, Ip, L4, Label, Node, Seen, TcpFlags, Time},
    proto::flow::{
        LostEvent, LostEventSource, TraceObservationPoint, TraceReason, TrafficDirection, Verdict,
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
