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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stir {
    #[default]
    Nothing,
    /// Just its addresses are others.
    Addresses,
    /// An identity has other ports than before, or differing ones.
    Ports,
}

impl Pods {
    pub(super) fn get(&self, name: &PodName) -> Option<&Pod> {
        self.all.get(name)
    }

    /// Takes in a pod, or its end.
    pub(super) fn set(&mut self, name: &PodName, pod: Option<Pod>) -> Stir {
        let before = self.all.remove(name);
        let mut stir = Stir::Nothing;
        if let Some(before) = &before {
            stir = self.forget(name, before);
        }
        if let Some(pod) = pod {
            for address in &pod.addresses {
                self.by_address.entry(*address).or_default().insert(name.clone());
            }
            let kinds = self.kinds.entry(pod.identity).or_default();
            kinds.entry(pod.ports.clone()).or_default().insert(name.clone());
            let differ = kinds.len() > 1;
            let first = kinds.values().map(BTreeSet::len).sum::<usize>() == 1;
            stir = match before.is_some_and(|before| before == pod) {
                true => Stir::Nothing,
                false if differ || first => Stir::Ports,
                false => stir.max(Stir::Addresses),
            };
            self.all.insert(name.clone(), pod);
        }
        stir
    }

    fn forget(&mut self, name: &PodName, pod: &Pod) -> Stir {
        for address in &pod.addresses {
            if let Some(names) = self.by_address.get_mut(address) {
                names.remove(name);
                if names.is_empty() {
                    self.by_address.remove(address);
                }
            }
        }
        let Some(kinds) = self.kinds.get_mut(&pod.identity) else { return Stir::Nothing };
        let differed = kinds.len() > 1;
        if let Some(names) = kinds.get_mut(&pod.ports) {
            names.remove(name);
            if names.is_empty() {
                kinds.remove(&pod.ports);
            }
        }
        let last = kinds.is_empty();
        if last {
            self.kinds.remove(&pod.identity);
        }
        if differed || last { Stir::Ports } else { Stir::Addresses }
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
