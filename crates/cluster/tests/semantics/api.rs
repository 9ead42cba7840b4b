//! An API server's part in identities: conditional writes, and all that it tells, in order.

use std::collections::BTreeMap;

use cluster::{TwinplaneEndpoint, TwinplaneIdentity, UNUSED_SINCE, Wish};
use k8s_openapi::jiff::Timestamp;
use kube::runtime::watcher::Event;
use model::{IdentityId, PodName};

/// What the API server has, and what it told so far.
#[derive(Default)]
pub(crate) struct Api {
    pub(crate) identities: BTreeMap<IdentityId, TwinplaneIdentity>,
    pub(crate) endpoints: BTreeMap<PodName, TwinplaneEndpoint>,
    pub(crate) version: u64,
    pub(crate) log: Vec<Told>,
}

#[derive(Clone)]
pub(crate) enum Told {
    Identity(Event<TwinplaneIdentity>),
    Endpoint(Event<TwinplaneEndpoint>),
}

impl Api {
    pub(crate) fn put_identity(&mut self, mut identity: TwinplaneIdentity) {
        self.version += 1;
        identity.metadata.resource_version = Some(self.version.to_string());
        identity.metadata.uid.get_or_insert_with(|| format!("uid-{}", self.version));
        let id = identity.metadata.name.as_deref().expect("name").parse().expect("a number");
        self.identities.insert(id, identity.clone());
        self.log.push(Told::Identity(Event::Apply(identity)));
    }

    pub(crate) fn remove_identity(&mut self, id: IdentityId) {
        if let Some(identity) = self.identities.remove(&id) {
            self.log.push(Told::Identity(Event::Delete(identity)));
        }
    }

    pub(crate) fn is_at(&self, id: IdentityId, version: &str) -> bool {
        self.identities.get(&id).is_some_and(|i| i.metadata.resource_version.as_deref() == Some(version))
    }

    /// As the real one: conditional, and what does not fit any more is refused.
    pub(crate) fn grant(&mut self, wish: Wish) {
        match wish {
            Wish::Create { id, labels } => {
                if !self.identities.contains_key(&id) {
                    self.put_identity(TwinplaneIdentity::new(id, labels));
                }
            }
            Wish::Keep { id, version } if self.is_at(id, &version) => self.mark(id, None),
            Wish::Mark { id, version, since } if self.is_at(id, &version) => self.mark(id, Some(since)),
            Wish::Remove { id, version } if self.is_at(id, &version) => self.remove_identity(id),
            Wish::Publish { endpoint, replaces } => self.publish(*endpoint, replaces.as_deref()),
            Wish::Withdraw { pod, version } => {
                if self.version_of(&pod) == Some(&version) {
                    let endpoint = self.endpoints.remove(&pod).expect("there");
                    self.log.push(Told::Endpoint(Event::Delete(endpoint)));
                }
            }
            Wish::Keep { .. } | Wish::Mark { .. } | Wish::Remove { .. } | Wish::Judge { .. } => {}
        }
    }

    pub(crate) fn mark(&mut self, id: IdentityId, since: Option<Timestamp>) {
        let mut identity = self.identities[&id].clone();
        let annotations = identity.metadata.annotations.get_or_insert_default();
        match since {
            Some(since) => _ = annotations.insert(UNUSED_SINCE.into(), since.to_string()),
            None => _ = annotations.remove(UNUSED_SINCE),
        }
        self.put_identity(identity);
    }

    pub(crate) fn version_of(&self, pod: &PodName) -> Option<&str> {
        self.endpoints.get(pod)?.metadata.resource_version.as_deref()
    }

    pub(crate) fn publish(&mut self, mut endpoint: TwinplaneEndpoint, replaces: Option<&str>) {
        let metadata = &mut endpoint.metadata;
        let name = PodName {
            namespace: metadata.namespace.clone().expect("namespace"),
            name: metadata.name.clone().expect("name"),
        };
        if self.version_of(&name) != replaces {
            return;
        }
        self.version += 1;
        metadata.resource_version = Some(self.version.to_string());
        self.endpoints.insert(name, endpoint.clone());
        self.log.push(Told::Endpoint(Event::Apply(endpoint)));
    }
}
