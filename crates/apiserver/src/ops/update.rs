//! Replacing objects, for PUT and for every kind of patch. Never creates one.

use std::sync::Arc;

use serde_json::Value;

use super::{WriteOptions, Written, create, delete, gc, intake};
use crate::{
    alloc, defaulting,
    meta::{self, Object},
    patch::apply::{self, Applier},
    resource::{Builtin, Resource, Schema},
    state::State,
    status::ApiError,
    store::Key,
    validation::{self, FieldErrors},
    view,
};

/// Which part of an object a request may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All but status, where the kind has `/status`.
    Main,
    /// Status only.
    Status,
    /// A pod's node, and the status that tells of it.
    Binding,
}

/// Builds the next object from the current one with `change`, then admits, validates and stores it.
///
/// Writing what is there already changes nothing, not even the resource version.
pub(crate) fn update(
    state: &mut State,
    resource: &Resource,
    key: &Key,
    part: Part,
    options: &WriteOptions,
    change: impl FnOnce(&Object) -> Result<Object, ApiError>,
) -> Result<Written, ApiError> {
    update_managed(state, resource, key, part, options, change, Managers::Record)
}

/// Who settles `managedFields`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Managers {
    /// The fields that changed become the manager's.
    Record,
    /// The change has done it, as an apply does.
    Settled,
}

/// As [`update`], for a `change` that may settle `managedFields` itself.
pub(super) fn update_managed(
    state: &mut State,
    resource: &Resource,
    key: &Key,
    part: Part,
    options: &WriteOptions,
    change: impl FnOnce(&Object) -> Result<Object, ApiError>,
    managers: Managers,
) -> Result<Written, ApiError> {
    let current = state.get(resource, key)?;
    let mut object = change(&current)?;
    intake::check_type(resource, &mut object)?;
    view::accept(resource, &mut object);
    let warnings = intake::typed(resource, &mut object, options.validation)?;
    create::place(resource, Some(&key.namespace), &mut object)?;
    check_identity(resource, &current, &object)?;
    prepare(resource, part, &current, &mut object);

    let mut errors = FieldErrors::default();
    defaulting::apply(resource, &mut object);
    if part == Part::Main {
        if resource.is(Builtin::Service) {
            let entropy = &*state.config.entropy;
            alloc::service::assign(&state.allocations, entropy, Some(&current), &mut object, &mut errors);
        }
        validation::update(resource, &current, &object, &mut errors);
    } else {
        validation::status(resource, &object, &mut errors);
    }
    if !errors.is_empty() {
        return Err(create::invalid(resource, &key.name, errors));
    }
    bump_generation(resource, &current, &mut object);
    if managers == Managers::Record {
        let now = state.config.now();
        let writer = Applier { manager: &options.manager, part, force: false, now: &now };
        apply::record_update(&current, &mut object, resource, writer);
    }
    meta::metadata(&mut object).insert("resourceVersion".into(), meta::resource_version(&current).into());
    if object == *current {
        return Ok(Written { object: current, warnings });
    }
    if options.dry_run {
        return Ok(Written { object: Arc::new(object), warnings });
    }
    let object = if delete::is_finished(resource, &object) {
        delete::finish(state, resource, object)
    } else {
        let object = state.commit(resource, object);
        gc::check_owners(state, resource, &object);
        object
    };
    Ok(Written { object, warnings })
}

fn check_identity(resource: &Resource, current: &Object, object: &Object) -> Result<(), ApiError> {
    let (name, sent) = (meta::name(current), meta::name(object));
    if sent != name {
        return Err(ApiError::BadRequest(format!(
            "the name of the object ({sent}) does not match the name on the URL ({name})"
        )));
    }
    let conflict = |detail: String| ApiError::Conflict {
        group: resource.group.clone(),
        resource: resource.plural.clone(),
        name: name.to_owned(),
        detail,
    };
    let version = meta::resource_version(object);
    if !version.is_empty() && version != meta::resource_version(current) {
        return Err(conflict(
            "the object has been modified; please apply your changes to the latest version and try again"
                .to_owned(),
        ));
    }
    if version.is_empty() && matches!(resource.schema, Schema::Custom(_)) {
        let mut errors = FieldErrors::default();
        errors.invalid("metadata.resourceVersion", 0, "must be specified for an update");
        return Err(create::invalid(resource, name, errors));
    }
    let uid = meta::uid(object);
    if !uid.is_empty() && uid != meta::uid(current) {
        return Err(conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            meta::uid(current)
        )));
    }
    Ok(())
}

/// Keeps what the request may not change.
fn prepare(resource: &Resource, part: Part, current: &Object, object: &mut Object) {
    const OWNED: [&str; 6] = [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
    ];
    let metadata = meta::metadata(object);
    for field in OWNED {
        keep(metadata, current["metadata"].get(field), field);
    }
    metadata.remove("selfLink");
    let Some(members) = object.as_object_mut() else { return };
    if resource.is(Builtin::Namespace) {
        // Its finalizers are this server's own: they go when its contents have gone.
        keep(members, current.get("spec"), "spec");
    }
    match part {
        Part::Main if resource.status => keep(members, current.get("status"), "status"),
        Part::Main | Part::Binding => {}
        Part::Status => {
            members.retain(|key, _| matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status"));
            for (key, value) in current.as_object().into_iter().flatten() {
                if key != "status" {
                    members.entry(key).or_insert_with(|| value.clone());
                }
            }
        }
    }
}

fn keep(members: &mut serde_json::Map<String, Value>, current: Option<&Value>, field: &str) {
    match current {
        Some(value) => {
            members.insert(field.to_owned(), value.clone());
        }
        None => {
            members.remove(field);
        }
    }
}

/// Counts a change of anything but metadata and status.
fn bump_generation(resource: &Resource, current: &Object, object: &mut Object) {
    let Some(generation) = current["metadata"]["generation"].as_i64() else { return };
    let wanted = |object: &Object| -> Vec<(String, Value)> {
        let skip_status = resource.status;
        let members = object.as_object().into_iter().flatten();
        members
            .filter(|(key, _)| {
                *key != "metadata" && *key != "apiVersion" && !(skip_status && *key == "status")
            })
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    };
    if wanted(current) != wanted(object) {
        meta::metadata(object).insert("generation".into(), (generation + 1).into());
    }
}
