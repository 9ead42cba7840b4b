//! Services. What is free or taken is `alloc`'s to say.

use serde_json::{Value, json};

use super::{FieldErrors, address, metadata, names, port};
use crate::meta::{Object, is_empty, items, text};

const POLICIES: [&str; 2] = ["Cluster", "Local"];
/// Longest ClientIP affinity: one day.
const AFFINITY_MAX: i64 = 86_400;

pub(super) fn check(service: &Object, errors: &mut FieldErrors) {
    let spec = &service["spec"];
    let kind = text(spec, &["type"]);
    if !matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer" | "ExternalName") {
        errors.unsupported("spec.type", kind, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    }
    ports(spec, kind, errors);
    metadata::labels(&spec["selector"], "spec.selector", errors);
    affinity(spec, errors);
    cluster_ips(spec, kind, errors);
    families(spec, errors);
    if kind == "ExternalName" {
        external_name(spec, errors);
    }
    external_ips(spec, errors);
    source_ranges(spec, kind, errors);
    traffic_policies(spec, kind, errors);
    for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if kind != "LoadBalancer" && !is_empty(&spec[field]) {
            errors.forbidden(format!("spec.{field}"), "may only be used when `type` is 'LoadBalancer'");
        }
    }
    status(service, errors);
}

fn ports(spec: &Value, kind: &str, errors: &mut FieldErrors) {
    let ports = items(spec, &["ports"]);
    let headless = text(spec, &["clusterIP"]) == "None";
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.required("spec.ports", "");
    }
    for (index, entry) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        let name = text(entry, &["name"]);
        if name.is_empty() {
            if ports.len() > 1 {
                errors.required(format!("{path}.name"), "");
            }
        } else {
            for problem in names::dns1123_label(name) {
                errors.invalid(format!("{path}.name"), name, problem);
            }
            if ports[..index].iter().any(|other| text(other, &["name"]) == name) {
                errors.duplicate(format!("{path}.name"), name);
            }
        }
        port::check_number(&format!("{path}.port"), &entry["port"], errors);
        port::check_protocol(&format!("{path}.protocol"), text(entry, &["protocol"]), errors);
        port::check_number_or_name(&format!("{path}.targetPort"), &entry["targetPort"], errors);
        let app_protocol = text(entry, &["appProtocol"]);
        if !app_protocol.is_empty() {
            for problem in names::qualified_name(app_protocol) {
                errors.invalid(format!("{path}.appProtocol"), app_protocol, problem);
            }
        }
        let node_port = entry["nodePort"].as_i64().unwrap_or(0);
        if matches!(kind, "ClusterIP" | "ExternalName") && node_port != 0 {
            errors.forbidden(format!("{path}.nodePort"), format!("may not be used when `type` is '{kind}'"));
        }
        let same = |other: &&Value, field: &str| {
            other[field] == entry[field] && other["protocol"] == entry["protocol"]
        };
        if ports[..index].iter().any(|other| same(&other, "port")) {
            errors.duplicate(&path, duplicate_port(entry));
        }
        if node_port != 0 && ports[..index].iter().any(|other| same(&other, "nodePort")) {
            errors.duplicate(format!("{path}.nodePort"), node_port);
        }
    }
}

/// What tells ports apart, as the server shows a duplicate.
fn duplicate_port(port: &Value) -> Value {
    json!({"port": port["port"], "protocol": port["protocol"]})
}

fn affinity(spec: &Value, errors: &mut FieldErrors) {
    let affinity = text(spec, &["sessionAffinity"]);
    if !matches!(affinity, "None" | "ClientIP") {
        errors.unsupported("spec.sessionAffinity", affinity, &["ClientIP", "None"]);
    }
    if affinity == "ClientIP" {
        let timeout = &spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"];
        if !timeout.as_i64().is_some_and(|seconds| (1..=AFFINITY_MAX).contains(&seconds)) {
            let detail = format!("must be greater than 0 and less than {AFFINITY_MAX}");
            errors.invalid("spec.sessionAffinityConfig.clientIP.timeoutSeconds", timeout.clone(), detail);
        }
    }
}

fn cluster_ips(spec: &Value, kind: &str, errors: &mut FieldErrors) {
    let ips: Vec<&str> = items(spec, &["clusterIPs"]).iter().filter_map(Value::as_str).collect();
    let all = || json!(ips);
    if kind == "ExternalName" {
        for field in ["clusterIP", "clusterIPs"] {
            if !is_empty(&spec[field]) {
                errors.forbidden(format!("spec.{field}"), "may not be set when `type` is 'ExternalName'");
            }
        }
        return;
    }
    let Some(first) = ips.first() else { return };
    if *first != text(spec, &["clusterIP"]) {
        errors.invalid("spec.clusterIPs", all(), "first value must match `clusterIP`");
    }
    if *first == "None" {
        if ips.len() > 1 {
            errors.invalid(
                "spec.clusterIPs",
                all(),
                "when clusterIPs contains 'None' it must be the only value",
            );
        }
        if matches!(kind, "NodePort" | "LoadBalancer") {
            let detail = format!("may not be set to 'None' for {kind} services");
            errors.invalid("spec.clusterIPs[0]", "None", detail);
        }
        return;
    }
    let mut families = Vec::new();
    for (index, ip) in ips.iter().enumerate() {
        if let Some(parsed) = address::check_ip(&format!("spec.clusterIPs[{index}]"), ip, errors) {
            families.push(parsed.is_ipv4());
        }
    }
    if ips.len() > 2 || (families.len() == 2 && families[0] == families[1]) {
        errors.invalid("spec.clusterIPs", all(), "may specify no more than one IP for each IP family");
    }
}

fn families(spec: &Value, errors: &mut FieldErrors) {
    let families = items(spec, &["ipFamilies"]);
    for (index, family) in families.iter().enumerate() {
        let path = format!("spec.ipFamilies[{index}]");
        if family != "IPv4" && family != "IPv6" {
            errors.unsupported(path, family.clone(), &["IPv4", "IPv6"]);
        } else if families[..index].contains(family) {
            errors.duplicate(path, family.clone());
        }
    }
    let policy = text(spec, &["ipFamilyPolicy"]);
    if !matches!(policy, "" | "SingleStack" | "PreferDualStack" | "RequireDualStack") {
        let supported = ["PreferDualStack", "RequireDualStack", "SingleStack"];
        errors.unsupported("spec.ipFamilyPolicy", policy, &supported);
    }
}

fn external_name(spec: &Value, errors: &mut FieldErrors) {
    let name = text(spec, &["externalName"]).trim_end_matches('.');
    if name.is_empty() {
        errors.required("spec.externalName", "");
        return;
    }
    for problem in names::dns1123_subdomain(name) {
        errors.invalid("spec.externalName", name, problem);
    }
}

fn external_ips(spec: &Value, errors: &mut FieldErrors) {
    for (index, ip) in items(spec, &["externalIPs"]).iter().filter_map(Value::as_str).enumerate() {
        let path = format!("spec.externalIPs[{index}]");
        if let Some(parsed) = address::check_ip(&path, ip, errors) {
            address::check_reachable(&path, ip, parsed, errors);
        }
    }
}

fn source_ranges(spec: &Value, kind: &str, errors: &mut FieldErrors) {
    let ranges = items(spec, &["loadBalancerSourceRanges"]);
    if !ranges.is_empty() && kind != "LoadBalancer" {
        let detail = "may only be used when `type` is 'LoadBalancer'";
        errors.forbidden("spec.loadBalancerSourceRanges", detail);
    }
    for (index, range) in ranges.iter().filter_map(Value::as_str).enumerate() {
        address::check_cidr(&format!("spec.loadBalancerSourceRanges[{index}]"), range, errors);
    }
}

fn traffic_policies(spec: &Value, kind: &str, errors: &mut FieldErrors) {
    let external = text(spec, &["externalTrafficPolicy"]);
    let accessible = matches!(kind, "NodePort" | "LoadBalancer") || !is_empty(&spec["externalIPs"]);
    if accessible {
        if !POLICIES.contains(&external) {
            errors.unsupported("spec.externalTrafficPolicy", external, &POLICIES);
        }
    } else if !external.is_empty() {
        let detail = "may only be set for externally-accessible services";
        errors.invalid("spec.externalTrafficPolicy", external, detail);
    }
    let internal = text(spec, &["internalTrafficPolicy"]);
    if kind != "ExternalName" && !POLICIES.contains(&internal) {
        errors.unsupported("spec.internalTrafficPolicy", internal, &POLICIES);
    }
    let distribution = text(spec, &["trafficDistribution"]);
    let distributions = ["PreferClose", "PreferSameNode", "PreferSameZone"];
    if !distribution.is_empty() && !distributions.contains(&distribution) {
        errors.unsupported("spec.trafficDistribution", distribution, &distributions);
    }
    let health = spec["healthCheckNodePort"].as_i64().unwrap_or(0);
    if health != 0 && !(kind == "LoadBalancer" && external == "Local") {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.invalid("spec.healthCheckNodePort", health, detail);
    }
}

/// The load balancer's addresses.
pub(super) fn status(service: &Object, errors: &mut FieldErrors) {
    for (index, ingress) in items(service, &["status", "loadBalancer", "ingress"]).iter().enumerate() {
        let path = format!("status.loadBalancer.ingress[{index}]");
        let ip = text(ingress, &["ip"]);
        if !ip.is_empty() {
            address::check_ip(&format!("{path}.ip"), ip, errors);
        }
        let mode = text(ingress, &["ipMode"]);
        if !matches!(mode, "" | "VIP" | "Proxy") {
            errors.unsupported(format!("{path}.ipMode"), mode, &["Proxy", "VIP"]);
        }
    }
}

pub(super) fn update(old: &Object, service: &Object, errors: &mut FieldErrors) {
    let kinds = [old, service].map(|service| text(service, &["spec", "type"]));
    let (before, after) = (&old["spec"], &service["spec"]);
    if !kinds.contains(&"ExternalName") {
        let (old_ips, new_ips) = (items(before, &["clusterIPs"]), items(after, &["clusterIPs"]));
        // The second family may come and go; what is there may not change.
        for (index, (was, is)) in old_ips.iter().zip(new_ips).enumerate() {
            if was != is {
                errors.invalid(
                    format!("spec.clusterIPs[{index}]"),
                    new_ips.to_vec(),
                    "may not change once set",
                );
            }
        }
        let (was, is) = (&before["ipFamilies"][0], &after["ipFamilies"][0]);
        if !was.is_null() && was != is {
            errors.invalid("spec.ipFamilies[0]", after["ipFamilies"].clone(), "may not change once set");
        }
    }
    let health = |spec: &Value| spec["healthCheckNodePort"].as_i64().unwrap_or(0);
    if health(before) != 0 && health(after) != 0 && health(before) != health(after) {
        errors.forbidden("spec.healthCheckNodePort", "field is immutable");
    }
    let class = "loadBalancerClass";
    if kinds == ["LoadBalancer", "LoadBalancer"] && before[class] != after[class] {
        errors.invalid(format!("spec.{class}"), after[class].clone(), "may not change once set");
    }
}
