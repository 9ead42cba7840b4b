//! Which endpoints of a Service port each kind of client may reach. Pure.
//!
//! The rules are kube-proxy's: readiness with the fallback to terminating endpoints (KEP-1669), traffic
//! policies (KEP-2086), topology hints (KEP-2433, KEP-3015).

use std::{collections::BTreeMap, net::SocketAddr};

use model::{Backend, KnownEndpoint, Port, TrafficPolicy};

use crate::slice::{NodeHint, SliceEndpoint};

/// What a Service port asks of its endpoints.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) internal_policy: TrafficPolicy,
    pub(crate) external_policy: TrafficPolicy,
    /// It has a frontend other than the cluster IP; without one the external policy means nothing.
    pub(crate) externally_reachable: bool,
}

/// What is chosen; see [`model::ServicePort`] for the meaning of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) cluster: Vec<Backend>,
    pub(crate) local: Vec<Backend>,
    pub(crate) usable_anywhere: bool,
}

/// Endpoints by address and port: sorted, each once.
#[derive(Debug, Default)]
pub(crate) struct Candidates<'a>(BTreeMap<SocketAddr, &'a SliceEndpoint>);

impl<'a> Candidates<'a> {
    /// Adds an endpoint. Where slices disagree on one address, the healthier record wins: pods move between
    /// slices, and for a moment both hold them.
    pub(crate) fn add(&mut self, endpoint: &'a SliceEndpoint, port: Port) {
        let rank = |e: &SliceEndpoint| (!e.terminating, e.ready, e.serving, e.local);
        self.0
            .entry(SocketAddr::new(endpoint.address, port.get()))
            .and_modify(|known| {
                if rank(endpoint) > rank(known) {
                    *known = endpoint;
                }
            })
            .or_insert(endpoint);
    }

    /// All of them, whatever their state.
    pub(crate) fn known(&self) -> Vec<KnownEndpoint> {
        let known = |(address, e): (&SocketAddr, &&SliceEndpoint)| KnownEndpoint {
            address: *address,
            serving: e.ready || e.serving,
        };
        self.0.iter().map(known).collect()
    }

    /// Chooses for a node in `zone`.
    pub(crate) fn choose(&self, wanted: Wanted, zone: Option<&str>) -> Chosen {
        let uses_cluster = wanted.internal_policy == TrafficPolicy::Cluster || wanted.externally_reachable;
        let uses_local = wanted.internal_policy == TrafficPolicy::Local
            || (wanted.external_policy == TrafficPolicy::Local && wanted.externally_reachable);
        let topology = self.topology(zone);
        Chosen {
            cluster: if uses_cluster { self.usable(|e| topology.admits(e)) } else { vec![] },
            local: if uses_local { self.usable(|e| e.local) } else { vec![] },
            usable_anywhere: self.0.values().any(|e| e.ready || is_draining(e)),
        }
    }

    /// The ready endpoints that `admit` lets in. With none ready that way: those that still serve while they
    /// terminate. Hints never empty the first set, so only a set that is empty without them falls back.
    fn usable(&self, admit: impl Fn(&SliceEndpoint) -> bool) -> Vec<Backend> {
        let pick = |usable: fn(&SliceEndpoint) -> bool| -> Vec<Backend> {
            let chosen = self.0.iter().filter(|(_, e)| usable(e) && admit(e));
            chosen
                .map(|(address, e)| Backend { address: *address, local: e.local, terminating: !e.ready })
                .collect()
        };
        let ready = pick(|e| e.ready);
        if ready.is_empty() { pick(is_draining) } else { ready }
    }

    fn topology<'z>(&self, zone: Option<&'z str>) -> Topology<'z> {
        let ready = || self.0.values().filter(|e| e.ready);
        let all_hint_nodes = ready().all(|e| e.node_hint != NodeHint::Absent);
        if all_hint_nodes && ready().any(|e| e.node_hint == NodeHint::ThisNode) {
            return Topology::ThisNode;
        }
        match zone.filter(|zone| !zone.is_empty()) {
            Some(zone)
                if ready().all(|e| !e.zone_hints.is_empty())
                    && ready().any(|e| e.zone_hints.iter().any(|hint| hint == zone)) =>
            {
                Topology::Zone(zone)
            }
            _ => Topology::Anywhere,
        }
    }
}

/// How hints narrow the endpoints under Cluster policy.
#[derive(Clone, Copy, Debug)]
enum Topology<'z> {
    Anywhere,
    ThisNode,
    Zone(&'z str),
}

impl Topology<'_> {
    fn admits(self, endpoint: &SliceEndpoint) -> bool {
        match self {
            Self::Anywhere => true,
            Self::ThisNode => endpoint.node_hint == NodeHint::ThisNode,
            Self::Zone(zone) => endpoint.zone_hints.iter().any(|hint| hint == zone),
        }
    }
}

fn is_draining(endpoint: &SliceEndpoint) -> bool {
    !endpoint.ready && endpoint.serving && endpoint.terminating
}
