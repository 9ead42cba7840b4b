//! Identities and endpoints as the agent's API shows them. Serialised as they stand.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::IpAddr,
};

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

/// Who is who now, of all that may have changed. `None`: gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    pub endpoints: BTreeMap<PodName, Option<EndpointView>>,
    /// Labels, as `source:key=value`.
    pub identities: BTreeMap<IdentityId, Option<Vec<String>>>,
}

impl News {
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty() && self.identities.is_empty()
    }
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
        let names: BTreeSet<&PodName> = self.attached.keys().chain(self.published.keys()).collect();
        names.into_iter().filter_map(|pod| self.endpoint_view(pod)).collect()
    }

    fn endpoint_view(&self, pod: &PodName) -> Option<EndpointView> {
        let (node, identity, addresses) = match (self.attached.get(pod), self.published.get(pod)) {
            (Some(attached), _) => {
                let identity = attached.identity.as_ref().map_or(Reserved::Init.id(), |(_, id)| *id);
                (&self.node, identity, attached.addresses.clone())
            }
            (None, Some(there)) if there.status.node != self.node => {
                let addresses = there.status.addresses.iter().filter_map(|text| text.parse().ok()).collect();
                (&there.status.node, there.status.identity, addresses)
            }
            (None, _) => return None,
        };
        let labels = self.labels(identity);
        Some(EndpointView { pod: pod.clone(), node: node.clone(), identity, labels, addresses })
    }

    /// What moved since the last call.
    pub(crate) fn take_news(&mut self) -> News {
        let (pods, ids) = (mem::take(&mut self.moved_pods), mem::take(&mut self.moved_identities));
        let endpoints = pods.into_iter().map(|pod| (self.endpoint_view(&pod), pod));
        let identities = ids.into_iter().map(|id| (id, self.numbers.get(id).map(|_| self.labels(id))));
        News {
            endpoints: endpoints.map(|(view, pod)| (pod, view)).collect(),
            identities: identities.collect(),
        }
    }
}
