//! Sets of fields and their `FieldsV1` form. Never holds values, except those that tell list elements apart.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::schema::{ListKind, Type};

/// One step of a path, as `FieldsV1` writes it: `f:member`, `k:{"key":…}` or `v:…`.
pub(super) type Path = Vec<String>;

/// Fields, in an order in which a path comes before those below it.
pub(super) type FieldSet = BTreeSet<Path>;

/// What every object has and nobody owns.
const SERVER_OWNED: [&[&str]; 11] = [
    &["f:apiVersion"],
    &["f:kind"],
    &["f:metadata"],
    &["f:metadata", "f:name"],
    &["f:metadata", "f:namespace"],
    &["f:metadata", "f:creationTimestamp"],
    &["f:metadata", "f:generation"],
    &["f:metadata", "f:managedFields"],
    &["f:metadata", "f:resourceVersion"],
    &["f:metadata", "f:selfLink"],
    &["f:metadata", "f:uid"],
];

/// The fields that a value of a type sets.
pub(super) fn fields_of(value: &Value, of: Type) -> FieldSet {
    let mut fields = FieldSet::new();
    collect(value, of, &mut Vec::new(), &mut fields);
    fields
}

fn collect(value: &Value, of: Type, path: &mut Path, fields: &mut FieldSet) {
    let Value::Object(members) = value else { return };
    for (key, member) in members {
        let field = of.field(key);
        path.push(format!("f:{key}"));
        match member {
            Value::Object(inner) if !inner.is_empty() && !field.atomic => {
                collect(member, field.of, path, fields)
            }
            Value::Array(elements)
                if !elements.is_empty() && element_step(&elements[0], field.list).is_some() =>
            {
                for element in elements {
                    let Some(step) = element_step(element, field.list) else { continue };
                    path.push(step);
                    fields.insert(path.clone());
                    collect(element, field.of, path, fields);
                    path.pop();
                }
            }
            _ => {
                fields.insert(path.clone());
            }
        }
        path.pop();
    }
}

/// How an element is told apart in its list; none in atomic lists.
pub(super) fn element_step(element: &Value, list: ListKind) -> Option<String> {
    match list {
        ListKind::Atomic | ListKind::MergeOnly { .. } => None,
        ListKind::Set => Some(format!("v:{element}")),
        ListKind::Map { apply_keys, .. } => {
            let keys: Map<String, Value> =
                apply_keys.iter().map(|key| ((*key).to_owned(), key_value(element, key))).collect();
            Some(format!("k:{}", Value::Object(keys)))
        }
    }
}

/// A key's value; of all keys only the protocol may be left out.
fn key_value(element: &Value, key: &str) -> Value {
    match &element[key] {
        Value::Null if key == "protocol" => "TCP".into(),
        value => value.clone(),
    }
}

pub(super) fn without_server_owned(mut fields: FieldSet) -> FieldSet {
    fields.retain(|path| {
        !SERVER_OWNED.iter().any(|owned| path == owned) && !path.starts_with(&managed_fields())
    });
    fields
}

fn managed_fields() -> [String; 2] {
    ["f:metadata".to_owned(), "f:managedFields".to_owned()]
}

/// `FieldsV1`: nested objects; `.` marks a field that is in the set although fields below it are too.
pub(super) fn to_value(fields: &FieldSet) -> Value {
    let mut root = json!({});
    for path in fields {
        let mut node = &mut root;
        for step in path {
            // A parent that is in the set came first, as an empty object: mark it before it gets children.
            node = &mut node[step];
            if node.is_null() {
                *node = json!({});
            }
        }
    }
    mark(&mut root, fields, &mut Vec::new());
    root
}

fn mark(node: &mut Value, fields: &FieldSet, path: &mut Path) {
    let Value::Object(children) = node else { return };
    for (step, child) in children.iter_mut() {
        path.push(step.clone());
        mark(child, fields, path);
        path.pop();
    }
    if !children.is_empty() && fields.contains(path) {
        children.insert(".".to_owned(), json!({}));
    }
}

/// Reads `FieldsV1`.
pub(super) fn from_value(value: &Value) -> FieldSet {
    let mut fields = FieldSet::new();
    read(value, &mut Vec::new(), &mut fields);
    fields
}

fn read(value: &Value, path: &mut Path, fields: &mut FieldSet) {
    let Value::Object(children) = value else { return };
    if (children.is_empty() || children.contains_key(".")) && !path.is_empty() {
        fields.insert(path.clone());
    }
    for (step, child) in children.iter().filter(|(step, _)| *step != ".") {
        path.push(step.clone());
        read(child, path, fields);
        path.pop();
    }
}

/// A path as messages show it: `.spec.ports[port=80,protocol="TCP"].name`.
pub(super) fn shown(path: &Path) -> String {
    path.iter()
        .map(|step| match step.split_at_checked(2) {
            Some(("f:", name)) => format!(".{name}"),
            Some(("k:", keys)) => {
                let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let pairs: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
                format!("[{}]", pairs.join(","))
            }
            Some(("v:", value)) => format!("[={value}]"),
            _ => step.clone(),
        })
        .collect()
}
