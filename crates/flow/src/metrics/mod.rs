//! What flows add up to, in OpenMetrics: Hubble's names and labels where Hubble counts the same thing, `twinplane_…` else.
//! Never names a pod, an address or a query, and never has more sets of labels than each metric's cap.
//!
//! A feed that is told to ([`Feed::register`](crate::feed::Feed::register)) counts what it stores. What else concerns a
//! node's flows, the kernel's own counts and the ring, is looked up when the page is.

mod capped;
mod kernel;
mod l7;
mod ring;

use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, info::Info},
    registry::Registry,
};

use self::{
    capped::{Capped, Folded, Spec},
    l7::L7Metrics,
    ring::{LostCounts, RingView},
};
pub use self::{kernel::KernelEvents, ring::lost_source};
use crate::{
    event::{Body, Event, Flow, L4, PolicyMatch, Seen, TcpFlags},
    names::trace_point_name,
    proto::flow::{TrafficDirection, Verdict, layer7::Record},
    ring::Ring,
};

/// As OpenMetrics 1.0 names itself.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const FLOWS: Spec<5> = Spec {
    name: "hubble_flows_processed",
    help: "Flows that were stored",
    labels: ["type", "subtype", "protocol", "verdict", "direction"],
    cap: 512,
};
const DROPS: Spec<3> = Spec {
    name: "hubble_drop",
    help: "Drops by reason",
    labels: ["reason", "protocol", "direction"],
    cap: 256,
};
const VERDICTS: Spec<3> = Spec {
    name: "hubble_policy_verdicts",
    help: "Verdicts of network policies",
    labels: ["direction", "match", "action"],
    cap: 64,
};
const TCP_FLAGS: Spec<2> = Spec {
    name: "hubble_tcp_flags",
    help: "Flags of TCP packets that were forwarded and told of",
    labels: ["flag", "family"],
    cap: 16,
};

/// Counts events; what is registered shows the counts.
#[derive(Debug)]
pub struct FlowMetrics {
    flows: Capped<Counter, 5>,
    drops: Capped<Counter, 3>,
    verdicts: Capped<Counter, 3>,
    tcp_flags: Capped<Counter, 2>,
    l7: L7Metrics,
    lost: LostCounts,
}

impl FlowMetrics {
    /// Of what is stored in `ring`, whose own state is shown too.
    pub fn new(registry: &mut Registry, ring: Ring) -> Self {
        let folded = Folded::default();
        let lost = LostCounts::default();
        let metrics = Self {
            flows: Capped::new(registry, &folded, FLOWS, Counter::default),
            drops: Capped::new(registry, &folded, DROPS, Counter::default),
            verdicts: Capped::new(registry, &folded, VERDICTS, Counter::default),
            tcp_flags: Capped::new(registry, &folded, TCP_FLAGS, Counter::default),
            l7: L7Metrics::new(registry, &folded),
            lost: lost.clone(),
        };
        registry.register(
            "twinplane_metrics_folded",
            "Values that went to the labels \"other\" because their metric has as many as it may",
            folded,
        );
        registry.register_collector(Box::new(RingView { ring, lost }));
        metrics
    }

    /// Counts one event.
    pub fn observe(&mut self, event: &Event) {
        match &event.body {
            Body::Flow(flow) => self.observe_flow(flow),
            Body::Lost(lost) => self.lost.add(lost),
            Body::Agent(_) | Body::Debug(_) => {}
        }
    }

    fn observe_flow(&mut self, flow: &Flow) {
        let (kind, sub_type) = kind(flow);
        let (protocol, direction) = (protocol(flow), direction(flow.direction));
        let verdict = flow.verdict.as_str_name();
        self.flows.get([kind, sub_type, protocol, verdict, direction].map(Into::into)).inc();
        match &flow.seen {
            Seen::Drop(reason) => {
                self.drops.get([reason.as_str_name(), protocol, direction].map(Into::into)).inc();
            }
            Seen::PolicyVerdict(matched) => {
                let matched = PolicyMatch::name(*matched as u32).to_ascii_lowercase();
                let action = verdict.to_ascii_lowercase();
                self.verdicts.get([direction.into(), matched.into(), action.into()]).inc();
            }
            Seen::L7(l7) => self.l7.observe(l7, flow),
            Seen::Trace { .. } | Seen::Socket { .. } => self.observe_flags(flow),
        }
    }

    fn observe_flags(&mut self, flow: &Flow) {
        let (Verdict::Forwarded, L4::Tcp { flags, .. }, Some(ip)) = (flow.verdict, flow.l4, flow.ip) else {
            return;
        };
        let family = if ip.source.is_ipv4() { "IPv4" } else { "IPv6" };
        let syn = if flags.contains(TcpFlags::ACK) { "SYN-ACK" } else { "SYN" };
        for (flag, name) in [(TcpFlags::FIN, "FIN"), (TcpFlags::SYN, syn), (TcpFlags::RST, "RST")] {
            if flags.contains(flag) {
                self.tcp_flags.get([name.into(), family.into()]).inc();
            }
        }
    }
}

/// Version and role of the process.
pub fn register_build(registry: &mut Registry, role: &'static str) {
    let labels = [("version", env!("CARGO_PKG_VERSION")), ("role", role), ("arch", std::env::consts::ARCH)];
    registry.register("twinplane_build", "What is running", Info::new(labels.to_vec()));
}

/// The page of several registries, which must not have a name in common.
pub fn render<'a>(registries: impl IntoIterator<Item = &'a Registry>) -> String {
    let mut page = String::new();
    for registry in registries {
        text::encode_registry(&mut page, registry).expect("a String takes everything");
    }
    text::encode_eof(&mut page).expect("a String takes everything");
    page
}

/// `type` and `subtype` as Hubble's handler of flows has them.
fn kind(flow: &Flow) -> (&'static str, &'static str) {
    match &flow.seen {
        Seen::Trace { point, .. } => ("Trace", trace_point_name(*point)),
        Seen::Drop(_) => ("Drop", ""),
        Seen::PolicyVerdict(_) => ("PolicyVerdict", ""),
        Seen::Socket { point, .. } => ("TraceSock", crate::names::socket_point(*point)),
        Seen::L7(l7) => match &l7.record {
            Some(Record::Dns(_)) => ("L7", "DNS"),
            Some(Record::Http(_)) => ("L7", "HTTP"),
            Some(Record::Kafka(_)) | None => ("L7", ""),
        },
    }
}

fn protocol(flow: &Flow) -> &'static str {
    match (flow.l7().map(|l7| &l7.record), flow.l4) {
        (Some(Some(Record::Dns(_))), _) => "DNS",
        (Some(Some(Record::Http(_))), _) => "HTTP",
        (Some(Some(Record::Kafka(_))), _) => "Kafka",
        (Some(None), _) => "Unknown L7",
        (None, L4::Tcp { .. }) => "TCP",
        (None, L4::Udp { .. }) => "UDP",
        (None, L4::Sctp { .. }) => "SCTP",
        (None, L4::IcmpV4 { .. }) => "ICMPv4",
        (None, L4::IcmpV6 { .. }) => "ICMPv6",
        (None, L4::Vrrp) => "VRRP",
        (None, L4::Igmp) => "IGMP",
        (None, L4::Unknown) => "Unknown L4",
    }
}

fn direction(direction: TrafficDirection) -> &'static str {
    match direction {
        TrafficDirection::Ingress => "ingress",
        TrafficDirection::Egress => "egress",
        TrafficDirection::Unknown => "unknown",
    }
}

#[cfg(test)]
mod tests;
