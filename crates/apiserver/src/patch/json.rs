//! JSON patch (RFC 6902). Never applies part of one.

use serde_json::Value;

use crate::status::ApiError;

/// Applies all operations, or none and says which failed.
pub(crate) fn json_patch(target: &Value, patch: &Value) -> Result<Value, ApiError> {
    let patch: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|error| ApiError::BadRequest(format!("error decoding patch: {error}")))?;
    let mut patched = target.clone();
    json_patch::patch(&mut patched, &patch).map_err(|error| {
        ApiError::UnprocessablePatch(format!(
            "the server rejected our request due to an error in our request: {error}"
        ))
    })?;
    Ok(patched)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::json_patch;

    #[test]
    fn all_or_nothing() {
        let target = json!({"a": 1, "list": [1, 2]});
        let patched = json_patch(
            &target,
            &json!([{"op": "test", "path": "/a", "value": 1}, {"op": "add", "path": "/list/-", "value": 3}]),
        );
        assert_eq!(patched.unwrap(), json!({"a": 1, "list": [1, 2, 3]}));
        let failed = json_patch(
            &target,
            &json!([{"op": "remove", "path": "/a"}, {"op": "test", "path": "/list/0", "value": 9}]),
        );
        assert_eq!(failed.unwrap_err().code().0, 422);
        assert_eq!(json_patch(&target, &json!({"op": "x"})).unwrap_err().code().0, 400);
    }
}
