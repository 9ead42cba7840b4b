//! `LabelSelector` objects. Never evaluates one; see `select`.

use serde_json::Value;

use super::{FieldErrors, metadata, names};
use crate::meta::{is_empty, items, text};

pub(super) fn check(selector: &Value, path: &str, errors: &mut FieldErrors) {
    metadata::labels(&selector["matchLabels"], &format!("{path}.matchLabels"), errors);
    for (index, expression) in items(selector, &["matchExpressions"]).iter().enumerate() {
        let path = format!("{path}.matchExpressions[{index}]");
        match text(expression, &["operator"]) {
            "In" | "NotIn" => {
                if is_empty(&expression["values"]) {
                    let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                    errors.required(format!("{path}.values"), detail);
                }
            }
            "Exists" | "DoesNotExist" => {
                if !is_empty(&expression["values"]) {
                    let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                    errors.forbidden(format!("{path}.values"), detail);
                }
            }
            other => errors.invalid(format!("{path}.operator"), other, "not a valid selector operator"),
        }
        let key = text(expression, &["key"]);
        for problem in names::qualified_name(key) {
            errors.invalid(format!("{path}.key"), key, problem);
        }
        for (place, value) in items(expression, &["values"]).iter().filter_map(Value::as_str).enumerate() {
            for problem in names::label_value(value) {
                errors.invalid(format!("{path}.values[{place}]"), value, problem);
            }
        }
    }
}
