//! What the agent counts, in OpenMetrics text: kube-proxy's names where kube-proxy counts the same thing.
//!
//! Every label has a bounded set of values: none names a Service, a pod or an address. Pure but for the clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use cluster::Causes;
use dataplane::{ObjectState, PlaneStatus};
use jiff::Timestamp;
use model::{FrontendKind, ServiceName, Snapshot, Target, oracle::Origin};
use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// One label.
type Label = [(&'static str, String); 1];
type Labels = Vec<(&'static str, String)>;
type Seconds = Gauge<f64, AtomicU64>;

/// The running counts. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    /// Changes from before are not this agent's to be late with.
    started: Timestamp,
    sync_duration: Histogram,
    programming_duration: Histogram,
    last_sync: Seconds,
    last_queued: Seconds,
    service_changes: Counter,
    service_changes_pending: Gauge,
    endpoint_changes: Counter,
    endpoint_changes_pending: Gauge,
    healthz: Family<Label, Counter>,
    livez: Family<Label, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self(Arc::new(Counts {
            started: Timestamp::now(),
            sync_duration: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            programming_duration: Histogram::new(programming_buckets()),
            last_sync: Seconds::default(),
            last_queued: Seconds::default(),
            service_changes: Counter::default(),
            service_changes_pending: Gauge::default(),
            endpoint_changes: Counter::default(),
            endpoint_changes_pending: Gauge::default(),
            healthz: Family::default(),
            livez: Family::default(),
        }))
    }
}

/// Those of kube-proxy: fine below a minute, coarse to five.
fn programming_buckets() -> impl Iterator<Item = f64> {
    let seconds = (1..60).chain((60..120).step_by(5)).chain((120..=300).step_by(30));
    [0.25, 0.5].into_iter().chain(seconds.map(f64::from))
}

impl Metrics {
    /// An update was handed to the dataplane; `pending` is all that it has not taken yet.
    pub(crate) fn queued(&self, pending: &Causes) {
        self.0.last_queued.set(seconds(Timestamp::now()));
        self.set_pending(pending);
    }

    /// The dataplane was asked to program something; `done` is what brought it about, where it took it.
    pub(crate) fn synced(&self, took: Duration, done: Option<Causes>) {
        let now = Timestamp::now();
        self.0.sync_duration.observe(took.as_secs_f64());
        let Some(causes) = done else { return };
        self.0.last_sync.set(seconds(now));
        self.0.service_changes.inc_by(causes.services);
        self.0.endpoint_changes.inc_by(causes.slices);
        self.set_pending(&Causes::default());
        for trigger in causes.triggers.into_iter().filter(|trigger| *trigger > self.0.started) {
            self.0.programming_duration.observe((seconds(now) - seconds(trigger)).max(0.0));
        }
    }

    pub(crate) fn answered_healthz(&self, code: u16) {
        self.0.healthz.get_or_create(&[("code", code.to_string())]).inc();
    }

    pub(crate) fn answered_livez(&self, code: u16) {
        self.0.livez.get_or_create(&[("code", code.to_string())]).inc();
    }

    fn set_pending(&self, causes: &Causes) {
        let gauge = |count| i64::try_from(count).unwrap_or(i64::MAX);
        self.0.service_changes_pending.set(gauge(causes.services));
        self.0.endpoint_changes_pending.set(gauge(causes.slices));
    }

    /// Everything as text, `view` and what is counted of flows included.
    pub(crate) fn render(&self, view: &View, flows: &Registry) -> String {
        let mut registry = Registry::default();
        flow::metrics::register_build(&mut registry, "agent");
        self.register(&mut registry);
        view.register(&mut registry);
        flow::metrics::render([&registry, flows])
    }

    fn register(&self, registry: &mut Registry) {
        let counts = &self.0;
        let r = registry.sub_registry_with_prefix("kubeproxy");
        r.register(
            "sync_proxy_rules_duration_seconds",
            "Time that programming the dataplane took",
            counts.sync_duration.clone(),
        );
        r.register(
            "network_programming_duration_seconds",
            "Time from the change of a pod or Service to its being programmed",
            counts.programming_duration.clone(),
        );
        r.register(
            "sync_proxy_rules_last_timestamp_seconds",
            "When the dataplane was last programmed",
            counts.last_sync.clone(),
        );
        r.register(
            "sync_proxy_rules_last_queued_timestamp_seconds",
            "When something was last handed to the dataplane",
            counts.last_queued.clone(),
        );
        r.register(
            "sync_proxy_rules_service_changes",
            "Changes of Services that were programmed",
            counts.service_changes.clone(),
        );
        r.register(
            "sync_proxy_rules_service_changes_pending",
            "Changes of Services that wait",
            counts.service_changes_pending.clone(),
        );
        r.register(
            "sync_proxy_rules_endpoint_changes",
            "Changes of EndpointSlices that were programmed",
            counts.endpoint_changes.clone(),
        );
        r.register(
            "sync_proxy_rules_endpoint_changes_pending",
            "Changes of EndpointSlices that wait",
            counts.endpoint_changes_pending.clone(),
        );
        r.register("proxy_healthz", "Answers of /healthz by code", counts.healthz.clone());
        r.register("proxy_livez", "Answers of /livez by code", counts.livez.clone());
    }
}

fn seconds(at: Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}

/// What is looked up for one answer.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) status: PlaneStatus,
    pub(crate) no_local_endpoints: NoLocalEndpoints,
    /// How many objects are in each state.
    pub(crate) objects: Vec<(ObjectState, usize)>,
    /// By kernel table, where one is filling.
    pub(crate) full_in_seconds: BTreeMap<String, u64>,
}

/// Services that drop what one of their traffic policies concerns: endpoints elsewhere, none here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NoLocalEndpoints {
    internal: usize,
    external: usize,
}

impl NoLocalEndpoints {
    /// Counts the Services of `snapshot`, each once however many ports drop.
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let (mut internal, mut external) = (BTreeSet::<&ServiceName>::new(), BTreeSet::new());
        for (id, port) in &snapshot.services {
            for frontend in &port.frontends {
                let drops = |origin| port.target(frontend, origin) == Target::NoLocalEndpoints;
                match frontend.kind {
                    FrontendKind::ClusterIp if drops(Origin::Pod) => _ = internal.insert(&id.service),
                    FrontendKind::ClusterIp => {}
                    _ if drops(Origin::External) => _ = external.insert(&id.service),
                    _ => {}
                }
            }
        }
        Self { internal: internal.len(), external: external.len() }
    }
}

impl View {
    fn register(&self, registry: &mut Registry) {
        self.register_plane(registry);
        let kube_proxy = registry.sub_registry_with_prefix("kubeproxy");
        let no_local = gauges([
            (vec![("traffic_policy", "internal".to_owned())], self.no_local_endpoints.internal as u64),
            (vec![("traffic_policy", "external".to_owned())], self.no_local_endpoints.external as u64),
        ]);
        kube_proxy.register(
            "sync_proxy_rules_no_local_endpoints_total",
            "Services with policy Local that have endpoints, but none on this node",
            no_local,
        );
        let state = |state: &ObjectState| vec![("state", format!("{state:?}").to_lowercase())];
        let objects = gauges(self.objects.iter().map(|(of, count)| (state(of), *count as u64)));
        registry.register("twinplane_objects", "Objects by state in the dataplane", objects);
    }

    fn register_plane(&self, registry: &mut Registry) {
        let (rules, maps): (Vec<_>, Vec<_>) =
            self.status.maps.iter().partition(|map| map.name.starts_with("rules "));
        let mut iptables = vec![];
        for map in rules {
            let words: Vec<_> = map.name.split(' ').skip(1).map(str::to_owned).collect();
            let labels = ["table", "ip_family"].into_iter().zip(words).collect();
            iptables.push((labels, map.entries));
        }
        let name = |map: &dataplane::MapFill| vec![("map", map.name.clone())];
        let fill =
            |value: fn(&dataplane::MapFill) -> u64| gauges(maps.iter().map(|map| (name(map), value(map))));
        registry.register("twinplane_map_entries", "Entries in a kernel table", fill(|map| map.entries));
        registry.register(
            "twinplane_map_capacity",
            "Entries that a kernel table holds; 0 without a limit",
            fill(|map| map.capacity),
        );
        registry.register(
            "twinplane_map_bytes",
            "Memory of a kernel table, where the kernel tells",
            fill(|map| map.bytes),
        );
        registry.register(
            "twinplane_map_refused",
            "Entries that a kernel table had no room for",
            fill(|map| map.refused),
        );
        let full_in = self.full_in_seconds.iter();
        registry.register(
            "twinplane_map_full_in_seconds",
            "When a kernel table is full if it goes on filling as it does; absent where it does not fill",
            gauges(full_in.map(|(name, seconds)| (vec![("map", name.clone())], *seconds))),
        );
        let packets = Family::<Labels, Counter>::default();
        let bytes = Family::<Labels, Counter>::default();
        let kube_proxy = registry.sub_registry_with_prefix("kubeproxy");
        if !iptables.is_empty() {
            let help = "Rules of iptables by table";
            kube_proxy.register("sync_proxy_rules_iptables_total", help, gauges(iptables));
        }
        for counter in &self.status.counters {
            let known = KUBE_PROXY_COUNTERS.iter().find(|(ours, ..)| *ours == counter.name);
            if let Some((_, theirs, help)) = known {
                let value = Counter::<u64>::default();
                value.inc_by(counter.packets);
                kube_proxy.register(*theirs, *help, value);
            }
            let label = vec![("counter", counter.name.clone())];
            packets.get_or_create(&label).inc_by(counter.packets);
            bytes.get_or_create(&label).inc_by(counter.bytes);
        }
        registry.register("twinplane_datapath_packets", "Packets by what became of them", packets);
        registry.register("twinplane_datapath_bytes", "Bytes by what became of them", bytes);
    }
}

/// A plane's counter, kube-proxy's name of it, and what it says.
const KUBE_PROXY_COUNTERS: [(&str, &str, &str); 3] = [
    (
        "dropped_invalid",
        "iptables_ct_state_invalid_dropped_packets",
        "Packets dropped because connection tracking found them invalid",
    ),
    (
        "accepted_localhost_node_port",
        "iptables_localhost_nodeports_accepted_packets",
        "Packets to node ports at a loopback address",
    ),
    (
        "deleted_stale_udp_flows",
        "conntrack_reconciler_deleted_entries",
        "Entries of connection tracking that were deleted because their endpoint is gone",
    ),
];

fn gauges(rows: impl IntoIterator<Item = (Labels, u64)>) -> Family<Labels, Gauge> {
    let family = Family::<Labels, Gauge>::default();
    for (labels, value) in rows {
        family.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
    }
    family
}

#[cfg(test)]
mod documents;
#[cfg(test)]
mod tests;
