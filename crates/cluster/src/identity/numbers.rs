//! Which number stands for which labels. Pure, and the same on every node: no node leads, none waits for another.
//!
//! A set of labels has a first candidate, by its hash; the object is named by its number, and the API server lets one of those
//! that want a number have it. Where a number is taken by other labels, the next one is tried. Should one set of labels get
//! two numbers (a number before was given back just then), everyone takes the first from the candidate on, and the other one
//! is collected.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::jiff::Timestamp;
use model::{IdentityId, Labels};
use sha2::{Digest as _, Sha256};

/// An identity as the API server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) labels: Arc<Labels>,
    pub(super) unused_since: Option<Timestamp>,
    pub(super) uid: String,
    pub(super) version: String,
}

/// What labels come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// This number stands for them.
    Use(IdentityId),
    /// This one does, but is about to be collected: to be used once that is called off.
    Keep(IdentityId),
    /// None does; this one is the first that is free.
    Create(IdentityId),
    /// None does, and all are taken.
    Exhausted,
}

#[derive(Debug, Default)]
pub(super) struct Numbers {
    by_id: BTreeMap<IdentityId, Known>,
    by_labels: BTreeMap<Arc<Labels>, BTreeSet<IdentityId>>,
}

/// The number that `labels` would like to have.
pub(super) fn candidate(labels: &Labels) -> IdentityId {
    let mut hash = Sha256::new();
    for (key, value) in labels.iter() {
        // Neither has a zero byte.
        hash.update(key);
        hash.update([0]);
        hash.update(value);
        hash.update([0]);
    }
    let digest = hash.finalize();
    let [a, b, c, d] = [digest[0], digest[1], digest[2], digest[3]];
    IdentityId::of_cluster(u32::from_be_bytes([a, b, c, d]))
}

impl Numbers {
    /// Whether anything but its version is new.
    pub(super) fn set(&mut self, id: IdentityId, known: Option<Known>) -> bool {
        let before = self.by_id.remove(&id);
        if let Some(before) = &before
            && let Some(ids) = self.by_labels.get_mut(&before.labels)
        {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_labels.remove(&before.labels);
            }
        }
        let same = |a: &Known, b: &Known| (&a.labels, a.unused_since) == (&b.labels, b.unused_since);
        let moved = match (&before, &known) {
            (Some(before), Some(known)) => !same(before, known),
            (None, None) => false,
            _ => true,
        };
        if let Some(mut known) = known {
            let ids = match self.by_labels.get_key_value(&known.labels) {
                Some((labels, _)) => {
                    known.labels = Arc::clone(labels);
                    self.by_labels.entry(Arc::clone(&known.labels))
                }
                None => self.by_labels.entry(Arc::clone(&known.labels)),
            };
            ids.or_default().insert(id);
            self.by_id.insert(id, known);
        }
        moved
    }

    pub(super) fn choose(&self, labels: &Labels) -> Choice {
        let first = candidate(labels);
        let ids = self.by_labels.get(labels).into_iter().flatten();
        let mut in_order: Vec<_> = ids.map(|id| (id.distance_from(first), *id)).collect();
        in_order.sort_unstable();
        let kept =
            |(_, id): &&(u32, IdentityId)| self.by_id.get(id).is_some_and(|k| k.unused_since.is_none());
        if let Some((_, id)) = in_order.iter().find(kept) {
            return Choice::Use(*id);
        }
        if let Some((_, id)) = in_order.first() {
            return Choice::Keep(*id);
        }
        let offset = first.get() - IdentityId::FIRST;
        let mut all = (0..IdentityId::COUNT).map(|step| IdentityId::of_cluster(offset + step));
        all.find(|id| !self.by_id.contains_key(id)).map_or(Choice::Exhausted, Choice::Create)
    }

    pub(super) fn get(&self, id: IdentityId) -> Option<&Known> {
        self.by_id.get(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (IdentityId, &Known)> {
        self.by_id.iter().map(|(id, known)| (*id, known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(app: &str) -> Labels {
        Labels::from_iter([("k8s:app".to_owned(), app.to_owned())])
    }

    fn known(app: &str, unused_since: Option<i64>) -> Option<Known> {
        let unused_since = unused_since.map(|second| Timestamp::from_second(second).expect("time"));
        Some(Known { labels: labels(app).into(), unused_since, uid: "u".into(), version: "1".into() })
    }

    fn next(id: IdentityId) -> IdentityId {
        IdentityId::of_cluster(id.get() - IdentityId::FIRST + 1)
    }

    /// Numbers are in the API of every cluster that runs: a release that chose others would move every identity.
    #[test]
    fn candidates_never_change() {
        assert_eq!(candidate(&Labels::default()).get(), 23_106);
        assert_eq!(candidate(&labels("nginx")).get(), 49_525);
    }

    #[test]
    fn a_number_that_others_have_is_passed_over() {
        let mut numbers = Numbers::default();
        let first = candidate(&labels("a"));
        assert_eq!(numbers.choose(&labels("a")), Choice::Create(first));
        numbers.set(first, known("other", None));
        assert_eq!(numbers.choose(&labels("a")), Choice::Create(next(first)));
        numbers.set(next(first), known("a", None));
        assert_eq!(numbers.choose(&labels("a")), Choice::Use(next(first)));
        assert_eq!(numbers.choose(&labels("other")), Choice::Use(first), "wherever it stands");
    }

    #[test]
    fn of_two_numbers_for_the_same_labels_the_first_is_used() {
        let mut numbers = Numbers::default();
        let first = candidate(&labels("a"));
        numbers.set(next(first), known("a", None));
        numbers.set(first, known("a", None));
        assert_eq!(numbers.choose(&labels("a")), Choice::Use(first));
        numbers.set(first, None);
        assert_eq!(numbers.choose(&labels("a")), Choice::Use(next(first)));
    }

    #[test]
    fn what_is_about_to_be_collected_is_kept_before_it_is_used() {
        let mut numbers = Numbers::default();
        let first = candidate(&labels("a"));
        assert!(numbers.set(first, known("a", Some(5))));
        assert_eq!(numbers.choose(&labels("a")), Choice::Keep(first));
        assert!(numbers.set(first, known("a", None)));
        assert_eq!(numbers.choose(&labels("a")), Choice::Use(first));
        assert!(!numbers.set(first, known("a", None)), "the same again");
    }

    #[test]
    fn the_last_number_is_followed_by_the_first_and_then_there_is_none() {
        let mut numbers = Numbers::default();
        let first = candidate(&labels("a"));
        for step in 0..IdentityId::COUNT - 1 {
            numbers.set(IdentityId::of_cluster(first.get() - IdentityId::FIRST + step), known("x", None));
        }
        let last = IdentityId::of_cluster(first.get() - IdentityId::FIRST + IdentityId::COUNT - 1);
        assert_eq!(numbers.choose(&labels("a")), Choice::Create(last));
        numbers.set(last, known("x", None));
        assert_eq!(numbers.choose(&labels("a")), Choice::Exhausted);
    }
}
