//! Deleting: preconditions, grace periods, finalizers, propagation. Never removes an object that something holds.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{gc, namespace};
use crate::{
    defaulting,
    meta::{self, Object, text},
    resource::{Builtin, Resource},
    select::Filter,
    state::State,
    status::ApiError,
    store::Key,
};

/// What becomes of the objects that an object owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Propagation {
    #[default]
    Background,
    Foreground,
    Orphan,
}

/// The body or query of a DELETE.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace: Option<i64>,
    pub(crate) propagation: Propagation,
    pub(crate) uid: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) dry_run: bool,
}

impl DeleteOptions {
    /// Reads a `DeleteOptions` object; query parameters come in the same names.
    pub(crate) fn parse(body: &Value) -> Result<Self, ApiError> {
        let optional = |path: &[&str]| Some(text(body, path).to_owned()).filter(|text| !text.is_empty());
        let orphan = body["orphanDependents"] == true;
        Ok(Self {
            grace: body["gracePeriodSeconds"].as_i64(),
            propagation: match text(body, &["propagationPolicy"]) {
                "" if orphan => Propagation::Orphan,
                "" | "Background" => Propagation::Background,
                "Foreground" => Propagation::Foreground,
                "Orphan" => Propagation::Orphan,
                other => {
                    return Err(ApiError::BadRequest(format!(
                        "propagationPolicy: Unsupported value: {other:?}: supported values: \"Foreground\", \
                         \"Background\", \"Orphan\", \"nil\""
                    )));
                }
            },
            uid: optional(&["preconditions", "uid"]),
            version: optional(&["preconditions", "resourceVersion"]),
            dry_run: !meta::is_empty(&body["dryRun"]),
        })
    }
}

/// Deletes an object, or marks it as being deleted while something holds it. Answers its last state.
pub(crate) fn delete(
    state: &mut State,
    resource: &Resource,
    key: &Key,
    options: &DeleteOptions,
) -> Result<Arc<Object>, ApiError> {
    let current = state.get(resource, key)?;
    check_preconditions(resource, &current, options)?;
    if resource.is(Builtin::Namespace) && matches!(key.name.as_str(), "default" | "kube-system") {
        return Err(ApiError::Forbidden {
            group: String::new(),
            resource: "namespaces".to_owned(),
            name: key.name.clone(),
            detail: "this namespace may not be deleted".to_owned(),
        });
    }
    let mut marked = mark(state, resource, &current, options);
    if resource.is(Builtin::ServiceCidr) && !state.allocations.needs_range(&key.name) {
        let ours = |entry: &Value| *entry == defaulting::SERVICE_CIDR_FINALIZER;
        if let Some(Value::Array(finalizers)) = meta::metadata(&mut marked).get_mut("finalizers") {
            finalizers.retain(|entry| !ours(entry));
        }
    }
    if options.dry_run {
        return Ok(Arc::new(marked));
    }
    if is_finished(resource, &marked) {
        return Ok(finish(state, resource, marked));
    }
    if marked == *current {
        return Ok(current);
    }
    let marked = state.commit(resource, marked);
    gc::owner_deleting(state, resource, &marked);
    if resource.is(Builtin::Namespace) {
        namespace::terminate(state, &key.name);
    }
    Ok(marked)
}

/// Deletes all that a filter selects; answers their last states.
pub(crate) fn delete_collection(
    state: &mut State,
    resource: &Resource,
    filter: &Filter,
    options: &DeleteOptions,
) -> Result<Vec<Arc<Object>>, ApiError> {
    let keys: Vec<Key> = state
        .store
        .list(&resource.storage, filter.namespace.as_deref())
        .filter(|object| filter.matches(object))
        .map(|object| Key::of(object))
        .collect();
    let mut deleted = Vec::new();
    for key in keys {
        match delete(state, resource, &key, options) {
            Ok(object) => deleted.push(object),
            // Its owner went first and took it along.
            Err(ApiError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(deleted)
}

fn check_preconditions(
    resource: &Resource,
    current: &Object,
    options: &DeleteOptions,
) -> Result<(), ApiError> {
    for (what, wanted, found) in [
        ("UID", &options.uid, meta::uid(current)),
        ("ResourceVersion", &options.version, meta::resource_version(current)),
    ] {
        if let Some(wanted) = wanted
            && wanted != found
        {
            return Err(ApiError::Conflict {
                group: resource.group.clone(),
                resource: resource.plural.clone(),
                name: meta::name(current).to_owned(),
                detail: format!(
                    "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}"
                ),
            });
        }
    }
    Ok(())
}

/// The object with its deletion time and the finalizers that propagation asks for.
fn mark(state: &State, resource: &Resource, current: &Object, options: &DeleteOptions) -> Object {
    let mut object = current.clone();
    let grace = grace(resource, current, options);
    let finalizer = match options.propagation {
        Propagation::Background => None,
        Propagation::Foreground => Some(gc::FOREGROUND),
        Propagation::Orphan => Some(gc::ORPHAN),
    };
    let has_dependents = !state.store.dependents(meta::uid(current)).is_empty();
    let deleting = meta::is_deleting(current);
    let metadata = meta::metadata(&mut object);
    if let Some(finalizer) = finalizer
        && has_dependents
        && !deleting
    {
        let finalizers = metadata.entry("finalizers").or_insert_with(|| json!([]));
        if let Value::Array(list) = finalizers
            && !list.iter().any(|entry| entry == finalizer)
        {
            list.push(finalizer.into());
        }
    }
    let previous = metadata.get("deletionGracePeriodSeconds").and_then(Value::as_i64);
    if previous.is_none_or(|previous| grace < previous) {
        let at = state.config.clock.now() + jiff::SignedDuration::from_secs(grace);
        metadata.insert("deletionTimestamp".into(), at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into());
        metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
        if let Some(generation) = metadata.get("generation").and_then(Value::as_i64).filter(|_| !deleting) {
            metadata.insert("generation".into(), (generation + 1).into());
        }
    }
    if resource.is(Builtin::Namespace) {
        meta::member(&mut object, "status").insert("phase".into(), "Terminating".into());
    }
    object
}

/// Seconds that a pod may take to end: only one that runs on a node gets any.
fn grace(resource: &Resource, current: &Object, options: &DeleteOptions) -> i64 {
    let running = resource.is(Builtin::Pod)
        && !text(current, &["spec", "nodeName"]).is_empty()
        && !matches!(text(current, &["status", "phase"]), "Succeeded" | "Failed");
    if !running {
        return 0;
    }
    let own = current["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    options.grace.unwrap_or(own).max(0)
}

/// Whether a marked object is held by nothing any more.
pub(super) fn is_finished(resource: &Resource, object: &Object) -> bool {
    let held_by_namespace = resource.is(Builtin::Namespace) && !meta::is_empty(&object["spec"]["finalizers"]);
    meta::is_deleting(object)
        && object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
        && meta::finalizers(object).next().is_none()
        && !held_by_namespace
}

/// Removes a marked object and does what follows from that.
pub(super) fn finish(state: &mut State, resource: &Resource, object: Object) -> Arc<Object> {
    let key = Key::of(&object);
    if resource.is(Builtin::CustomResourceDefinition) {
        gc::drop_custom_objects(state, &object);
    }
    let last = state.erase(resource, &key).unwrap_or_else(|| Arc::new(object));
    gc::owner_removed(state, &last);
    if resource.namespaced {
        namespace::finish_if_empty(state, &key.namespace);
    }
    last
}
