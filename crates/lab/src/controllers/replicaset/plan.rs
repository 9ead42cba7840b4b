//! ReplicaSet and its pods → pods to create or delete, and the status. Pure.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};

use super::super::meta::{
    controlled_by, is_finished, is_ready, is_terminating, node_of, phase, pod_condition, seconds_since,
};

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// Becomes the owner of a pod that the selector selects and nobody owns.
    Adopt(Arc<Pod>),
    Create(Box<Pod>),
    Delete(Arc<Pod>),
    SetStatus(Box<ReplicaSetStatus>),
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) actions: Vec<Action>,
    /// A pod becomes available by time alone (`minReadySeconds`).
    pub(super) again_after: Option<Duration>,
}

/// What the ReplicaSet needs next, given the pods it owns (terminating ones too) and those it may adopt.
pub(super) fn plan(set: &ReplicaSet, owned: &[Arc<Pod>], orphans: &[&Arc<Pod>], now: Timestamp) -> Plan {
    let Some(spec) = &set.spec else { return Plan::default() };
    let mut plan = Plan::default();
    if is_terminating(&set.metadata) {
        return plan;
    }
    if !orphans.is_empty() {
        plan.actions.extend(orphans.iter().map(|pod| Action::Adopt(Arc::clone(pod))));
        return plan;
    }
    let active: Vec<_> =
        owned.iter().filter(|pod| !is_terminating(&pod.metadata) && !is_finished(pod)).collect();
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    if active.len() < wanted {
        let missing = std::iter::repeat_with(|| Action::Create(Box::new(pod(set))));
        plan.actions.extend(missing.take(wanted - active.len()));
    }
    if active.len() > wanted {
        let surplus = active.len() - wanted;
        plan.actions.extend(by_deletion_order(&active).take(surplus).map(Action::Delete));
    }
    if plan.actions.is_empty() {
        let (status, again_after) = status(set, &active, now);
        plan.again_after = again_after;
        if set.status.as_ref() != Some(&status) {
            plan.actions.push(Action::SetStatus(Box::new(status)));
        }
    }
    plan
}

fn pod(set: &ReplicaSet) -> Pod {
    let template = set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
    let meta = template.metadata.unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: set.metadata.name.as_ref().map(|name| format!("{name}-")),
            namespace: set.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: controlled_by(set).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// Those that are missed least first (`ActivePodsWithRanks`): not bound, not running, not ready, cheap, crowded on
/// their node, ready for a shorter time, restarted more often, newer.
fn by_deletion_order(active: &[&Arc<Pod>]) -> impl Iterator<Item = Arc<Pod>> {
    let mut on_node = BTreeMap::<Option<&str>, usize>::new();
    for pod in active {
        *on_node.entry(node_of(pod)).or_default() += 1;
    }
    let mut keyed: Vec<_> = active
        .iter()
        .map(|pod| {
            let key = (
                node_of(pod).is_some(),
                match phase(pod) {
                    "Pending" => 0,
                    "Unknown" => 1,
                    _ => 2,
                },
                is_ready(pod),
                deletion_cost(pod),
                Reverse(on_node[&node_of(pod)]),
                Reverse(ready_since(pod).cloned()),
                Reverse(restarts(pod)),
                Reverse(pod.metadata.creation_timestamp.clone()),
                pod.metadata.name.clone(),
            );
            (key, Arc::clone(pod))
        })
        .collect();
    keyed.sort_by(|(left, _), (right, _)| left.cmp(right));
    keyed.into_iter().map(|(_, pod)| pod)
}

fn deletion_cost(pod: &Pod) -> i32 {
    let annotation = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(DELETION_COST));
    annotation.and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

fn ready_since(pod: &Pod) -> Option<&Time> {
    pod_condition(pod, "Ready").filter(|ready| ready.status == "True")?.last_transition_time.as_ref()
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|status| status.restart_count).sum()
}

fn status(set: &ReplicaSet, active: &[&Arc<Pod>], now: Timestamp) -> (ReplicaSetStatus, Option<Duration>) {
    let spec = set.spec.as_ref();
    let min_ready = i64::from(spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0));
    let labels =
        spec.and_then(|spec| spec.template.as_ref()?.metadata.as_ref()?.labels.clone()).unwrap_or_default();
    let labelled = |pod: &&&Arc<Pod>| {
        let own = pod.metadata.labels.as_ref();
        labels.iter().all(|(key, value)| own.and_then(|own| own.get(key)) == Some(value))
    };
    let mut available = 0;
    let mut again_after = None::<i64>;
    for pod in active.iter().filter(|pod| is_ready(pod)) {
        let ready_for = ready_since(pod).map_or(0, |since| seconds_since(since, now));
        if ready_for >= min_ready {
            available += 1;
        } else {
            let rest = min_ready - ready_for;
            again_after = Some(again_after.map_or(rest, |before| before.min(rest)));
        }
    }
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    // The API leaves a zero out, except for `replicas`.
    let some = |number: usize| Some(count(number)).filter(|number| *number > 0);
    let status = ReplicaSetStatus {
        replicas: count(active.len()),
        fully_labeled_replicas: some(active.iter().filter(labelled).count()),
        ready_replicas: some(active.iter().filter(|pod| is_ready(pod)).count()),
        available_replicas: some(available),
        observed_generation: set.metadata.generation,
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
        terminating_replicas: None,
    };
    (status, again_after.map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(replicas: i32, min_ready: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": "nginx-abc", "namespace": "test", "uid": "rs-1", "generation": 4},
            "spec": {
                "replicas": replicas, "minReadySeconds": min_ready,
                "selector": {"matchLabels": {"app": "nginx"}},
                "template": {"metadata": {"labels": {"app": "nginx"}}, "spec": {"containers": []}},
            },
        }))
        .expect("replica set")
    }

    /// A running pod: name, node, ready since (seconds), restarts.
    fn running(name: &str, node: &str, ready: Option<i64>, restarts: i32) -> Arc<Pod> {
        let since = ready.map(|at| Timestamp::from_second(at).expect("time").to_string());
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "test", "labels": {"app": "nginx"}},
                "spec": {"nodeName": node, "containers": []},
                "status": {
                    "phase": "Running",
                    "conditions": [{
                        "type": "Ready", "status": if ready.is_some() { "True" } else { "False" },
                        "lastTransitionTime": since,
                    }],
                    "containerStatuses": [{
                        "name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": restarts,
                    }],
                },
            }))
            .expect("pod"),
        )
    }

    fn deleted(plan: &Plan) -> Vec<&str> {
        let name = |action: &Action| match action {
            Action::Delete(pod) => pod.metadata.name.as_deref().map(|name| name.to_owned()),
            _ => None,
        };
        let names: Vec<_> = plan.actions.iter().filter_map(name).collect();
        names.into_iter().map(|name| &*Box::leak(name.into_boxed_str())).collect()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("time")
    }

    #[test]
    fn missing_pods_are_created_from_the_template() {
        let planned = plan(&set(2, 0), &[running("a", "n", Some(0), 0)], &[], at(9));
        let [Action::Create(pod)] = planned.actions.as_slice() else { panic!("{:?}", planned.actions) };
        assert_eq!(pod.metadata.generate_name.as_deref(), Some("nginx-abc-"));
        assert_eq!(pod.metadata.owner_references.as_ref().expect("owner")[0].uid, "rs-1");
        assert_eq!(pod.metadata.labels.as_ref().expect("labels")["app"], "nginx");
    }

    #[test]
    fn terminating_and_finished_pods_do_not_count() {
        let mut terminating = running("a", "n", Some(0), 0);
        Arc::make_mut(&mut terminating).metadata.deletion_timestamp = Some(Time(at(1)));
        let mut failed = running("b", "n", Some(0), 0);
        Arc::make_mut(&mut failed).status.as_mut().expect("status").phase = Some("Failed".to_owned());
        let planned = plan(&set(1, 0), &[terminating, failed], &[], at(9));
        assert!(matches!(planned.actions.as_slice(), [Action::Create(_)]), "{:?}", planned.actions);
    }

    #[test]
    fn scale_down_takes_the_pods_that_are_missed_least() {
        let not_ready = running("not-ready", "n1", None, 0);
        let crowded = [running("crowded-1", "n2", Some(5), 0), running("crowded-2", "n2", Some(6), 0)];
        let alone = running("alone", "n3", Some(9), 0);
        let restarted = running("restarted", "n4", Some(9), 3);
        let pods = [alone, crowded[0].clone(), not_ready, crowded[1].clone(), restarted];
        let order = |wanted| plan(&set(wanted, 0), &pods, &[], at(10));
        assert_eq!(deleted(&order(4)), ["not-ready"]);
        assert_eq!(deleted(&order(3)), ["not-ready", "crowded-2"]);
        assert_eq!(deleted(&order(1)), ["not-ready", "crowded-2", "crowded-1", "restarted"]);
    }

    #[test]
    fn availability_waits_for_min_ready_seconds() {
        let pods = [running("a", "n", Some(0), 0), running("b", "n", Some(7), 0)];
        let planned = plan(&set(2, 10), &pods, &[], at(10));
        let [Action::SetStatus(status)] = planned.actions.as_slice() else { panic!("{:?}", planned.actions) };
        assert_eq!(
            (status.replicas, status.ready_replicas, status.available_replicas),
            (2, Some(2), Some(1))
        );
        assert_eq!(status.observed_generation, Some(4));
        assert_eq!(planned.again_after, Some(Duration::from_secs(7)));
    }

    #[test]
    fn a_second_pass_over_the_same_state_does_nothing() {
        let pods = [running("a", "n", Some(0), 0)];
        let mut set = set(1, 0);
        let first = plan(&set, &pods, &[], at(10));
        let [Action::SetStatus(status)] = first.actions.as_slice() else { panic!("{:?}", first.actions) };
        set.status = Some((**status).clone());
        assert!(plan(&set, &pods, &[], at(11)).actions.is_empty());
    }
}
