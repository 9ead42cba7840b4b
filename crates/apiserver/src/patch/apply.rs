//! Server-side apply: which manager owns which field. Never stores anything.

use serde_json::Value;

use crate::{meta::Object, ops::Part, resource::Resource, status::ApiError};

/// Removes what an applied configuration may not set.
pub(crate) fn strip(object: &mut Object) {
    crate::meta::metadata(object).remove("managedFields");
}

/// The managed fields of an object that an apply creates.
pub(crate) fn first(_config: &Object, _resource: &Resource, _manager: &str, _now: &str) -> Value {
    Value::Null
}

/// Merges.
pub(crate) fn apply(
    current: &Object,
    config: &Object,
    _resource: &Resource,
    _part: Part,
    _manager: &str,
    _force: bool,
    _now: &str,
) -> Result<Object, ApiError> {
    let mut object = current.clone();
    super::merge(&mut object, config);
    Ok(object)
}

pub(crate) fn record_update(
    _current: &Object,
    _object: &mut Object,
    _resource: &Resource,
    _manager: &str,
    _part: Part,
    _now: &str,
) {
}
