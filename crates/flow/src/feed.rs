//! The way into the ring for whoever decodes events: stores them and remembers which namespaces were seen. Never
//! decodes and never reads a clock; an event's time is the time.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::registry::Registry;

use crate::{
    event::{Endpoint, Event, Time},
    metrics::FlowMetrics,
    proto::observer::Namespace,
    ring::{Capacity, Ring, Writer, ring},
};

/// How long a namespace is remembered after its last flow, in nanoseconds.
const REMEMBERED: i64 = 3_600_000_000_000;
/// The most namespaces that are remembered; more would be somebody's invention.
const MAX_NAMESPACES: usize = 65_536;

/// The writing end of a node's observer.
#[derive(Debug)]
pub struct Feed {
    writer: Writer,
    namespaces: Namespaces,
    metrics: Option<FlowMetrics>,
}

/// Namespaces by cluster, with the time of their last flow.
#[derive(Clone, Debug, Default)]
pub struct Namespaces(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    by_cluster: BTreeMap<String, BTreeMap<String, Time>>,
    count: usize,
}

impl Feed {
    pub fn new(capacity: Capacity) -> Self {
        Self { writer: ring(capacity).0, namespaces: Namespaces::default(), metrics: None }
    }

    /// Counts from now on what is stored, in metrics that it registers.
    pub fn register(&mut self, registry: &mut Registry) {
        self.metrics = Some(FlowMetrics::new(registry, self.writer.ring()));
    }

    /// What readers need.
    pub fn readers(&self) -> (Ring, Namespaces) {
        (self.writer.ring(), self.namespaces.clone())
    }

    /// Stores a batch; readers are woken once.
    pub fn append(&mut self, events: impl IntoIterator<Item = Event>) {
        let mut seen = self.namespaces.0.lock().unwrap_or_else(PoisonError::into_inner);
        let metrics = &mut self.metrics;
        let noted = events.into_iter().inspect(|event| {
            if let Some(metrics) = metrics {
                metrics.observe(event);
            }
            if let Some(flow) = event.flow() {
                seen.note(&flow.source, event.time);
                seen.note(&flow.destination, event.time);
            }
        });
        self.writer.append(noted);
    }
}

impl Namespaces {
    /// Those with a flow in the last hour, by cluster and name; the others are forgotten.
    pub fn list(&self, now: Time) -> Vec<Namespace> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.forget(now);
        let of_cluster = |(cluster, names): (&String, &BTreeMap<String, Time>)| {
            let named =
                |namespace: &String| Namespace { cluster: cluster.clone(), namespace: namespace.clone() };
            names.keys().map(named).collect::<Vec<_>>()
        };
        seen.by_cluster.iter().flat_map(of_cluster).collect()
    }
}

impl Seen {
    fn note(&mut self, endpoint: &Endpoint, time: Time) {
        if endpoint.namespace.is_empty() {
            return;
        }
        let known =
            self.by_cluster.get_mut(&endpoint.cluster).and_then(|names| names.get_mut(&endpoint.namespace));
        match known {
            Some(last) => *last = time.max(*last),
            None => self.insert(endpoint, time),
        }
    }

    fn insert(&mut self, endpoint: &Endpoint, time: Time) {
        if self.count >= MAX_NAMESPACES {
            self.forget(time);
        }
        if self.count < MAX_NAMESPACES {
            self.by_cluster
                .entry(endpoint.cluster.clone())
                .or_default()
                .insert(endpoint.namespace.clone(), time);
            self.count += 1;
        }
    }

    fn forget(&mut self, now: Time) {
        self.by_cluster.retain(|_, names| {
            names.retain(|_, last| now.0.saturating_sub(last.0) <= REMEMBERED);
            !names.is_empty()
        });
        self.count = self.by_cluster.values().map(BTreeMap::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::Flow,
        testing::{at, pod, syn},
    };

    #[test]
    fn namespaces_are_sorted_and_forgotten_after_an_hour() {
        let mut feed = Feed::new(Capacity::DEFAULT);
        let (ring, namespaces) = feed.readers();
        let flow = |from: &str, to: &str| Flow {
            source: pod(from, "a", 300),
            destination: pod(to, "b", 301),
            ..syn()
        };
        feed.append([at(0, flow("shop", "db")), at(REMEMBERED, flow("db", "db")), at(1, syn())]);
        let names = |now| namespaces.list(Time(now)).into_iter().map(|one| one.namespace).collect::<Vec<_>>();
        assert_eq!(names(REMEMBERED), ["db", "shop"]);
        assert_eq!(names(REMEMBERED + 1), ["db"]);
        assert_eq!(names(3 * REMEMBERED), [""; 0]);
        assert_eq!(ring.flows(), 3);
    }
}
