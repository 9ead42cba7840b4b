//! One number for everything that is equal, given once. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::Arc,
};

/// Values by number, as long as they are used. What came or went since the last call is told.
#[derive(Debug)]
pub(super) struct Interner<T> {
    by_value: HashMap<Arc<T>, u32>,
    by_number: HashMap<u32, (Arc<T>, usize)>,
    next: u32,
    changed: BTreeMap<u32, Option<Arc<T>>>,
}

impl<T: Eq + Hash> Interner<T> {
    pub(super) fn beginning_at(next: u32) -> Self {
        Self { by_value: HashMap::new(), by_number: HashMap::new(), next, changed: BTreeMap::new() }
    }

    /// The number of `value`. Counted, once it is [`Self::hold`]ed.
    pub(super) fn number(&mut self, value: T) -> u32 {
        if let Some(number) = self.by_value.get(&value) {
            return *number;
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.enter(number, value)
    }

    /// The same; a new one is `wish`, or the next above it (and above 0) that nobody has.
    pub(super) fn number_near(&mut self, wish: u32, value: T) -> u32 {
        if let Some(number) = self.by_value.get(&value) {
            return *number;
        }
        let mut number = wish.max(1);
        while self.by_number.contains_key(&number) {
            number = number.wrapping_add(1).max(1);
        }
        self.enter(number, value)
    }

    fn enter(&mut self, number: u32, value: T) -> u32 {
        let value = Arc::new(value);
        self.by_value.insert(value.clone(), number);
        self.by_number.insert(number, (value.clone(), 0));
        self.changed.insert(number, Some(value));
        number
    }

    pub(super) fn hold(&mut self, number: u32) {
        if let Some((_, uses)) = self.by_number.get_mut(&number) {
            *uses += 1;
        }
    }

    /// It is gone at the next [`Self::take_changed`], if nobody holds it by then.
    pub(super) fn drop(&mut self, number: u32) {
        if let Some((_, uses)) = self.by_number.get_mut(&number) {
            *uses -= 1;
            if *uses == 0 {
                self.changed.entry(number).or_insert(None);
            }
        }
    }

    /// What came and went.
    pub(super) fn take_changed(&mut self) -> BTreeMap<u32, Option<Arc<T>>> {
        let changed = std::mem::take(&mut self.changed);
        let mut told = BTreeMap::new();
        for (number, new) in changed {
            let unused = self.by_number.get(&number).is_none_or(|(_, uses)| *uses == 0);
            if unused && let Some((value, _)) = self.by_number.remove(&number) {
                self.by_value.remove(&value);
            }
            match (unused, new) {
                // Never told of, or held again.
                (true, Some(_)) | (false, None) => {}
                (_, told_now) => _ = told.insert(number, told_now),
            }
        }
        told
    }
}
