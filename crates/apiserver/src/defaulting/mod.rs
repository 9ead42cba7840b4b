//! What the server fills in where a client says nothing. Never overrides what was said, never allocates.

mod custom;
mod service;
mod workload;

use serde_json::{Value, json};

use crate::{
    meta::{self, Object, default_to, items_mut, member, text},
    resource::{Builtin, Resource, Schema},
};

/// Fills in a kind's defaults.
pub(crate) fn apply(resource: &Resource, object: &mut Object) {
    let builtin = match &resource.schema {
        Schema::Custom(custom) => return custom::apply(object, &custom.schema),
        Schema::Builtin(builtin) => *builtin,
    };
    match builtin {
        Builtin::Namespace => namespace(object),
        Builtin::Service => service::apply(object),
        Builtin::EndpointSlice => endpoint_slice(object),
        Builtin::Pod => workload::pod(object),
        Builtin::Deployment => workload::deployment(object),
        Builtin::ReplicaSet => workload::replica_set(object),
        Builtin::NetworkPolicy => network_policy(object),
        Builtin::Secret => default_if_absent(object, "type", "Opaque"),
        Builtin::CustomResourceDefinition => definition(object),
        Builtin::Event => event(object),
        Builtin::ServiceCidr => service_cidr(object),
        Builtin::Node
        | Builtin::ConfigMap
        | Builtin::Endpoints
        | Builtin::IpAddress
        | Builtin::Lease
        | Builtin::LimitRange
        | Builtin::ResourceQuota
        | Builtin::ServiceAccount => {}
    }
}

fn default_if_absent(object: &mut Object, key: &str, value: &str) {
    if let Value::Object(members) = object {
        default_to(members, key, value);
    }
}

fn namespace(object: &mut Object) {
    let name = meta::name(object).to_owned();
    let metadata = meta::metadata(object);
    member_of(metadata, "labels").insert("kubernetes.io/metadata.name".into(), name.into());
    if !meta::is_deleting(object) {
        default_to(member(object, "spec"), "finalizers", json!(["kubernetes"]));
    }
    default_to(member(object, "status"), "phase", "Active");
}

fn member_of<'a>(
    map: &'a mut serde_json::Map<String, Value>,
    key: &str,
) -> &'a mut serde_json::Map<String, Value> {
    let slot = map.entry(key).or_insert_with(|| json!({}));
    if !slot.is_object() {
        *slot = json!({});
    }
    match slot {
        Value::Object(map) => map,
        _ => unreachable!("the slot was made an object just now"),
    }
}

fn endpoint_slice(object: &mut Object) {
    if let Value::Object(members) = object {
        // The Go type has no omitempty for either.
        default_to(members, "endpoints", json!([]));
    }
    for port in items_mut(object, &["ports"]).iter_mut().filter_map(Value::as_object_mut) {
        if port.get("name").is_none_or(Value::is_null) {
            port.insert("name".into(), "".into());
        }
        default_to(port, "protocol", "TCP");
    }
    for endpoint in items_mut(object, &["endpoints"]) {
        if endpoint["conditions"].is_null() {
            endpoint["conditions"] = json!({});
        }
    }
}

fn network_policy(object: &mut Object) {
    let has_egress = !meta::is_empty(&object["spec"]["egress"]);
    let spec = member(object, "spec");
    default_to(spec, "podSelector", json!({}));
    let types = if has_egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    if spec.get("policyTypes").is_none_or(meta::is_empty) {
        spec.insert("policyTypes".into(), types);
    }
    for direction in ["ingress", "egress"] {
        for rule in spec.get_mut(direction).and_then(Value::as_array_mut).into_iter().flatten() {
            for port in items_mut(rule, &["ports"]).iter_mut().filter_map(Value::as_object_mut) {
                default_to(port, "protocol", "TCP");
            }
        }
    }
}

fn event(object: &mut Object) {
    default_if_absent(object, "type", "Normal");
}

/// What the controller of ServiceCIDRs would write: ready at once, and held until no Service has an address of it.
fn service_cidr(object: &mut Object) {
    if !meta::is_deleting(object) {
        default_to(meta::metadata(object), "finalizers", json!([SERVICE_CIDR_FINALIZER]));
    }
    let status = member(object, "status");
    let ready = json!([{"type": "Ready", "status": "True", "reason": "", "message":
        "Kubernetes Service CIDR is ready", "lastTransitionTime": "1970-01-01T00:00:00Z"}]);
    default_to(status, "conditions", ready);
}

/// Keeps a ServiceCIDR while Services have addresses that only it contains.
pub(crate) const SERVICE_CIDR_FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";

/// A definition's names, and the status its controllers would write: established at once.
fn definition(object: &mut Object) {
    let kind = text(object, &["spec", "names", "kind"]).to_owned();
    let created = object["metadata"]["creationTimestamp"].clone();
    let names = member_of(member(object, "spec"), "names");
    default_to(names, "singular", kind.to_lowercase());
    default_to(names, "listKind", format!("{kind}List"));
    let names = object["spec"]["names"].clone();
    let stored: Vec<Value> = meta::items(object, &["spec", "versions"])
        .iter()
        .filter(|version| version["storage"] == true)
        .map(|version| version["name"].clone())
        .collect();
    default_to(member(object, "spec"), "conversion", json!({"strategy": "None"}));
    let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": created});
    let status = member(object, "status");
    status.insert("acceptedNames".into(), names);
    status.insert("storedVersions".into(), stored.into());
    status.insert(
        "conditions".into(),
        json!([
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ]),
    );
}
