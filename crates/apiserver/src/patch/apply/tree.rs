//! Values along the paths of field sets: merging, finding, removing. Never knows who owns a field.

use serde_json::{Map, Value, json};

use super::fields::{Path, element_step};
use crate::schema::{Field, Type};

/// Lays `config` over `target`.
pub(super) fn merge(target: &mut Value, config: &Value, of: Type) {
    let Value::Object(config) = config else { return };
    if !target.is_object() {
        *target = json!({});
    }
    let Value::Object(members) = target else { return };
    for (key, value) in config {
        let slot = members.entry(key.as_str()).or_insert(Value::Null);
        merge_field(slot, value, of.field(key));
    }
}

fn merge_field(slot: &mut Value, value: &Value, field: Field) {
    match value {
        Value::Object(_) if !field.atomic => merge(slot, value, field.of),
        Value::Array(elements) => merge_list(slot, elements, field),
        _ => *slot = value.clone(),
    }
}

fn merge_list(slot: &mut Value, elements: &[Value], field: Field) {
    let steps: Option<Vec<String>> =
        elements.iter().map(|element| element_step(element, field.list)).collect();
    let (Some(steps), Value::Array(current)) = (steps, &mut *slot) else {
        *slot = elements.into();
        return;
    };
    for (element, step) in elements.iter().zip(steps) {
        let same = current.iter_mut().find(|other| element_step(other, field.list).as_ref() == Some(&step));
        match same {
            Some(same) if element.is_object() => merge(same, element, field.of),
            Some(_) => {}
            None => current.push(element.clone()),
        }
    }
}

/// The value at a path.
pub(super) fn get<'a>(value: &'a Value, path: &Path) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, step| match step.split_at_checked(2)? {
        ("f:", name) => value.get(name),
        (_, wanted) => value.as_array()?.iter().find(|element| is_element(element, step, wanted)),
    })
}

/// Whether a field has another value in one than in the other. A keyed element is a place, not a value, and so is an
/// object that one of them leaves empty.
pub(super) fn differs(one: &Value, other: &Value, path: &Path) -> bool {
    match (get(one, path), get(other, path)) {
        (Some(_), Some(_)) if path.last().is_some_and(|step| step.starts_with("k:")) => false,
        (Some(Value::Object(one)), Some(Value::Object(other))) if one.is_empty() || other.is_empty() => false,
        (one, other) => one != other,
    }
}

/// Removes what is at a path, and what that leaves empty above it.
pub(super) fn remove(value: &mut Value, path: &[String]) {
    let [step, rest @ ..] = path else { return };
    let Some((kind, wanted)) = step.split_at_checked(2) else { return };
    match (value, kind) {
        (Value::Object(members), "f:") => {
            if let Some(member) = members.get_mut(wanted) {
                remove(member, rest);
                if rest.is_empty() || is_hollow(member) {
                    members.remove(wanted);
                }
            }
        }
        (Value::Array(elements), _) => {
            if let Some(index) = elements.iter().position(|element| is_element(element, step, wanted)) {
                remove(&mut elements[index], rest);
                if rest.is_empty() {
                    elements.remove(index);
                }
            }
        }
        _ => {}
    }
}

fn is_hollow(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.is_empty(),
        Value::Array(elements) => elements.is_empty(),
        _ => false,
    }
}

fn is_element(element: &Value, step: &str, wanted: &str) -> bool {
    if step.starts_with("v:") {
        return serde_json::from_str::<Value>(wanted).is_ok_and(|wanted| wanted == *element);
    }
    let keys: Map<String, Value> = serde_json::from_str(wanted).unwrap_or_default();
    !keys.is_empty()
        && keys.iter().all(|(key, value)| match &element[key] {
            Value::Null => key == "protocol" && value == "TCP",
            found => found == value,
        })
}
