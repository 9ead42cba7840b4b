//! Pods and nodes → where each unbound pod goes, or why it cannot go anywhere. Pure and deterministic.
//!
//! Filters as the real scheduler names them (cordon, taints, node selector, required node affinity); then spreads the
//! pods of one owner, then balances the number of pods. Never looks at resources.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, Taint, Toleration};

use super::super::meta::{controller_of, is_finished, is_terminating, node_of};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Bind { node: String },
    Wait { message: String },
}

/// Decides for every unbound pod, oldest first, each knowing those before it.
pub(super) fn plan(pods: &[Arc<Pod>], nodes: &[Arc<Node>]) -> Vec<(Arc<Pod>, Decision)> {
    let mut load = Load::of(pods);
    let mut unbound: Vec<_> = pods.iter().filter(|pod| waits(pod)).collect();
    unbound
        .sort_by_key(|pod| (&pod.metadata.creation_timestamp, &pod.metadata.namespace, &pod.metadata.name));
    let mut decisions = vec![];
    for pod in unbound {
        let decision = decide(pod, nodes, &load);
        if let Decision::Bind { node } = &decision {
            load.add(pod, node);
        }
        decisions.push((Arc::clone(pod), decision));
    }
    decisions
}

/// Whether every node of these names is registered and ready.
pub(super) fn all_ready(names: &[String], nodes: &[Arc<Node>]) -> bool {
    let ready =
        |name: &String| nodes.iter().any(|node| node.metadata.name.as_ref() == Some(name) && is_ready(node));
    names.iter().all(ready)
}

fn waits(pod: &Pod) -> bool {
    let ours =
        pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or("default-scheduler");
    node_of(pod).is_none()
        && !is_finished(pod)
        && !is_terminating(&pod.metadata)
        && ours == "default-scheduler"
}

fn decide(pod: &Pod, nodes: &[Arc<Node>], load: &Load) -> Decision {
    let mut refused = BTreeMap::<String, usize>::new();
    let mut fitting = BTreeSet::new();
    for node in nodes {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        match refusal(pod, node) {
            Some(reason) => *refused.entry(reason).or_default() += 1,
            None => {
                fitting.insert((load.of_owner(pod, name), load.total(name), name));
            }
        }
    }
    match fitting.first() {
        Some((_, _, node)) => Decision::Bind { node: (*node).to_owned() },
        None if nodes.is_empty() => {
            Decision::Wait { message: "no nodes available to schedule pods".to_owned() }
        }
        None => {
            let reasons: Vec<_> =
                refused.into_iter().map(|(reason, count)| format!("{count} node(s) {reason}")).collect();
            let message = format!("0/{} nodes are available: {}.", nodes.len(), reasons.join(", "));
            Decision::Wait { message }
        }
    }
}

/// Why the pod cannot go to the node, in the real scheduler's words.
fn refusal(pod: &Pod, node: &Node) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let node_spec = node.spec.as_ref();
    let cordoned = node_spec.and_then(|spec| spec.unschedulable) == Some(true);
    let cordon = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    if cordoned && !tolerations.iter().any(|toleration| tolerates(toleration, &cordon)) {
        return Some("were unschedulable".to_owned());
    }
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let required = spec.affinity.as_ref().and_then(|affinity| {
        affinity.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref()
    });
    if !selected
        || !required.is_none_or(|required| required.node_selector_terms.iter().any(|t| term(t, &labels)))
    {
        return Some("didn't match Pod's node affinity/selector".to_owned());
    }
    // A node that was never ready takes no pods; the real control plane says so by this taint.
    let not_ready = (!is_ready(node)).then(|| Taint {
        key: "node.kubernetes.io/not-ready".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    });
    let taints = node_spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let untolerated = taints.iter().chain(&not_ready).find(|taint| {
        taint.effect != "PreferNoSchedule"
            && !tolerations.iter().any(|toleration| tolerates(toleration, taint))
    })?;
    let value = untolerated.value.as_deref().unwrap_or_default();
    Some(format!("had untolerated taint {{{}: {value}}}", untolerated.key))
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    let key = toleration.key.as_deref().unwrap_or_default();
    match toleration.operator.as_deref() {
        Some("Exists") => key.is_empty() || key == taint.key,
        _ => {
            key == taint.key
                && toleration.value.as_deref().unwrap_or_default()
                    == taint.value.as_deref().unwrap_or_default()
        }
    }
}

fn term(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    !expressions.is_empty() && expressions.iter().all(|expression| requirement(expression, labels))
}

fn requirement(wanted: &NodeSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&wanted.key);
    let values = wanted.values.as_deref().unwrap_or_default();
    let number = |text: Option<&String>| text.and_then(|text| text.parse::<i64>().ok());
    match wanted.operator.as_str() {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => number(value).zip(number(values.first())).is_some_and(|(have, bound)| have > bound),
        "Lt" => number(value).zip(number(values.first())).is_some_and(|(have, bound)| have < bound),
        _ => false,
    }
}

/// How many pods are where, per owner and in all.
#[derive(Default)]
struct Load {
    all: BTreeMap<String, usize>,
    owned: BTreeMap<(String, String), usize>,
}

impl Load {
    fn of(pods: &[Arc<Pod>]) -> Self {
        let mut load = Self::default();
        for pod in pods.iter().filter(|pod| !is_finished(pod) && !is_terminating(&pod.metadata)) {
            if let Some(node) = node_of(pod) {
                load.add(pod, node);
            }
        }
        load
    }

    fn add(&mut self, pod: &Pod, node: &str) {
        *self.all.entry(node.to_owned()).or_default() += 1;
        if let Some(owner) = controller_of(&pod.metadata) {
            *self.owned.entry((owner.uid.clone(), node.to_owned())).or_default() += 1;
        }
    }

    fn total(&self, node: &str) -> usize {
        self.all.get(node).copied().unwrap_or(0)
    }

    fn of_owner(&self, pod: &Pod, node: &str) -> usize {
        let owner = controller_of(&pod.metadata).map(|owner| (owner.uid.clone(), node.to_owned()));
        owner.and_then(|key| self.owned.get(&key)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, spec: Value) -> Arc<Node> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "labels": {"zone": format!("zone-of-{name}")}}, "spec": spec,
                "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            }))
            .expect("node"),
        )
    }

    fn pod(name: &str, owner: Option<&str>, spec: Value) -> Arc<Pod> {
        let owners: Vec<_> = owner
            .iter()
            .map(|uid| json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": uid, "uid": uid, "controller": true}))
            .collect();
        let mut spec = spec;
        spec["containers"] = json!([]);
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "test", "ownerReferences": owners}, "spec": spec,
            }))
            .expect("pod"),
        )
    }

    fn bound(decisions: &[(Arc<Pod>, Decision)]) -> Vec<&str> {
        let node = |(_, decision): &'_ (Arc<Pod>, Decision)| match decision {
            Decision::Bind { node } => node.clone(),
            Decision::Wait { message } => message.clone(),
        };
        decisions.iter().map(node).map(|text| &*Box::leak(text.into_boxed_str())).collect()
    }

    fn two() -> [Arc<Node>; 2] {
        [node("node-a", json!({})), node("node-b", json!({}))]
    }

    #[test]
    fn three_replicas_on_two_nodes_are_two_and_one() {
        let pods = ["a", "b", "c"].map(|name| pod(name, Some("rs"), json!({})));
        assert_eq!(bound(&plan(&pods, &two())), ["node-a", "node-b", "node-a"]);
    }

    #[test]
    fn replicas_of_one_owner_spread_even_where_the_other_node_is_fuller() {
        let pods = [
            pod("x", None, json!({"nodeName": "node-b"})),
            pod("y", None, json!({"nodeName": "node-b"})),
            pod("a", Some("rs"), json!({"nodeName": "node-a"})),
            pod("b", Some("rs"), json!({})),
            pod("loner", None, json!({})),
        ];
        assert_eq!(bound(&plan(&pods, &two())), ["node-b", "node-a"]);
    }

    #[test]
    fn cordon_selector_and_taint_are_honoured_and_named() {
        let taint = json!({"taints": [{"key": "dedicated", "value": "db", "effect": "NoSchedule"}]});
        let nodes = [node("node-a", json!({"unschedulable": true})), node("node-b", taint)];
        let free = pod("a", None, json!({}));
        let message = "0/2 nodes are available: 1 node(s) had untolerated taint {dedicated: db}, \
                       1 node(s) were unschedulable.";
        assert_eq!(bound(&plan(&[free], &nodes)), [message]);
        let tolerant = pod("b", None, json!({"tolerations": [{"key": "dedicated", "operator": "Exists"}]}));
        assert_eq!(bound(&plan(&[tolerant], &nodes)), ["node-b"]);
        let picky = pod("c", None, json!({"nodeSelector": {"zone": "zone-of-node-b"}}));
        assert_eq!(bound(&plan(std::slice::from_ref(&picky), &two())), ["node-b"]);
        let message = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
        assert_eq!(bound(&plan(&[picky], &two()[..1])), [message]);
    }

    #[test]
    fn required_affinity_and_readiness_are_honoured() {
        let affinity = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["zone-of-node-b"]}]}],
        }}}});
        assert_eq!(bound(&plan(&[pod("a", None, affinity)], &two())), ["node-b"]);
        let mut unready = two();
        for node in &mut unready {
            Arc::make_mut(node).status = None;
        }
        let message =
            "0/2 nodes are available: 2 node(s) had untolerated taint {node.kubernetes.io/not-ready: }.";
        assert_eq!(bound(&plan(&[pod("a", None, json!({}))], &unready)), [message]);
    }

    #[test]
    fn a_start_is_over_when_every_node_is_ready() {
        let names = ["node-a", "node-b"].map(str::to_owned);
        let mut nodes = two();
        assert!(all_ready(&names, &nodes));
        assert!(!all_ready(&names, &nodes[..1]), "not registered yet");
        Arc::make_mut(&mut nodes[1]).status = None;
        assert!(!all_ready(&names, &nodes));
    }

    #[test]
    fn pods_that_have_a_node_or_are_going_are_left_alone() {
        let mut going = pod("b", None, json!({}));
        Arc::make_mut(&mut going).metadata.deletion_timestamp =
            Some(super::super::super::meta::api_time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH));
        let other = pod("c", None, json!({"schedulerName": "another"}));
        let pods = [pod("a", None, json!({"nodeName": "node-b"})), going, other];
        assert!(plan(&pods, &two()).is_empty());
        assert_eq!(bound(&plan(&[pod("d", None, json!({}))], &[])), ["no nodes available to schedule pods"]);
    }
}
