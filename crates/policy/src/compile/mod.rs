//! Policies, identities and pods to the neutral table, step by step: a change costs what it changes. Pure.
//!
//! ```text
//!  identity ─▶ Matchers: which selectors match it ──┐
//!  policy ───▶ Compiled: selectors, blocks, numbers ┼─▶ lists: rows by peer ─▶ PolicyUpdate
//!  pod ──────▶ Pods: ports by name, addresses ──────┘        ▲
//!     └─ of this node: which policies select it ─────────────┘
//! ```
//!
//! Endpoints that the same policies select share their lists. What moved is noted as it is told of, and worked off by
//! [`Compiler::take_update`]: rows of one identity where only that came or went, a list where one of its policies changed.
//!
//! Invariant: the table depends on what was told last of each object, not on the order in which it was told; only numbers do.

mod intern;
mod list;
mod matchers;
mod named;
mod pods;
mod policies;
mod ports;
mod prefixes;
mod select;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use ipnet::IpNet;
use model::{
    IdentityId, Labels, PodName, PolicyTable,
    policy::{ListId, Peer, PeerKey, PolicyName, PolicyUpdate, PortMap, PortsId, RuleId, RuleRef},
};

pub use pods::Pod;
pub use ports::{ContainerPort, ContainerPorts};

use self::{
    intern::Interner,
    list::{ListKey, Making},
    matchers::{MatcherId, Matchers},
    pods::{Pods, Stir},
    policies::{Compiled, Holders, Source},
    prefixes::{BlockId, Prefixes},
};
use crate::{
    Policy,
    mutation::{Bug, made},
};

/// The first numbers to give: above all that the kernel still has from an earlier process. Rules have numbers of their own
/// ([`policies`]), which a new process finds again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstNumbers {
    pub list: ListId,
    pub ports: PortsId,
    /// As offset among the identities local to the node.
    pub prefix: u32,
    /// Identities that prefixes have already, and keep: lists that are in force name them until others take their place.
    pub prefixes: BTreeMap<IpNet, IdentityId>,
}

impl Default for FirstNumbers {
    fn default() -> Self {
        Self { list: ListId(1), ports: PortsId(1), prefix: 0, prefixes: BTreeMap::new() }
    }
}

/// A list that endpoints have.
#[derive(Debug)]
struct List {
    key: Arc<ListKey>,
    users: usize,
    rows: BTreeMap<Peer, u32>,
    /// Addresses of pods that it holds in the prefixes.
    pods: BTreeSet<IpNet>,
    /// Whom it names ports of.
    naming: Vec<Source>,
}

/// See the module.
#[derive(Debug)]
pub struct Compiler {
    table: PolicyTable,
    update: PolicyUpdate,
    matchers: Matchers,
    prefixes: Prefixes,
    pods: Pods,
    policies: BTreeMap<PolicyName, Compiled>,
    rules: Interner<RuleRef>,
    ports: Interner<PortMap>,
    lists: BTreeMap<ListId, List>,
    by_key: HashMap<Arc<ListKey>, ListId>,
    next_list: u32,
    next_revision: u64,
    /// This node's pods by identity.
    local: BTreeMap<IdentityId, BTreeSet<PodName>>,
    subjects_of: HashMap<MatcherId, BTreeSet<PolicyName>>,
    peers_of: HashMap<MatcherId, BTreeSet<PolicyName>>,
    blocks_of: HashMap<BlockId, BTreeSet<PolicyName>>,
    lists_of: BTreeMap<PolicyName, BTreeSet<ListId>>,
    dirty: Dirty,
}

/// What is to be worked off.
#[derive(Debug, Default)]
struct Dirty {
    /// Pods of this node of which others may be asked now.
    endpoints: BTreeSet<PodName>,
    /// To be made from nothing.
    lists: BTreeSet<ListId>,
    rows: BTreeSet<(ListId, Peer)>,
    /// What pods did that matters to lists that name ports.
    stir: Stir,
}

impl Default for Compiler {
    fn default() -> Self {
        Self::new(FirstNumbers::default())
    }
}

impl Compiler {
    pub fn new(first: FirstNumbers) -> Self {
        Self {
            table: PolicyTable::default(),
            update: PolicyUpdate::default(),
            matchers: Matchers::default(),
            prefixes: Prefixes::beginning_at(first.prefix, first.prefixes),
            pods: Pods::default(),
            policies: BTreeMap::new(),
            rules: Interner::beginning_at(1),
            ports: Interner::beginning_at(first.ports.0),
            lists: BTreeMap::new(),
            by_key: HashMap::new(),
            next_list: first.list.0,
            next_revision: 0,
            local: BTreeMap::new(),
            subjects_of: HashMap::new(),
            peers_of: HashMap::new(),
            blocks_of: HashMap::new(),
            lists_of: BTreeMap::new(),
            dirty: Dirty::default(),
        }
    }

    /// What all updates so far lead to.
    pub fn table(&self) -> &PolicyTable {
        &self.table
    }

    /// Takes in an identity of the cluster, or its end. Others are nobody's labels.
    pub fn set_identity(&mut self, id: IdentityId, labels: Option<&Labels>) {
        if !id.is_of_cluster() {
            return;
        }
        for matcher in self.matchers.set_identity(id, labels) {
            if self.subjects_of.contains_key(&matcher) {
                self.dirty.endpoints.extend(self.local.get(&id).into_iter().flatten().cloned());
            }
            let gone = !self.matchers.matches(matcher, id);
            if made(Bug::StaleRow) && gone {
                continue;
            }
            for policy in self.peers_of.get(&matcher).into_iter().flatten() {
                let lists = self.lists_of.get(policy).into_iter().flatten();
                self.dirty.rows.extend(lists.map(|list| (*list, Peer::Identity(id))));
            }
        }
    }

    /// Takes in a pod of the cluster, or its end.
    pub fn set_pod(&mut self, name: &PodName, pod: Option<Pod>) {
        if let Some(before) = self.pods.get(name).filter(|before| before.local.is_some()) {
            self.dirty.endpoints.insert(name.clone());
            if let Some(names) = self.local.get_mut(&before.identity) {
                names.remove(name);
                if names.is_empty() {
                    self.local.remove(&before.identity);
                }
            }
        }
        if let Some(pod) = pod.as_ref().filter(|pod| pod.local.is_some()) {
            self.dirty.endpoints.insert(name.clone());
            self.local.entry(pod.identity).or_default().insert(name.clone());
        }
        self.pods.set(name, pod, &mut self.dirty.stir);
    }

    /// Takes in a policy, new or changed.
    pub fn set_policy(&mut self, policy: Policy) {
        let name = policy.name.clone();
        if self.policies.get(&name).is_some_and(|known| known.policy == policy) {
            return;
        }
        self.next_revision += 1;
        let revision = self.next_revision;
        let compiled = self.holders().compile(policy, revision);
        // What both hold is not let go of in between, so that it keeps its number.
        self.remove_policy(&name);
        if let Some(subject) = compiled.subject {
            self.subjects_of.entry(subject).or_default().insert(name.clone());
            self.touch(subject);
        }
        for source in compiled.sources() {
            match source {
                Source::Anyone | Source::Pods => {}
                Source::Selected(matcher) => {
                    self.peers_of.entry(matcher).or_default().insert(name.clone());
                }
                Source::Block(block) => {
                    self.blocks_of.entry(block).or_default().insert(name.clone());
                }
            }
        }
        self.policies.insert(name, compiled);
    }

    /// Takes in the end of a policy.
    pub fn remove_policy(&mut self, name: &PolicyName) {
        let Some(before) = self.policies.remove(name) else { return };
        self.dirty.lists.extend(self.lists_of.get(name).into_iter().flatten());
        if let Some(subject) = before.subject {
            self.touch(subject);
            forget(&mut self.subjects_of, subject, name);
        }
        for source in before.sources() {
            match source {
                Source::Anyone | Source::Pods => {}
                Source::Selected(matcher) => forget(&mut self.peers_of, matcher, name),
                Source::Block(block) => forget(&mut self.blocks_of, block, name),
            }
        }
        self.holders().release(&before);
    }

    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.policies.values().map(|compiled| &compiled.policy)
    }

    /// Whether there is anything that [`Self::take_update`] would have to look at.
    pub fn is_dirty(&self) -> bool {
        let dirty = &self.dirty;
        !dirty.stir.is_empty()
            || !dirty.endpoints.is_empty()
            || !dirty.lists.is_empty()
            || !dirty.rows.is_empty()
    }

    /// What moved since the last call.
    pub fn take_update(&mut self) -> PolicyUpdate {
        let mut found = select::Found::new();
        for endpoint in std::mem::take(&mut self.dirty.endpoints) {
            self.settle(&endpoint, &mut found);
        }
        self.note_named();
        loop {
            for (block, prefix) in self.prefixes.take_moved() {
                for policy in self.blocks_of.get(&block).into_iter().flatten() {
                    let lists = self.lists_of.get(policy).into_iter().flatten();
                    self.dirty.rows.extend(lists.map(|list| (*list, Peer::Identity(prefix))));
                }
            }
            if let Some(list) = self.dirty.lists.pop_first() {
                self.make(list);
            } else if let Some((list, peer)) = self.dirty.rows.pop_first() {
                self.make_row(list, peer);
            } else {
                break;
            }
        }
        self.finish()
    }

    fn finish(&mut self) -> PolicyUpdate {
        let mut update = std::mem::take(&mut self.update);
        let rules = self.rules.take_changed().into_iter();
        update.rules = rules.map(|(number, rule)| (RuleId(number), rule)).collect();
        let ports = self.ports.take_changed().into_iter();
        update.ports = ports.map(|(number, ports)| (PortsId(number), ports)).collect();
        update.prefixes = self.prefixes.take_changed();
        let changed = self.table.advance(update.clone());
        // What came and went in between, or was written as it was, did not move.
        update.endpoints.retain(|key, _| changed.endpoints.contains(key));
        update.lists.retain(|key, _| changed.lists.contains(key));
        update.peers.retain(|key, _| changed.peers.contains(key));
        update.ports.retain(|key, _| changed.ports.contains(key));
        update.rules.retain(|key, _| changed.rules.contains(key));
        update.prefixes.retain(|key, _| changed.prefixes.contains(key));
        update
    }

    fn holders(&mut self) -> Holders<'_> {
        Holders { matchers: &mut self.matchers, prefixes: &mut self.prefixes, rules: &mut self.rules }
    }

    /// Others may be asked of this node's pods that `subject` matches.
    fn touch(&mut self, subject: MatcherId) {
        for (identity, names) in &self.local {
            if self.matchers.matches(subject, *identity) {
                self.dirty.endpoints.extend(names.iter().cloned());
            }
        }
    }

    fn make(&mut self, id: ListId) {
        let Some(list) = self.lists.get(&id) else { return };
        let key = list.key.clone();
        let new = self.making().all(&key);
        let first = (id, Peer::Identity(IdentityId::default()));
        let noted = self.dirty.rows.range(first..=(id, Peer::Anyone)).copied().collect::<Vec<_>>();
        noted.iter().for_each(|row| _ = self.dirty.rows.remove(row));
        let Some(list) = self.lists.get_mut(&id) else { return };
        let old = std::mem::replace(&mut list.rows, new.peers);
        let held = std::mem::replace(&mut list.pods, new.pods);
        list.naming = new.naming;
        for (peer, ports) in &list.rows {
            if old.get(peer) != Some(ports) {
                self.ports.hold(*ports);
                self.update.peers.insert(PeerKey { list: id, peer: *peer }, Some(PortsId(*ports)));
            }
        }
        for (peer, ports) in old {
            let now = list.rows.get(&peer);
            if now != Some(&ports) {
                self.ports.drop(ports);
            }
            if now.is_none() {
                self.update.peers.insert(PeerKey { list: id, peer }, None);
            }
        }
        for address in held {
            self.prefixes.release_prefix(&address);
        }
    }

    fn make_row(&mut self, id: ListId, peer: Peer) {
        let Some(list) = self.lists.get(&id) else { return };
        if !list.naming.is_empty() {
            self.dirty.lists.insert(id);
            return;
        }
        let key = list.key.clone();
        let now = self.making().one(&key, peer);
        let Some(list) = self.lists.get_mut(&id) else { return };
        let before = match now {
            Some(ports) => list.rows.insert(peer, ports),
            None => list.rows.remove(&peer),
        };
        if before == now {
            return;
        }
        now.into_iter().for_each(|ports| self.ports.hold(ports));
        before.into_iter().for_each(|ports| self.ports.drop(ports));
        self.update.peers.insert(PeerKey { list: id, peer }, now.map(PortsId));
    }

    fn making(&mut self) -> Making<'_> {
        Making {
            policies: &self.policies,
            matchers: &self.matchers,
            prefixes: &mut self.prefixes,
            pods: &self.pods,
            ports: &mut self.ports,
        }
    }
}

fn forget<K: std::hash::Hash + Eq>(of: &mut HashMap<K, BTreeSet<PolicyName>>, key: K, name: &PolicyName) {
    if let Some(names) = of.get_mut(&key) {
        names.remove(name);
        if names.is_empty() {
            of.remove(&key);
        }
    }
}
