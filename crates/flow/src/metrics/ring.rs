//! The ring as metrics, and what was lost on the way to it and from it. Looked up, never kept.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        gauge::ConstGauge,
    },
};

use crate::{
    proto::flow::{LostEvent, LostEventSource},
    ring::Ring,
};

/// The value of the label `source`, Hubble's.
pub fn lost_source(source: LostEventSource) -> &'static str {
    match source {
        LostEventSource::PerfEventRingBuffer => "perf_event_ring_buffer",
        LostEventSource::ObserverEventsQueue => "observer_events_queue",
        LostEventSource::HubbleRingBuffer => "hubble_ring_buffer",
        LostEventSource::UnknownLostEventSource => "unknown_lost_event_source",
    }
}

/// Events that were lost before the ring, by who lost them.
#[derive(Clone, Debug, Default)]
pub(super) struct LostCounts {
    kernel: Counter,
    agent: Counter,
    /// Of a source that is not known here.
    unknown: Counter,
}

impl LostCounts {
    pub(super) fn add(&self, lost: &LostEvent) {
        let counter = match lost.source() {
            LostEventSource::PerfEventRingBuffer => &self.kernel,
            LostEventSource::ObserverEventsQueue => &self.agent,
            LostEventSource::HubbleRingBuffer | LostEventSource::UnknownLostEventSource => &self.unknown,
        };
        counter.inc_by(lost.num_events_lost);
    }
}

#[derive(Debug)]
pub(super) struct RingView {
    pub(super) ring: Ring,
    pub(super) lost: LostCounts,
}

impl Collector for RingView {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let help = "Events that were lost, by who lost them: the kernel's ring, the agent, or readers of the agent's ring";
        let mut lost = encoder.encode_descriptor("hubble_lost_events", help, None, MetricType::Counter)?;
        for (source, count) in [
            (LostEventSource::PerfEventRingBuffer, self.lost.kernel.get()),
            (LostEventSource::ObserverEventsQueue, self.lost.agent.get()),
            (LostEventSource::HubbleRingBuffer, self.ring.missed()),
            (LostEventSource::UnknownLostEventSource, self.lost.unknown.get()),
        ] {
            ConstCounter::new(count).encode(lost.encode_family(&[("source", lost_source(source))])?)?;
        }
        let gauges = [
            ("twinplane_flow_ring_events", "Events that are kept for readers", self.ring.len()),
            ("twinplane_flow_ring_capacity", "Events that can be kept", self.ring.capacity()),
        ];
        for (name, help, value) in gauges {
            let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(gauge)?;
        }
        Ok(())
    }
}
