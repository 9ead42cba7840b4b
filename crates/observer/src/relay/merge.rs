//! Answers of several nodes in the order of their time. An answer is let go when every node that may still answer has
//! shown a later one, or when it has waited long enough. Never reads a clock and never grows: each node has a bounded
//! queue, and whoever fills it is asked to wait. Never lets a node with a wrong clock starve the others.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use flow::{event::Time, ring::Capacity};
use tokio::time::Instant;

/// Entries per node.
pub(super) const QUEUE: usize = 256;

/// What one node may say before others whose answers wait: a whole ring of old flows, and as much again that was written
/// meanwhile. Whoever goes on has a clock that is behind, or lies.
const MAX_IN_A_ROW: u64 = 2 * Capacity::MAX.get();

/// When an answer is let go although some node has shown nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patience {
    pub wait: Duration,
    /// Also when a queue is full: streams without an end must not stop for a quiet node.
    pub until_full: bool,
}

#[derive(Debug)]
pub(super) struct Merge<T> {
    patience: Patience,
    sources: BTreeMap<String, Source<T>>,
    /// Who was let go last, and how often in a row while others waited.
    row: (String, u64),
}

#[derive(Debug)]
struct Source<T> {
    queue: VecDeque<Entry<T>>,
    ended: bool,
    /// Its times are not to be believed: it is sorted by arrival.
    distrusted: bool,
}

#[derive(Debug)]
struct Entry<T> {
    time: Time,
    arrived: Instant,
    item: T,
}

impl<T> Merge<T> {
    pub(super) fn new(patience: Patience) -> Self {
        Self { patience, sources: BTreeMap::new(), row: Default::default() }
    }

    /// A node that will answer, or answers again.
    pub(super) fn add(&mut self, name: &str) {
        let new = || Source { queue: VecDeque::new(), ended: false, distrusted: false };
        self.sources.entry(name.to_owned()).or_insert_with(new).ended = false;
    }

    /// The node has nothing more to say; what it said stays.
    pub(super) fn end(&mut self, name: &str) {
        if let Some(source) = self.sources.get_mut(name) {
            source.ended = true;
        }
        self.forget_ended();
    }

    /// May the node say more?
    pub(super) fn has_room(&self, name: &str) -> bool {
        self.sources.get(name).is_some_and(|source| source.queue.len() < QUEUE)
    }

    /// An answer. A time that is later than `clock` is taken for `clock`: a node that lies about the future is sorted by
    /// its arrival.
    pub(super) fn push(&mut self, name: &str, (time, clock): (Time, Time), arrived: Instant, item: T) {
        if let Some(source) = self.sources.get_mut(name) {
            let time = if source.distrusted { clock } else { time.min(clock) };
            source.queue.push_back(Entry { time, arrived, item });
        }
    }

    /// The next answer, if it can be let go.
    pub(super) fn pop(&mut self, now: Instant) -> Option<T> {
        let fronts =
            self.sources.iter().filter_map(|(name, source)| Some((source.queue.front()?.time, name)));
        let (_, name) = fronts.min()?;
        let settled = self.sources.values().all(|source| source.ended || !source.queue.is_empty());
        let full =
            || self.patience.until_full && self.sources.values().any(|source| source.queue.len() >= QUEUE);
        let waited = || self.wake_at().is_some_and(|at| at <= now);
        if !(settled || full() || waited()) {
            return None;
        }
        let name = name.clone();
        self.count(&name);
        let entry = self.sources.get_mut(&name)?.queue.pop_front();
        self.forget_ended();
        entry.map(|entry| entry.item)
    }

    /// Is the node sorted by arrival because of its clock?
    pub(super) fn is_distrusted(&self, name: &str) -> bool {
        self.sources.get(name).is_some_and(|source| source.distrusted)
    }

    /// Notes whose turn it is.
    fn count(&mut self, name: &str) {
        let (last, times) = &mut self.row;
        if last != name {
            *last = name.to_owned();
            *times = 0;
        }
        if self.sources.iter().any(|(other, source)| other != name && !source.queue.is_empty()) {
            *times += 1;
        }
        if *times > MAX_IN_A_ROW
            && let Some(source) = self.sources.get_mut(name)
        {
            source.distrusted = true;
        }
    }

    /// When the longest waiting answer has waited enough.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let fronts = self.sources.values().filter_map(|source| source.queue.front());
        fronts.map(|entry| entry.arrived).min().map(|arrived| arrived + self.patience.wait)
    }

    /// Will there never be another answer, unless a node is added?
    pub(super) fn is_done(&self) -> bool {
        self.sources.is_empty()
    }

    fn forget_ended(&mut self) {
        self.sources.retain(|_, source| !source.ended || !source.queue.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const NEVER: Time = Time(i64::MAX);

    fn merge(until_full: bool) -> Merge<i64> {
        let mut merge = Merge::new(Patience { wait: SECOND, until_full });
        merge.add("a");
        merge.add("b");
        merge
    }

    fn drain(merge: &mut Merge<i64>, now: Instant) -> Vec<i64> {
        std::iter::from_fn(|| merge.pop(now)).collect()
    }

    #[tokio::test]
    async fn streams_in_order_give_a_stream_in_order() {
        let (mut merge, now) = (merge(false), Instant::now());
        for time in [1, 4, 5] {
            merge.push("a", (Time(time), NEVER), now, time);
        }
        assert_eq!(drain(&mut merge, now), [0; 0]);
        for time in [2, 3, 6] {
            merge.push("b", (Time(time), NEVER), now, time);
        }
        // 6 waits for what a has after 5.
        assert_eq!(drain(&mut merge, now), [1, 2, 3, 4, 5]);
        merge.end("a");
        assert_eq!(drain(&mut merge, now), [6]);
        assert!(!merge.is_done());
        merge.end("b");
        assert!(merge.is_done());
    }

    #[tokio::test]
    async fn a_silent_node_delays_for_a_second_only() {
        let (mut merge, now) = (merge(false), Instant::now());
        merge.push("a", (Time(1), NEVER), now, 1);
        assert_eq!(merge.wake_at(), Some(now + SECOND));
        assert_eq!(drain(&mut merge, now + SECOND / 2), [0; 0]);
        assert_eq!(drain(&mut merge, now + SECOND), [1]);
        assert_eq!(merge.wake_at(), None);
    }

    #[tokio::test]
    async fn a_full_queue_moves_on_where_there_is_no_end() {
        for until_full in [false, true] {
            let (mut merge, now) = (merge(until_full), Instant::now());
            for time in 0..QUEUE as i64 {
                assert!(merge.has_room("a"));
                merge.push("a", (Time(time), NEVER), now, time);
            }
            assert!(!merge.has_room("a"));
            assert!(merge.has_room("b"));
            assert_eq!(drain(&mut merge, now), if until_full { vec![0] } else { vec![] });
        }
    }

    #[tokio::test]
    async fn a_node_that_lies_about_time_is_sorted_by_arrival() {
        let (mut merge, now) = (merge(true), Instant::now());
        merge.push("a", (Time(1_000_000), Time(10)), now, 1_000_000);
        merge.push("b", (Time(11), Time(12)), now, 11);
        assert_eq!(drain(&mut merge, now), [1_000_000]);
    }

    #[tokio::test]
    async fn a_node_whose_clock_is_behind_does_not_starve_others() {
        let (mut merge, now) = (merge(true), Instant::now());
        merge.push("b", (Time(1_000_000), NEVER), now, -1);
        let mut said = 0;
        // It is never out of words, and all of them are from long ago.
        while said < 2 * MAX_IN_A_ROW {
            while merge.has_room("a") {
                merge.push("a", (Time(5), Time(2_000_000)), now, 5);
            }
            match merge.pop(now) {
                Some(-1) => break,
                popped => assert_eq!(popped, Some(5)),
            }
            said += 1;
        }
        assert!((MAX_IN_A_ROW..MAX_IN_A_ROW + 2 * QUEUE as u64).contains(&said), "{said}");
        assert!(merge.is_distrusted("a") && !merge.is_distrusted("b"));
    }
}
