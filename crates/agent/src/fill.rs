//! When kernel tables will be full, from how full they were in the last minutes. Never looks further back, and keeps a bounded
//! number of samples of each table.
//!
//! The arithmetic takes the time as an argument; only [`Fill::watch`] reads the clock.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use dataplane::MapFill;

use crate::worker::Worker;

/// Samples that are kept of each table.
const KEPT: usize = 30;
/// Samples without which nothing is said.
const FEWEST: usize = 6;
/// Minutes do not tell what is in days.
const FURTHEST: Duration = Duration::from_secs(24 * 3600);
/// Looking takes at most this part of the time: a large table is looked at less often.
const SHARE: u32 = 100;

/// The samples. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fill(Arc<Mutex<History>>);

impl Fill {
    /// Takes a sample `every` so often, for as long as the dataplane lives.
    pub(crate) async fn watch(self, worker: Worker, every: Duration) {
        loop {
            let looked = worker.ask(|reconciler| {
                let started = Instant::now();
                (reconciler.plane().maps(), started, started.elapsed())
            });
            let Ok((maps, at, took)) = looked.await else { return };
            self.history().note(at, &maps);
            tokio::time::sleep(every.max(took * SHARE)).await;
        }
    }

    /// By table; those that do not fill are left out.
    pub(crate) fn full_in_seconds(&self) -> BTreeMap<String, u64> {
        let history = self.history();
        let seconds = |table: &Table| Some(table.full_in()?.as_secs_f64().ceil() as u64);
        let tables = history.tables.iter();
        tables.filter_map(|(name, table)| Some((name.clone(), seconds(table)?))).collect()
    }

    /// Nothing that holds the lock can leave it half changed.
    fn history(&self) -> MutexGuard<'_, History> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct History {
    tables: BTreeMap<String, Table>,
}

/// A table with a limit.
#[derive(Debug, Default)]
struct Table {
    capacity: u64,
    /// Oldest first.
    samples: VecDeque<(Instant, u64)>,
}

impl History {
    /// Tables that are no longer there are forgotten.
    fn note(&mut self, at: Instant, maps: &[MapFill]) {
        let mut former = std::mem::take(&mut self.tables);
        for map in maps.iter().filter(|map| map.capacity > 0) {
            let mut table = former.remove(&map.name).unwrap_or_default();
            table.capacity = map.capacity;
            if table.samples.len() == KEPT {
                table.samples.pop_front();
            }
            table.samples.push_back((at, map.entries));
            self.tables.insert(map.name.clone(), table);
        }
    }
}

impl Table {
    /// Zero where it is full. Nothing where it does not grow, where too little is known, or where it is far off.
    ///
    /// The rate is the median of the rates between all pairs of samples (Theil and Sen), which a burst or a bad sample does
    /// not move; and it counts as growth only where three quarters of the pairs grew.
    fn full_in(&self) -> Option<Duration> {
        let (_, latest) = *self.samples.back()?;
        let room = self.capacity.saturating_sub(latest);
        if room == 0 {
            return Some(Duration::ZERO);
        }
        if self.samples.len() < FEWEST {
            return None;
        }
        let mut rates = self.rates();
        rates.sort_by(f64::total_cmp);
        let (quartile, median) = (rates.get(rates.len() / 4)?, rates.get(rates.len() / 2)?);
        let seconds = room as f64 / median;
        (*quartile > 0.0 && seconds <= FURTHEST.as_secs_f64()).then(|| Duration::from_secs_f64(seconds))
    }

    /// Entries per second between every two samples.
    fn rates(&self) -> Vec<f64> {
        let mut rates = Vec::with_capacity(KEPT * KEPT / 2);
        for (index, (later, more)) in self.samples.iter().enumerate() {
            for (earlier, fewer) in self.samples.iter().take(index) {
                let seconds = later.duration_since(*earlier).as_secs_f64();
                if seconds > 0.0 {
                    rates.push((*more as f64 - *fewer as f64) / seconds);
                }
            }
        }
        rates
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: u64 = 1000;

    /// What is forecast in minutes after samples that are ten seconds apart.
    fn minutes(entries: impl IntoIterator<Item = u64>) -> Option<f64> {
        let (mut history, start) = (History::default(), Instant::now());
        for (number, entries) in (0..).zip(entries) {
            history.note(start + Duration::from_secs(10) * number, &[map("flows", entries, CAPACITY)]);
        }
        history.tables.get("flows")?.full_in().map(|full| full.as_secs_f64() / 60.0)
    }

    fn map(name: &str, entries: u64, capacity: u64) -> MapFill {
        MapFill { name: name.into(), entries, capacity, ..MapFill::default() }
    }

    fn about(expected: f64, forecast: Option<f64>) {
        let forecast = forecast.expect("a forecast");
        assert!((forecast / expected - 1.0).abs() < 0.1, "{forecast}, not about {expected} minutes");
    }

    #[test]
    fn steady_growth_is_carried_on() {
        // 60 a minute, and 710 to go.
        about(710.0 / 60.0, minutes((0..30).map(|n| n * 10)));
        // What was before the samples that are kept is forgotten.
        about(10.0 / 60.0, minutes((0..100).map(|_| 0).chain((0..100).map(|n| n * 10))));
    }

    #[test]
    fn noise_bursts_and_bad_samples_do_not_move_it() {
        let noise = [3, 9, 0, 7, 1, 8, 2];
        about(710.0 / 60.0, minutes((0..30).map(|n| n * 10 + noise[n as usize % 7])));
        about(710.0 / 60.0, minutes((0..30).map(|n| if n == 14 { 0 } else { n * 10 })));
        about(710.0 / 60.0, minutes((0..30).map(|n| if n == 7 { 990 } else { n * 10 })));
    }

    #[test]
    fn nothing_is_said_of_what_does_not_grow() {
        let noise = [3, 9, 0, 7, 1, 8, 2];
        assert_eq!(minutes((0..30).map(|_| 500)), None, "still");
        assert_eq!(minutes((0..30).map(|n| 900 - n * 10)), None, "falling");
        assert_eq!(minutes((0..30).map(|n| 500 + noise[n as usize % 7])), None, "noise");
        assert_eq!(minutes((0..30).map(|n| n % 8 * 100)), None, "up and down");
        assert_eq!(minutes((0..30).map(|n| if n < 15 { 100 } else { 800 })), None, "one step");
        assert_eq!(minutes((0..30).map(|n| n / 10)), None, "one entry in a while");
    }

    #[test]
    fn nothing_is_said_of_what_is_not_known_yet_or_is_far_off() {
        assert_eq!(minutes([]), None);
        assert_eq!(minutes((0..5).map(|n| n * 10)), None);
        assert!(minutes((0..6).map(|n| n * 10)).is_some());
        let (mut history, start) = (History::default(), Instant::now());
        for number in 0..30 {
            let grows = [map("far", number.into(), 1_000_000), map("endless", number.into(), 0)];
            history.note(start + Duration::from_secs(10) * number, &grows);
        }
        assert_eq!(history.tables["far"].full_in(), None);
        assert!(!history.tables.contains_key("endless"), "it has no limit");
    }

    #[test]
    fn a_full_table_is_full_at_once_and_for_as_long_as_it_is() {
        assert_eq!(minutes([CAPACITY]), Some(0.0));
        assert_eq!(minutes((0..30).map(|_| CAPACITY)), Some(0.0));
    }

    #[test]
    fn samples_are_bounded_and_go_with_their_table() {
        let (mut history, start) = (History::default(), Instant::now());
        for number in 0..1000 {
            history.note(start, &[map("flows", number, CAPACITY), map("other", 1, CAPACITY)]);
        }
        assert_eq!(history.tables["flows"].samples.len(), KEPT);
        // All at one time: no rate, and no forecast made of it.
        assert_eq!(history.tables["other"].full_in(), None);
        history.note(start, &[map("flows", 1, CAPACITY)]);
        assert_eq!(history.tables.keys().collect::<Vec<_>>(), ["flows"]);
    }
}
