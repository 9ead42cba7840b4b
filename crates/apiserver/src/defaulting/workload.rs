//! Defaults of Pods and of what makes them. Never sets a status other than a new pod's phase.

use serde_json::{Map, Value, json};

use super::member_of;
use crate::meta::{Object, default_to, member};

pub(super) fn pod(pod: &mut Object) {
    let spec = member(pod, "spec");
    pod_spec(spec);
    default_to(spec, "enableServiceLinks", true);
    default_to(spec, "serviceAccountName", "default");
    let account = spec["serviceAccountName"].clone();
    default_to(spec, "serviceAccount", account);
    default_to(spec, "priority", 0);
    default_to(spec, "preemptionPolicy", "PreemptLowerPriority");
    default_tolerations(spec);
    let status = member(pod, "status");
    default_to(status, "phase", "Pending");
    default_to(status, "qosClass", "BestEffort");
}

/// What the DefaultTolerationSeconds admission adds.
fn default_tolerations(spec: &mut Map<String, Value>) {
    let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
    let Value::Array(list) = tolerations else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covered = list.iter().any(|toleration| toleration["key"] == key || toleration["key"].is_null());
        if !covered {
            list.push(
                json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}),
            );
        }
    }
}

fn pod_spec(spec: &mut Map<String, Value>) {
    default_to(spec, "restartPolicy", "Always");
    default_to(spec, "dnsPolicy", "ClusterFirst");
    default_to(spec, "schedulerName", "default-scheduler");
    default_to(spec, "terminationGracePeriodSeconds", 30);
    default_to(spec, "securityContext", json!({}));
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in ["containers", "initContainers"] {
        for entry in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Value::Object(entry) = entry {
                container(entry, host_network);
            }
        }
    }
}

fn container(container: &mut Map<String, Value>, host_network: bool) {
    default_to(container, "terminationMessagePath", "/dev/termination-log");
    default_to(container, "terminationMessagePolicy", "File");
    default_to(container, "resources", json!({}));
    let image = container.get("image").and_then(Value::as_str).unwrap_or("");
    default_to(container, "imagePullPolicy", pull_policy(image));
    for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Value::Object(port) = port {
            default_to(port, "protocol", "TCP");
            if host_network && let Some(number) = port.get("containerPort").cloned() {
                default_to(port, "hostPort", number);
            }
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(Value::Object(probe)) = container.get_mut(probe) {
            default_probe(probe);
        }
    }
}

/// An image without a tag, or tagged latest, is pulled each time.
fn pull_policy(image: &str) -> &'static str {
    let name = image.rsplit('/').next().unwrap_or("");
    let floating = !name.contains('@') && (!name.contains(':') || name.ends_with(":latest"));
    if floating { "Always" } else { "IfNotPresent" }
}

fn default_probe(probe: &mut Map<String, Value>) {
    for (field, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        default_to(probe, field, value);
    }
    if let Some(Value::Object(get)) = probe.get_mut("httpGet") {
        default_to(get, "path", "/");
        default_to(get, "scheme", "HTTP");
    }
}

fn template(spec: &mut Map<String, Value>) {
    let template = member_of(spec, "template");
    pod_spec(member_of(template, "spec"));
}

pub(super) fn deployment(deployment: &mut Object) {
    let spec = member(deployment, "spec");
    default_to(spec, "replicas", 1);
    default_to(spec, "revisionHistoryLimit", 10);
    default_to(spec, "progressDeadlineSeconds", 600);
    let strategy = member_of(spec, "strategy");
    default_to(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = member_of(strategy, "rollingUpdate");
        default_to(rolling, "maxUnavailable", "25%");
        default_to(rolling, "maxSurge", "25%");
    }
    template(spec);
    member(deployment, "status");
}

pub(super) fn replica_set(replica_set: &mut Object) {
    let spec = member(replica_set, "spec");
    default_to(spec, "replicas", 1);
    template(spec);
    default_to(member(replica_set, "status"), "replicas", 0);
}
