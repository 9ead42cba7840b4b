//! Custom objects against their definition's structural schema: types, required members, enumerations and bounds.
//! Never evaluates patterns or rules in CEL.

use serde_json::Value;

use super::FieldErrors;
use crate::meta::{Object, items, text};

pub(super) fn check(object: &Object, schema: &Value, errors: &mut FieldErrors) {
    if let Some(properties) = schema["properties"].as_object() {
        for (key, property) in properties {
            if !matches!(key.as_str(), "apiVersion" | "kind" | "metadata") && !object[key].is_null() {
                value(&object[key], property, key, errors);
            }
        }
    }
    required(object, schema, "", errors);
}

fn value(value: &Value, schema: &Value, path: &str, errors: &mut FieldErrors) {
    let kind = text(schema, &["type"]);
    if !has_type(value, kind, schema) {
        let detail = format!("{path} in body must be of type {kind}: {:?}", type_of(value));
        errors.invalid(path, type_of(value), detail);
        return;
    }
    let allowed = items(schema, &["enum"]);
    if !allowed.is_empty() && !allowed.contains(value) {
        let allowed: Vec<&str> = allowed.iter().map(|value| value.as_str().unwrap_or("")).collect();
        errors.unsupported(path, value.clone(), &allowed);
    }
    bounds(value, schema, path, errors);
    match value {
        Value::Object(members) => {
            required(value, schema, &format!("{path}."), errors);
            for (key, member) in members {
                let property = &schema["properties"][key];
                let of = if property.is_null() { &schema["additionalProperties"] } else { property };
                if of.is_object() {
                    self::value(member, of, &format!("{path}.{key}"), errors);
                }
            }
        }
        Value::Array(elements) if schema["items"].is_object() => {
            for (index, element) in elements.iter().enumerate() {
                self::value(element, &schema["items"], &format!("{path}[{index}]"), errors);
            }
        }
        _ => {}
    }
}

fn required(object: &Value, schema: &Value, prefix: &str, errors: &mut FieldErrors) {
    for name in items(schema, &["required"]).iter().filter_map(Value::as_str) {
        if object[name].is_null() {
            errors.required(format!("{prefix}{name}"), "");
        }
    }
}

fn has_type(value: &Value, kind: &str, schema: &Value) -> bool {
    if schema["x-kubernetes-int-or-string"] == true {
        return value.is_i64() || value.is_u64() || value.is_string();
    }
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => true,
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn bounds(value: &Value, schema: &Value, path: &str, errors: &mut FieldErrors) {
    let measured = match value {
        Value::Number(number) => number.as_f64().map(|number| (number, "minimum", "maximum", "")),
        Value::String(text) => Some((text.chars().count() as f64, "minLength", "maxLength", " chars long")),
        Value::Array(elements) => Some((elements.len() as f64, "minItems", "maxItems", " items")),
        _ => None,
    };
    let Some((size, least, most, unit)) = measured else { return };
    if let Some(least) = schema[least].as_f64().filter(|least| size < *least) {
        let detail = format!("{path} in body should be greater than or equal to {least}{unit}");
        errors.invalid(path, value.clone(), detail);
    }
    if let Some(most) = schema[most].as_f64().filter(|most| size > *most) {
        let detail = format!("{path} in body should be less than or equal to {most}{unit}");
        errors.invalid(path, value.clone(), detail);
    }
}
