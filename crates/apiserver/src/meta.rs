//! Reading and writing the metadata of objects held as JSON. Never checks that a value makes sense.

use serde_json::{Map, Value, json};

/// One JSON object as stored and sent.
pub(crate) type Object = Value;

/// The value at a path of member names, or `Null`.
pub(crate) fn at<'a>(value: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().fold(value, |value, key| &value[*key])
}

/// The string at a path, or "".
pub(crate) fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    at(value, path).as_str().unwrap_or("")
}

/// The elements at a path; empty where there is no array.
pub(crate) fn items<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    at(value, path).as_array().map_or(&[], Vec::as_slice)
}

/// The elements at a path, to be changed; empty where there is no array. Makes nothing that is absent.
pub(crate) fn items_mut<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut [Value] {
    let found = path.iter().try_fold(value, |value, key| value.get_mut(key));
    found.and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
}

/// Whether a member is absent, null or empty: what Go's `omitempty` and zero values make equal.
pub(crate) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// The member as an object, made if it is absent or no object.
pub(crate) fn member<'a>(value: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    let slot = &mut value[key];
    if !slot.is_object() {
        *slot = json!({});
    }
    match slot {
        Value::Object(map) => map,
        _ => unreachable!("the slot was made an object just now"),
    }
}

/// The metadata object, made if absent.
pub(crate) fn metadata(object: &mut Object) -> &mut Map<String, Value> {
    member(object, "metadata")
}

/// Sets `map[key]` unless it holds something.
pub(crate) fn default_to(map: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    let slot = map.entry(key).or_insert(Value::Null);
    if slot.is_null() || slot.as_str() == Some("") {
        *slot = value.into();
    }
}

pub(crate) fn name(object: &Object) -> &str {
    text(object, &["metadata", "name"])
}

pub(crate) fn namespace(object: &Object) -> &str {
    text(object, &["metadata", "namespace"])
}

pub(crate) fn uid(object: &Object) -> &str {
    text(object, &["metadata", "uid"])
}

pub(crate) fn resource_version(object: &Object) -> &str {
    text(object, &["metadata", "resourceVersion"])
}

pub(crate) fn is_deleting(object: &Object) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

pub(crate) fn finalizers(object: &Object) -> impl Iterator<Item = &str> {
    items(object, &["metadata", "finalizers"]).iter().filter_map(Value::as_str)
}

/// Takes one finalizer away; leaves no empty list.
pub(crate) fn remove_finalizer(object: &mut Object, finalizer: &str) {
    let metadata = metadata(object);
    if let Some(Value::Array(list)) = metadata.get_mut("finalizers") {
        list.retain(|entry| entry != finalizer);
        if list.is_empty() {
            metadata.remove("finalizers");
        }
    }
}

/// The uids this object names as owners.
pub(crate) fn owner_uids(object: &Object) -> impl Iterator<Item = &str> {
    items(object, &["metadata", "ownerReferences"]).iter().map(|owner| text(owner, &["uid"]))
}

/// Removes members that hold null, at every depth, as decoding into Go structs and encoding them again does.
pub(crate) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(elements) => elements.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}
