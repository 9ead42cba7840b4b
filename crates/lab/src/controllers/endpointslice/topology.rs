//! Hints of Services in topology mode Auto: each zone gets endpoints in proportion to its share of the nodes' processors,
//! its own first, so that no endpoint is loaded by more than a fifth above its share; where that cannot be, nobody is
//! hinted (KEP-2433, k8s.io/endpointslice/topologycache). Pure.
//!
//! Decided anew from all endpoints of a family each time, in their order, so that the same state has the same hints.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::{Endpoint, EndpointHints, ForZone},
};

const ZONE: &str = "topology.kubernetes.io/zone";
/// The older one counts where both are there.
const MODES: [&str; 2] =
    ["service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode"];
/// Nodes that are there for the control plane serve nobody.
const EXCLUDED: [&str; 2] = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];
/// How much more than its share an endpoint may be asked.
const OVERLOAD: f64 = 0.2;

/// Where nodes are, and how much of the cluster each zone is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Zones {
    /// The zone of every node that has one.
    of_nodes: BTreeMap<String, String>,
    /// Each zone's share of the ready nodes' processors; `None` where one of them does not tell, or one zone has all.
    shares: Option<BTreeMap<String, f64>>,
}

impl Zones {
    pub(super) fn of(nodes: &[Arc<Node>]) -> Self {
        let named = |node: &Arc<Node>| Some((node.metadata.name.clone()?, zone(node)?.to_owned()));
        Self { of_nodes: nodes.iter().filter_map(named).collect(), shares: shares(nodes) }
    }

    pub(super) fn of_node(&self, node: &str) -> Option<&String> {
        self.of_nodes.get(node)
    }

    /// Hints every ready one of `endpoints`, all of a Service's in one family, or none.
    pub(super) fn hint<'a>(&self, endpoints: impl Iterator<Item = &'a mut Endpoint>) {
        let mut ready = vec![];
        for endpoint in endpoints {
            endpoint.hints = None;
            if endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(true) {
                ready.push(endpoint);
            }
        }
        let Some(wanted) = self.shares.as_ref().and_then(|shares| wanted(shares, ready.len())) else {
            return;
        };
        let zones: Option<Vec<String>> = ready.iter().map(|endpoint| endpoint.zone.clone()).collect();
        let Some(mut zones) = zones else { return };
        redistribute(&mut zones, &wanted);
        for (endpoint, zone) in ready.into_iter().zip(zones) {
            let for_zones = Some(vec![ForZone { name: zone }]);
            endpoint.hints = Some(EndpointHints { for_zones, ..EndpointHints::default() });
        }
    }
}

/// Whether the Service asks for hints by its annotation, which then counts more than its trafficDistribution.
pub(super) fn is_auto(service: &Service) -> bool {
    let annotations = service.metadata.annotations.as_ref();
    let mode = MODES.iter().find_map(|name| annotations?.get(*name));
    mode.is_some_and(|mode| mode == "Auto" || mode == "auto")
}

fn zone(node: &Node) -> Option<&str> {
    let zone = node.metadata.labels.as_ref()?.get(ZONE)?;
    Some(zone.as_str()).filter(|zone| !zone.is_empty())
}

fn shares(nodes: &[Arc<Node>]) -> Option<BTreeMap<String, f64>> {
    let is_excluded = |node: &Node| {
        let labels = node.metadata.labels.as_ref();
        labels.is_some_and(|labels| EXCLUDED.iter().any(|label| labels.contains_key(*label)))
    };
    let is_ready = |node: &Node| {
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref());
        let mut conditions = conditions.unwrap_or_default().iter();
        conditions.find(|condition| condition.type_ == "Ready").is_some_and(|it| it.status == "True")
    };
    let mut processors = BTreeMap::<String, f64>::new();
    for node in nodes.iter().filter(|node| !is_excluded(node) && is_ready(node)) {
        *processors.entry(zone(node)?.to_owned()).or_default() += allocatable(node)?;
    }
    let all: f64 = processors.values().sum();
    let share = |(zone, own)| (zone, own / all);
    (processors.len() > 1).then(|| processors.into_iter().map(share).collect())
}

/// Processors, more than none: a whole or broken number, or thousandths ("1500m").
fn allocatable(node: &Node) -> Option<f64> {
    let text = &node.status.as_ref()?.allocatable.as_ref()?.get("cpu")?.0;
    let number = match text.strip_suffix('m') {
        Some(thousandths) => thousandths.parse::<f64>().ok()? / 1000.0,
        None => text.parse().ok()?,
    };
    (number > 0.0).then_some(number)
}

/// How many of `endpoints` each zone should have. `None` where there are too few for every zone to have what keeps them
/// below the overload.
fn wanted(shares: &BTreeMap<String, f64>, endpoints: usize) -> Option<BTreeMap<&str, f64>> {
    if shares.len() > endpoints {
        return None;
    }
    let minimum = |share: f64| (share * endpoints as f64 / (1.0 + OVERLOAD)).ceil();
    let least: f64 = shares.values().map(|share| minimum(*share)).sum();
    let wanted =
        shares.iter().map(|(zone, share)| (zone.as_str(), (share * endpoints as f64).max(minimum(*share))));
    (least <= endpoints as f64).then(|| wanted.collect())
}

/// `zones` are those of the endpoints themselves; afterwards those they are for.
fn redistribute(zones: &mut [String], wanted: &BTreeMap<&str, f64>) {
    let has = |zone: &str| zones.iter().filter(|own| *own == zone).count() as f64;
    let surplus = wanted.iter().map(|(zone, wanted)| (*zone, has(zone) - wanted));
    let (mut givers, takers): (BTreeMap<_, _>, BTreeMap<_, _>) =
        surplus.partition(|(_, surplus)| *surplus > 0.0);
    let mut takers: BTreeMap<_, _> = takers.into_iter().map(|(zone, surplus)| (zone, -surplus)).collect();
    while let (Some((giver, given)), Some((taker, lacking))) = (most(&givers), most(&takers)) {
        // One of them by a whole endpoint, the other by half of one at least.
        if given.max(lacking) < 1.0 || given.min(lacking) < 0.5 {
            return;
        }
        let Some(own) = zones.iter_mut().find(|zone| *zone == giver) else { return };
        taker.clone_into(own);
        givers.insert(giver, given - 1.0);
        takers.insert(taker, lacking - 1.0);
    }
}

fn most<'a>(zones: &BTreeMap<&'a str, f64>) -> Option<(&'a str, f64)> {
    zones.iter().map(|(zone, number)| (*zone, *number)).max_by(|a, b| a.1.total_cmp(&b.1))
}

#[cfg(test)]
#[path = "topology_tests.rs"]
mod tests;
