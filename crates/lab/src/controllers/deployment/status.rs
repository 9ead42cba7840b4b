//! A Deployment's status from its ReplicaSets: what `rollout status`, `wait` and `get deploy` read. Pure.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet},
    jiff::Timestamp,
};

use super::{
    super::meta::{api_time, seconds_since},
    plan::size,
    rollout::Bounds,
};

/// The reason of a rollout that ended; it stays until the template changes.
const COMPLETE: &str = "NewReplicaSetAvailable";

struct Progress {
    status: &'static str,
    reason: &'static str,
    message: String,
    /// The rollout moved: the deadline starts again.
    moved: bool,
}

/// The status, and when it must be looked at again (the progress deadline).
pub(super) fn of(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    old: &[Arc<ReplicaSet>],
    now: Timestamp,
) -> (DeploymentStatus, Option<Duration>) {
    let bounds = Bounds::of(deployment);
    let sets = || old.iter().map(Arc::as_ref).chain(new);
    let sum = |part: fn(&ReplicaSet) -> i32| sets().map(part).sum::<i32>();
    let (replicas, available) = (sum(|set| size(set).existing), sum(|set| size(set).available));
    let ready = sum(|set| set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0));
    let unavailable = (sum(|set| size(set).wanted) - available).max(0);
    let updated = new.map_or(0, |set| size(set).existing);
    // The API leaves a zero out.
    let count = |number: i32| Some(number).filter(|number| *number > 0);
    let before = deployment.status.clone().unwrap_or_default();
    let mut status = DeploymentStatus {
        available_replicas: count(available),
        collision_count: before.collision_count,
        conditions: None,
        observed_generation: deployment.metadata.generation,
        ready_replicas: count(ready),
        replicas: count(replicas),
        terminating_replicas: None,
        unavailable_replicas: count(unavailable),
        updated_replicas: count(updated),
    };
    let complete = updated == bounds.replicas && replicas == bounds.replicas && available == bounds.replicas;
    let (progressing, again) = progressing(deployment, new, &before, &status, complete, now);
    let conditions = [Some(availability(&before, available, bounds, now)), progressing];
    let mut conditions: Vec<_> = conditions.into_iter().flatten().collect();
    conditions.extend(condition(&before, "ReplicaFailure").cloned());
    status.conditions = Some(conditions);
    (status, again)
}

fn availability(
    before: &DeploymentStatus,
    available: i32,
    bounds: Bounds,
    now: Timestamp,
) -> DeploymentCondition {
    let (status, reason, message) = if available >= bounds.least_available() {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    update(before, "Available", Progress { status, reason, message: message.to_owned(), moved: false }, now)
}

fn progressing(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    before: &DeploymentStatus,
    status: &DeploymentStatus,
    complete: bool,
    now: Timestamp,
) -> (Option<DeploymentCondition>, Option<Duration>) {
    let present = condition(before, "Progressing");
    let reason = present.and_then(|condition| condition.reason.as_deref());
    let name = new.and_then(|set| set.metadata.name.as_deref()).unwrap_or_default();
    let rolled_out = before.observed_generation == deployment.metadata.generation && reason == Some(COMPLETE);
    let progress = if complete {
        let message = format!("ReplicaSet \"{name}\" has successfully progressed.");
        Progress { status: "True", reason: COMPLETE, message, moved: false }
    } else if rolled_out || new.is_none() {
        // A pod that fails later, or an old rollout still going, is not this rollout's progress.
        return (present.cloned(), None);
    } else if present.is_none()
        || (before.observed_generation != deployment.metadata.generation && moved_none(before, status))
    {
        let message = format!("Created new replica set \"{name}\"");
        Progress { status: "True", reason: "NewReplicaSetCreated", message, moved: true }
    } else if !moved_none(before, status) {
        let message = format!("ReplicaSet \"{name}\" is progressing.");
        Progress { status: "True", reason: "ReplicaSetUpdated", message, moved: true }
    } else {
        return waiting(deployment, before, present, name, now);
    };
    let again = (!complete).then(|| deadline(deployment));
    (Some(update(before, "Progressing", progress, now)), again.flatten())
}

/// Nothing moved: either there is time left, or the deadline has passed.
fn waiting(
    deployment: &Deployment,
    before: &DeploymentStatus,
    present: Option<&DeploymentCondition>,
    name: &str,
    now: Timestamp,
) -> (Option<DeploymentCondition>, Option<Duration>) {
    let (Some(limit), Some(since)) =
        (deadline(deployment), present.and_then(|condition| condition.last_update_time.as_ref()))
    else {
        return (present.cloned(), None);
    };
    let waited = Duration::from_secs(u64::try_from(seconds_since(since, now)).unwrap_or(0));
    if waited < limit {
        return (present.cloned(), Some(limit - waited));
    }
    let message = format!("ReplicaSet \"{name}\" has timed out progressing.");
    let late = Progress { status: "False", reason: "ProgressDeadlineExceeded", message, moved: false };
    (Some(update(before, "Progressing", late, now)), None)
}

/// `spec.progressDeadlineSeconds`; the largest integer switches it off, as in the API.
fn deadline(deployment: &Deployment) -> Option<Duration> {
    let seconds = deployment.spec.as_ref()?.progress_deadline_seconds.unwrap_or(600);
    (seconds != i32::MAX).then(|| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

fn moved_none(before: &DeploymentStatus, status: &DeploymentStatus) -> bool {
    let number = |number: Option<i32>| number.unwrap_or(0);
    let old = |status: &DeploymentStatus| number(status.replicas) - number(status.updated_replicas);
    number(status.updated_replicas) <= number(before.updated_replicas)
        && old(status) >= old(before)
        && number(status.ready_replicas) <= number(before.ready_replicas)
        && number(status.available_replicas) <= number(before.available_replicas)
}

fn condition<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// The condition with its times: transition when the status flips, update when anything moved.
fn update(before: &DeploymentStatus, kind: &str, now_is: Progress, now: Timestamp) -> DeploymentCondition {
    let present = condition(before, kind);
    let same_status = present.filter(|condition| condition.status == now_is.status);
    let same = same_status.filter(|condition| condition.reason.as_deref() == Some(now_is.reason));
    let updated = same.filter(|_| !now_is.moved).and_then(|condition| condition.last_update_time.clone());
    DeploymentCondition {
        type_: kind.to_owned(),
        status: now_is.status.to_owned(),
        reason: Some(now_is.reason.to_owned()),
        message: Some(now_is.message),
        last_transition_time: same_status
            .and_then(|condition| condition.last_transition_time.clone())
            .or_else(|| Some(api_time(now))),
        last_update_time: updated.or_else(|| Some(api_time(now))),
    }
}
