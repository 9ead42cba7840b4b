//! The cells of built-in kinds other than pods. Never decides columns; see the parent.

use jiff::Timestamp;
use serde_json::Value;

use super::{age, pod};
use crate::{
    meta::{self, Object, items, text},
    resource::Builtin,
    select::LabelSelector,
};

const NONE: &str = "<none>";

/// One row.
pub(super) fn cells(builtin: Builtin, object: &Object, now: Timestamp) -> Vec<Value> {
    let name = || Value::from(meta::name(object));
    let age = || Value::from(age::since(text(object, &["metadata", "creationTimestamp"]), now));
    let count = |key: &str| Value::from(object[key].as_object().map_or(0, serde_json::Map::len));
    match builtin {
        Builtin::ConfigMap => {
            let data =
                ["data", "binaryData"].iter().map(|key| object[*key].as_object().map_or(0, |m| m.len()));
            vec![name(), data.sum::<usize>().into(), age()]
        }
        Builtin::CustomResourceDefinition | Builtin::LimitRange => {
            vec![name(), object["metadata"]["creationTimestamp"].clone()]
        }
        Builtin::Deployment => deployment(object, name(), age()),
        Builtin::EndpointSlice => endpoint_slice(object, name(), age()),
        Builtin::Endpoints => vec![name(), endpoints(object).into(), age()],
        Builtin::Event => event(object, now),
        Builtin::IpAddress => {
            let parent = &object["spec"]["parentRef"];
            let parts = ["resource", "namespace", "name"].map(|part| text(parent, &[part]));
            vec![name(), joined(parts.into_iter().filter(|part| !part.is_empty()), "/").into()]
        }
        Builtin::Lease => vec![name(), text(object, &["spec", "holderIdentity"]).into(), age()],
        Builtin::Namespace => vec![name(), text(object, &["status", "phase"]).into(), age()],
        Builtin::NetworkPolicy => vec![name(), selector(&object["spec"]["podSelector"]).into(), age()],
        Builtin::Node => node(object, name(), age()),
        Builtin::Pod => pod::cells(object, name(), age(), now),
        Builtin::ReplicaSet => replica_set(object, name(), age()),
        Builtin::ResourceQuota => {
            vec![name(), quota(object, "requests.").into(), quota(object, "limits.").into(), age()]
        }
        Builtin::Secret => vec![name(), text(object, &["type"]).into(), count("data"), age()],
        Builtin::Service => service(object, name(), age()),
        Builtin::ServiceAccount => vec![name(), items(object, &["secrets"]).len().into(), age()],
        Builtin::ServiceCidr => {
            let cidrs = joined(items(object, &["spec", "cidrs"]).iter().filter_map(Value::as_str), ",");
            vec![name(), cidrs.into(), age()]
        }
    }
}

fn joined<'a>(parts: impl Iterator<Item = &'a str>, separator: &str) -> String {
    parts.collect::<Vec<_>>().join(separator)
}

fn or_none(text: String) -> String {
    if text.is_empty() { NONE.to_owned() } else { text }
}

/// At most three, then how many more.
fn first_three(parts: &[String], if_empty: &str) -> String {
    match parts {
        [] => if_empty.to_owned(),
        parts if parts.len() <= 3 => parts.join(","),
        parts => format!("{} + {} more...", parts[..3].join(","), parts.len() - 3),
    }
}

fn selector(selector: &Value) -> String {
    or_none(LabelSelector::from_object(selector).to_string())
}

fn labels(labels: &Value) -> String {
    let pairs = labels.as_object().into_iter().flatten();
    or_none(
        pairs
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("")))
            .collect::<Vec<_>>()
            .join(","),
    )
}

fn number(object: &Object, path: &[&str]) -> Value {
    meta::at(object, path).as_i64().unwrap_or(0).into()
}

fn containers(object: &Object) -> [Value; 2] {
    let containers = items(object, &["spec", "template", "spec", "containers"]);
    ["name", "image"].map(|field| joined(containers.iter().map(|c| text(c, &[field])), ",").into())
}

fn deployment(object: &Object, name: Value, age: Value) -> Vec<Value> {
    let [names, images] = containers(object);
    let ready =
        format!("{}/{}", number(object, &["status", "readyReplicas"]), number(object, &["spec", "replicas"]));
    vec![
        name,
        ready.into(),
        number(object, &["status", "updatedReplicas"]),
        number(object, &["status", "availableReplicas"]),
        age,
        names,
        images,
        selector(&object["spec"]["selector"]).into(),
    ]
}

fn replica_set(object: &Object, name: Value, age: Value) -> Vec<Value> {
    let [names, images] = containers(object);
    vec![
        name,
        number(object, &["spec", "replicas"]),
        number(object, &["status", "replicas"]),
        number(object, &["status", "readyReplicas"]),
        age,
        names,
        images,
        selector(&object["spec"]["selector"]).into(),
    ]
}

fn service(object: &Object, name: Value, age: Value) -> Vec<Value> {
    let spec = &object["spec"];
    let ports: Vec<String> = items(spec, &["ports"])
        .iter()
        .map(|port| match port["nodePort"].as_i64().unwrap_or(0) {
            0 => format!("{}/{}", port["port"], text(port, &["protocol"])),
            node_port => format!("{}:{node_port}/{}", port["port"], text(port, &["protocol"])),
        })
        .collect();
    vec![
        name,
        text(spec, &["type"]).into(),
        or_none(text(spec, &["clusterIP"]).to_owned()).into(),
        external_ip(object).into(),
        or_none(ports.join(",")).into(),
        age,
        labels(&spec["selector"]).into(),
    ]
}

fn external_ip(service: &Object) -> String {
    let spec = &service["spec"];
    let external: Vec<&str> = items(spec, &["externalIPs"]).iter().filter_map(Value::as_str).collect();
    match text(spec, &["type"]) {
        "ExternalName" => text(spec, &["externalName"]).to_owned(),
        "LoadBalancer" => {
            let ingress = items(service, &["status", "loadBalancer", "ingress"]).iter().map(|ingress| {
                let ip = text(ingress, &["ip"]);
                if ip.is_empty() { text(ingress, &["hostname"]) } else { ip }
            });
            let all = joined(ingress.chain(external), ",");
            if all.is_empty() { "<pending>".to_owned() } else { all }
        }
        _ => or_none(external.join(",")),
    }
}

fn endpoint_slice(object: &Object, name: Value, age: Value) -> Vec<Value> {
    let ports: Vec<String> = items(object, &["ports"])
        .iter()
        .map(|port| port["port"].as_i64().map_or_else(|| "*".to_owned(), |port| port.to_string()))
        .collect();
    let addresses: Vec<String> = items(object, &["endpoints"])
        .iter()
        .flat_map(|endpoint| items(endpoint, &["addresses"]))
        .filter_map(|address| address.as_str().map(str::to_owned))
        .collect();
    vec![
        name,
        text(object, &["addressType"]).into(),
        first_three(&ports, "<unset>").into(),
        first_three(&addresses, "<unset>").into(),
        age,
    ]
}

fn endpoints(object: &Object) -> String {
    let mut all = Vec::new();
    for subset in items(object, &["subsets"]) {
        for address in items(subset, &["addresses"]) {
            for port in items(subset, &["ports"]) {
                all.push(format!("{}:{}", text(address, &["ip"]), port["port"]));
            }
        }
    }
    first_three(&all, NONE)
}

fn node(object: &Object, name: Value, age: Value) -> Vec<Value> {
    let conditions = items(object, &["status", "conditions"]);
    let mut status = match conditions.iter().find(|condition| condition["type"] == "Ready") {
        Some(ready) if ready["status"] == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if object["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    let roles = object["metadata"]["labels"].as_object().into_iter().flatten().filter_map(|(key, value)| {
        let prefixed = key.strip_prefix("node-role.kubernetes.io/").filter(|role| !role.is_empty());
        prefixed.or_else(|| (key == "kubernetes.io/role").then(|| value.as_str()).flatten())
    });
    let address = |kind: &str| {
        let addresses = items(object, &["status", "addresses"]);
        let found = addresses.iter().find(|address| address["type"] == kind);
        or_none(found.map_or("", |address| text(address, &["address"])).to_owned())
    };
    let info = |field: &str| {
        let value = text(object, &["status", "nodeInfo", field]);
        if value.is_empty() { "<unknown>" } else { value }
    };
    vec![
        name,
        status.into(),
        or_none(joined(roles, ",")).into(),
        age,
        text(object, &["status", "nodeInfo", "kubeletVersion"]).into(),
        address("InternalIP").into(),
        address("ExternalIP").into(),
        info("osImage").into(),
        info("kernelVersion").into(),
        info("containerRuntimeVersion").into(),
    ]
}

fn event(object: &Object, now: Timestamp) -> Vec<Value> {
    let time = |fields: &[&[&str]]| {
        let found = fields.iter().map(|path| text(object, path)).find(|time| !time.is_empty());
        age::since(found.unwrap_or(""), now)
    };
    let first = time(&[&["firstTimestamp"], &["eventTime"]]);
    let last =
        time(&[&["series", "lastObservedTime"], &["lastTimestamp"], &["eventTime"], &["firstTimestamp"]]);
    let series = object["series"]["count"].as_i64();
    let count = series.or(object["count"].as_i64()).unwrap_or(1);
    let seen = if series.is_some() || count > 1 { format!("{last} (x{count} over {first})") } else { last };
    let target = &object["involvedObject"];
    let component = text(object, &["source", "component"]);
    let component = if component.is_empty() { text(object, &["reportingComponent"]) } else { component };
    let host = text(object, &["source", "host"]);
    let source = if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") };
    vec![
        seen.into(),
        text(object, &["type"]).into(),
        text(object, &["reason"]).into(),
        format!("{}/{}", text(target, &["kind"]).to_lowercase(), text(target, &["name"])).into(),
        text(target, &["fieldPath"]).into(),
        source.into(),
        text(object, &["message"]).trim().into(),
        first.into(),
        count.into(),
        meta::name(object).into(),
    ]
}

fn quota(object: &Object, prefix: &str) -> String {
    let limits = prefix == "limits.";
    let hard = object["status"]["hard"].as_object().into_iter().flatten();
    let shown = hard.filter(|(key, _)| key.starts_with("limits.") == limits).map(|(key, hard)| {
        let used = text(object, &["status", "used", key]);
        format!("{key}: {}/{}", if used.is_empty() { "0" } else { used }, hard.as_str().unwrap_or(""))
    });
    shown.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::cells;
    use crate::resource::Builtin;

    fn now() -> Timestamp {
        "2026-01-01T00:05:12Z".parse().unwrap()
    }

    #[test]
    fn a_load_balancer_service() {
        let mut service = json!({
            "metadata": {"name": "web", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.24.0.7", "selector": {"app": "web", "a": "b"},
                "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]},
        });
        let row = |service: &serde_json::Value| cells(Builtin::Service, service, now());
        assert_eq!(
            row(&service),
            ["web", "LoadBalancer", "10.24.0.7", "<pending>", "80:30080/TCP,53/UDP", "5m12s", "a=b,app=web"]
        );
        service["status"] = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}, {"hostname": "h"}]}});
        assert_eq!(row(&service)[3], "203.0.113.1,h");
    }

    #[test]
    fn an_endpoint_slice_with_many_addresses() {
        let slice = json!({"metadata": {"name": "s"}, "addressType": "IPv4", "ports": [{"port": 80}],
            "endpoints": [{"addresses": ["1"]}, {"addresses": ["2"]}, {"addresses": ["3"]}, {"addresses": ["4"]}]});
        assert_eq!(
            cells(Builtin::EndpointSlice, &slice, now()),
            ["s", "IPv4", "80", "1,2,3 + 1 more...", "<unknown>"]
        );
    }

    #[test]
    fn a_cordoned_node() {
        let node = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/edge": ""}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}],
                "addresses": [{"type": "InternalIP", "address": "10.128.0.11"}]}});
        let row = cells(Builtin::Node, &node, now());
        assert_eq!(row[1], "Ready,SchedulingDisabled");
        assert_eq!(row[2], "edge");
        assert_eq!(row[5], "10.128.0.11");
    }

    #[test]
    fn a_repeated_event() {
        let event = json!({"metadata": {"name": "e"}, "type": "Normal", "reason": "R", "message": "m\n", "count": 3,
            "firstTimestamp": "2026-01-01T00:00:12Z", "lastTimestamp": "2026-01-01T00:05:02Z",
            "involvedObject": {"kind": "Service", "name": "web"}, "source": {"component": "c"}});
        let row = cells(Builtin::Event, &event, now());
        assert_eq!(row[0], "10s (x3 over 5m)");
        assert_eq!(row[3], "service/web");
        assert_eq!(row[6], "m");
    }
}
