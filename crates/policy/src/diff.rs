//! What differs between two sets of objects: in policies, and in who reaches whom. Pure.

use std::collections::BTreeSet;

use model::{PodName, policy::PolicyName};

use crate::{
    offline::readings,
    simulate::{self, Simulation},
    world::World,
};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    pub added: BTreeSet<PolicyName>,
    pub removed: BTreeSet<PolicyName>,
    /// That mean something else.
    pub changed: BTreeSet<PolicyName>,
    /// Pods of one side only: nothing is said of their connections.
    pub only_before: BTreeSet<PodName>,
    pub only_after: BTreeSet<PodName>,
    pub connections: Simulation,
}

/// From `before` to `after`. A set without pods borrows the other's, so that policies can be compared alone.
pub fn diff(before: &World, after: &World) -> Diff {
    let (before, after) = (lend(before, after), lend(after, before));
    let read = |world| readings(world).into_iter().map(|r| (r.policy.name.clone(), r.policy));
    let old: std::collections::BTreeMap<_, _> = read(&before).collect();
    let new: std::collections::BTreeMap<_, _> = read(&after).collect();
    let without = |these: &World, others: &World| {
        let there = |name: &PodName| others.subjects().any(|(other, _)| other == name);
        these.subjects().map(|(name, _)| name).filter(|name| !there(name)).cloned().collect()
    };
    let same = |name: &PolicyName| {
        let meaning = |policy: &crate::Policy| {
            let mut policy = policy.clone();
            let rules = [&mut policy.ingress, &mut policy.egress].into_iter().flatten().flatten();
            rules.for_each(|rule| rule.line = None);
            policy
        };
        old.get(name).map(meaning) == new.get(name).map(meaning)
    };
    Diff {
        added: new.keys().filter(|name| !old.contains_key(name)).cloned().collect(),
        removed: old.keys().filter(|name| !new.contains_key(name)).cloned().collect(),
        changed: new.keys().filter(|name| old.contains_key(name) && !same(name)).cloned().collect(),
        only_before: without(&before, &after),
        only_after: without(&after, &before),
        connections: simulate::everything(&before, &after),
    }
}

fn lend(world: &World, other: &World) -> World {
    let mut whole = world.clone();
    if whole.pods.is_empty() {
        whole.pods.clone_from(&other.pods);
        whole.nodes.clone_from(&other.nodes);
    }
    for (name, labels) in &other.namespaces {
        whole.namespaces.entry(name.clone()).or_insert_with(|| labels.clone());
    }
    whole
}
