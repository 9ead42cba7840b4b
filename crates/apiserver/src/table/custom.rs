//! Columns that a CustomResourceDefinition asks for. Never shows more of an object than they say.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{age, json_path};
use crate::{
    meta::{self, Object, text},
    resource::Column,
};

/// Column definitions: the name, then what the definition lists, else the age.
pub(super) fn definitions(columns: &[Column]) -> Vec<Value> {
    let name = json!({"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0});
    if columns.is_empty() {
        let age = json!({"name": "Age", "type": "date", "format": "", "description": "", "priority": 0});
        return vec![name, age];
    }
    let listed = columns.iter().map(|column| {
        json!({
            "name": column.name, "type": column.kind, "format": column.format,
            "description": column.description, "priority": column.priority,
        })
    });
    std::iter::once(name).chain(listed).collect()
}

/// One row.
pub(super) fn cells(columns: &[Column], object: &Object, now: Timestamp) -> Vec<Value> {
    let name = Value::from(meta::name(object));
    if columns.is_empty() {
        return vec![name, age::since(text(object, &["metadata", "creationTimestamp"]), now).into()];
    }
    std::iter::once(name).chain(columns.iter().map(|column| cell(column, object, now))).collect()
}

/// A value of the column's type; null where there is none.
fn cell(column: &Column, object: &Object, now: Timestamp) -> Value {
    let Some(value) = json_path::first(&column.path, object) else { return Value::Null };
    match column.kind.as_str() {
        "integer" => value.as_i64().map_or(Value::Null, Value::from),
        "number" => value.as_f64().map_or(Value::Null, Value::from),
        "boolean" => value.as_bool().map_or(Value::Null, Value::from),
        "date" => match value.as_str() {
            Some(time) if time.parse::<Timestamp>().is_ok() => age::since(time, now).into(),
            _ => "<invalid>".into(),
        },
        _ => match value {
            Value::String(_) => value.clone(),
            other => other.to_string().into(),
        },
    }
}
