//! Which lists a pod of this node is asked by.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    rc::Rc,
    sync::Arc,
};

use model::{
    IdentityId, PodName,
    policy::{Direction, DirectionPolicy, EndpointPolicy, ListId, PeerKey, RuleList, Tier},
};

use super::{Compiler, List, list::ListKey, policies::Compiled, ports::ContainerPorts};
use crate::mutation::{Bug, made};

/// Keys of the lists of pods of one identity and one set of ports: by direction, then tier.
pub(super) type Keys = [[Option<ListKey>; 3]; 2];

/// What was found already for pods of the same kind.
pub(super) type Found = HashMap<(IdentityId, ContainerPorts), Rc<Keys>>;

impl Compiler {
    /// Finds the lists of a pod anew.
    pub(super) fn settle(&mut self, name: &PodName, found: &mut Found) {
        let pod = self.pods.get(name);
        let new = pod.and_then(|pod| Some((pod.identity, pod.ports.clone(), pod.local?)));
        let new = new.map(|(identity, ports, mode)| {
            let keys = found.entry((identity, ports)).or_insert_with_key(|kind| Rc::new(self.keys(kind)));
            let [ingress, egress] = Rc::clone(keys).each_ref().map(|keys| self.lists_for(keys));
            EndpointPolicy { ingress, egress, mode }
        });
        let told = self.update.endpoints.get(name).copied();
        let old = told.unwrap_or_else(|| self.table.endpoints.get(name).copied());
        for list in old.iter().flat_map(lists) {
            self.release(list);
        }
        self.update.endpoints.insert(name.clone(), new);
    }

    /// Held once more.
    fn lists_for(&mut self, keys: &[Option<ListKey>; 3]) -> DirectionPolicy {
        let [admin, network_policy, baseline] =
            keys.each_ref().map(|key| key.as_ref().map(|key| self.hold(key)));
        DirectionPolicy { admin, network_policy, baseline }
    }

    fn keys(&self, (identity, ports): &(IdentityId, ContainerPorts)) -> Keys {
        let selects = |compiled: &&Compiled| {
            compiled.subject.is_some_and(|subject| self.matchers.matches(subject, *identity))
        };
        let selecting: Vec<&Compiled> = self.policies.values().filter(selects).collect();
        Direction::ALL.map(|direction| Tier::ALL.map(|tier| key(&selecting, direction, tier, ports)))
    }

    fn hold(&mut self, key: &ListKey) -> ListId {
        if let Some(id) = self.by_key.get(key).copied() {
            if let Some(list) = self.lists.get_mut(&id) {
                list.users += 1;
            }
            return id;
        }
        let id = ListId(self.next_list);
        self.next_list = self.next_list.wrapping_add(1);
        let first = key.policies.first().and_then(|(name, _)| self.policies.get(name));
        let isolation = first.and_then(|policy| policy.direction(key.direction)?.isolation);
        let row = RuleList { direction: key.direction, tier: key.tier, isolation };
        self.update.lists.insert(id, Some(row));
        for (name, _) in &key.policies {
            self.lists_of.entry(name.clone()).or_default().insert(id);
        }
        let key = Arc::new(key.clone());
        self.by_key.insert(key.clone(), id);
        let (rows, pods) = (BTreeMap::new(), [].into());
        self.lists.insert(id, List { key, users: 1, rows, pods, naming: vec![] });
        self.dirty.lists.insert(id);
        id
    }

    fn release(&mut self, id: ListId) {
        let Some(list) = self.lists.get_mut(&id) else { return };
        list.users -= 1;
        if list.users > 0 {
            return;
        }
        let Some(list) = self.lists.remove(&id) else { return };
        for (name, _) in &list.key.policies {
            if let Some(lists) = self.lists_of.get_mut(name) {
                lists.remove(&id);
                if lists.is_empty() {
                    self.lists_of.remove(name);
                }
            }
        }
        self.by_key.remove(&list.key);
        self.update.lists.insert(id, None);
        for (peer, ports) in list.rows {
            self.ports.drop(ports);
            self.update.peers.insert(PeerKey { list: id, peer }, None);
        }
        for address in list.pods {
            self.prefixes.release_prefix(&address);
        }
    }
}

fn key(selecting: &[&Compiled], direction: Direction, tier: Tier, ports: &ContainerPorts) -> Option<ListKey> {
    let speaks =
        |compiled: &&Compiled| compiled.policy.tier == tier && compiled.direction(direction).is_some();
    let mut all: Vec<&Compiled> = selecting.iter().copied().filter(speaks).collect();
    if all.is_empty() {
        return None;
    }
    match made(Bug::PrioritiesReversed) {
        true => all.sort_by_key(|compiled| Reverse(compiled.policy.priority)),
        false => all.sort_by_key(|compiled| compiled.policy.priority),
    }
    let mut rules = all.iter().filter_map(|compiled| compiled.direction(direction)).flat_map(|d| &d.rules);
    let resolves = direction == Direction::Ingress || made(Bug::NamedPortOfTheWrongEnd);
    let named = resolves && rules.any(|rule| rule.ports.has_names());
    let revision = |compiled: &Compiled| match tier {
        Tier::NetworkPolicy => 0,
        Tier::Admin | Tier::Baseline => compiled.revision,
    };
    let policies = all.iter().map(|compiled| (compiled.policy.name.clone(), revision(compiled)));
    let ports = named.then(|| ports.clone());
    Some(ListKey { direction, tier, policies: policies.collect(), ports })
}

fn lists(endpoint: &EndpointPolicy) -> impl Iterator<Item = ListId> {
    let directions = [endpoint.ingress, endpoint.egress];
    directions.into_iter().flat_map(|direction| Tier::ALL.into_iter().filter_map(move |t| direction.list(t)))
}
