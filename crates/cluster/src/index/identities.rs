//! Identities within the index: who is around, when enough is known, what there is to write.

use k8s_openapi::jiff::Timestamp;
use model::ServiceName;

use super::Index;
use crate::{
    identity::{EndpointView, IdentityView, News, Surroundings, Wish},
    kinds::IDENTITY_KINDS,
    node::Node,
    owner::Owner,
};

/// The Service whose endpoints are the API servers: every cluster has it, and the API server itself keeps it.
const API_SERVICE: (&str, &str) = ("default", "kubernetes");

pub(super) fn is_api_service(owner: &Owner) -> bool {
    matches!(owner, Owner::Service(name) if (name.namespace.as_str(), name.name.as_str()) == API_SERVICE)
}

impl Index {
    /// All pods that are attached to this node were told by [`Self::set_endpoint`]; others are gone.
    pub fn set_endpoints_known(&mut self) {
        self.identities.set_attached_known();
    }

    /// Whether all is known that identities depend on. Nothing else waits for it.
    pub fn identities_known(&self) -> bool {
        self.waiting_for().is_none()
            && IDENTITY_KINDS.iter().all(|kind| self.listings.complete.contains(kind))
    }

    /// What this node has to write to the API server; `None`: what it was told last, unless `again`.
    pub fn take_wishes(&mut self, now: Timestamp, again: bool) -> Option<Vec<Wish>> {
        if !self.identities_known() {
            return None;
        }
        let nodes: Vec<&str> = self.nodes.keys().map(String::as_str).collect();
        let again = std::mem::take(&mut self.policies.stirred) || again;
        let mut wishes = self.identities.take_wishes(&nodes, now, again)?;
        wishes.extend(self.judgements(&nodes));
        Some(wishes)
    }

    /// Every identity that is known, in order of number.
    pub fn identity_views(&self) -> Vec<IdentityView> {
        self.identities.identity_views()
    }

    /// Every endpoint of the cluster that is known, in order of pod.
    pub fn endpoint_views(&self) -> Vec<EndpointView> {
        self.identities.endpoint_views()
    }

    /// Who is who now, of all that may have changed since the last call. Waits for nothing: what is known counts.
    pub fn take_news(&mut self) -> News {
        self.identities.take_news()
    }

    pub(super) fn update_addresses(&mut self) {
        if !self.identities_known() {
            return;
        }
        if std::mem::take(&mut self.surroundings_moved) {
            let around = self.surroundings();
            self.identities.set_surroundings(&around);
        }
        self.pending.addresses.extend(self.identities.take_moved());
    }

    fn surroundings(&self) -> Surroundings {
        let Some(own) = &self.node_config else { return Surroundings::default() };
        let others = || self.nodes.values().filter(|node| node.name != own.name);
        let tunnel = own.tunnel.as_ref();
        let mut other_nodes: Vec<_> =
            others().flat_map(|node| node.internal_ips.iter().chain(&node.external_ips)).copied().collect();
        if tunnel.is_some() {
            // A node's tunnel device has the first address of each of its prefixes.
            other_nodes.extend(others().flat_map(|node| node.pod_cidrs.iter().map(|cidr| cidr.network())));
        }
        let api = ServiceName { namespace: API_SERVICE.0.into(), name: API_SERVICE.1.into() };
        let api_slices = self.slices.get(&api).into_iter().flat_map(|slices| slices.values());
        let mut pod_cidrs: std::collections::BTreeSet<_> =
            own.cluster_cidrs.iter().map(|cidr| cidr.trunc()).collect();
        let of_nodes = self.nodes.values().flat_map(|node: &Node| &node.pod_cidrs);
        for cidr in of_nodes {
            if !own.cluster_cidrs.iter().any(|all| all.contains(cidr)) {
                pod_cidrs.insert(cidr.trunc());
            }
        }
        let of_tunnel = tunnel.into_iter().flat_map(|tunnel| &tunnel.addresses);
        Surroundings {
            own: own.addresses.iter().chain(of_tunnel).copied().collect(),
            api_servers: api_slices.flat_map(|slice| &slice.endpoints).map(|e| e.address).collect(),
            other_nodes,
            pod_cidrs,
            dual_stack: own.pod_cidrs.iter().any(|cidr| cidr.addr().is_ipv4())
                && own.pod_cidrs.iter().any(|cidr| cidr.addr().is_ipv6()),
        }
    }
}
