//! What an export counts. Clones share the counts.

use std::{
    fmt::Display,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use flow::ring::Ring;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{
        MetricType,
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::Registry,
};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct ExportCounts {
    pub(super) lines: Counter,
    pub(super) bytes: Counter,
    pub(super) rotations: Counter,
    pub(super) lost: Counter,
    pub(super) failing: Gauge,
    failures: Family<[(&'static str, &'static str); 1], Counter>,
    next: Arc<AtomicU64>,
}

impl ExportCounts {
    /// Of an export of `ring`.
    pub fn new(registry: &mut Registry, ring: Ring) -> Self {
        let this = Self::default();
        let r = &mut *registry;
        r.register("twinplane_export_lines", "Lines that were written", this.lines.clone());
        r.register("twinplane_export_bytes", "Bytes that were written", this.bytes.clone());
        r.register("twinplane_export_rotations", "Files that were put aside", this.rotations.clone());
        let help = "Events that the ring overwrote before they could be written";
        r.register("twinplane_export_lost", help, this.lost.clone());
        r.register("twinplane_export_failing", "1 while nothing can be written", this.failing.clone());
        let help = "What failed, by operation; the same write is counted each time that it is tried";
        r.register("twinplane_export_failures", help, this.failures.clone());
        for operation in ["open", "encode", "write", "rotate", "note"] {
            drop(this.failures.get_or_create(&[("operation", operation)]));
        }
        r.register_collector(Box::new(Pending { ring, next: Arc::clone(&this.next) }));
        this
    }

    pub(super) fn failed(&self, operation: &'static str, error: &impl Display) {
        tracing::debug!(operation, %error, "export failed");
        self.failures.get_or_create(&[("operation", operation)]).inc();
    }

    pub(super) fn set_next(&self, next: u64) {
        self.next.store(next, Ordering::Relaxed);
    }
}

/// How far behind the export is.
#[derive(Debug)]
struct Pending {
    ring: Ring,
    next: Arc<AtomicU64>,
}

impl Collector for Pending {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let pending = self.ring.head().saturating_sub(self.next.load(Ordering::Relaxed));
        let help = "Events that were stored and not yet written or passed over";
        let gauge = encoder.encode_descriptor("twinplane_export_pending", help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::try_from(pending).unwrap_or(i64::MAX)).encode(gauge)
    }
}
