//! The cluster's pods as far as ports by name need them. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use model::{IdentityId, PodName, policy::Mode};

use super::ports::ContainerPorts;

/// What the compiler is told of a pod. Not of one in its node's network, nor of a finished one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub identity: IdentityId,
    pub addresses: Vec<IpAddr>,
    pub ports: ContainerPorts,
    /// Of a pod of this node.
    pub local: Option<Mode>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pods {
    all: BTreeMap<PodName, Pod>,
    /// Who has which ports, of each identity.
    kinds: BTreeMap<IdentityId, BTreeMap<ContainerPorts, BTreeSet<PodName>>>,
    by_address: BTreeMap<IpAddr, BTreeSet<PodName>>,
}

/// What a change of a pod means to rules that name ports.
#[derive(Debug, Default)]
pub(super) struct Stir {
    /// Where other pods are now, or pods with other ports.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Which have other ports than before, or pods whose ports differ.
    pub(super) identities: BTreeSet<IdentityId>,
}

impl Stir {
    pub(super) fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.identities.is_empty()
    }
}

impl Pods {
    pub(super) fn get(&self, name: &PodName) -> Option<&Pod> {
        self.all.get(name)
    }

    /// Takes in a pod, or its end, and notes in `stir` what that means.
    pub(super) fn set(&mut self, name: &PodName, pod: Option<Pod>, stir: &mut Stir) {
        if self.all.get(name) == pod.as_ref() {
            return;
        }
        if let Some(before) = self.all.remove(name) {
            self.forget(name, &before, stir);
        }
        let Some(pod) = pod else { return };
        for address in &pod.addresses {
            self.by_address.entry(*address).or_default().insert(name.clone());
        }
        let kinds = self.kinds.entry(pod.identity).or_default();
        kinds.entry(pod.ports.clone()).or_default().insert(name.clone());
        if kinds.len() > 1 || kinds.values().all(|names| names.len() == 1) {
            stir.identities.insert(pod.identity);
        }
        stir.addresses.extend(&pod.addresses);
        self.all.insert(name.clone(), pod);
    }

    fn forget(&mut self, name: &PodName, pod: &Pod, stir: &mut Stir) {
        stir.addresses.extend(&pod.addresses);
        for address in &pod.addresses {
            if let Some(names) = self.by_address.get_mut(address) {
                names.remove(name);
                if names.is_empty() {
                    self.by_address.remove(address);
                }
            }
        }
        let Some(kinds) = self.kinds.get_mut(&pod.identity) else { return };
        if kinds.len() > 1 {
            stir.identities.insert(pod.identity);
        }
        if let Some(names) = kinds.get_mut(&pod.ports) {
            names.remove(name);
            if names.is_empty() {
                kinds.remove(&pod.ports);
            }
        }
        if kinds.is_empty() {
            self.kinds.remove(&pod.identity);
            stir.identities.insert(pod.identity);
        }
    }

    /// All identities that pods have.
    pub(super) fn identities(&self) -> impl Iterator<Item = IdentityId> {
        self.kinds.keys().copied()
    }

    /// The pods of an identity by their ports.
    pub(super) fn kinds(&self, id: IdentityId) -> Option<&BTreeMap<ContainerPorts, BTreeSet<PodName>>> {
        self.kinds.get(&id)
    }

    /// Pods with an address in `cidr`, each with that address.
    pub(super) fn within(&self, cidr: &IpNet) -> impl Iterator<Item = (IpAddr, &Pod)> {
        let range = self.by_address.range(cidr.network()..=cidr.broadcast());
        range
            .flat_map(|(address, names)| names.iter().map(|name| (*address, name)))
            .filter_map(|(address, name)| self.all.get(name).map(|pod| (address, pod)))
    }
}
