//! What brought an update about: for the metrics that kube-proxy's users know. Pure.

use k8s_openapi::{api::discovery::v1::EndpointSlice, jiff::Timestamp};

/// When the change happened that made someone write the slice (KEP-614).
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Trigger times kept of one update; more add nothing to a histogram.
const KEPT: usize = 4096;

/// Object changes since the last time they were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Causes {
    /// Changes of Services that concern this proxy.
    pub services: u64,
    /// Changes of EndpointSlices that concern this proxy.
    pub slices: u64,
    /// When those slices' endpoints really changed, where the slices say so.
    pub triggers: Vec<Timestamp>,
}

impl Causes {
    /// Adds what came later.
    pub fn merge(&mut self, later: Self) {
        self.services += later.services;
        self.slices += later.slices;
        self.triggers.extend(later.triggers);
        self.triggers.truncate(KEPT);
    }
}

/// A missing or malformed time is none.
pub(crate) fn trigger_time(slice: &EndpointSlice) -> Option<Timestamp> {
    slice.metadata.annotations.as_ref()?.get(TRIGGER_TIME)?.parse().ok()
}
