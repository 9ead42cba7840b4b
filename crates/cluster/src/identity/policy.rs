//! What the compiler of policies is told of pods and identities: the same as everyone, and pods' ports by name.

use std::{collections::BTreeSet, mem, sync::Arc};

use model::{IdentityId, Labels, PodName, Protocol, policy::Mode};
use policy::compile::{ContainerPort, ContainerPorts, Pod};
use serde::{Deserialize, Serialize};

use super::Identities;

/// A port of a container that has a name, as an endpoint's object tells other nodes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedPort {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
}

pub(super) fn published(ports: &ContainerPorts) -> Vec<NamedPort> {
    let named = |port: &ContainerPort| NamedPort {
        name: port.name.clone(),
        protocol: port.protocol,
        port: port.number,
    };
    ports.iter().map(named).collect()
}

fn taken(ports: &[NamedPort]) -> ContainerPorts {
    let port = |port: &NamedPort| ContainerPort {
        name: port.name.clone(),
        protocol: port.protocol,
        number: port.port,
    };
    ContainerPorts::new(ports.iter().map(port))
}

impl Identities {
    /// Pods and identities that may have moved since the last call.
    pub(crate) fn take_policy_news(&mut self) -> (BTreeSet<PodName>, BTreeSet<IdentityId>) {
        self.settle();
        (mem::take(&mut self.pods_for_policy), mem::take(&mut self.identities_for_policy))
    }

    pub(crate) fn is_attached(&self, pod: &PodName) -> bool {
        self.attached.contains_key(pod)
    }

    /// Attached pods that the compiler is to be told of again.
    pub(crate) fn note_for_policy(&mut self, concerned: impl Fn(&PodName) -> bool) {
        let pods = self.attached.keys().filter(|pod| concerned(pod)).cloned();
        self.pods_for_policy.extend(pods);
    }

    pub(crate) fn labels_of_identity(&self, id: IdentityId) -> Option<Arc<Labels>> {
        self.numbers.get(id).map(|known| Arc::clone(&known.labels))
    }

    /// A pod as policies see it; `None` while nobody knows who it is.
    pub(crate) fn pod_of_policy(&self, name: &PodName) -> Option<Pod> {
        if let Some(attached) = self.attached.get(name) {
            let (_, identity) = attached.identity.as_ref()?;
            let ports = self.pods.get(name).map(|pod| pod.ports.clone()).unwrap_or_default();
            let (identity, addresses) = (*identity, attached.addresses.clone());
            return Some(Pod { identity, addresses, ports, local: Some(Mode::default()) });
        }
        let status = &self.published.get(name).filter(|there| there.status.node != self.node)?.status;
        let addresses = status.addresses.iter().filter_map(|text| text.parse().ok()).collect();
        Some(Pod { identity: status.identity, addresses, ports: taken(&status.ports), local: None })
    }
}
