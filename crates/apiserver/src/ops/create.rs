//! Creating objects. Never changes one that exists.

use std::sync::Arc;

use serde_json::Value;

use super::{WriteOptions, Written, gc, intake};
use crate::{
    alloc, defaulting,
    meta::{self, Object},
    resource::{Builtin, Resource, Schema},
    state::State,
    status::ApiError,
    store::Key,
    validation::{self, FieldErrors},
    view,
};

/// How often a generated name that is taken is drawn again.
const NAME_ATTEMPTS: usize = 8;

/// Admits, completes, validates and stores a new object.
pub(crate) fn create(
    state: &mut State,
    resource: &Resource,
    namespace: Option<&str>,
    object: Object,
    options: &WriteOptions,
) -> Result<Written, ApiError> {
    create_managed(state, resource, namespace, object, options, None)
}

/// As [`create`], with the `managedFields` of an apply.
pub(super) fn create_managed(
    state: &mut State,
    resource: &Resource,
    namespace: Option<&str>,
    mut object: Object,
    options: &WriteOptions,
    managed: Option<Value>,
) -> Result<Written, ApiError> {
    intake::check_type(resource, &mut object)?;
    view::accept(resource, &mut object);
    let warnings = intake::typed(resource, &mut object, options.validation)?;
    place(resource, namespace, &mut object)?;
    if !meta::resource_version(&object).is_empty() {
        return Err(ApiError::BadRequest(
            "resourceVersion should not be set on objects to be created".to_owned(),
        ));
    }
    if resource.namespaced {
        check_namespace(state, resource, &object)?;
    }
    prepare(state, resource, &mut object);
    generate_name(state, resource, &mut object);
    defaulting::apply(resource, &mut object);

    let mut errors = FieldErrors::default();
    if resource.is(Builtin::Service) {
        alloc::service::assign(&state.allocations, &*state.config.entropy, None, &mut object, &mut errors);
    }
    validation::create(resource, &object, &mut errors);
    let name = meta::name(&object).to_owned();
    if !errors.is_empty() {
        return Err(invalid(resource, &name, errors));
    }
    let key = Key::of(&object);
    if state.store.get(&resource.storage, &key).is_some() {
        return Err(ApiError::AlreadyExists {
            group: resource.group.clone(),
            resource: resource.plural.clone(),
            name,
        });
    }
    if let Some(managed) = managed {
        meta::metadata(&mut object).insert("managedFields".into(), managed);
    }
    if options.dry_run {
        return Ok(Written { object: Arc::new(object), warnings });
    }
    let object = state.commit(resource, object);
    gc::check_owners(state, resource, &object);
    Ok(Written { object, warnings })
}

/// The 422 for an object with field errors.
pub(super) fn invalid(resource: &Resource, name: &str, errors: FieldErrors) -> ApiError {
    ApiError::Invalid {
        group: resource.group.clone(),
        kind: resource.kind.clone(),
        name: name.to_owned(),
        errors,
    }
}

/// Gives the object the namespace of the path; a different one in the body is an error.
pub(super) fn place(
    resource: &Resource,
    namespace: Option<&str>,
    object: &mut Object,
) -> Result<(), ApiError> {
    let metadata = meta::metadata(object);
    match namespace.filter(|_| resource.namespaced) {
        None => {
            metadata.remove("namespace");
        }
        Some(namespace) => {
            let found = metadata.get("namespace").and_then(Value::as_str).unwrap_or("");
            if !found.is_empty() && found != namespace {
                return Err(ApiError::BadRequest(
                    "the namespace of the provided object does not match the namespace sent on the request"
                        .to_owned(),
                ));
            }
            metadata.insert("namespace".into(), namespace.into());
        }
    }
    Ok(())
}

fn check_namespace(state: &State, resource: &Resource, object: &Object) -> Result<(), ApiError> {
    let name = meta::namespace(object);
    let namespace = state.store.get("namespaces.", &Key::new("", name)).ok_or_else(|| {
        ApiError::NotFound { group: String::new(), resource: "namespaces".to_owned(), name: name.to_owned() }
    })?;
    if meta::is_deleting(namespace) {
        return Err(ApiError::Forbidden {
            group: resource.group.clone(),
            resource: resource.plural.clone(),
            name: meta::name(object).to_owned(),
            detail: format!(
                "unable to create new content in namespace {name} because it is being terminated"
            ),
        });
    }
    Ok(())
}

/// Sets what the server owns in a new object's metadata and status.
fn prepare(state: &State, resource: &Resource, object: &mut Object) {
    let metadata = meta::metadata(object);
    for owned in
        ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "managedFields", "generation"]
    {
        metadata.remove(owned);
    }
    metadata.insert("uid".into(), state.config.uid().into());
    metadata.insert("creationTimestamp".into(), state.config.now().into());
    let has_generation = match &resource.schema {
        Schema::Builtin(builtin) => builtin.has_generation(),
        Schema::Custom(_) => true,
    };
    if has_generation {
        metadata.insert("generation".into(), 1.into());
    }
    if resource.status
        && let Some(members) = object.as_object_mut()
    {
        // A kubelet registers its Node with its status; every other kind's status is written through /status.
        if !resource.is(Builtin::Node) {
            members.remove("status");
        }
    }
}

fn generate_name(state: &State, resource: &Resource, object: &mut Object) {
    let prefix = meta::text(object, &["metadata", "generateName"]).to_owned();
    if !meta::name(object).is_empty() || prefix.is_empty() {
        return;
    }
    // The longest prefix that leaves room for the suffix within the 63 bytes of a label.
    let prefix = &prefix[..prefix.floor_char_boundary(58)];
    for _ in 0..NAME_ATTEMPTS {
        let name = format!("{prefix}{}", state.config.name_suffix());
        meta::metadata(object).insert("name".into(), name.into());
        if state.store.get(&resource.storage, &Key::of(object)).is_none() {
            return;
        }
    }
}
