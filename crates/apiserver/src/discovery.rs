//! What the server serves, told to clients: `/version`, `/api`, `/apis` and the resource lists. Never lists objects.

use serde_json::{Value, json};

use crate::resource::{Builtin, Registry, Resource};

/// The Kubernetes release whose behaviour the server follows.
pub(crate) fn version() -> Value {
    json!({
        "major": "1", "minor": "36", "gitVersion": concat!("v1.36.0-twinplane.", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "",
        "compiler": "rustc", "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

/// `/api`
pub(crate) fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

/// `/apis`
pub(crate) fn groups(registry: &Registry) -> Value {
    let mut names: Vec<&str> = Vec::new();
    for resource in registry.all().filter(|resource| !resource.group.is_empty()) {
        if !names.contains(&resource.group.as_str()) {
            names.push(&resource.group);
        }
    }
    let groups: Vec<Value> = names.into_iter().filter_map(|name| api_group(registry, name)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`
pub(crate) fn group(registry: &Registry, name: &str) -> Option<Value> {
    let mut group = api_group(registry, name)?;
    group["kind"] = "APIGroup".into();
    group["apiVersion"] = "v1".into();
    Some(group)
}

fn api_group(registry: &Registry, name: &str) -> Option<Value> {
    let mut versions: Vec<Value> = Vec::new();
    for resource in registry.all().filter(|resource| resource.group == name) {
        let version = json!({"groupVersion": resource.api_version(), "version": resource.version});
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    let preferred = versions.first()?.clone();
    Some(json!({"name": name, "versions": versions, "preferredVersion": preferred}))
}

/// `/api/v1` or `/apis/<group>/<version>`
pub(crate) fn resources(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let of_version =
        |resource: &&std::sync::Arc<Resource>| resource.group == group && resource.version == version;
    let resources: Vec<Value> =
        registry.all().filter(of_version).flat_map(|resource| entries(resource)).collect();
    let group_version = registry.all().find(of_version)?.api_version();
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources,
    }))
}

fn entries(resource: &Resource) -> Vec<Value> {
    let mut main = json!({
        "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
    });
    for (key, values) in [("shortNames", &resource.short_names), ("categories", &resource.categories)] {
        if !values.is_empty() {
            main[key] = json!(values);
        }
    }
    let sub = |name: &str, kind: &str, verbs: Value| {
        json!({"name": format!("{}/{name}", resource.plural), "singularName": "",
            "namespaced": resource.namespaced, "kind": kind, "verbs": verbs})
    };
    let changed = || json!(["get", "patch", "update"]);
    let mut entries = vec![main];
    if resource.status {
        entries.push(sub("status", &resource.kind, changed()));
    }
    if resource.scale.is_some() {
        let mut scale = sub("scale", "Scale", changed());
        scale["group"] = "autoscaling".into();
        scale["version"] = "v1".into();
        entries.push(scale);
    }
    if resource.is(Builtin::Pod) {
        entries.push(sub("binding", "Binding", json!(["create"])));
        let mut eviction = sub("eviction", "Eviction", json!(["create"]));
        eviction["group"] = "policy".into();
        eviction["version"] = "v1".into();
        entries.push(eviction);
    }
    entries
}
