//! One pod's object and record → what the kubelet does next. Pure: the clock is an argument.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{Container as Spec, Pod},
    jiff::{SignedDuration, Timestamp},
};

use super::state::{Container, Exit, PodRecord, Sandbox, State};

/// A container that fails again is started after 10 s, 20 s … 5 min (kubelet `backOffPeriod`, `MaxContainerBackOff`).
const FIRST_BACK_OFF: Duration = Duration::from_secs(10);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(300);
/// A run this long forgets the failures before it.
const CALM: Duration = Duration::from_secs(600);
/// A sandbox that could not be made is tried again after 0.5 s, 1 s … 8 s.
const FIRST_SANDBOX_RETRY: Duration = Duration::from_millis(500);

/// What the API wants of the pod.
#[derive(Clone, Copy, Debug)]
pub(super) enum Desired<'a> {
    Run(&'a Pod),
    /// Deleted gracefully: may run until `deadline`, then the object is removed.
    Stop {
        deadline: Timestamp,
    },
    /// The object is gone: everything must go at once.
    Gone,
}

impl<'a> Desired<'a> {
    pub(super) fn of(pod: Option<&'a Pod>) -> Self {
        match pod {
            None => Self::Gone,
            // The API sets the deletion time to when the grace period ends.
            Some(pod) => match &pod.metadata.deletion_timestamp {
                Some(deadline) => Self::Stop { deadline: deadline.0 },
                None => Self::Run(pod),
            },
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    MakeSandbox,
    /// Starts a container, for the first time or again.
    Start(String),
    /// Leaves a failed container down until the given time.
    BackOff {
        container: String,
        until: Timestamp,
        delay: Duration,
    },
    /// Runs the container's preStop hook, then its stop signal.
    Stop(String),
    Kill(String),
    RemoveSandbox,
    /// Removes the API object.
    RemoveObject,
    /// Nothing is left: forgets the pod.
    Forget,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// When the plan changes by time alone.
    pub(super) wake_at: Option<Timestamp>,
}

impl Plan {
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
    }
}

pub(super) fn plan(desired: Desired<'_>, record: &PodRecord, now: Timestamp) -> Plan {
    match desired {
        Desired::Run(pod) => run(pod, record, now),
        Desired::Stop { deadline } => stop(record, deadline, Step::RemoveObject, now),
        Desired::Gone => stop(record, now, Step::Forget, now),
    }
}

fn run(pod: &Pod, record: &PodRecord, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    match &record.sandbox {
        Sandbox::Missing => plan.steps.push(Step::MakeSandbox),
        Sandbox::Failed { retry_at, .. } if *retry_at > now => plan.wake(*retry_at),
        Sandbox::Failed { .. } => plan.steps.push(Step::MakeSandbox),
        Sandbox::Partial { .. } => plan.steps.push(Step::RemoveSandbox),
        Sandbox::Removed { .. } => {}
        Sandbox::Ready { .. } => containers(pod, record, now, &mut plan),
    }
    plan
}

fn containers(pod: &Pod, record: &PodRecord, now: Timestamp, plan: &mut Plan) {
    let Some(spec) = &pod.spec else { return };
    let restart = RestartPolicy::of(pod);
    // Init containers one after the other; one that restarts always is a sidecar and does not hold up the next.
    for container in spec.init_containers.iter().flatten() {
        let sidecar = container.restart_policy.as_deref() == Some("Always");
        let policy = if sidecar { RestartPolicy::Always } else { restart.for_init() };
        if !sidecar && succeeded(record, &container.name) {
            continue;
        }
        keep(container, policy, record, now, plan);
        let started = matches!(state(record, &container.name), Some(State::Running { .. }));
        if !(sidecar && started) {
            return finish(pod, record, plan);
        }
    }
    for container in &spec.containers {
        keep(container, restart, record, now, plan);
    }
    finish(pod, record, plan);
}

/// A pod that ended on its own gives its network back.
fn finish(pod: &Pod, record: &PodRecord, plan: &mut Plan) {
    if ended(pod, record).is_some() {
        plan.steps.push(Step::RemoveSandbox);
    }
}

/// Whether a pod that is wanted has come to its end, and how: true if well.
pub(super) fn ended(pod: &Pod, record: &PodRecord) -> Option<bool> {
    let spec = pod.spec.as_ref()?;
    let restart = RestartPolicy::of(pod);
    let exits = |containers: &[Spec]| -> Option<Vec<bool>> {
        containers
            .iter()
            .map(|container| match state(record, &container.name) {
                Some(State::Exited(exit)) if !restart.restarts(exit) => Some(exit.code == 0),
                _ => None,
            })
            .collect()
    };
    let failed_init = spec.init_containers.iter().flatten().any(|container| {
        restart == RestartPolicy::Never
            && container.restart_policy.is_none()
            && matches!(state(record, &container.name), Some(State::Exited(exit)) if exit.code != 0)
    });
    if failed_init {
        return Some(false);
    }
    let codes = exits(&spec.containers).filter(|codes| !codes.is_empty())?;
    Some(codes.into_iter().all(|good| good))
}

/// Starts what is down and may be up.
fn keep(container: &Spec, restart: RestartPolicy, record: &PodRecord, now: Timestamp, plan: &mut Plan) {
    let start = || Step::Start(container.name.clone());
    match record.containers.get(&container.name) {
        None => plan.steps.push(start()),
        Some(Container { state: State::Waiting { until, .. }, .. }) if *until > now => plan.wake(*until),
        Some(Container { state: State::Waiting { .. }, .. }) => plan.steps.push(start()),
        Some(Container { state: State::Running { .. }, .. }) => {}
        Some(Container { state: State::Exited(exit), restarts, .. }) => {
            if !restart.restarts(exit) {
                return;
            }
            let delay = back_off(*restarts, exit);
            let until = exit.finished + signed(delay);
            if until <= now {
                plan.steps.push(start());
            } else {
                plan.steps.push(Step::BackOff { container: container.name.clone(), until, delay });
                plan.wake(until);
            }
        }
    }
}

fn back_off(restarts: u32, exit: &Exit) -> Duration {
    let ran = exit.started.map_or(Duration::ZERO, |started| between(started, exit.finished));
    if restarts == 0 || ran >= CALM {
        return Duration::ZERO;
    }
    FIRST_BACK_OFF.saturating_mul(1 << (restarts - 1).min(10)).min(LONGEST_BACK_OFF)
}

/// When to try a sandbox again after this many failures.
pub(super) fn sandbox_retry(attempts: u32) -> Duration {
    FIRST_SANDBOX_RETRY * (1 << attempts.saturating_sub(1).min(4))
}

fn stop(record: &PodRecord, deadline: Timestamp, last: Step, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    for (name, container) in &record.containers {
        let State::Running { stopping, .. } = container.state else { continue };
        if now >= deadline {
            plan.steps.push(Step::Kill(name.clone()));
        } else if stopping {
            plan.wake(deadline);
        } else {
            plan.steps.push(Step::Stop(name.clone()));
            plan.wake(deadline);
        }
    }
    if record.running().next().is_some() {
        return plan;
    }
    match record.sandbox {
        Sandbox::Ready { .. } | Sandbox::Partial { .. } => plan.steps.push(Step::RemoveSandbox),
        Sandbox::Missing | Sandbox::Failed { .. } | Sandbox::Removed { .. } => plan.steps.push(last),
    }
    plan
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

impl RestartPolicy {
    fn of(pod: &Pod) -> Self {
        match pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }

    /// An init container that succeeded never runs again.
    fn for_init(self) -> Self {
        if self == Self::Always { Self::OnFailure } else { self }
    }

    fn restarts(self, exit: &Exit) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit.code != 0,
            Self::Never => false,
        }
    }
}

fn state<'a>(record: &'a PodRecord, container: &str) -> Option<&'a State> {
    record.containers.get(container).map(|container| &container.state)
}

fn succeeded(record: &PodRecord, container: &str) -> bool {
    matches!(state(record, container), Some(State::Exited(exit)) if exit.code == 0)
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

/// From `start` to `end`; zero if the clock went back.
pub(super) fn between(start: Timestamp, end: Timestamp) -> Duration {
    Duration::try_from(end.duration_since(start)).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
