//! What a relay counts, and the state of its connections. Never names a node: they may be many.

use std::{fmt::Error, sync::Arc};

use flow::{
    metrics::lost_source,
    proto::{
        flow::LostEventSource,
        observer::{GetFlowsResponse, get_flows_response::ResponseTypes},
        relay::NodeState,
    },
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::Counter, family::Family, gauge::ConstGauge},
    registry::Registry,
};
use tokio::sync::{Semaphore, watch};

use super::pool::Nodes;

type Label = [(&'static str, &'static str); 1];

/// Running counts. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    requests: Family<Label, Counter>,
    answers: Family<Label, Counter>,
    lost: Family<Label, Counter>,
}

const METHODS: [&str; 4] = ["GetFlows", "GetNamespaces", "GetNodes", "ServerStatus"];
const ANSWERS: [&str; 3] = ["flow", "lost_events", "node_status"];
const SOURCES: [LostEventSource; 3] = [
    LostEventSource::PerfEventRingBuffer,
    LostEventSource::ObserverEventsQueue,
    LostEventSource::HubbleRingBuffer,
];

impl Default for Counts {
    /// Everything is there from the start, as nothing.
    fn default() -> Self {
        let of = |label: &'static str, values: &[&'static str]| {
            let family = Family::<Label, Counter>::default();
            for value in values {
                drop(family.get_or_create(&[(label, value)]));
            }
            family
        };
        let sources = SOURCES.map(lost_source);
        Self { requests: of("method", &METHODS), answers: of("type", &ANSWERS), lost: of("source", &sources) }
    }
}

impl Counts {
    /// `method`: one of the service's.
    pub(super) fn asked(&self, method: &'static str) {
        self.requests.get_or_create(&[("method", method)]).inc();
    }

    pub(super) fn answered(&self, answer: &GetFlowsResponse) {
        let kind = match &answer.response_types {
            Some(ResponseTypes::Flow(_)) => "flow",
            Some(ResponseTypes::NodeStatus(_)) => "node_status",
            Some(ResponseTypes::LostEvents(lost)) => {
                let source = lost_source(lost.source());
                self.lost.get_or_create(&[("source", source)]).inc_by(lost.num_events_lost);
                "lost_events"
            }
            None => "unknown",
        };
        self.answers.get_or_create(&[("type", kind)]).inc();
    }

    pub(super) fn register(&self, registry: &mut Registry, view: View) {
        registry.register("twinplane_relay_requests", "Requests by method", self.requests.clone());
        registry.register("twinplane_relay_answers", "Answers to GetFlows by type", self.answers.clone());
        let help = "Events that clients were told to be lost, by who lost them";
        registry.register("hubble_lost_events", help, self.lost.clone());
        registry.register_collector(Box::new(view));
    }
}

/// What is looked up for a page.
#[derive(Debug)]
pub(super) struct View {
    pub(super) nodes: watch::Receiver<Nodes>,
    /// Of `of` permits, those that are left.
    pub(super) streams: Arc<Semaphore>,
    pub(super) of: usize,
}

impl Collector for View {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Error> {
        let nodes = Nodes::clone(&self.nodes.borrow());
        let help = "Nodes by the state of the connection to them, in gRPC's words";
        let name = "hubble_relay_pool_peer_connection_status";
        let mut status = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (word, states) in [
            ("READY", &[NodeState::NodeConnected][..]),
            ("TRANSIENT_FAILURE", &[NodeState::NodeUnavailable, NodeState::NodeError]),
            ("SHUTDOWN", &[NodeState::NodeGone]),
            ("NIL_CONNECTION", &[NodeState::UnknownNodeState]),
        ] {
            let count = nodes.values().filter(|node| states.contains(&node.state)).count();
            gauge(count).encode(status.encode_family(&[("status", word)])?)?;
        }
        let open = self.of.saturating_sub(self.streams.available_permits());
        let help = "Streams of flows that are open";
        gauge(open).encode(encoder.encode_descriptor(
            "twinplane_relay_streams",
            help,
            None,
            MetricType::Gauge,
        )?)
    }
}

fn gauge(count: usize) -> ConstGauge {
    ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX))
}
