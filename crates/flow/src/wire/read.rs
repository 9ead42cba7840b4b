//! Hubble's message as a flow, for filters to look at. Never for the ring: addresses of the link layer and what only a reader of
//! the message wants are left out, and a number that has no name here is as good as unknown.

use std::sync::Arc;

use uuid::Uuid;

use crate::{
    event::{
        Endpoint, Flow, Interface, Ip, L4, Label, Names, Node, PolicyMatch, Rare, Seen, Service, Workload,
    },
    names::EventType,
    proto::flow::{self, SocketTranslationPoint, TraceObservationPoint, layer4::Protocol},
};

impl From<&flow::Flow> for Flow {
    fn from(wire: &flow::Flow) -> Self {
        let rare = Rare {
            trace_id: wire
                .trace_context
                .as_ref()
                .and_then(|context| context.parent.as_ref())
                .map_or_else(String::new, |parent| parent.trace_id.clone()),
            ip_trace_id: wire.ip_trace_id.map_or(0, |id| id.trace_id),
            proxy_port: u16::try_from(wire.proxy_port).unwrap_or_default(),
            ..Rare::default()
        };
        Self {
            uuid: wire.uuid.parse().unwrap_or(Uuid::nil()),
            verdict: wire.verdict(),
            seen: seen(wire),
            direction: wire.traffic_direction(),
            is_reply: wire.is_reply,
            ethernet: None,
            ip: wire.ip.as_ref().and_then(ip),
            l4: wire.l4.as_ref().and_then(|l4| l4.protocol.as_ref()).map_or(L4::Unknown, l4),
            source: endpoint(wire.source.as_ref()),
            destination: endpoint(wire.destination.as_ref()),
            source_names: names(&wire.source_names),
            destination_names: names(&wire.destination_names),
            source_service: wire.source_service.as_ref().map(service),
            destination_service: wire.destination_service.as_ref().map(service),
            interface: wire.interface.as_ref().map(|interface| {
                Arc::new(Interface { index: interface.index, name: interface.name.clone() })
            }),
            node: Arc::new(Node { name: wire.node_name.clone(), labels: wire.node_labels.clone() }),
            rules: None,
            rare: (rare != Rare::default()).then(|| Box::new(rare)),
        }
    }
}

fn seen(wire: &flow::Flow) -> Seen {
    let event = wire.event_type.unwrap_or_default();
    match (EventType::from_number(event.r#type), &wire.l7) {
        (Some(EventType::L7) | None, Some(l7)) => Seen::L7(Box::new(l7.clone())),
        (Some(EventType::Drop), _) => Seen::Drop(wire.drop_reason_desc()),
        (Some(EventType::PolicyVerdict), _) => Seen::PolicyVerdict(PolicyMatch::of(wire.policy_match_type)),
        (Some(EventType::TraceSock), _) => Seen::Socket {
            point: SocketTranslationPoint::try_from(wire.sock_xlate_point).unwrap_or_default(),
            cookie: wire.socket_cookie,
            cgroup: wire.cgroup_id,
        },
        (Some(EventType::Trace | EventType::Capture | EventType::L7) | None, _) => Seen::Trace {
            point: TraceObservationPoint::try_from(wire.trace_observation_point).unwrap_or_default(),
            reason: wire.trace_reason(),
        },
    }
}

fn ip(ip: &flow::Ip) -> Option<Ip> {
    Some(Ip {
        source: ip.source.parse().ok()?,
        destination: ip.destination.parse().ok()?,
        source_xlated: ip.source_xlated.parse().ok(),
        encrypted: ip.encrypted,
    })
}

fn l4(protocol: &Protocol) -> L4 {
    let port = |port: u32| u16::try_from(port).unwrap_or_default();
    let byte = |number: u32| u8::try_from(number).unwrap_or_default();
    match protocol {
        Protocol::Tcp(tcp) => L4::Tcp {
            source: port(tcp.source_port),
            destination: port(tcp.destination_port),
            flags: tcp.flags.as_ref().map(Into::into).unwrap_or_default(),
        },
        Protocol::Udp(udp) => {
            L4::Udp { source: port(udp.source_port), destination: port(udp.destination_port) }
        }
        Protocol::Sctp(sctp) => {
            L4::Sctp { source: port(sctp.source_port), destination: port(sctp.destination_port) }
        }
        Protocol::IcmPv4(icmp) => L4::IcmpV4 { kind: byte(icmp.r#type), code: byte(icmp.code) },
        Protocol::IcmPv6(icmp) => L4::IcmpV6 { kind: byte(icmp.r#type), code: byte(icmp.code) },
        Protocol::Vrrp(_) => L4::Vrrp,
        Protocol::Igmp(_) => L4::Igmp,
    }
}

fn endpoint(wire: Option<&flow::Endpoint>) -> Arc<Endpoint> {
    let Some(wire) = wire else { return Arc::default() };
    let workload = |wire: &flow::Workload| Workload { name: wire.name.clone(), kind: wire.kind.clone() };
    Arc::new(Endpoint {
        id: wire.id,
        identity: wire.identity,
        cluster: wire.cluster_name.clone(),
        namespace: wire.namespace.clone(),
        labels: wire.labels.iter().map(|text| Label::parse(text)).collect(),
        pod: wire.pod_name.clone(),
        workloads: wire.workloads.iter().map(workload).collect(),
    })
}

fn names(names: &[String]) -> Names {
    (!names.is_empty()).then(|| names.to_vec().into())
}

fn service(wire: &flow::Service) -> Arc<Service> {
    Arc::new(Service { name: wire.name.clone(), namespace: wire.namespace.clone() })
}

#[cfg(test)]
mod tests {
    use crate::{
        event::{Body, Event, Flow, Interface, Rare, Service, Time},
        testing::{one_of_each, pod, syn},
    };

    #[test]
    fn what_filters_look_at_is_read_as_it_was_written() {
        let rich = Flow {
            source: pod("shop", "web", 300),
            destination_service: Some(Service { name: "db".into(), namespace: "shop".into() }.into()),
            destination_names: Some(vec!["db.shop".to_owned()].into()),
            interface: Some(Interface { index: 7, name: "tp0".into() }.into()),
            rare: Some(
                Rare { trace_id: "ab".into(), ip_trace_id: 9, proxy_port: 10_001, ..Rare::default() }.into(),
            ),
            ..syn()
        };
        let rich = Event { time: Time(0), body: Body::Flow(rich) };
        let mut flows = 0;
        for event in one_of_each().iter().chain([&rich]) {
            let Some(flow) = event.flow() else { continue };
            assert_eq!(Flow::from(&flow.to_wire(event.time.into())), *flow);
            flows += 1;
        }
        assert!(flows >= 8, "{flows}");
    }
}
