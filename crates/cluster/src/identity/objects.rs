//! The custom resources: `TwinplaneIdentity` (whose name is its number) and `TwinplaneEndpoint` (whose name is its pod's),
//! and the definitions that an API server must have for them.

use std::{borrow::Cow, collections::BTreeMap};

use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::core::{ClusterResourceScope, NamespaceResourceScope};
use model::{IdentityId, Labels, PodName};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::NamedPort;

const GROUP: &str = "twinplane.dev";
const VERSION: &str = "v1alpha1";
const API_VERSION: &str = "twinplane.dev/v1alpha1";
/// Which of our schemas a definition has, as a number that grows; none: the first.
pub(crate) const SCHEMA: &str = "twinplane.dev/schema";
/// Of this agent. 2: endpoints have named ports.
pub(crate) const SCHEMA_NOW: u32 = 2;
/// Since when nobody has used an identity, as whoever collects it saw (RFC 3339).
pub const UNUSED_SINCE: &str = "twinplane.dev/unused-since";

/// A set of labels, under the number that stands for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TwinplaneIdentity {
    #[serde(default)]
    pub api_version: String,
    #[serde(default)]
    pub kind: String,
    #[serde(default)]
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: IdentitySpec,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentitySpec {
    /// Key with source to value: `k8s:app` to `nginx`.
    #[serde(default)]
    pub labels: Labels,
}

/// A pod that has an interface, as the agent of its node tells all others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TwinplaneEndpoint {
    #[serde(default)]
    pub api_version: String,
    #[serde(default)]
    pub kind: String,
    #[serde(default)]
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub status: EndpointStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointStatus {
    #[serde(default)]
    pub node: String,
    #[serde(default)]
    pub identity: IdentityId,
    /// In the order in which the pod was given them.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Container ports that have a name: rules of other nodes' pods may name them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<NamedPort>,
}

impl TwinplaneIdentity {
    pub fn new(id: IdentityId, labels: Labels) -> Self {
        Self {
            api_version: API_VERSION.into(),
            kind: <Self as kube::Resource>::kind(&()).into(),
            metadata: ObjectMeta { name: Some(id.to_string()), ..ObjectMeta::default() },
            spec: IdentitySpec { labels },
        }
    }
}

impl TwinplaneEndpoint {
    /// That of `pod`, which goes with the Pod object of that UID.
    pub fn new(pod: &PodName, uid: &str, status: EndpointStatus) -> Self {
        let owner = OwnerReference {
            api_version: "v1".into(),
            kind: "Pod".into(),
            name: pod.name.clone(),
            uid: uid.to_owned(),
            ..OwnerReference::default()
        };
        Self {
            api_version: API_VERSION.into(),
            kind: <Self as kube::Resource>::kind(&()).into(),
            metadata: ObjectMeta {
                namespace: Some(pod.namespace.clone()),
                name: Some(pod.name.clone()),
                owner_references: Some(vec![owner]),
                ..ObjectMeta::default()
            },
            status,
        }
    }

    /// UID of the Pod object that it belongs to.
    pub fn pod_uid(&self) -> Option<&str> {
        let owners = self.metadata.owner_references.as_deref().unwrap_or_default();
        owners.iter().find(|owner| owner.kind == "Pod").map(|owner| owner.uid.as_str())
    }
}

macro_rules! resource {
    ($type:ty, $kind:literal, $plural:literal, $scope:ty) => {
        impl kube::Resource for $type {
            type DynamicType = ();
            type Scope = $scope;

            fn kind((): &()) -> Cow<'_, str> {
                $kind.into()
            }

            fn group((): &()) -> Cow<'_, str> {
                GROUP.into()
            }

            fn version((): &()) -> Cow<'_, str> {
                VERSION.into()
            }

            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}
resource!(TwinplaneIdentity, "TwinplaneIdentity", "twinplaneidentities", ClusterResourceScope);
resource!(TwinplaneEndpoint, "TwinplaneEndpoint", "twinplaneendpoints", NamespaceResourceScope);

/// The definitions of both kinds.
pub fn definitions() -> [CustomResourceDefinition; 2] {
    [identity(), endpoint()].map(|definition| {
        // A constant of ours: a test reads it.
        serde_json::from_value(definition).unwrap_or_default()
    })
}

fn identity() -> Value {
    let labels = json!({
        "type": "object",
        "description": "Values by key; a key begins with its source, as k8s:app.",
        "additionalProperties": {"type": "string"},
    });
    let spec = json!({"type": "object", "required": ["labels"], "properties": {"labels": labels}});
    let columns = json!([
        {"name": "Namespace", "type": "string", "jsonPath": ".spec.labels['k8s:io\\.kubernetes\\.pod\\.namespace']"},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]);
    let names = json!({
        "kind": "TwinplaneIdentity", "listKind": "TwinplaneIdentityList", "plural": "twinplaneidentities",
        "singular": "twinplaneidentity", "shortNames": ["tpid"],
    });
    let description = "The labels that a number stands for; the object's name is the number.";
    definition(&names, "Cluster", columns, description, ("spec", spec))
}

fn endpoint() -> Value {
    let port = json!({
        "type": "object", "required": ["name", "protocol", "port"],
        "properties": {
            "name": {"type": "string"}, "protocol": {"type": "string"}, "port": {"type": "integer"},
        },
    });
    let status = json!({
        "type": "object",
        "properties": {
            "node": {"type": "string", "description": "Name of the Node that the pod runs on."},
            "identity": {"type": "integer", "format": "int64", "description": "Name of the TwinplaneIdentity."},
            "addresses": {"type": "array", "items": {"type": "string"}, "description": "Of the pod, IPv4 and IPv6."},
            "ports": {"type": "array", "description": "Container ports that have a name.", "items": port},
        },
    });
    let columns = json!([
        {"name": "Pod", "type": "string", "jsonPath": ".metadata.name"},
        {"name": "Identity", "type": "integer", "jsonPath": ".status.identity"},
        {"name": "IP", "type": "string", "jsonPath": ".status.addresses[0]"},
        {"name": "Node", "type": "string", "jsonPath": ".status.node"},
        {"name": "Second IP", "type": "string", "priority": 1, "jsonPath": ".status.addresses[1]"},
        {"name": "Age", "type": "date", "priority": 1, "jsonPath": ".metadata.creationTimestamp"},
    ]);
    let names = json!({
        "kind": "TwinplaneEndpoint", "listKind": "TwinplaneEndpointList", "plural": "twinplaneendpoints",
        "singular": "twinplaneendpoint", "shortNames": ["tpep"],
    });
    let description = "A pod's addresses, node and identity, as the agent of its node attached it.";
    definition(&names, "Namespaced", columns, description, ("status", status))
}

fn definition(
    names: &Value,
    scope: &str,
    columns: Value,
    description: &str,
    (part, schema): (&str, Value),
) -> Value {
    let properties = BTreeMap::from([
        ("apiVersion", json!({"type": "string"})),
        ("kind", json!({"type": "string"})),
        ("metadata", json!({"type": "object"})),
        (part, schema),
    ]);
    let version = json!({
        "name": VERSION, "served": true, "storage": true, "additionalPrinterColumns": columns,
        "schema": {"openAPIV3Schema": {
            "type": "object", "description": description, "required": [part], "properties": properties,
        }},
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{}.{GROUP}", names["plural"].as_str().unwrap_or_default()),
            "annotations": {SCHEMA: SCHEMA_NOW.to_string()},
        },
        "spec": {"group": GROUP, "scope": scope, "names": names, "versions": [version]},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_are_what_the_types_are_called() {
        let [identity, endpoint] = definitions();
        for (definition, kind, plural, columns) in [
            (&identity, "TwinplaneIdentity", "twinplaneidentities", ["Namespace", "Age"].as_slice()),
            (&endpoint, "TwinplaneEndpoint", "twinplaneendpoints", &["Pod", "Identity", "IP", "Node"]),
        ] {
            assert_eq!(definition.metadata.name.as_deref(), Some(format!("{plural}.{GROUP}").as_str()));
            assert_eq!((definition.spec.names.kind.as_str(), definition.spec.group.as_str()), (kind, GROUP));
            let shown = definition.spec.versions[0].additional_printer_columns.iter().flatten();
            let shown: Vec<_> = shown.filter(|c| c.priority.is_none()).map(|c| c.name.as_str()).collect();
            assert_eq!(shown, columns);
        }
    }

    #[test]
    fn an_object_without_a_body_is_still_read() {
        let bare: TwinplaneEndpoint =
            serde_json::from_value(json!({"metadata": {"name": "x", "namespace": "y"}})).expect("lenient");
        assert_eq!(bare.status, EndpointStatus::default());
    }
}
