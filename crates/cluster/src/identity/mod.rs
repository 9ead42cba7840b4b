//! Identities: whose each address is, and what this node's agent has to write so that all nodes know. Pure.
//!
//! ```text
//!  Pod, Namespace ──▶ labels ──▶ Numbers ──▶ identity of each attached pod ──▶ Addresses ──▶ model::Update
//!                                  ▲  │                 │                         ▲
//!       TwinplaneIdentity ─────────┘  └───── wishes ◀───┘      TwinplaneEndpoint ─┘ (of other nodes)
//! ```
//!
//! Every agent sees all identities and all endpoints, and writes the endpoints of its own pods. [`Wish`]es are what the API
//! server's state lacks: level-triggered, so that it does not matter how often one is tried, or whether another node was first.
//!
//! Invariant: a number is used only once an object of that number and those labels was seen, and no collection of it is under
//! way. A pod whose labels change keeps its identity until the new one is there.
//! Invariant: an address of the cluster's pods is never the world's, however late its pod is heard of.

mod addresses;
mod labels;
mod numbers;
mod objects;
mod policy;
mod view;
mod wishes;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ::policy::{compile::ContainerPorts, read};
use ipnet::IpNet;
use k8s_openapi::{api::core::v1 as core, jiff::Timestamp};
use model::{IdentityId, Labels, PodName, Reserved};

use self::{
    addresses::{Addresses, Claimant},
    labels::Source,
    numbers::{Choice, Known, Numbers},
};
use crate::{address::parse_ip, problem::Report};

pub use labels::{CLUSTER, CLUSTER_NAME, NAMESPACE, NAMESPACE_LABELS, SERVICE_ACCOUNT};
pub use objects::{
    EndpointStatus, IdentitySpec, TwinplaneEndpoint, TwinplaneIdentity, UNUSED_SINCE, definitions,
};
pub(crate) use objects::{SCHEMA, SCHEMA_NOW};
pub use policy::NamedPort;
pub use view::{EndpointView, IdentityView, News};
pub use wishes::Wish;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Identities {
    node: String,
    /// Prefixes of all pods of the cluster; empty: not told.
    pod_cidrs: Vec<IpNet>,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Those of this node that have a network of their own and are not finished.
    pods: BTreeMap<PodName, Pod>,
    attached: BTreeMap<PodName, Attached>,
    /// All pods that a former agent attached were told.
    attached_known: bool,
    numbers: Numbers,
    published: BTreeMap<PodName, Published>,
    /// How many published endpoints have each identity.
    users: BTreeMap<IdentityId, usize>,
    addresses: Addresses,
    /// Identities that this node may have to collect: at which version, and since when, they were seen unused.
    idle: BTreeMap<IdentityId, (String, Timestamp)>,
    /// Identities of attached pods may be others now.
    unsettled: bool,
    /// Wishes may be others now.
    stirred: bool,
    /// Those of which [`News`] are to be told.
    moved_pods: BTreeSet<PodName>,
    moved_identities: BTreeSet<IdentityId>,
    /// Those of which the compiler of policies is to be told.
    pods_for_policy: BTreeSet<PodName>,
    identities_for_policy: BTreeSet<IdentityId>,
}

/// What of a Pod object makes its identity.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pod {
    uid: String,
    service_account: String,
    labels: BTreeMap<String, String>,
    ports: ContainerPorts,
}

/// A pod of this node, as the CNI plugin attached it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Attached {
    addresses: Vec<IpAddr>,
    /// `None` while its Pod or Namespace is not known.
    labels: Option<Arc<Labels>>,
    /// With the UID of the Pod that it was found for.
    identity: Option<(String, IdentityId)>,
}

/// An endpoint as the API server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Published {
    status: EndpointStatus,
    pod_uid: Option<String>,
    created: Option<Timestamp>,
    version: String,
}

/// Who is who besides pods.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    pub(crate) own: Vec<IpAddr>,
    pub(crate) api_servers: Vec<IpAddr>,
    pub(crate) other_nodes: Vec<IpAddr>,
    /// Of all pods of the cluster.
    pub(crate) pod_cidrs: BTreeSet<IpNet>,
    /// The cluster has both address families.
    pub(crate) dual_stack: bool,
}

impl Identities {
    pub(crate) fn new(node: &str, pod_cidrs: &[IpNet]) -> Self {
        Self { node: node.to_owned(), pod_cidrs: pod_cidrs.to_vec(), stirred: true, ..Self::default() }
    }

    pub(crate) fn set_surroundings(&mut self, around: &Surroundings) {
        let all = |addresses: &[IpAddr], reserved: Reserved| -> BTreeMap<IpNet, IdentityId> {
            addresses.iter().map(|address| (IpNet::from(*address), reserved.id())).collect()
        };
        let [v4, v6] = match around.dual_stack {
            true => [Reserved::WorldIpv4, Reserved::WorldIpv6],
            false => [Reserved::World; 2],
        };
        let mut rest: BTreeMap<IpNet, IdentityId> =
            around.pod_cidrs.iter().map(|cidr| (*cidr, Reserved::Unmanaged.id())).collect();
        let everything = [std::net::Ipv4Addr::UNSPECIFIED.into(), std::net::Ipv6Addr::UNSPECIFIED.into()];
        for (address, world) in everything.into_iter().zip([v4, v6]) {
            rest.extend(IpNet::new(address, 0).ok().map(|net| (net, world.id())));
        }
        self.addresses.set(&Claimant::Host, &all(&around.own, Reserved::Host));
        self.addresses.set(&Claimant::ApiServer, &all(&around.api_servers, Reserved::KubeApiserver));
        self.addresses.set(&Claimant::Nodes, &all(&around.other_nodes, Reserved::RemoteNode));
        self.addresses.set(&Claimant::Rest, &rest);
    }

    /// What moved in the table of addresses since the last call.
    pub(crate) fn take_moved(&mut self) -> BTreeMap<IpNet, Option<IdentityId>> {
        self.settle();
        self.addresses.take_moved()
    }

    pub(crate) fn attach(&mut self, pod: &PodName, addresses: &[IpAddr]) {
        let labels = self.labels_of(pod);
        let before = self.attached.remove(pod).filter(|before| before.addresses == addresses);
        let identity = before.and_then(|before| before.identity);
        self.attached.insert(pod.clone(), Attached { addresses: addresses.to_vec(), labels, identity });
        self.moved_pods.insert(pod.clone());
        self.pods_for_policy.insert(pod.clone());
        self.unsettled = true;
    }

    pub(crate) fn detach(&mut self, pod: &PodName) {
        if self.attached.remove(pod).is_some() {
            self.addresses.set(&Claimant::Local(pod.clone()), &BTreeMap::new());
            self.moved_pods.insert(pod.clone());
            self.pods_for_policy.insert(pod.clone());
            self.stirred = true;
        }
    }

    /// From now on, an endpoint of this node that is not attached is gone.
    pub(crate) fn set_attached_known(&mut self) {
        self.attached_known = true;
        self.stirred = true;
    }

    pub(crate) fn set_namespace(&mut self, name: &str, labels: Option<BTreeMap<String, String>>) {
        if self.namespaces.get(name) == labels.as_ref() {
            return;
        }
        match labels {
            Some(labels) => _ = self.namespaces.insert(name.to_owned(), labels),
            None => _ = self.namespaces.remove(name),
        }
        let of = |pod: &&PodName| pod.namespace == name;
        for pod in self.attached.keys().filter(of).cloned().collect::<Vec<_>>() {
            self.relabel(&pod);
        }
    }

    pub(crate) fn set_pod(&mut self, name: &PodName, object: Option<&core::Pod>) {
        let pod = object.and_then(|object| read_pod(object, &self.node));
        if self.pods.get(name) == pod.as_ref() {
            return;
        }
        match pod {
            Some(pod) => _ = self.pods.insert(name.clone(), pod),
            None => _ = self.pods.remove(name),
        }
        self.relabel(name);
        self.pods_for_policy.insert(name.clone());
        self.stirred = true;
    }

    pub(crate) fn pods(&self) -> impl Iterator<Item = &PodName> {
        self.pods.keys()
    }

    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.namespaces.keys().map(String::as_str)
    }

    /// Takes in an identity, or its end. A name that is no number is reported, and stands in nobody's way.
    pub(crate) fn set_identity(
        &mut self,
        name: &str,
        object: Option<&TwinplaneIdentity>,
        report: &mut Report,
    ) {
        let Some(id) = report.take(|| "metadata.name".into(), name.parse::<IdentityId>()) else { return };
        let known = object.map(|object| {
            if object.spec.labels.is_empty() {
                report.add("spec.labels", "no labels: stands for no pod");
            }
            Known {
                labels: Arc::new(object.spec.labels.clone()),
                unused_since: unused_since(object),
                uid: object.metadata.uid.clone().unwrap_or_default(),
                version: object.metadata.resource_version.clone().unwrap_or_default(),
            }
        });
        if self.numbers.set(id, known) {
            self.unsettled = true;
        }
        self.moved_identities.insert(id);
        self.identities_for_policy.insert(id);
        self.stirred = true;
    }

    pub(crate) fn identities(&self) -> impl Iterator<Item = IdentityId> {
        self.numbers.iter().map(|(id, _)| id)
    }

    /// Takes in an endpoint of any node, or its end.
    pub(crate) fn set_published(
        &mut self,
        name: &PodName,
        object: Option<&TwinplaneEndpoint>,
        report: &mut Report,
    ) {
        let published = object.map(|object| Published {
            status: object.status.clone(),
            pod_uid: object.pod_uid().map(str::to_owned),
            created: object.metadata.creation_timestamp.as_ref().map(|time| time.0),
            version: object.metadata.resource_version.clone().unwrap_or_default(),
        });
        if let Some(before) = self.published.remove(name) {
            if published.as_ref().is_none_or(|now| now.created != before.created) {
                self.claim_remote(name, before.created, &BTreeMap::new());
            }
            self.count(before.status.identity, -1);
        }
        if let Some(published) = published {
            let wanted = match published.status.node == self.node {
                // What is attached here is known first hand.
                true => BTreeMap::new(),
                false => self.rows(&published.status, report),
            };
            self.claim_remote(name, published.created, &wanted);
            self.count(published.status.identity, 1);
            self.published.insert(name.clone(), published);
        }
        self.unsettled |= self.attached.contains_key(name);
        self.moved_pods.insert(name.clone());
        self.pods_for_policy.insert(name.clone());
        self.stirred = true;
    }

    pub(crate) fn published(&self) -> impl Iterator<Item = &PodName> {
        self.published.keys()
    }

    fn claim_remote(
        &mut self,
        name: &PodName,
        created: Option<Timestamp>,
        rows: &BTreeMap<IpNet, IdentityId>,
    ) {
        self.addresses.set(&Claimant::Remote(Reverse(created), name.clone()), rows);
    }

    fn rows(&self, status: &EndpointStatus, report: &mut Report) -> BTreeMap<IpNet, IdentityId> {
        let mut rows = BTreeMap::new();
        for (index, text) in status.addresses.iter().enumerate() {
            let field = || format!("status.addresses[{index}]");
            let Some(address) = report.take(field, parse_ip(text)) else { continue };
            let known = |cidr: &IpNet| cidr.contains(&address);
            if !self.pod_cidrs.is_empty() && !self.pod_cidrs.iter().any(known) {
                report.add(field(), format!("{address} is in none of the cluster's pod prefixes"));
                continue;
            }
            let identity = match status.identity.get() {
                0 => Reserved::Unmanaged.id(),
                _ => status.identity,
            };
            rows.insert(IpNet::from(address), identity);
        }
        rows
    }

    fn count(&mut self, identity: IdentityId, step: isize) {
        let users = self.users.entry(identity).or_default();
        *users = users.saturating_add_signed(step);
        if *users == 0 {
            self.users.remove(&identity);
        }
    }

    fn relabel(&mut self, pod: &PodName) {
        let labels = self.labels_of(pod);
        if let Some(attached) = self.attached.get_mut(pod)
            && attached.labels != labels
        {
            attached.labels = labels;
            self.unsettled = true;
        }
    }

    fn labels_of(&self, name: &PodName) -> Option<Arc<Labels>> {
        let pod = self.pods.get(name)?;
        let source = Source {
            namespace: &name.namespace,
            namespace_labels: self.namespaces.get(&name.namespace)?,
            service_account: &pod.service_account,
            labels: &pod.labels,
        };
        Some(Arc::new(source.labels()))
    }

    /// Finds the identity of every attached pod anew, where anything that it depends on moved.
    fn settle(&mut self) {
        if !std::mem::take(&mut self.unsettled) {
            return;
        }
        self.stirred = true;
        for (name, attached) in &mut self.attached {
            let uid = self.pods.get(name).map(|pod| pod.uid.clone());
            let chosen = attached.labels.as_ref().map(|labels| self.numbers.choose(labels));
            let was = attached.identity.take();
            let before = was.clone().filter(|(of, _)| Some(of) == uid.as_ref());
            attached.identity = match (uid, chosen) {
                (Some(uid), Some(Choice::Use(id))) => Some((uid, id)),
                // Until there is a new one: what it had, or what an earlier agent of this node said it has.
                (uid, _) => before.or_else(|| {
                    let published = self.published.get(name)?;
                    let same = published.status.node == self.node && published.pod_uid == uid;
                    Some((uid?, published.status.identity)).filter(|_| same)
                }),
            };
            let identity = attached.identity.as_ref().map_or(Reserved::Init.id(), |(_, id)| *id);
            if was != attached.identity {
                self.moved_pods.insert(name.clone());
                self.pods_for_policy.insert(name.clone());
            }
            let rows = attached.addresses.iter().map(|address| (IpNet::from(*address), identity));
            self.addresses.set(&Claimant::Local(name.clone()), &rows.collect());
        }
    }
}

fn read_pod(object: &core::Pod, node: &str) -> Option<Pod> {
    let spec = object.spec.as_ref()?;
    let phase = object.status.as_ref().and_then(|status| status.phase.as_deref());
    let finished = matches!(phase, Some("Succeeded" | "Failed"));
    if finished || spec.host_network == Some(true) || spec.node_name.as_deref() != Some(node) {
        return None;
    }
    Some(Pod {
        uid: object.metadata.uid.clone()?,
        service_account: spec.service_account_name.clone().unwrap_or_else(|| "default".into()),
        labels: object.metadata.labels.clone().unwrap_or_default(),
        ports: read::container_ports(spec),
    })
}

/// A mark that cannot be read is none: whoever collects writes another one.
fn unused_since(object: &TwinplaneIdentity) -> Option<Timestamp> {
    object.metadata.annotations.as_ref()?.get(UNUSED_SINCE)?.parse().ok()
}
