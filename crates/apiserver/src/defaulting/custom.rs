//! Defaults from a custom kind's structural schema. Never makes a parent to hold a default.

use serde_json::Value;

/// Fills in `default` values of absent members, from the outside in.
pub(super) fn apply(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(members) => {
            for (key, property) in schema["properties"].as_object().into_iter().flatten() {
                let default = &property["default"];
                if !default.is_null() && !members.contains_key(key) {
                    members.insert(key.clone(), default.clone());
                }
                if let Some(member) = members.get_mut(key) {
                    apply(member, property);
                }
            }
            if schema["additionalProperties"].is_object() {
                members.values_mut().for_each(|member| apply(member, &schema["additionalProperties"]));
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(|element| apply(element, &schema["items"])),
        _ => {}
    }
}
