//! When a node counts as healthy: consecutive answers against thresholds.
//!
//! Pure: time comes in as an argument.

use jiff::Timestamp;

use super::{Health, HealthCheckTiming};

/// The health of one node in one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tracker {
    health: Health,
    since: Timestamp,
    /// Answers in a row that contradict `health`.
    contrary: u32,
}

impl Tracker {
    /// A node is unhealthy until a check has passed.
    pub(super) fn new(now: Timestamp) -> Self {
        Self { health: Health::Unhealthy, since: now, contrary: 0 }
    }

    pub(super) fn health(&self) -> Health {
        self.health
    }

    pub(super) fn since(&self) -> Timestamp {
        self.since
    }

    /// Takes one answer; returns the new health where it changed.
    pub(super) fn observe(
        &mut self,
        success: bool,
        timing: &HealthCheckTiming,
        now: Timestamp,
    ) -> Option<Health> {
        let (seen, threshold) = match success {
            true => (Health::Healthy, timing.healthy_threshold),
            false => (Health::Unhealthy, timing.unhealthy_threshold),
        };
        if seen == self.health {
            self.contrary = 0;
            return None;
        }
        self.contrary += 1;
        if self.contrary < threshold {
            return None;
        }
        *self = Self { health: seen, since: now, contrary: 0 };
        Some(seen)
    }

    /// Forgets answers that concerned another question; the verdict stands until the new one is answered.
    pub(super) fn restart(&mut self) {
        self.contrary = 0;
    }
}

/// Which members get traffic: the healthy ones; all of them where none is (as a target pool does).
pub(super) fn receivers(health: impl Iterator<Item = Health> + Clone) -> Vec<bool> {
    let any = health.clone().any(|h| h == Health::Healthy);
    health.map(|h| !any || h == Health::Healthy).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: HealthCheckTiming = HealthCheckTiming {
        interval: std::time::Duration::from_secs(8),
        timeout: std::time::Duration::from_secs(1),
        healthy_threshold: 2,
        unhealthy_threshold: 3,
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    /// Feeds answers one second apart and returns where health changed.
    fn run(answers: &[bool]) -> Vec<(i64, Health)> {
        let mut tracker = Tracker::new(at(0));
        let feed = answers.iter().zip(1..);
        feed.filter_map(|(success, second)| {
            let change = tracker.observe(*success, &T, at(second))?;
            assert_eq!((tracker.health(), tracker.since()), (change, at(second)));
            Some((second, change))
        })
        .collect()
    }

    #[test]
    fn a_node_is_unhealthy_until_enough_checks_passed_in_a_row() {
        assert_eq!(run(&[true, false, true, true]), [(4, Health::Healthy)]);
    }

    #[test]
    fn a_healthy_node_leaves_after_enough_failures_in_a_row_and_returns() {
        let answers = [true, true, false, false, true, false, false, false, false, true, true];
        assert_eq!(run(&answers), [(2, Health::Healthy), (8, Health::Unhealthy), (11, Health::Healthy)]);
    }

    #[test]
    fn a_new_question_keeps_the_verdict_and_starts_counting_anew() {
        let mut tracker = Tracker::new(at(0));
        for second in 1..=2 {
            tracker.observe(true, &T, at(second));
        }
        tracker.observe(false, &T, at(3));
        tracker.observe(false, &T, at(4));
        tracker.restart();
        assert_eq!(tracker.observe(false, &T, at(5)), None);
        assert_eq!(tracker.health(), Health::Healthy);
    }

    #[test]
    fn traffic_goes_to_the_healthy_or_to_all() {
        use Health::{Healthy, Unhealthy};
        assert_eq!(receivers([Healthy, Unhealthy].into_iter()), [true, false]);
        assert_eq!(receivers([Unhealthy, Unhealthy].into_iter()), [true, true]);
        assert_eq!(receivers([].into_iter()), [false; 0]);
    }
}
