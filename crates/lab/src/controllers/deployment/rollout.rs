//! How many replicas each ReplicaSet of a Deployment should have next.
//!
//! Pure arithmetic, as `pkg/controller/deployment` does it: the new set grows within the surge, old sets shrink
//! within what availability allows, unavailable old replicas first.

use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

/// One ReplicaSet in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    /// `spec.replicas`.
    pub(super) wanted: i32,
    /// `status.replicas`: pods that exist.
    pub(super) existing: i32,
    /// `status.availableReplicas`.
    pub(super) available: i32,
}

/// The bounds of a rolling update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) replicas: i32,
    /// Pods above `replicas` that may exist for a while.
    pub(super) surge: i32,
    /// Pods below `replicas` that may be unavailable for a while.
    pub(super) unavailable: i32,
}

impl Bounds {
    pub(super) fn of(deployment: &Deployment) -> Self {
        let Some(spec) = &deployment.spec else { return Self { replicas: 0, surge: 0, unavailable: 1 } };
        let replicas = spec.replicas.unwrap_or(1);
        if recreates(spec) {
            return Self { replicas, surge: 0, unavailable: replicas };
        }
        let rolling = spec.strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref());
        let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        let surge = share(surge, replicas, Rounding::Up);
        let unavailable = share(unavailable, replicas, Rounding::Down).min(replicas);
        // Both zero would never move (`ResolveFenceposts`).
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
        Self { replicas, surge, unavailable }
    }

    pub(super) fn most(&self) -> i32 {
        self.replicas + self.surge
    }

    pub(super) fn least_available(&self) -> i32 {
        (self.replicas - self.unavailable).max(0)
    }
}

pub(super) fn recreates(spec: &DeploymentSpec) -> bool {
    spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

enum Rounding {
    Up,
    Down,
}

/// A number or percentage of `replicas`; 25% where it is absent (the API's default).
fn share(value: Option<&IntOrString>, replicas: i32, rounding: Rounding) -> i32 {
    let percent = match value {
        Some(IntOrString::Int(number)) => return (*number).max(0),
        Some(IntOrString::String(text)) => text.trim_end_matches('%').parse().unwrap_or(25),
        None => 25,
    };
    let hundredths = i64::from(replicas) * i64::from(percent);
    let whole = match rounding {
        Rounding::Up => (hundredths + 99) / 100,
        Rounding::Down => hundredths / 100,
    };
    i32::try_from(whole).unwrap_or(i32::MAX)
}

/// The next size of the new ReplicaSet; `new` is `None` before it exists.
pub(super) fn next_new(bounds: Bounds, recreate: bool, new: Option<Size>, old: &[Size]) -> i32 {
    let current = new.map_or(0, |new| new.wanted);
    if current >= bounds.replicas {
        return bounds.replicas;
    }
    if recreate {
        let old_gone = old.iter().all(|old| old.wanted == 0 && old.existing == 0);
        return if old_gone { bounds.replicas } else { current };
    }
    let total = current + old.iter().map(|old| old.wanted).sum::<i32>();
    let room = (bounds.most() - total).max(0);
    current + room.min(bounds.replicas - current)
}

/// The next sizes of the old ReplicaSets, in the order given (oldest first).
pub(super) fn next_old(bounds: Bounds, recreate: bool, new: Option<Size>, old: &[Size]) -> Vec<i32> {
    let mut next: Vec<i32> = old.iter().map(|old| old.wanted).collect();
    if recreate {
        return vec![0; old.len()];
    }
    let Some(new) = new else { return next };
    let total = new.wanted + next.iter().sum::<i32>();
    let starting = (new.wanted - new.available).max(0);
    let mut budget = (total - bounds.least_available() - starting).max(0);
    // Replicas that serve nobody go first: they cost no availability.
    for (next, old) in next.iter_mut().zip(old) {
        let unhealthy = (old.wanted - old.available).clamp(0, *next);
        let fewer = unhealthy.min(budget);
        *next -= fewer;
        budget -= fewer;
    }
    let available = new.available + old.iter().map(|old| old.available).sum::<i32>();
    let mut spare = (available - bounds.least_available()).clamp(0, budget);
    for next in &mut next {
        let fewer = spare.min(*next);
        *next -= fewer;
        spare -= fewer;
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn size(wanted: i32, existing: i32, available: i32) -> Size {
        Size { wanted, existing, available }
    }

    const BOUNDS: Bounds = Bounds { replicas: 3, surge: 1, unavailable: 0 };

    #[test]
    fn percentages_round_surge_up_and_unavailable_down() {
        let percent = IntOrString::String("25%".to_owned());
        assert_eq!(share(Some(&percent), 3, Rounding::Up), 1);
        assert_eq!(share(Some(&percent), 3, Rounding::Down), 0);
        assert_eq!(share(None, 8, Rounding::Up), 2);
        assert_eq!(share(Some(&IntOrString::Int(5)), 3, Rounding::Up), 5);
    }

    #[test]
    fn a_first_rollout_goes_to_full_size_at_once() {
        assert_eq!(next_new(BOUNDS, false, None, &[]), 3);
        assert_eq!(next_new(BOUNDS, false, Some(size(1, 1, 1)), &[]), 3);
        assert_eq!(next_new(BOUNDS, false, Some(size(5, 5, 5)), &[]), 3);
    }

    /// Drives both functions with pods that become available one round later, and checks the bounds in each.
    #[test]
    fn a_rolling_update_stays_within_its_bounds_and_ends() {
        for (replicas, surge, unavailable) in [(3, 1, 0), (3, 0, 1), (10, 3, 2), (1, 1, 0), (4, 4, 4)] {
            let bounds = Bounds { replicas, surge, unavailable };
            let (mut new, mut old) = (size(0, 0, 0), [size(replicas, replicas, replicas)]);
            let mut rounds = 0;
            while new.available < replicas || old[0].wanted > 0 {
                let wanted = next_new(bounds, false, Some(new), &old);
                assert!(wanted + old[0].wanted <= bounds.most(), "{bounds:?} {new:?} {old:?}");
                new = size(wanted, wanted, new.available.min(wanted));
                let kept = next_old(bounds, false, Some(new), &old)[0];
                old = [size(kept, kept, kept)];
                assert!(new.available + kept >= bounds.least_available(), "{bounds:?} {new:?} {old:?}");
                new.available = new.wanted;
                rounds += 1;
                assert!(rounds < 40, "{bounds:?} does not end: {new:?} {old:?}");
            }
        }
    }

    #[test]
    fn unavailable_old_replicas_go_first_and_cost_nothing() {
        // The newer old set serves nobody: all three of its replicas go, none of the serving ones.
        let old = [size(3, 3, 3), size(3, 3, 0)];
        assert_eq!(next_old(BOUNDS, false, Some(size(0, 0, 0)), &old), [3, 0]);
    }

    #[test]
    fn a_new_set_that_never_becomes_available_keeps_the_old_one() {
        let old = [size(3, 3, 3)];
        assert_eq!(next_new(BOUNDS, false, Some(size(1, 1, 0)), &old), 1);
        assert_eq!(next_old(BOUNDS, false, Some(size(1, 1, 0)), &old), [3]);
    }

    #[test]
    fn recreate_waits_until_no_old_pod_is_left() {
        let bounds = Bounds { replicas: 2, surge: 0, unavailable: 2 };
        assert_eq!(next_old(bounds, true, None, &[size(2, 2, 2)]), [0]);
        assert_eq!(next_new(bounds, true, None, &[size(0, 1, 0)]), 0);
        assert_eq!(next_new(bounds, true, None, &[size(0, 0, 0)]), 2);
    }
}
