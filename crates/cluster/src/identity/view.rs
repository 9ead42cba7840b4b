//! Identities and endpoints as the agent's API shows them. Serialised as they stand.

use std::net::IpAddr;

use model::{IdentityId, PodName, Reserved};
use serde::{Deserialize, Serialize};

use super::Identities;

/// What a number stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentityView {
    pub id: IdentityId,
    /// `source:key=value`, in order.
    pub labels: Vec<String>,
    /// How many endpoints of the cluster have it. Zero for a reserved one, which is nobody's endpoint.
    pub endpoints: usize,
}

/// A pod of the cluster that has an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointView {
    pub pod: PodName,
    pub node: String,
    pub identity: IdentityId,
    /// Of the identity; empty where it is not known (yet).
    pub labels: Vec<String>,
    pub addresses: Vec<IpAddr>,
}

impl Identities {
    /// The reserved ones, then those of the cluster, in order of number.
    pub(crate) fn identity_views(&self) -> Vec<IdentityView> {
        let reserved = Reserved::ALL.into_iter().map(Reserved::id);
        reserved.chain(self.identities()).map(|id| self.identity_view(id)).collect()
    }

    fn identity_view(&self, id: IdentityId) -> IdentityView {
        let endpoints = self.users.get(&id).copied().unwrap_or_default();
        IdentityView { id, labels: self.labels(id), endpoints }
    }

    fn labels(&self, id: IdentityId) -> Vec<String> {
        match (Reserved::from_id(id), self.numbers.get(id)) {
            (Some(reserved), _) => reserved.labels().texts().collect(),
            (None, known) => known.map(|known| known.labels.texts().collect()).unwrap_or_default(),
        }
    }

    /// All endpoints of the cluster, in order of name; those of this node as they are attached.
    pub(crate) fn endpoint_views(&self) -> Vec<EndpointView> {
        let own = self.attached.iter().map(|(pod, attached)| {
            let identity = attached.identity.as_ref().map_or(Reserved::Init.id(), |(_, id)| *id);
            (pod, &self.node, identity, attached.addresses.clone())
        });
        let others = self
            .published
            .iter()
            .filter(|(pod, there)| there.status.node != self.node && !self.attached.contains_key(pod));
        let others = others.map(|(pod, there)| {
            let addresses = there.status.addresses.iter().filter_map(|text| text.parse().ok()).collect();
            (pod, &there.status.node, there.status.identity, addresses)
        });
        let view = |(pod, node, identity, addresses): (&PodName, &String, IdentityId, Vec<IpAddr>)| {
            let labels = self.labels(identity);
            EndpointView { pod: pod.clone(), node: node.clone(), identity, labels, addresses }
        };
        let mut views: Vec<_> = own.chain(others).map(view).collect();
        views.sort_by(|a, b| a.pod.cmp(&b.pod));
        views
    }
}
