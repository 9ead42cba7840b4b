//! Manifests of the tests.

use serde_json::{Value, json};

use super::NAMESPACE;

pub(crate) fn deployment(name: &str, replicas: u32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": image, "ports": [{"containerPort": 80}]}]},
            },
        },
    })
}

pub(crate) fn pod(name: &str, container: Value, grace: u32) -> Value {
    let mut container = container;
    container["name"] = "c".into();
    if container.get("image").is_none() {
        container["image"] = "busybox".into();
    }
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"terminationGracePeriodSeconds": grace, "containers": [container]},
    })
}

/// A Service over the pods labelled with its name.
pub(crate) fn service(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["selector"] = json!({"app": name});
    spec["ports"] = json!([{"port": 80}]);
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec,
    })
}

/// The names of pods that are not going.
pub(crate) fn running_pods(pods: &[Value]) -> Vec<String> {
    let staying = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    staying.map(|pod| pod["metadata"]["name"].as_str().expect("name").to_owned()).collect()
}
