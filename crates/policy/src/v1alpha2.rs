//! ClusterNetworkPolicy of `policy.networking.k8s.io/v1alpha2`, as the API has it (sigs.k8s.io/network-policy-api).
//!
//! Fields that are not known are kept where they would change what something matches, so that it can be closed.

use std::collections::BTreeMap;

use k8s_openapi::{
    ClusterResourceScope,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, ObjectMeta},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterNetworkPolicy {
    #[serde(default = "api_version")]
    pub api_version: String,
    #[serde(default = "kind")]
    pub kind: String,
    #[serde(default)]
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: Spec,
    #[serde(default, skip_serializing_if = "Status::is_empty")]
    pub status: Status,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// One of each type.
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
}

impl Status {
    fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }
}

fn api_version() -> String {
    <ClusterNetworkPolicy as k8s_openapi::Resource>::API_VERSION.into()
}

fn kind() -> String {
    <ClusterNetworkPolicy as k8s_openapi::Resource>::KIND.into()
}

impl k8s_openapi::Resource for ClusterNetworkPolicy {
    const API_VERSION: &'static str = "policy.networking.k8s.io/v1alpha2";
    const GROUP: &'static str = "policy.networking.k8s.io";
    const KIND: &'static str = "ClusterNetworkPolicy";
    const VERSION: &'static str = "v1alpha2";
    const URL_PATH_SEGMENT: &'static str = "clusternetworkpolicies";
    type Scope = ClusterResourceScope;
}

impl k8s_openapi::Metadata for ClusterNetworkPolicy {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// "Admin" or "Baseline".
    pub tier: String,
    /// 0 to 1000; the lowest is asked first.
    pub priority: i32,
    pub subject: Subject,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub ingress: Vec<Rule>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub egress: Vec<Rule>,
}

/// Exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Subject {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPod>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NamespacedPod {
    pub namespace_selector: LabelSelector,
    pub pod_selector: LabelSelector,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// "Accept", "Deny" or "Pass".
    pub action: String,
    /// Of an ingress rule.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub from: Vec<Peer>,
    /// Of an egress rule.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub to: Vec<Peer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocols: Option<Vec<Protocol>>,
}

/// Exactly one field is set; for ingress one of the first two.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Peer {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPod>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networks: Option<Vec<String>>,
    /// Nodes, domain names, and what there may be one day.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// Exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Protocol {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Transport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp: Option<Transport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sctp: Option<Transport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_named_port: Option<String>,
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Transport {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<Port>,
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// Exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Port {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<Range>,
}

/// Both ends included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Range {
    pub start: i32,
    pub end: i32,
}

fn nullable<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(input: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

/// A definition of the kind, for an API server that is a lab's: shorter than the project's own, it leaves what is inside of
/// subjects and rules to whoever reads them.
pub fn definition() -> CustomResourceDefinition {
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let rules = json!({"type": "array", "maxItems": 25, "items": any});
    let spec = json!({
        "type": "object", "required": ["tier", "priority", "subject"],
        "properties": {
            "tier": {"type": "string", "enum": ["Admin", "Baseline"]},
            "priority": {"type": "integer", "format": "int32", "minimum": 0, "maximum": 1000},
            "subject": any, "ingress": rules, "egress": rules,
        },
    });
    let text = json!({"type": "string"});
    let condition = json!({
        "type": "object", "required": ["type", "status", "reason", "message", "lastTransitionTime"],
        "properties": {
            "type": text, "status": text, "reason": text, "message": text,
            "observedGeneration": {"type": "integer", "format": "int64"},
            "lastTransitionTime": {"type": "string", "format": "date-time"},
        },
    });
    let conditions = json!({
        "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"], "items": condition,
    });
    let status = json!({"type": "object", "properties": {"conditions": conditions}});
    let column = |name: &str, kind: &str, path: &str| json!({"name": name, "type": kind, "jsonPath": path});
    let accepted = ".status.conditions[?(@.type==\"Accepted\")].status";
    let version = json!({
        "name": "v1alpha2", "served": true, "storage": true, "subresources": {"status": {}},
        "additionalPrinterColumns": [
            column("Tier", "string", ".spec.tier"), column("Priority", "integer", ".spec.priority"),
            column("Accepted", "string", accepted), column("Age", "date", ".metadata.creationTimestamp"),
        ],
        "schema": {"openAPIV3Schema": {
            "type": "object", "required": ["spec"],
            "properties": {
                "apiVersion": text, "kind": text, "metadata": {"type": "object"}, "spec": spec, "status": status,
            },
        }},
    });
    let (group, plural) = ("policy.networking.k8s.io", "clusternetworkpolicies");
    let names = json!({
        "kind": "ClusterNetworkPolicy", "listKind": "ClusterNetworkPolicyList", "plural": plural,
        "singular": "clusternetworkpolicy", "shortNames": ["cnp"],
    });
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.{group}"),
            // An API server wants a word about definitions in groups of Kubernetes' own.
            "annotations": {"api-approved.kubernetes.io": "unapproved, of a lab"},
        },
        "spec": {"group": group, "scope": "Cluster", "names": names, "versions": [version]},
    });
    // A constant of ours: a test reads it.
    serde_json::from_value(definition).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_of_this_kind() {
        let definition = definition();
        let resource = <ClusterNetworkPolicy as k8s_openapi::Resource>::URL_PATH_SEGMENT;
        assert_eq!(definition.spec.names.plural, resource);
        assert_eq!(definition.spec.group, <ClusterNetworkPolicy as k8s_openapi::Resource>::GROUP);
        assert!(definition.spec.versions[0].subresources.is_some());
        let object =
            json!({"metadata": {"name": "x"}, "spec": {"tier": "Admin"}, "status": {"conditions": null}});
        let read: ClusterNetworkPolicy = serde_json::from_value(object).expect("an object");
        assert_eq!((read.spec.tier.as_str(), read.status.conditions.len()), ("Admin", 0));
    }
}
