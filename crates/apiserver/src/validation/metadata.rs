//! Names, labels, annotations, finalizers and owner references. Never looks beyond `metadata`.

use serde_json::Value;

use super::{FieldErrors, names};
use crate::{
    meta::{self, Object, items, text},
    resource::{Builtin, Resource},
};

/// All annotations of an object together, keys and values.
const ANNOTATIONS_MAX: usize = 256 * 1024;

pub(super) fn check(resource: &Resource, object: &Object, errors: &mut FieldErrors) {
    name(resource, object, errors);
    labels(&object["metadata"]["labels"], "metadata.labels", errors);
    annotations(&object["metadata"]["annotations"], errors);
    for (index, finalizer) in meta::finalizers(object).enumerate() {
        for problem in names::qualified_name(finalizer) {
            errors.invalid(format!("metadata.finalizers[{index}]"), finalizer, problem);
        }
    }
    owners(object, errors);
}

/// An object that is being deleted may lose finalizers but gets no new ones.
pub(super) fn update(old: &Object, object: &Object, errors: &mut FieldErrors) {
    if !meta::is_deleting(old) {
        return;
    }
    let added: Vec<String> = meta::finalizers(object)
        .filter(|finalizer| meta::finalizers(old).all(|other| other != *finalizer))
        .map(|finalizer| format!("{finalizer:?}"))
        .collect();
    if !added.is_empty() {
        let detail = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            added.join(", ")
        );
        errors.forbidden("metadata.finalizers", detail);
    }
}

fn name(resource: &Resource, object: &Object, errors: &mut FieldErrors) {
    let name = meta::name(object);
    if name.is_empty() {
        errors.required("metadata.name", "name or generateName is required");
        return;
    }
    let problems = match resource.builtin() {
        Some(Builtin::Service) => names::dns1035_label(name),
        Some(Builtin::Namespace) => names::dns1123_label(name),
        _ => names::dns1123_subdomain(name),
    };
    for problem in problems {
        errors.invalid("metadata.name", name, problem);
    }
}

/// Checks a map of labels at a path.
pub(super) fn labels(labels: &Value, path: &str, errors: &mut FieldErrors) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        for problem in names::qualified_name(key) {
            errors.invalid(path, key.as_str(), problem);
        }
        let value = value.as_str().unwrap_or("");
        for problem in names::label_value(value) {
            errors.invalid(path, value, problem);
        }
    }
}

fn annotations(annotations: &Value, errors: &mut FieldErrors) {
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        size += key.len() + value.as_str().map_or(0, str::len);
        for problem in names::qualified_name(&key.to_lowercase()) {
            errors.invalid("metadata.annotations", key.as_str(), problem);
        }
    }
    if size > ANNOTATIONS_MAX {
        errors.too_long("metadata.annotations", ANNOTATIONS_MAX);
    }
}

fn owners(object: &Object, errors: &mut FieldErrors) {
    let owners = items(object, &["metadata", "ownerReferences"]);
    for owner in owners {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, &[field]).is_empty() {
                errors.invalid(format!("metadata.ownerReferences.{field}"), "", "must not be empty");
            }
        }
    }
    if owners.iter().filter(|owner| owner["controller"] == true).count() > 1 {
        let detail = "Only one reference can have Controller set to true";
        errors.invalid("metadata.ownerReferences", owners.to_vec(), detail);
    }
}
