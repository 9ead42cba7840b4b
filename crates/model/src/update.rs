//! The step from one snapshot to the next: the keys that moved, with their new values.
//!
//! Level-triggered, so that updates merge: whoever applies a merged update ends where applying each in turn
//! would have ended, and a key that was added and removed again in between is simply absent.

use std::{collections::BTreeMap, sync::Arc};

use ipnet::IpNet;

use crate::{
    Changed, Endpoint, Generation, IdentityId, NodeConfig, Peer, PodName, ServicePort, ServicePortId,
    Snapshot, policy::PolicyUpdate,
};

/// What moved since the previous update. `None` as a value removes the key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Of the snapshot that this update leads to.
    pub generation: Generation,
    /// The node's own configuration, where it changed.
    pub node: Option<NodeConfig>,
    pub services: BTreeMap<ServicePortId, Option<Arc<ServicePort>>>,
    pub endpoints: BTreeMap<PodName, Option<Arc<Endpoint>>>,
    pub peers: BTreeMap<String, Option<Arc<Peer>>>,
    pub addresses: BTreeMap<IpNet, Option<IdentityId>>,
    pub policy: PolicyUpdate,
}

impl Update {
    /// The update that leads from an empty snapshot to `snapshot`.
    pub fn all(snapshot: &Snapshot) -> Self {
        Self {
            generation: snapshot.generation,
            node: Some(snapshot.node.clone()),
            services: present(&snapshot.services),
            endpoints: present(&snapshot.endpoints),
            peers: present(&snapshot.peers),
            addresses: present(&snapshot.addresses),
            policy: PolicyUpdate::all(&snapshot.policy),
        }
    }

    /// Whether nothing moved.
    pub fn is_empty(&self) -> bool {
        let nothing_else = self.services.is_empty() && self.endpoints.is_empty() && self.peers.is_empty();
        self.node.is_none() && nothing_else && self.addresses.is_empty() && self.policy.is_empty()
    }

    /// Adds what moved later. Where both name a key, `later` holds its value.
    pub fn merge(&mut self, later: Self) {
        self.generation = self.generation.max(later.generation);
        if later.node.is_some() {
            self.node = later.node;
        }
        self.services.extend(later.services);
        self.endpoints.extend(later.endpoints);
        self.peers.extend(later.peers);
        self.addresses.extend(later.addresses);
        self.policy.merge(later.policy);
    }
}

impl Snapshot {
    /// Takes the step that `update` describes. Costs what moved, not what exists.
    ///
    /// Returns the keys whose value really differs from before.
    pub fn advance(&mut self, update: Update) -> Changed {
        self.generation = self.generation.max(update.generation);
        let mut changed = Changed::default();
        if let Some(node) = update.node {
            changed.node = self.node != node;
            self.node = node;
        }
        changed.services = step(&mut self.services, update.services).collect();
        changed.endpoints = step(&mut self.endpoints, update.endpoints).collect();
        changed.peers = step(&mut self.peers, update.peers).collect();
        changed.addresses = step(&mut self.addresses, update.addresses).collect();
        changed.policy = self.policy.advance(update.policy);
        changed
    }
}

pub(crate) fn present<K: Ord + Clone, V: Clone>(map: &BTreeMap<K, V>) -> BTreeMap<K, Option<V>> {
    map.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect()
}

pub(crate) fn step<K: Ord + Clone, V: PartialEq + Clone>(
    map: &mut BTreeMap<K, V>,
    moved: BTreeMap<K, Option<V>>,
) -> impl Iterator<Item = K> {
    moved.into_iter().filter_map(|(key, value)| {
        let before = match &value {
            Some(new) => map.insert(key.clone(), new.clone()),
            None => map.remove(&key),
        };
        (before != value).then_some(key)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Option<Arc<Peer>> {
        let address = address.parse().expect("address");
        Some(Arc::new(Peer { name: String::new(), addresses: vec![address], pod_cidrs: vec![] }))
    }

    fn update(generation: u64, peers: &[(&str, Option<Arc<Peer>>)]) -> Update {
        let peers = peers.iter().map(|(name, peer)| ((*name).to_owned(), peer.clone())).collect();
        Update { generation: Generation(generation), peers, ..Update::default() }
    }

    #[test]
    fn merged_updates_lead_where_single_ones_do() {
        let steps = [
            update(1, &[("a", peer("10.0.0.1")), ("b", peer("10.0.0.2"))]),
            update(2, &[("a", None), ("c", peer("10.0.0.3"))]),
            update(3, &[("c", peer("10.0.0.4"))]),
        ];
        let mut one_by_one = Snapshot::default();
        let mut merged = Update::default();
        for step in steps {
            one_by_one.advance(step.clone());
            merged.merge(step);
        }
        let mut at_once = Snapshot::default();
        let changed = at_once.advance(merged);
        assert_eq!(at_once, one_by_one);
        assert_eq!(at_once.generation, Generation(3));
        assert_eq!(changed.peers, ["b".to_owned(), "c".into()].into(), "a came and went: nothing to do");
    }

    #[test]
    fn an_equal_value_is_no_change() {
        let mut snapshot = Snapshot::default();
        snapshot.advance(update(1, &[("a", peer("10.0.0.1"))]));
        assert!(snapshot.advance(update(2, &[("a", peer("10.0.0.1"))])).is_empty());
    }

    #[test]
    fn an_update_of_everything_rebuilds_the_snapshot() {
        let mut original = Snapshot::default();
        original.advance(update(7, &[("a", peer("10.0.0.1"))]));
        original.node.name = "n".into();
        let mut rebuilt = Snapshot::default();
        rebuilt.advance(Update::all(&original));
        assert_eq!(rebuilt, original);
    }
}
