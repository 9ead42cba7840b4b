//! Events as Hubble's messages. Derived fields (summary, event type, the deprecated copies that old clients read) are
//! made here and nowhere else. Never invents: what a flow does not know stays unset.

mod read;

use crate::{
    event::{Body, Endpoint, Ethernet, Event, Flow, Ip, L4, Names, Seen, Service, TcpFlags},
    names::{EventType, trace_sub_type},
    proto::{
        flow::{self, DropReason, Verdict, layer4::Protocol},
        observer::{GetFlowsResponse, get_flows_response::ResponseTypes},
    },
    summary::summary,
};

impl Event {
    /// The answer that carries it to a client; `None` for agent and debug events, which have calls of their own.
    pub fn to_response(&self, node: &str) -> Option<GetFlowsResponse> {
        let (node_name, body) = match &self.body {
            Body::Flow(flow) => {
                (flow.node.name.clone(), ResponseTypes::Flow(Box::new(flow.to_wire(self.time.into()))))
            }
            Body::Lost(lost) => (node.to_owned(), ResponseTypes::LostEvents(*lost)),
            Body::Agent(_) | Body::Debug(_) => return None,
        };
        Some(GetFlowsResponse { node_name, time: Some(self.time.into()), response_types: Some(body) })
    }
}

impl Flow {
    /// The flow as a message, whole.
    pub fn to_wire(&self, time: prost_types::Timestamp) -> flow::Flow {
        let mut wire = flow::Flow {
            time: Some(time),
            uuid: if self.uuid.is_nil() { String::new() } else { self.uuid.to_string() },
            verdict: self.verdict.into(),
            ethernet: self.ethernet.map(ethernet),
            ip: self.ip.map(ip),
            l4: l4(self.l4),
            source: Some(endpoint(&self.source)),
            destination: Some(endpoint(&self.destination)),
            r#type: flow::FlowType::L3L4.into(),
            node_name: self.node.name.clone(),
            node_labels: self.node.labels.clone(),
            source_names: names(&self.source_names),
            destination_names: names(&self.destination_names),
            reply: self.is_reply.unwrap_or_default(),
            source_service: self.source_service.as_deref().map(service),
            destination_service: self.destination_service.as_deref().map(service),
            traffic_direction: self.direction.into(),
            is_reply: self.is_reply,
            interface: self.interface.as_deref().map(|interface| flow::NetworkInterface {
                index: interface.index,
                name: interface.name.clone(),
            }),
            summary: summary(self),
            ..flow::Flow::default()
        };
        self.add_seen(&mut wire);
        self.add_rest(&mut wire);
        wire
    }

    fn add_seen(&self, wire: &mut flow::Flow) {
        let (kind, sub_type) = match &self.seen {
            Seen::Trace { point, reason } => {
                wire.trace_observation_point = (*point).into();
                wire.trace_reason = (*reason).into();
                (EventType::Trace, trace_sub_type(*point))
            }
            Seen::Drop(reason) => {
                wire.drop_reason_desc = (*reason).into();
                wire.drop_reason = *reason as u32;
                (EventType::Drop, *reason as i32)
            }
            Seen::PolicyVerdict(matched) => {
                wire.policy_match_type = *matched as u32;
                if self.verdict == Verdict::Dropped {
                    wire.drop_reason_desc = DropReason::PolicyDenied.into();
                    wire.drop_reason = DropReason::PolicyDenied as u32;
                }
                (EventType::PolicyVerdict, 0)
            }
            Seen::L7(l7) => {
                wire.l7 = Some((**l7).clone());
                wire.r#type = flow::FlowType::L7.into();
                (EventType::L7, 0)
            }
            Seen::Socket { point, cookie, cgroup } => {
                wire.sock_xlate_point = (*point).into();
                wire.socket_cookie = *cookie;
                wire.cgroup_id = *cgroup;
                wire.r#type = flow::FlowType::Sock.into();
                (EventType::TraceSock, *point as i32)
            }
        };
        wire.event_type = Some(flow::CiliumEventType { r#type: kind as i32, sub_type });
    }

    fn add_rest(&self, wire: &mut flow::Flow) {
        if let Some(rules) = self.rules.as_deref() {
            wire.egress_allowed_by = rules.egress_allowed.clone();
            wire.ingress_allowed_by = rules.ingress_allowed.clone();
            wire.egress_denied_by = rules.egress_denied.clone();
            wire.ingress_denied_by = rules.ingress_denied.clone();
        }
        let rare = self.rare();
        wire.proxy_port = rare.proxy_port.into();
        wire.ip_trace_id = (rare.ip_trace_id != 0)
            .then_some(flow::IpTraceId { trace_id: rare.ip_trace_id, ip_option_type: 0 });
        wire.trace_context = (!rare.trace_id.is_empty()).then(|| flow::TraceContext {
            parent: Some(flow::TraceParent { trace_id: rare.trace_id.clone() }),
        });
    }
}

fn ethernet(ethernet: Ethernet) -> flow::Ethernet {
    flow::Ethernet { source: ethernet.source.to_string(), destination: ethernet.destination.to_string() }
}

fn ip(ip: Ip) -> flow::Ip {
    let version = if ip.source.is_ipv4() { flow::IpVersion::IPv4 } else { flow::IpVersion::IPv6 };
    flow::Ip {
        source: ip.source.to_string(),
        source_xlated: ip.source_xlated.map(|address| address.to_string()).unwrap_or_default(),
        destination: ip.destination.to_string(),
        ip_version: version.into(),
        encrypted: ip.encrypted,
    }
}

fn l4(l4: L4) -> Option<flow::Layer4> {
    let protocol = match l4 {
        L4::Unknown => return None,
        L4::Tcp { source, destination, flags } => Protocol::Tcp(flow::Tcp {
            source_port: source.into(),
            destination_port: destination.into(),
            flags: Some(flags.into()),
        }),
        L4::Udp { source, destination } => {
            Protocol::Udp(flow::Udp { source_port: source.into(), destination_port: destination.into() })
        }
        L4::Sctp { source, destination } => {
            Protocol::Sctp(flow::Sctp { source_port: source.into(), destination_port: destination.into() })
        }
        L4::IcmpV4 { kind, code } => {
            Protocol::IcmPv4(flow::IcmPv4 { r#type: kind.into(), code: code.into() })
        }
        L4::IcmpV6 { kind, code } => {
            Protocol::IcmPv6(flow::IcmPv6 { r#type: kind.into(), code: code.into() })
        }
        L4::Vrrp => Protocol::Vrrp(flow::Vrrp::default()),
        L4::Igmp => Protocol::Igmp(flow::Igmp::default()),
    };
    Some(flow::Layer4 { protocol: Some(protocol) })
}

impl From<TcpFlags> for flow::TcpFlags {
    fn from(flags: TcpFlags) -> Self {
        Self {
            fin: flags.contains(TcpFlags::FIN),
            syn: flags.contains(TcpFlags::SYN),
            rst: flags.contains(TcpFlags::RST),
            psh: flags.contains(TcpFlags::PSH),
            ack: flags.contains(TcpFlags::ACK),
            urg: flags.contains(TcpFlags::URG),
            ece: flags.contains(TcpFlags::ECE),
            cwr: flags.contains(TcpFlags::CWR),
            ns: flags.contains(TcpFlags::NS),
        }
    }
}

impl From<&flow::TcpFlags> for TcpFlags {
    fn from(flags: &flow::TcpFlags) -> Self {
        let set = [
            (flags.fin, Self::FIN),
            (flags.syn, Self::SYN),
            (flags.rst, Self::RST),
            (flags.psh, Self::PSH),
            (flags.ack, Self::ACK),
            (flags.urg, Self::URG),
            (flags.ece, Self::ECE),
            (flags.cwr, Self::CWR),
            (flags.ns, Self::NS),
        ];
        set.into_iter().filter(|(is_set, _)| *is_set).fold(Self::default(), |all, (_, flag)| all.with(flag))
    }
}

fn endpoint(endpoint: &Endpoint) -> flow::Endpoint {
    flow::Endpoint {
        id: endpoint.id,
        identity: endpoint.identity,
        cluster_name: endpoint.cluster.clone(),
        namespace: endpoint.namespace.clone(),
        labels: endpoint.labels.iter().map(ToString::to_string).collect(),
        pod_name: endpoint.pod.clone(),
        workloads: endpoint
            .workloads
            .iter()
            .map(|workload| flow::Workload { name: workload.name.clone(), kind: workload.kind.clone() })
            .collect(),
    }
}

fn service(service: &Service) -> flow::Service {
    flow::Service { name: service.name.clone(), namespace: service.namespace.clone() }
}

fn names(names: &Names) -> Vec<String> {
    names.as_deref().map(<[String]>::to_vec).unwrap_or_default()
}
