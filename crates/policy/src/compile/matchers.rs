//! Which identities each selector matches, kept as identities come and go. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use model::{IdentityId, Labels};

use crate::selector::{Selector, Test};

/// A selector that rules use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct MatcherId(u32);

#[derive(Debug)]
struct Matcher {
    selector: Selector,
    members: BTreeSet<IdentityId>,
    uses: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Matchers {
    identities: BTreeMap<IdentityId, Labels>,
    /// Identities by key, then value, of their labels.
    index: HashMap<String, HashMap<String, BTreeSet<IdentityId>>>,
    by_selector: HashMap<Selector, MatcherId>,
    /// By id; ids of those that are gone are given again.
    all: Vec<Option<Matcher>>,
    free: Vec<MatcherId>,
}

impl Matchers {
    /// The matcher of `selector`, to be released as often as it is acquired.
    pub(super) fn acquire(&mut self, selector: &Selector) -> MatcherId {
        if let Some(id) = self.by_selector.get(selector).copied() {
            if let Some(Some(matcher)) = self.all.get_mut(id.0 as usize) {
                matcher.uses += 1;
            }
            return id;
        }
        let matcher = Matcher { selector: selector.clone(), members: self.find(selector), uses: 1 };
        let id = self.free.pop().unwrap_or(MatcherId(self.all.len() as u32));
        match self.all.get_mut(id.0 as usize) {
            Some(place) => *place = Some(matcher),
            None => self.all.push(Some(matcher)),
        }
        self.by_selector.insert(selector.clone(), id);
        id
    }

    pub(super) fn release(&mut self, id: MatcherId) {
        let Some(place) = self.all.get_mut(id.0 as usize) else { return };
        let Some(matcher) = place else { return };
        matcher.uses -= 1;
        if matcher.uses == 0 {
            self.by_selector.remove(&matcher.selector);
            *place = None;
            self.free.push(id);
        }
    }

    /// What matches.
    pub(super) fn members(&self, id: MatcherId) -> impl Iterator<Item = IdentityId> {
        self.get(id).into_iter().flat_map(|matcher| matcher.members.iter().copied())
    }

    pub(super) fn matches(&self, id: MatcherId, identity: IdentityId) -> bool {
        self.get(id).is_some_and(|matcher| matcher.members.contains(&identity))
    }

    fn get(&self, id: MatcherId) -> Option<&Matcher> {
        self.all.get(id.0 as usize)?.as_ref()
    }

    /// Takes in an identity, or its end. Returns the matchers that it entered or left.
    pub(super) fn set_identity(&mut self, id: IdentityId, labels: Option<&Labels>) -> Vec<MatcherId> {
        if self.identities.get(&id) == labels {
            return vec![];
        }
        if let Some(before) = self.identities.remove(&id) {
            for (key, value) in before.iter() {
                if let Some(at) = self.index.get_mut(key).and_then(|values| values.get_mut(value)) {
                    at.remove(&id);
                }
            }
        }
        if let Some(labels) = labels {
            for (key, value) in labels.iter() {
                let values = self.index.entry(key.to_owned()).or_default();
                values.entry(value.to_owned()).or_default().insert(id);
            }
            self.identities.insert(id, labels.clone());
        }
        let mut moved = vec![];
        for (number, matcher) in self.all.iter_mut().enumerate() {
            let Some(matcher) = matcher else { continue };
            let changed = match labels.is_some_and(|labels| matcher.selector.matches_labels(labels)) {
                true => matcher.members.insert(id),
                false => matcher.members.remove(&id),
            };
            if changed {
                moved.push(MatcherId(number as u32));
            }
        }
        moved
    }

    /// All that match, looked for among those that have the rarest label that is asked for.
    fn find(&self, selector: &Selector) -> BTreeSet<IdentityId> {
        let asked = selector.requirements().filter_map(|requirement| match &requirement.test {
            Test::In(values) => Some((self.index.get(&requirement.key), values)),
            Test::NotIn(_) | Test::Exists | Test::DoesNotExist => None,
        });
        let candidates = asked.map(|(index, values)| {
            let having = |value| index.and_then(|index| index.get(value)).into_iter().flatten();
            values.iter().flat_map(having).copied().collect::<Vec<_>>()
        });
        let matches =
            |id: &IdentityId| self.identities.get(id).is_some_and(|labels| selector.matches_labels(labels));
        match candidates.min_by_key(Vec::len) {
            Some(candidates) => candidates.into_iter().filter(matches).collect(),
            None => self.identities.keys().copied().filter(matches).collect(),
        }
    }
}
