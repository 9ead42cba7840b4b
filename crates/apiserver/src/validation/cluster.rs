//! Nodes, Events, Leases and CustomResourceDefinitions. Never looks at other objects.

use serde_json::Value;

use super::{FieldErrors, address, names};
use crate::meta::{self, Object, is_empty, items, text};

pub(super) fn node(node: &Object, errors: &mut FieldErrors) {
    for (index, cidr) in items(node, &["spec", "podCIDRs"]).iter().filter_map(Value::as_str).enumerate() {
        address::check_cidr(&format!("spec.podCIDRs[{index}]"), cidr, errors);
    }
    let cidrs = items(node, &["spec", "podCIDRs"]);
    let first = text(node, &["spec", "podCIDR"]);
    if cidrs.first().is_some_and(|cidr| cidr != first) {
        errors.invalid("spec.podCIDRs", cidrs.to_vec(), "first value must match `podCIDR`");
    }
    for (index, taint) in items(node, &["spec", "taints"]).iter().enumerate() {
        let path = format!("spec.taints[{index}]");
        let key = text(taint, &["key"]);
        for problem in names::qualified_name(key) {
            errors.invalid(format!("{path}.key"), key, problem);
        }
        let effect = text(taint, &["effect"]);
        if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
            let supported = ["NoExecute", "NoSchedule", "PreferNoSchedule"];
            errors.unsupported(format!("{path}.effect"), effect, &supported);
        }
    }
}

pub(super) fn node_update(old: &Object, node: &Object, errors: &mut FieldErrors) {
    let (was, is) = (items(old, &["spec", "podCIDRs"]), items(node, &["spec", "podCIDRs"]));
    if !was.is_empty() && was != is {
        errors.forbidden("spec.podCIDRs", "node updates may not change podCIDR except from \"\" to valid");
    }
}

/// An event is in the namespace of what it is about; one about cluster-wide things in `default`.
pub(super) fn event(event: &Object, errors: &mut FieldErrors) {
    let about = text(event, &["involvedObject", "namespace"]);
    let namespace = meta::namespace(event);
    let fits = if about.is_empty() { namespace == "default" } else { about == namespace };
    if !fits {
        errors.invalid("involvedObject.namespace", about, "does not match event.namespace");
    }
}

pub(super) fn lease(lease: &Object, errors: &mut FieldErrors) {
    for (field, least) in [("leaseDurationSeconds", 1), ("leaseTransitions", 0)] {
        let value = &lease["spec"][field];
        if value.as_i64().is_some_and(|value| value < least) {
            let detail =
                if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
            errors.invalid(format!("spec.{field}"), value.clone(), detail);
        }
    }
}

pub(super) fn definition(definition: &Object, errors: &mut FieldErrors) {
    let spec = &definition["spec"];
    let group = text(spec, &["group"]);
    let kind = text(spec, &["names", "kind"]);
    let plural = text(spec, &["names", "plural"]);
    if !group.contains('.') {
        errors.invalid("spec.group", group, "should be a domain with at least one dot");
    }
    for problem in names::dns1123_subdomain(group) {
        errors.invalid("spec.group", group, problem);
    }
    if meta::name(definition) != format!("{plural}.{group}") {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        errors.invalid("metadata.name", meta::name(definition), detail);
    }
    for (field, name) in [("plural", plural.to_owned()), ("kind", kind.to_lowercase())] {
        if name.is_empty() {
            errors.required(format!("spec.names.{field}"), "");
        } else {
            for problem in names::dns1035_label(&name) {
                errors.invalid(format!("spec.names.{field}"), text(spec, &["names", field]), problem);
            }
        }
    }
    let scope = text(spec, &["scope"]);
    if !matches!(scope, "Cluster" | "Namespaced") {
        errors.unsupported("spec.scope", scope, &["Cluster", "Namespaced"]);
    }
    let versions = items(spec, &["versions"]);
    if versions.iter().filter(|version| version["storage"] == true).count() != 1 {
        let names: Vec<Value> = versions.iter().map(|version| version["name"].clone()).collect();
        errors.invalid("spec.versions", names, "must have exactly one version marked as storage version");
    }
    for (index, version) in versions.iter().enumerate() {
        let name = text(version, &["name"]);
        for problem in names::dns1035_label(name) {
            errors.invalid(format!("spec.versions[{index}].name"), name, problem);
        }
        let columns = items(version, &["additionalPrinterColumns"]);
        for (place, column) in columns.iter().enumerate().filter(|(_, column)| is_empty(&column["jsonPath"]))
        {
            let path = format!("spec.versions[{index}].additionalPrinterColumns[{place}].jsonPath");
            errors.required(path, text(column, &["name"]));
        }
    }
}

pub(super) fn definition_update(old: &Object, definition: &Object, errors: &mut FieldErrors) {
    for path in
        [&["spec", "group"][..], &["spec", "scope"], &["spec", "names", "plural"], &["spec", "names", "kind"]]
    {
        if meta::at(old, path) != meta::at(definition, path) {
            errors.invalid(path.join("."), meta::at(definition, path).clone(), "field is immutable");
        }
    }
}
