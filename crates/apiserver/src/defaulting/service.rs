//! Defaults of Services. Addresses and ports are given by `alloc`.

use serde_json::{Value, json};

use crate::meta::{Object, default_to, is_empty, items_mut, member};

/// Seconds of ClientIP affinity.
const AFFINITY_TIMEOUT: i64 = 10_800;

pub(super) fn apply(service: &mut Object) {
    let spec = member(service, "spec");
    default_to(spec, "type", "ClusterIP");
    default_to(spec, "sessionAffinity", "None");
    let kind = spec["type"].as_str().unwrap_or("").to_owned();
    if spec["sessionAffinity"] == "None" {
        spec.remove("sessionAffinityConfig");
    } else if spec["sessionAffinity"] == "ClientIP"
        && is_empty(
            &spec
                .get("sessionAffinityConfig")
                .map_or(Value::Null, |config| config["clientIP"]["timeoutSeconds"].clone()),
        )
    {
        spec.insert(
            "sessionAffinityConfig".into(),
            json!({"clientIP": {"timeoutSeconds": AFFINITY_TIMEOUT}}),
        );
    }
    if kind != "ExternalName" {
        default_to(spec, "internalTrafficPolicy", "Cluster");
    }
    let external = matches!(kind.as_str(), "NodePort" | "LoadBalancer")
        || spec.get("externalIPs").is_some_and(|ips| !is_empty(ips));
    if external {
        default_to(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default_to(spec, "allocateLoadBalancerNodePorts", true);
    }
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let number = port["port"].clone();
        let Value::Object(port) = port else { continue };
        default_to(port, "protocol", "TCP");
        let unset =
            port.get("targetPort").is_none_or(|target| target.is_null() || *target == 0 || *target == "");
        if unset {
            port.insert("targetPort".into(), number);
        }
    }
    for ingress in
        items_mut(service, &["status", "loadBalancer", "ingress"]).iter_mut().filter_map(Value::as_object_mut)
    {
        if ingress.contains_key("ip") {
            default_to(ingress, "ipMode", "VIP");
        }
    }
    default_to(member(service, "status"), "loadBalancer", json!({}));
}
