//! Server-side apply: creates or updates an object so that it has what the applier wants. Never takes a field from
//! another manager unless forced.

use serde_json::Value;

use super::{Part, WriteOptions, Written, create, update};
use crate::{
    meta::{self, Object},
    patch::apply::{self as fields, Applier},
    resource::Resource,
    state::State,
    status::ApiError,
    store::Key,
};

/// Applies a configuration; the flag tells whether that created the object.
pub(crate) fn apply(
    state: &mut State,
    resource: &Resource,
    key: &Key,
    part: Part,
    options: &WriteOptions,
    config: Value,
) -> Result<(Written, bool), ApiError> {
    let mut config = config;
    super::intake::check_type(resource, &mut config)?;
    let warnings = super::intake::typed(resource, &mut config, options.validation)?;
    let name = meta::name(&config);
    if !name.is_empty() && name != key.name {
        return Err(ApiError::BadRequest(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            key.name
        )));
    }
    if !meta::is_empty(&config["metadata"]["managedFields"]) {
        return Err(ApiError::BadRequest("metadata.managedFields must be nil".to_owned()));
    }
    meta::metadata(&mut config).insert("name".into(), key.name.clone().into());
    let now = state.config.now();
    let applier = Applier { manager: &options.manager, part, force: options.force, now: &now };
    if state.store.get(&resource.storage, key).is_none() {
        if part != Part::Main {
            state.get(resource, key)?;
        }
        let managed = fields::first(&config, resource, applier);
        let namespace = Some(key.namespace.as_str()).filter(|_| resource.namespaced);
        let mut written = create::create_managed(state, resource, namespace, config, options, Some(managed))?;
        written.warnings = warnings;
        return Ok((written, true));
    }
    let change = |current: &Object| fields::apply(current, &config, resource, applier);
    let mut written =
        update::update_managed(state, resource, key, part, options, change, update::Managers::Settled)?;
    written.warnings = warnings;
    Ok((written, false))
}
