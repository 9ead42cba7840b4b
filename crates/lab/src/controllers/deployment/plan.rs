//! Deployment and its ReplicaSets → what to do next. Pure.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStatus, ReplicaSet, ReplicaSetSpec},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
    jiff::Timestamp,
};

use super::{
    super::meta::{controlled_by, encode_hash, fnv32, is_terminating},
    rollout::{self, Bounds, Size},
    status,
};

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MOST: &str = "deployment.kubernetes.io/max-replicas";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const HASH: &str = "pod-template-hash";

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// Becomes the owner of a ReplicaSet that the selector selects and nobody owns.
    Adopt(Arc<ReplicaSet>),
    Create(Box<ReplicaSet>),
    Scale {
        set: Arc<ReplicaSet>,
        replicas: i32,
        annotations: BTreeMap<String, String>,
    },
    Delete(Arc<ReplicaSet>),
    SetRevision(String),
    SetStatus(Box<DeploymentStatus>),
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) actions: Vec<Action>,
    pub(super) again_after: Option<Duration>,
}

/// What the Deployment needs next, given the ReplicaSets it owns and those it may adopt.
pub(super) fn plan(
    deployment: &Deployment,
    owned: &[Arc<ReplicaSet>],
    orphans: &[&Arc<ReplicaSet>],
    now: Timestamp,
) -> Plan {
    let Some(spec) = &deployment.spec else { return Plan::default() };
    let mut plan = Plan::default();
    if is_terminating(&deployment.metadata) {
        return plan;
    }
    // What is adopted changes every number below; the next pass counts it.
    if !orphans.is_empty() {
        plan.actions.extend(orphans.iter().map(|set| Action::Adopt(Arc::clone(set))));
        return plan;
    }
    let mut by_age = owned.to_vec();
    by_age.sort_by_key(|set| (set.metadata.creation_timestamp.clone(), set.metadata.name.clone()));
    let new = by_age.iter().find(|set| has_template(set, &spec.template)).cloned();
    let old: Vec<_> = by_age
        .into_iter()
        .filter(|set| Some(&set.metadata.uid) != new.as_ref().map(|n| &n.metadata.uid))
        .collect();

    let revision = revision(new.as_deref(), &old);
    plan.actions.extend(replicas(deployment, spec, new.as_ref(), &old, revision));
    if deployment.metadata.annotations.as_ref().and_then(|a| a.get(REVISION)) != Some(&revision.to_string())
        && (new.is_some() || !is_paused(spec))
    {
        plan.actions.push(Action::SetRevision(revision.to_string()));
    }
    plan.actions.extend(expired(spec, &old).into_iter().map(Action::Delete));
    // The status is written alone: every other write moves the resource version it needs.
    if plan.actions.is_empty() {
        let (wanted, again_after) = status::of(deployment, new.as_deref(), &old, now);
        plan.again_after = again_after;
        if deployment.status.as_ref() != Some(&wanted) {
            plan.actions.push(Action::SetStatus(Box::new(wanted)));
        }
    }
    plan
}

fn replicas(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    new: Option<&Arc<ReplicaSet>>,
    old: &[Arc<ReplicaSet>],
    revision: u64,
) -> Vec<Action> {
    let bounds = Bounds::of(deployment);
    let annotations = |revision: Option<u64>| annotations(deployment, bounds, revision);
    if is_paused(spec) {
        // A paused rollout still scales: the newest set that has pods, or had them last.
        let active = new.or_else(|| old.iter().rev().find(|set| size(set).wanted > 0)).or(old.last());
        let others: i32 = old.iter().chain(new).map(|set| size(set).wanted).sum::<i32>()
            - active.map_or(0, |set| size(set).wanted);
        return active
            .and_then(|set| resize(set, (bounds.replicas - others).max(0), annotations(None)))
            .into_iter()
            .collect();
    }
    let recreate = rollout::recreates(spec);
    let old_sizes: Vec<_> = old.iter().map(|set| size(set)).collect();
    let new_size = new.map(|set| size(set));
    let wanted = rollout::next_new(bounds, recreate, new_size, &old_sizes);
    let Some(new) = new else {
        let waits = recreate && old_sizes.iter().any(|old| old.wanted > 0 || old.existing > 0);
        if !waits {
            return vec![Action::Create(Box::new(create(
                deployment,
                spec,
                wanted,
                annotations(Some(revision)),
            )))];
        }
        return shrink(old, &rollout::next_old(bounds, recreate, None, &old_sizes), &annotations(None));
    };
    if let Some(action) = resize(new, wanted, annotations(Some(revision))) {
        return vec![action];
    }
    shrink(old, &rollout::next_old(bounds, recreate, new_size, &old_sizes), &annotations(None))
}

fn shrink(old: &[Arc<ReplicaSet>], next: &[i32], annotations: &BTreeMap<String, String>) -> Vec<Action> {
    let sets = old.iter().zip(next).filter(|(set, next)| size(set).wanted != **next);
    sets.filter_map(|(set, next)| resize(set, *next, annotations.clone())).collect()
}

/// A scale action if the size or an annotation differs.
fn resize(set: &Arc<ReplicaSet>, replicas: i32, annotations: BTreeMap<String, String>) -> Option<Action> {
    let have = set.metadata.annotations.as_ref();
    let same = annotations.iter().all(|(key, value)| have.and_then(|have| have.get(key)) == Some(value));
    (size(set).wanted != replicas || !same).then(|| Action::Scale {
        set: Arc::clone(set),
        replicas,
        annotations,
    })
}

fn create(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    replicas: i32,
    annotations: BTreeMap<String, String>,
) -> ReplicaSet {
    let hash = template_hash(&spec.template);
    let mut template = spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut match_labels = spec.selector.match_labels.clone().unwrap_or_default();
    match_labels.insert(HASH.to_owned(), hash.clone());
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: controlled_by(deployment).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            min_ready_seconds: spec.min_ready_seconds,
            replicas: Some(replicas),
            selector: LabelSelector { match_labels: Some(match_labels), ..spec.selector.clone() },
            template: Some(template),
        }),
        status: None,
    }
}

/// The annotations of a ReplicaSet: the Deployment's own, what proportional scaling needs, and the revision.
fn annotations(deployment: &Deployment, bounds: Bounds, revision: Option<u64>) -> BTreeMap<String, String> {
    let mut annotations = match revision {
        Some(_) => deployment.metadata.annotations.clone().unwrap_or_default(),
        None => BTreeMap::new(),
    };
    annotations.retain(|key, _| key != LAST_APPLIED && key != REVISION);
    annotations.insert(DESIRED.to_owned(), bounds.replicas.to_string());
    annotations.insert(MOST.to_owned(), bounds.most().to_string());
    if let Some(revision) = revision {
        annotations.insert(REVISION.to_owned(), revision.to_string());
    }
    annotations
}

/// The revision of the present template: one above all old ones, kept if it is that already.
fn revision(new: Option<&ReplicaSet>, old: &[Arc<ReplicaSet>]) -> u64 {
    let of = |set: &ReplicaSet| {
        set.metadata
            .annotations
            .as_ref()
            .and_then(|a| a.get(REVISION))
            .and_then(|r| r.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let oldest_possible = old.iter().map(|set| of(set)).max().unwrap_or(0) + 1;
    new.map_or(0, of).max(oldest_possible)
}

/// Old, empty ReplicaSets beyond the history limit, oldest first.
fn expired(spec: &DeploymentSpec, old: &[Arc<ReplicaSet>]) -> Vec<Arc<ReplicaSet>> {
    let limit = usize::try_from(spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
    let empty = |set: &&Arc<ReplicaSet>| {
        let size = size(set);
        size.wanted == 0 && size.existing == 0 && !is_terminating(&set.metadata)
    };
    let surplus = old.len().saturating_sub(limit);
    old.iter().take(surplus).filter(empty).cloned().collect()
}

fn is_paused(spec: &DeploymentSpec) -> bool {
    spec.paused == Some(true)
}

pub(super) fn size(set: &ReplicaSet) -> Size {
    Size {
        wanted: set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
        existing: set.status.as_ref().map_or(0, |status| status.replicas),
        available: set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0),
    }
}

fn has_template(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let Some(mut own) = set.spec.as_ref().and_then(|spec| spec.template.clone()) else { return false };
    let mut wanted = template.clone();
    for template in [&mut own, &mut wanted] {
        if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
            labels.remove(HASH);
        }
    }
    own == wanted
}

/// Stable over field order: the JSON of a typed object has one order.
fn template_hash(template: &PodTemplateSpec) -> String {
    let text = serde_json::to_string(template).unwrap_or_default();
    encode_hash(fnv32(text.as_bytes()))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
