//! A map that forgets: when it is full, what was not asked for lately. Never holds more than twice its capacity.

use std::{collections::HashMap, hash::Hash, mem};

/// Two generations of keys: the younger one becomes the older one when it is full.
#[derive(Clone, Debug)]
pub(super) struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    capacity: usize,
}

impl<K: Eq + Hash + Clone, V> Recent<K, V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), capacity }
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        self.old.remove(&key);
        if self.young.len() >= self.capacity && !self.young.contains_key(&key) {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        if let Some(value) = self.old.remove(key) {
            self.insert(key.clone(), value);
        }
        self.young.get_mut(key)
    }

    /// The value of `key`, made where there is none.
    pub(super) fn entry(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        if self.get_mut(&key).is_none() {
            self.insert(key.clone(), make());
        }
        self.young.entry(key).or_insert_with(|| unreachable!("just inserted"))
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        self.young.remove(key).or_else(|| self.old.remove(key))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.young.is_empty() && self.old.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stays_and_the_rest_goes() {
        let mut recent = Recent::new(10);
        for number in 0..1000 {
            recent.insert(number, number);
            assert_eq!(recent.get_mut(&0), Some(&mut 0), "asked for all the time");
            assert!(recent.len() <= 20);
        }
        assert_eq!((recent.get_mut(&999).copied(), recent.get_mut(&5)), (Some(999), None));
        assert_eq!((recent.remove(&999), recent.remove(&999)), (Some(999), None));
        *recent.entry(7, || 70) += 1;
        *recent.entry(7, || 70) += 1;
        assert_eq!(recent.remove(&7), Some(72));
    }
}
