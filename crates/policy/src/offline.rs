//! A whole cluster compiled at once or step by step, without an agent: for commands on files, and for comparing. Pure.
//!
//! Every pod counts as one of this node. Identities are numbered as they come.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use model::{
    IdentityId, Labels, PodName, PolicyTable, Reserved,
    label_keys::{NAMESPACE, NAMESPACE_LABELS, PASSED_OVER, SOURCE},
    policy::{Decision, Direction, Mode, PeerAddress, PolicyName, PolicyUpdate, Question, Verdict},
};

use crate::{
    Problem,
    compile::{Compiler, Pod},
    read::{self, Reading},
    world::{Connection, Owner, Party, World},
};

/// See the module.
#[derive(Debug, Default)]
pub struct Offline {
    compiler: Compiler,
    numbers: BTreeMap<Labels, IdentityId>,
    identities: BTreeMap<PodName, IdentityId>,
    nodes: BTreeMap<PodName, String>,
    problems: Vec<Problem>,
}

impl Offline {
    /// `world`, compiled.
    pub fn of(world: &World) -> Self {
        let mut offline = Self::default();
        offline.sync(world);
        offline
    }

    /// Tells the compiler what `world` has, and what it has not any more.
    pub fn sync(&mut self, world: &World) -> PolicyUpdate {
        let readings = readings(world);
        let names: BTreeSet<PolicyName> = readings.iter().map(|r| r.policy.name.clone()).collect();
        let gone: Vec<PolicyName> =
            self.compiler.policies().map(|p| p.name.clone()).filter(|name| !names.contains(name)).collect();
        gone.iter().for_each(|name| self.compiler.remove_policy(name));
        self.problems = readings.iter().flat_map(|reading| reading.problems.clone()).collect();
        let before = std::mem::take(&mut self.identities);
        self.nodes.clear();
        for (name, pod) in world.subjects() {
            let Some(namespace) = world.namespaces.get(&name.namespace) else { continue };
            let labels = labels(&name.namespace, namespace, &pod.labels);
            let next = IdentityId::of_cluster(self.numbers.len() as u32);
            let identity = *self.numbers.entry(labels.clone()).or_insert(next);
            self.compiler.set_identity(identity, Some(&labels));
            let (addresses, ports) = (pod.addresses.clone(), pod.ports.clone());
            let local = Some(Mode::Enforce);
            self.compiler.set_pod(name, Some(Pod { identity, addresses, ports, local }));
            self.identities.insert(name.clone(), identity);
            self.nodes.insert(name.clone(), pod.node.clone());
        }
        for (name, _) in before.iter().filter(|(name, _)| !self.identities.contains_key(name)) {
            self.compiler.set_pod(name, None);
        }
        let used: BTreeSet<IdentityId> = self.identities.values().copied().collect();
        for identity in self.numbers.values().filter(|identity| !used.contains(identity)) {
            self.compiler.set_identity(*identity, None);
        }
        for reading in readings {
            self.compiler.set_policy(reading.policy);
        }
        self.compiler.take_update()
    }

    pub fn table(&self) -> &PolicyTable {
        self.compiler.table()
    }

    /// Of every pod that policies may be about.
    pub fn identities(&self) -> &BTreeMap<PodName, IdentityId> {
        &self.identities
    }

    /// What is wrong with the policies.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// What an identity of the cluster, numbered here, stands for.
    pub fn labels(&self, id: IdentityId) -> Option<&Labels> {
        self.numbers.iter().find(|(_, number)| **number == id).map(|(labels, _)| labels)
    }

    /// What the table says of a connection in one direction; `None` where that end is no pod that policies are about.
    pub fn decide(&self, connection: &Connection, direction: Direction) -> Option<Decision> {
        let (own, other) = match direction {
            Direction::Ingress => (&connection.destination, &connection.source),
            Direction::Egress => (&connection.source, &connection.destination),
        };
        let Owner::Pod(endpoint) = &own.owner else { return None };
        let peer =
            PeerAddress { identity: self.identity(endpoint, other), prefix: self.prefix(other.address) };
        let loopback = connection.source.address == connection.destination.address;
        Some(self.table().decide(&Question { endpoint, direction, peer, l4: connection.l4, loopback }))
    }

    /// What becomes of a connection.
    pub fn verdict(&self, connection: &Connection) -> Verdict {
        let decisions = Direction::ALL.into_iter().filter_map(|direction| self.decide(connection, direction));
        decisions.map(|decision| decision.verdict).max().unwrap_or(Verdict::Allow)
    }

    /// As the node of `endpoint` knows `other`.
    fn identity(&self, endpoint: &PodName, other: &Party) -> IdentityId {
        match &other.owner {
            Owner::Pod(pod) => self.identities.get(pod).copied().unwrap_or(Reserved::Unmanaged.id()),
            Owner::Node(node) if self.nodes.get(endpoint) == Some(node) => Reserved::Host.id(),
            Owner::Node(_) => Reserved::RemoteNode.id(),
            Owner::Outside => Reserved::World.id(),
        }
    }

    pub(crate) fn prefix(&self, address: IpAddr) -> Option<IdentityId> {
        let prefixes = &self.table().prefixes;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let lengths = (0..=most).rev().filter_map(|length| IpNet::new(address, length).ok());
        lengths.map(|net| net.trunc()).find_map(|net| prefixes.get(&net).copied())
    }
}

/// All policies of `world`, read.
pub fn readings(world: &World) -> Vec<Reading> {
    let ours = world.network_policies.values();
    let ours = ours.map(|written| read::network_policy(&written.object, written.lines.as_ref()));
    let all = world.cluster_network_policies.values();
    let all = all.map(|written| read::cluster_network_policy(&written.object, written.lines.as_ref()));
    ours.chain(all).collect()
}

/// As identities have them.
fn labels(
    namespace: &str,
    of_namespace: &BTreeMap<String, String>,
    of_pod: &BTreeMap<String, String>,
) -> Labels {
    let keyed = |prefix: &'static str, labels: &BTreeMap<String, String>| {
        let keyed = labels.iter().map(move |(key, value)| (format!("{prefix}{key}"), value.clone()));
        keyed.collect::<Vec<_>>()
    };
    let pod = of_pod.iter().filter(|(key, _)| !PASSED_OVER.contains(&key.as_str()));
    let pod = pod.map(|(key, value)| (key.clone(), value.clone())).collect();
    let own = (NAMESPACE.to_owned(), namespace.to_owned());
    keyed(SOURCE, &pod).into_iter().chain(keyed(NAMESPACE_LABELS, of_namespace)).chain([own]).collect()
}
