//! What policies have to know of pods besides their labels: addresses, and ports by name. Pure.

use std::{collections::BTreeSet, mem, net::IpAddr};

use model::{IdentityId, Labels, PodName, policy::Mode};
use policy::compile::{self, ContainerPort, ContainerPorts};

use super::{Identities, objects::NamedPort};

impl Identities {
    /// Takes in the named ports of a pod of this node.
    pub(crate) fn set_ports(&mut self, pod: &PodName, ports: ContainerPorts) {
        self.ports.insert(pod.clone(), ports);
        self.stirred = true;
    }

    pub(crate) fn is_attached(&self, pod: &PodName) -> bool {
        self.attached.contains_key(pod)
    }

    pub(crate) fn is_attached_known(&self) -> bool {
        self.attached_known
    }

    /// Pods and identities of which something moved since the last call.
    pub(crate) fn take_moved_for_policies(&mut self) -> (BTreeSet<PodName>, BTreeSet<IdentityId>) {
        self.settle();
        (mem::take(&mut self.unjudged_pods), mem::take(&mut self.unjudged_identities))
    }

    pub(crate) fn labels_of_identity(&self, id: IdentityId) -> Option<&Labels> {
        self.numbers.get(id).map(|known| &*known.labels)
    }

    /// A pod as the compiler of policies wants it; `None` while it has no identity of the cluster.
    pub(crate) fn policy_pod(&self, name: &PodName) -> Option<compile::Pod> {
        if let Some(attached) = self.attached.get(name) {
            let (_, identity) = attached.identity.as_ref()?;
            let addresses = attached.addresses.clone();
            let ports = self.ports.get(name).cloned().unwrap_or_default();
            return Some(compile::Pod { identity: *identity, addresses, ports, local: Some(Mode::Enforce) });
        }
        let there = &self.published.get(name).filter(|there| there.status.node != self.node)?.status;
        let addresses: Vec<IpAddr> = there.addresses.iter().filter_map(|text| text.parse().ok()).collect();
        let ports = there.ports.iter().filter_map(NamedPort::read);
        let ports = ContainerPorts::new(ports);
        let is_somebody = there.identity.is_of_cluster();
        is_somebody.then(|| compile::Pod { identity: there.identity, addresses, ports, local: None })
    }

    /// The named ports of a pod of this node, as other nodes are told of them.
    pub(super) fn named_ports(&self, pod: &PodName) -> Vec<NamedPort> {
        let ports = self.ports.get(pod).into_iter().flat_map(ContainerPorts::iter);
        ports.map(NamedPort::of).collect()
    }
}

impl NamedPort {
    fn of(port: &ContainerPort) -> Self {
        Self { name: port.name.clone(), protocol: port.protocol.to_string(), port: port.number }
    }

    /// `None` for a protocol that nobody knows.
    fn read(&self) -> Option<ContainerPort> {
        let protocol = self.protocol.parse().ok()?;
        Some(ContainerPort { name: self.name.clone(), protocol, number: self.port })
    }
}
