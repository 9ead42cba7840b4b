//! The columns of one flow. Never decides which are shown.

use super::{
    Options,
    colour::{Colour, Paint},
    visible,
};
use crate::{
    event::PolicyMatch,
    names::{EventType, drop_reason, reserved_identity, socket_point, trace_point},
    proto::flow::{
        AuthType, DebugCapturePoint, Flow, L7FlowType, Layer7, Verdict, layer4::Protocol, layer7::Record,
    },
};

/// Coloured text, ready to be put together.
#[derive(Debug)]
pub(super) struct Columns {
    pub time: String,
    pub node: String,
    source: String,
    destination: String,
    source_identity: String,
    destination_identity: String,
    kind: String,
    verdict: String,
    summary: String,
    is_reply: Option<bool>,
}

impl Columns {
    pub(super) fn of(flow: &Flow, options: &Options) -> Self {
        let (source, destination) = hosts(flow, options);
        let identity = |endpoint: Option<&crate::proto::flow::Endpoint>| {
            let number = endpoint.map_or(0, |endpoint| endpoint.identity);
            let text = reserved_identity(number)
                .map_or_else(|| format!("(ID:{number})"), |name| format!("({name})"));
            options.colour.paint(Paint::Magenta, &text)
        };
        Self {
            time: options.time.format(flow.time),
            node: visible(&flow.node_name),
            source,
            destination,
            source_identity: identity(flow.source.as_ref()),
            destination_identity: identity(flow.destination.as_ref()),
            kind: visible(&kind(flow)),
            verdict: verdict(flow, options.colour),
            summary: summary(flow, options.colour),
            is_reply: flow.is_reply,
        }
    }

    /// The client stays on the left.
    pub(super) fn compact(&self, options: &Options) -> String {
        let node = if options.node_name { format!(" [{}]", self.node) } else { String::new() };
        let source = format!("{} {}", self.source, self.source_identity);
        let destination = format!("{} {}", self.destination, self.destination_identity);
        let (left, arrow, right) = match self.is_reply {
            Some(false) => (source, "->", destination),
            Some(true) => (destination, "<-", source),
            None => (source, "<>", destination),
        };
        let Self { time, kind, verdict, summary, .. } = self;
        format!("{time}{node}: {left} {arrow} {right} {kind} {verdict} ({summary})\n")
    }

    /// Source, destination, type, verdict, summary.
    pub(super) fn fields(&self) -> [&str; 5] {
        [&self.source, &self.destination, &self.kind, &self.verdict, &self.summary]
    }

    /// Time, node, and [`Columns::fields`].
    pub(super) fn row(&self) -> [String; 7] {
        let [source, destination, kind, verdict, summary] = self.fields().map(str::to_owned);
        [self.time.clone(), self.node.clone(), source, destination, kind, verdict, summary]
    }
}

fn hosts(flow: &Flow, options: &Options) -> (String, String) {
    let paint = |host: String| options.colour.paint(Paint::Cyan, &host);
    let Some((source, destination)) = ends(flow) else {
        return flow.ethernet.as_ref().map_or_else(Default::default, |ethernet| {
            (paint(visible(&ethernet.source)), paint(visible(&ethernet.destination)))
        });
    };
    let (source_port, destination_port) = ports(flow);
    (paint(source.text(source_port, options)), paint(destination.text(destination_port, options)))
}

/// Who asked and who was asked, the latter with its port: the same for all connections between them.
pub(super) fn client_and_server(flow: &Flow) -> Option<(String, String)> {
    let options = Options::default();
    let ((source, destination), (source_port, destination_port)) = (ends(flow)?, ports(flow));
    Some(match flow.is_reply {
        Some(true) => (destination.text(0, &options), source.text(source_port, &options)),
        Some(false) | None => (source.text(0, &options), destination.text(destination_port, &options)),
    })
}

fn ends(flow: &Flow) -> Option<(Host<'_>, Host<'_>)> {
    let ip = flow.ip.as_ref()?;
    let source = Host {
        address: &ip.source,
        endpoint: flow.source.as_ref(),
        service: flow.source_service.as_ref(),
        names: &flow.source_names,
    };
    let destination = Host {
        address: &ip.destination,
        endpoint: flow.destination.as_ref(),
        service: flow.destination_service.as_ref(),
        names: &flow.destination_names,
    };
    Some((source, destination))
}

struct Host<'a> {
    address: &'a str,
    endpoint: Option<&'a crate::proto::flow::Endpoint>,
    service: Option<&'a crate::proto::flow::Service>,
    names: &'a [String],
}

impl Host<'_> {
    fn text(&self, port: u32, options: &Options) -> String {
        let name = if options.ip_translation { self.name() } else { None };
        let host = visible(name.as_deref().unwrap_or(self.address));
        if port == 0 {
            return host;
        }
        let port = options.colour.paint(Paint::Yellow, &port.to_string());
        // IPv6.
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    fn name(&self) -> Option<String> {
        let joined = |namespace: &str, name: &str| {
            if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
        };
        let pod = self.endpoint.filter(|endpoint| !endpoint.pod_name.is_empty());
        let service = self.service.filter(|service| !service.name.is_empty());
        match (pod, service) {
            (Some(pod), _) => Some(joined(&pod.namespace, &pod.pod_name)),
            (None, Some(service)) => Some(joined(&service.namespace, &service.name)),
            (None, None) if !self.names.is_empty() => Some(self.names.join(",")),
            (None, None) => None,
        }
    }
}

/// 0 where there is none.
fn ports(flow: &Flow) -> (u32, u32) {
    match flow.l4.as_ref().and_then(|l4| l4.protocol.as_ref()) {
        Some(Protocol::Tcp(tcp)) => (tcp.source_port, tcp.destination_port),
        Some(Protocol::Udp(udp)) => (udp.source_port, udp.destination_port),
        Some(Protocol::Sctp(sctp)) => (sctp.source_port, sctp.destination_port),
        _ => (0, 0),
    }
}

fn kind(flow: &Flow) -> String {
    if let Some(l7) = &flow.l7 {
        return l7_kind(l7);
    }
    let event = flow.event_type.unwrap_or_default();
    match EventType::from_number(event.r#type) {
        Some(EventType::Trace) => trace_point(event.sub_type),
        // The datapath's number has eight bits.
        Some(EventType::Drop) => drop_reason(event.sub_type as u8),
        Some(EventType::PolicyVerdict) => {
            let matched = PolicyMatch::name(flow.policy_match_type);
            format!("policy-verdict:{matched} {}", flow.traffic_direction().as_str_name())
        }
        Some(EventType::Capture) => DebugCapturePoint::try_from(flow.debug_capture_point)
            .map_or_else(|_| flow.debug_capture_point.to_string(), |point| point.as_str_name().to_owned()),
        Some(EventType::TraceSock) => socket_point(flow.sock_xlate_point()).to_owned(),
        Some(EventType::L7) | None => "UNKNOWN".into(),
    }
}

fn l7_kind(l7: &Layer7) -> String {
    let kind = match l7.r#type() {
        L7FlowType::Request => "request",
        L7FlowType::Response => "response",
        L7FlowType::Sample => "sample",
        L7FlowType::UnknownL7Type => "unknown_l7_type",
    };
    match &l7.record {
        Some(Record::Dns(dns)) => format!("dns-{kind} {}", dns.observation_source),
        Some(Record::Http(_)) => format!("http-{kind}"),
        Some(Record::Kafka(_)) => format!("kafka-{kind}"),
        None => format!("l7-{kind}"),
    }
}

fn verdict(flow: &Flow, colour: Colour) -> String {
    let of_policy = flow.event_type.is_some_and(|event| event.r#type == EventType::PolicyVerdict as i32);
    let Ok(verdict) = Verdict::try_from(flow.verdict) else { return flow.verdict.to_string() };
    let name = verdict.as_str_name();
    let (paint, policy_name) = match verdict {
        Verdict::Forwarded | Verdict::Redirected => (Paint::Green, "ALLOWED"),
        Verdict::Dropped | Verdict::Error => (Paint::Red, "DENIED"),
        Verdict::Audit => (Paint::Yellow, "AUDITED"),
        Verdict::Traced | Verdict::Translated => (Paint::Yellow, name),
        Verdict::Unknown => return name.to_owned(),
    };
    colour.paint(paint, if of_policy { policy_name } else { name })
}

fn summary(flow: &Flow, colour: Colour) -> String {
    let trace = match &flow.ip_trace_id {
        Some(id) if id.trace_id > 0 => format!("IP Trace ID: {}; ", id.trace_id),
        Some(_) | None => String::new(),
    };
    let auth = match AuthType::try_from(flow.auth_type) {
        Ok(AuthType::Disabled) | Err(_) => String::new(),
        Ok(AuthType::TestAlwaysFail) => {
            format!("; {}", colour.paint(Paint::Red, AuthType::TestAlwaysFail.as_str_name()))
        }
        Ok(AuthType::Spire) => format!("; {}", colour.paint(Paint::Green, AuthType::Spire.as_str_name())),
    };
    format!("{trace}{}{auth}", visible(&flow.summary))
}
