//! OpenAPI documents with what kubectl looks for: that a kind can be patched with `dryRun` and `fieldValidation`.
//! Never has field schemas: the server itself checks fields.

mod v2;

use serde_json::{Map, Value, json};

use crate::resource::{Registry, Resource};

pub(crate) use v2::v2;

/// Query parameters whose presence tells kubectl what a PATCH understands.
const PARAMETERS: [&str; 4] = ["dryRun", "fieldManager", "fieldValidation", "force"];

/// `/openapi/v3`
pub(crate) fn index(registry: &Registry) -> Value {
    let mut paths = Map::new();
    for resource in registry.all() {
        let name = document_name(resource);
        let url = format!("/openapi/v3/{name}?hash={}", hash(registry, &name));
        paths.insert(name, json!({ "serverRelativeURL": url }));
    }
    json!({ "paths": paths })
}

/// `/openapi/v3/<name>`
pub(crate) fn group(registry: &Registry, name: &str) -> Option<Value> {
    let mut paths = Map::new();
    for resource in registry.all().filter(|resource| document_name(resource) == name) {
        let parameters: Vec<Value> = PARAMETERS
            .iter()
            .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}}))
            .collect();
        let operation = json!({
            "operationId": format!("patch{}", resource.kind),
            "x-kubernetes-action": "patch",
            "x-kubernetes-group-version-kind":
                {"group": resource.group, "version": resource.version, "kind": resource.kind},
            "parameters": parameters,
            "responses": {"200": {"description": "OK"}},
        });
        paths.insert(object_path(resource), json!({ "patch": operation }));
    }
    if paths.is_empty() {
        return None;
    }
    Some(json!({
        "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": paths, "components": {"schemas": {}},
    }))
}

fn document_name(resource: &Resource) -> String {
    let root = if resource.group.is_empty() { "api" } else { "apis" };
    format!("{root}/{}", resource.api_version())
}

fn object_path(resource: &Resource) -> String {
    let namespace = if resource.namespaced { "namespaces/{namespace}/" } else { "" };
    format!("/{}/{namespace}{}/{{name}}", document_name(resource), resource.plural)
}

/// Changes with the kinds of a document, so that clients cache each state of it once.
fn hash(registry: &Registry, name: &str) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    for resource in registry.all().filter(|resource| document_name(resource) == name) {
        (&resource.kind, &resource.plural, resource.namespaced).hash(&mut hasher);
    }
    format!("{:016X}", hasher.finish())
}
