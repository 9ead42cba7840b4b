//! A cluster as the oracle sees it: objects, and whose each address is. Pure.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::api::{core::v1 as core, networking::v1::NetworkPolicy};
use model::{
    Family, PodName,
    policy::{L4, Mode, PolicyKind, PolicyName},
};
use serde::Serialize;

use crate::{
    read::{self, Lines, PodReading},
    v1alpha2::ClusterNetworkPolicy,
};

/// The label that the API server gives every namespace, and that files leave out.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// All that decides about a connection.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Labels by name.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Of namespaces that ask for one.
    pub namespace_modes: BTreeMap<String, Mode>,
    pub pods: BTreeMap<PodName, PodReading>,
    /// All addresses of each node.
    pub nodes: BTreeMap<String, Vec<IpAddr>>,
    /// By namespace and name.
    pub network_policies: BTreeMap<PodName, Written<NetworkPolicy>>,
    pub cluster_network_policies: BTreeMap<String, Written<ClusterNetworkPolicy>>,
}

/// An object, and where it stands if it was read from a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Written<T> {
    pub object: T,
    pub lines: Option<Lines>,
}

/// Whose an address is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Owner {
    Pod(PodName),
    /// A node, or a pod in its network.
    Node(String),
    /// Nobody of the cluster.
    Outside,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Party {
    pub owner: Owner,
    pub address: IpAddr,
}

/// What somebody wants to send where, as it arrives: after service translation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Connection {
    pub source: Party,
    pub destination: Party,
    pub l4: L4,
}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecidable {
    #[error("cannot decide: there is no pod {0}")]
    NoPod(PodName),
    #[error("cannot decide: pod {0} has no address in IP{1}")]
    NoAddress(PodName, &'static str),
    #[error("cannot decide: pod {0} is finished, its address may be another's")]
    Finished(PodName),
    #[error("cannot decide: address {0} belongs to pods {1} and {2}")]
    Ambiguous(IpAddr, PodName, PodName),
    #[error("cannot decide: nothing is known of namespace {0}")]
    NoNamespace(String),
    #[error("cannot decide: {0} and {1} are of different address families")]
    Families(IpAddr, IpAddr),
}

impl World {
    pub fn set_namespace(&mut self, name: &str, labels: BTreeMap<String, String>) {
        let mut labels = labels;
        labels.insert(NAME_LABEL.into(), name.into());
        self.namespaces.insert(name.to_owned(), labels);
    }

    /// Takes in what a namespace's annotations ask for.
    pub fn set_namespace_mode(&mut self, name: &str, annotations: Option<&BTreeMap<String, String>>) {
        match read::mode(annotations) {
            Some(said) => _ = self.namespace_modes.insert(name.to_owned(), said.unwrap_or_default()),
            None => _ = self.namespace_modes.remove(name),
        }
    }

    /// Whether what policies deny a pod is dropped.
    pub fn mode(&self, pod: &PodName) -> Mode {
        let own = self.pods.get(pod).and_then(|pod| pod.mode);
        own.or_else(|| self.namespace_modes.get(&pod.namespace).copied()).unwrap_or_default()
    }

    pub fn set_pod(&mut self, object: &core::Pod) {
        let name = PodName {
            namespace: object.metadata.namespace.clone().unwrap_or_else(|| "default".into()),
            name: object.metadata.name.clone().unwrap_or_default(),
        };
        self.pods.insert(name, read::pod(object));
    }

    pub fn set_node(&mut self, object: &core::Node) {
        let addresses = object.status.as_ref().and_then(|status| status.addresses.as_ref());
        let addresses = addresses.into_iter().flatten().filter_map(|a| a.address.parse().ok()).collect();
        self.nodes.insert(object.metadata.name.clone().unwrap_or_default(), addresses);
    }

    pub fn set_network_policy(&mut self, object: NetworkPolicy, lines: Option<Lines>) {
        let name = PodName {
            namespace: object.metadata.namespace.clone().unwrap_or_else(|| "default".into()),
            name: object.metadata.name.clone().unwrap_or_default(),
        };
        self.network_policies.insert(name, Written { object, lines });
    }

    pub fn set_cluster_network_policy(&mut self, object: ClusterNetworkPolicy, lines: Option<Lines>) {
        let name = object.metadata.name.clone().unwrap_or_default();
        self.cluster_network_policies.insert(name, Written { object, lines });
    }

    /// Gives policies that are the same in `other` the lines that they have there; returns those of `other` that are not the
    /// same here, or not here at all.
    pub fn take_lines(&mut self, other: &Self) -> Vec<PolicyName> {
        let mut without = vec![];
        for (name, written) in &other.network_policies {
            match self.network_policies.get_mut(name) {
                Some(own) if own.object.spec == written.object.spec => own.lines.clone_from(&written.lines),
                _ => without.push(PolicyName {
                    kind: PolicyKind::NetworkPolicy,
                    namespace: name.namespace.clone(),
                    name: name.name.clone(),
                }),
            }
        }
        for (name, written) in &other.cluster_network_policies {
            match self.cluster_network_policies.get_mut(name) {
                Some(own) if own.object.spec == written.object.spec => own.lines.clone_from(&written.lines),
                _ => without.push(PolicyName {
                    kind: PolicyKind::ClusterNetworkPolicy,
                    namespace: String::new(),
                    name: name.clone(),
                }),
            }
        }
        without
    }

    /// As a cluster has it, which knows no files.
    pub fn drop_lines(&mut self) {
        self.network_policies.values_mut().for_each(|written| written.lines = None);
        self.cluster_network_policies.values_mut().for_each(|written| written.lines = None);
    }

    /// Pods that have a network of their own and are not finished: those that policies are about.
    pub fn subjects(&self) -> impl Iterator<Item = (&PodName, &PodReading)> {
        self.pods.iter().filter(|(_, pod)| !pod.host_network && !pod.finished)
    }

    /// Whose `address` is.
    pub fn owner(&self, address: IpAddr) -> Result<Owner, Undecidable> {
        let mut pods = self.subjects().filter(|(_, pod)| pod.addresses.contains(&address));
        match (pods.next(), pods.next()) {
            (Some((name, _)), None) => return Ok(Owner::Pod(name.clone())),
            (Some((one, _)), Some((other, _))) => {
                return Err(Undecidable::Ambiguous(address, one.clone(), other.clone()));
            }
            (None, _) => {}
        }
        let node = self.nodes.iter().find(|(_, addresses)| addresses.contains(&address));
        let in_nodes_network =
            self.pods.values().find(|pod| pod.host_network && pod.addresses.contains(&address));
        let node = node.map(|(name, _)| name.clone()).or(in_nodes_network.map(|pod| pod.node.clone()));
        Ok(node.map_or(Owner::Outside, Owner::Node))
    }

    /// Whoever has `address`.
    pub fn party(&self, address: IpAddr) -> Result<Party, Undecidable> {
        Ok(Party { owner: self.owner(address)?, address })
    }

    /// A pod by name, with its address of a family.
    pub fn pod_party(&self, name: &PodName, family: Family) -> Result<Party, Undecidable> {
        let pod = self.pods.get(name).ok_or_else(|| Undecidable::NoPod(name.clone()))?;
        if pod.finished {
            return Err(Undecidable::Finished(name.clone()));
        }
        let address = pod.addresses.iter().find(|address| Family::of(**address) == family);
        let text = match family {
            Family::V4 => "v4",
            Family::V6 => "v6",
        };
        let address = *address.ok_or(Undecidable::NoAddress(name.clone(), text))?;
        let owner = match pod.host_network {
            true => Owner::Node(pod.node.clone()),
            false => Owner::Pod(name.clone()),
        };
        Ok(Party { owner, address })
    }
}
