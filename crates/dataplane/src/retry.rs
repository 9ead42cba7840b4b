//! When a failed key is tried again. Pure: time comes in as an argument.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::Key;

/// Doubles from `first` up to `longest`.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    pub first: Duration,
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(100), longest: Duration::from_secs(30) }
    }
}

impl Backoff {
    /// The pause after the given number of failures in a row, which is at least one.
    pub fn pause(self, failures: u32) -> Duration {
        let doubled = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(doubled).min(self.longest)
    }
}

#[derive(Debug)]
pub(crate) struct Retries {
    backoff: Backoff,
    waiting: BTreeMap<Key, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    failures: u32,
    due: Instant,
}

impl Retries {
    pub(crate) fn new(backoff: Backoff) -> Self {
        Self { backoff, waiting: BTreeMap::new() }
    }

    pub(crate) fn failed(&mut self, key: Key, now: Instant) {
        let waiting = self.waiting.entry(key).or_insert(Waiting { failures: 0, due: now });
        waiting.failures = waiting.failures.saturating_add(1);
        waiting.due = now + self.backoff.pause(waiting.failures);
    }

    /// The key succeeded, or changed and so deserves a fresh start.
    pub(crate) fn forget(&mut self, key: &Key) {
        self.waiting.remove(key);
    }

    pub(crate) fn due(&self, now: Instant) -> Vec<Key> {
        self.waiting.iter().filter(|(_, waiting)| waiting.due <= now).map(|(key, _)| key.clone()).collect()
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.waiting.values().map(|waiting| waiting.due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_and_is_bounded_however_often_it_fails() {
        let backoff = Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(1) };
        let pauses: Vec<_> = [1, 2, 3, 4, 5, 33, u32::MAX].map(|n| backoff.pause(n).as_millis()).into();
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000, 1000]);
    }
}
