//! The `/scale` view of objects with replicas. Never changes anything but the number wanted.

use serde_json::{Value, json};

use crate::{
    meta::{self, Object, at},
    resource::{Resource, ScalePaths, Schema},
    select::LabelSelector,
    status::ApiError,
};

fn refs(path: &[String]) -> Vec<&str> {
    path.iter().map(String::as_str).collect()
}

/// The `autoscaling/v1` Scale of an object.
pub(crate) fn scale_of(resource: &Resource, paths: &ScalePaths, object: &Object) -> Value {
    let metadata = &object["metadata"];
    let selector = paths.selector.as_ref().map(|path| at(object, &refs(path)));
    let selector = match (&resource.schema, selector) {
        (_, None) => String::new(),
        (Schema::Builtin(_), Some(selector)) => LabelSelector::from_object(selector).to_string(),
        (Schema::Custom(_), Some(selector)) => selector.as_str().unwrap_or("").to_owned(),
    };
    let mut scale = json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {},
        "spec": {"replicas": at(object, &refs(&paths.spec)).as_i64().unwrap_or(0)},
        "status": {"replicas": at(object, &refs(&paths.status)).as_i64().unwrap_or(0)},
    });
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = metadata.get(field) {
            scale["metadata"][field] = value.clone();
        }
    }
    if !selector.is_empty() {
        scale["status"]["selector"] = selector.into();
    }
    scale
}

/// The object with the replicas and resource version of a Scale.
pub(crate) fn apply_scale(paths: &ScalePaths, current: &Object, scale: &Value) -> Result<Object, ApiError> {
    let replicas = match &scale["spec"]["replicas"] {
        Value::Null => 0,
        value => value.as_i64().ok_or_else(|| {
            ApiError::BadRequest(format!(
                "Scale in version \"v1\" cannot be handled as a Scale: spec.replicas: invalid type: {value}, expected i32"
            ))
        })?,
    };
    let mut object = current.clone();
    let Some((last, parents)) = paths.spec.split_last() else { return Ok(object) };
    let mut slot = &mut object;
    for parent in parents {
        if !slot[parent].is_object() {
            slot[parent] = json!({});
        }
        slot = &mut slot[parent];
    }
    slot[last] = replicas.into();
    let version = meta::resource_version(scale);
    if !version.is_empty() {
        meta::metadata(&mut object).insert("resourceVersion".into(), version.into());
    }
    Ok(object)
}
