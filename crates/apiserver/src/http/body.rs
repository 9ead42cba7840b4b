//! Request bodies: size, media type, and JSON or YAML to a value. Never looks at what the value means.

use axum::body::{Body, to_bytes};
use http::{HeaderMap, header::CONTENT_TYPE};
use serde_json::Value;

use crate::status::ApiError;

/// The largest body, as the real server's.
const LIMIT: usize = 3 * 1024 * 1024;

const WRITE_TYPES: &str = "application/json, application/yaml";
const PATCH_TYPES: &str = "application/json-patch+json, application/merge-patch+json, \
    application/strategic-merge-patch+json, application/apply-patch+yaml";

/// The form of a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PatchType {
    Json,
    Merge,
    Strategic,
    Apply,
}

/// The body of a POST, PUT or DELETE; `Null` if empty.
pub(crate) async fn read(headers: &HeaderMap, body: Body) -> Result<Value, ApiError> {
    let media = media_type(headers);
    let bytes = bytes(body).await?;
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    match media.as_str() {
        "" | "application/json" => json(&bytes),
        "application/yaml" => yaml(&bytes),
        _ => Err(ApiError::UnsupportedMediaType { accepted: WRITE_TYPES }),
    }
}

/// The body of a PATCH and its form.
pub(crate) async fn read_patch(headers: &HeaderMap, body: Body) -> Result<(PatchType, Value), ApiError> {
    let kind = match media_type(headers).as_str() {
        "application/json-patch+json" => PatchType::Json,
        "application/merge-patch+json" => PatchType::Merge,
        "application/strategic-merge-patch+json" => PatchType::Strategic,
        "application/apply-patch+yaml" => PatchType::Apply,
        _ => return Err(ApiError::UnsupportedMediaType { accepted: PATCH_TYPES }),
    };
    let bytes = bytes(body).await?;
    let value = if kind == PatchType::Apply { yaml(&bytes) } else { json(&bytes) };
    Ok((kind, value?))
}

fn media_type(headers: &HeaderMap) -> String {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    text.split(';').next().unwrap_or("").trim().to_ascii_lowercase()
}

async fn bytes(body: Body) -> Result<bytes::Bytes, ApiError> {
    to_bytes(body, LIMIT).await.map_err(|_| ApiError::TooLarge { limit: LIMIT })
}

fn json(bytes: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ApiError::BadRequest(format!("couldn't parse the body as JSON: {error}")))
}

/// JSON is tried first: what clients send as YAML is JSON in practice.
fn yaml(bytes: &[u8]) -> Result<Value, ApiError> {
    if let Ok(value) = serde_json::from_slice(bytes) {
        return Ok(value);
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| ApiError::BadRequest(format!("couldn't parse the body as YAML: {error}")))?;
    serde_saphyr::from_str(text)
        .map_err(|error| ApiError::BadRequest(format!("couldn't parse the body as YAML: {error}")))
}
