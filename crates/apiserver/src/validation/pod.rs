//! Pods and pod templates: what a node's network and its lab depend on. Volumes, resources and security are taken as
//! they come.

use serde_json::{Value, json};

use super::{FieldErrors, names, port};
use crate::meta::{Object, items, text};

const RESTART_POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];

/// A pod's spec at a path.
pub(super) fn spec(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let containers = items(spec, &["containers"]);
    if containers.is_empty() {
        errors.required(format!("{path}.containers"), "");
    }
    let host_network = spec["hostNetwork"] == true;
    let init = items(spec, &["initContainers"]);
    let mut seen: Vec<&str> = Vec::new();
    for (list, entries) in [("initContainers", init), ("containers", containers)] {
        for (index, entry) in entries.iter().enumerate() {
            let path = format!("{path}.{list}[{index}]");
            let name = text(entry, &["name"]);
            if seen.contains(&name) {
                errors.duplicate(format!("{path}.name"), name);
            }
            seen.push(name);
            container(entry, &path, host_network, errors);
        }
    }
    let policy = text(spec, &["restartPolicy"]);
    if !RESTART_POLICIES.contains(&policy) {
        errors.unsupported(format!("{path}.restartPolicy"), policy, &RESTART_POLICIES);
    }
    let grace = &spec["terminationGracePeriodSeconds"];
    if grace.as_i64().is_some_and(|seconds| seconds < 0) {
        let detail = "must be greater than or equal to 0";
        errors.invalid(format!("{path}.terminationGracePeriodSeconds"), grace.clone(), detail);
    }
    let node = text(spec, &["nodeName"]);
    if !node.is_empty() {
        for problem in names::dns1123_subdomain(node) {
            errors.invalid(format!("{path}.nodeName"), node, problem);
        }
    }
}

fn container(container: &Value, path: &str, host_network: bool, errors: &mut FieldErrors) {
    let name = text(container, &["name"]);
    if name.is_empty() {
        errors.required(format!("{path}.name"), "");
    } else {
        for problem in names::dns1123_label(name) {
            errors.invalid(format!("{path}.name"), name, problem);
        }
    }
    if text(container, &["image"]).is_empty() {
        errors.required(format!("{path}.image"), "");
    }
    let ports = items(container, &["ports"]);
    for (index, entry) in ports.iter().enumerate() {
        let path = format!("{path}.ports[{index}]");
        let name = text(entry, &["name"]);
        if !name.is_empty() {
            for problem in names::port_name(name) {
                errors.invalid(format!("{path}.name"), name, problem);
            }
            if ports[..index].iter().any(|other| text(other, &["name"]) == name) {
                errors.duplicate(format!("{path}.name"), name);
            }
        }
        port::check_number(&format!("{path}.containerPort"), &entry["containerPort"], errors);
        port::check_protocol(&format!("{path}.protocol"), text(entry, &["protocol"]), errors);
        let host_port = &entry["hostPort"];
        if host_port.as_i64().unwrap_or(0) != 0 {
            port::check_number(&format!("{path}.hostPort"), host_port, errors);
            if host_network && host_port != &entry["containerPort"] {
                let detail = "must match `hostPort` when `hostNetwork` is true";
                errors.invalid(format!("{path}.containerPort"), entry["containerPort"].clone(), detail);
            }
        }
    }
}

/// Only images, deadlines and added tolerations of a pod may change; its node is set once, by binding.
pub(super) fn update(old: &Object, pod: &Object, errors: &mut FieldErrors) {
    let fixed = |pod: &Object| {
        let mut spec = pod["spec"].clone();
        for list in ["containers", "initContainers"] {
            for container in crate::meta::items_mut(&mut spec, &[list]) {
                container["image"] = json!(null);
            }
        }
        if let Value::Object(members) = &mut spec {
            members.remove("tolerations");
            members.remove("activeDeadlineSeconds");
            members.remove("terminationGracePeriodSeconds");
        }
        spec
    };
    let tolerations = items(pod, &["spec", "tolerations"]);
    let kept = items(old, &["spec", "tolerations"]).iter().all(|toleration| tolerations.contains(toleration));
    if fixed(old) != fixed(pod) || !kept {
        errors.forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`,\
             `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
             existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
             previously negative)",
        );
    }
}
