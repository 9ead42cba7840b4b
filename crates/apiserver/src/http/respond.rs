//! Objects, lists and errors to responses in the form that `Accept` asks for. Never decides what is answered.

use std::sync::Arc;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, WARNING},
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{meta::Object, resource::Resource, status::ApiError, table, view};

/// The form of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Object,
    Table,
    /// `PartialObjectMetadata`.
    Metadata,
}

impl Form {
    /// The first form in `Accept` that this server has; JSON whenever anything goes.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
        if accept.trim().is_empty() {
            return Ok(Self::Object);
        }
        accept.split(',').find_map(Self::offered).ok_or(ApiError::NotAcceptable)
    }

    fn offered(entry: &str) -> Option<Self> {
        let mut parts = entry.split(';').map(str::trim);
        let media = parts.next()?;
        if !matches!(media, "application/json" | "*/*" | "application/*") {
            return None;
        }
        let parameters: Vec<&str> = parts.collect();
        match parameters.iter().find_map(|parameter| parameter.strip_prefix("as=")) {
            None => Some(Self::Object),
            Some(_) if !parameters.contains(&"v=v1") => None,
            Some("Table") => Some(Self::Table),
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Some(Self::Metadata),
            Some(_) => None,
        }
    }
}

/// How much of each object a Table carries, by `includeObject`.
pub(crate) fn included(object: &Object, include: &str) -> Value {
    match include {
        "None" => Value::Null,
        "Object" => object.clone(),
        _ => metadata_only(object),
    }
}

/// An object's `PartialObjectMetadata`.
pub(crate) fn metadata_only(object: &Object) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
    })
}

/// JSON with a status code.
pub(crate) fn json_response(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => {
            (status, [(CONTENT_TYPE, HeaderValue::from_static("application/json"))], Body::from(body))
                .into_response()
        }
        Err(error) => ApiError::Internal(format!("could not encode the response: {error}")).into_response(),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code().0).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        json_response(status, &self.status())
    }
}

/// One object.
pub(crate) fn object(
    status: StatusCode,
    form: Form,
    resource: &Resource,
    object: &Arc<Object>,
    now: jiff::Timestamp,
) -> Response {
    let object = view::present(resource, object);
    match form {
        Form::Object => json_response(status, &*object),
        Form::Metadata => json_response(status, &metadata_only(&object)),
        Form::Table => {
            let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
            json_response(status, &table::render(resource, &[object], metadata, now, ""))
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List<'a> {
    kind: String,
    api_version: String,
    metadata: Value,
    items: Vec<&'a Value>,
}

/// A list of objects as of a version.
pub(crate) fn list(
    form: Form,
    resource: &Resource,
    objects: &[Arc<Object>],
    version: u64,
    now: jiff::Timestamp,
    include: &str,
) -> Response {
    let objects: Vec<Arc<Object>> = objects.iter().map(|object| view::present(resource, object)).collect();
    let metadata = json!({"resourceVersion": version.to_string()});
    match form {
        Form::Object => {
            let items = objects.iter().map(|object| &**object).collect();
            let list =
                List { kind: resource.list_kind(), api_version: resource.api_version(), metadata, items };
            json_response(StatusCode::OK, &list)
        }
        Form::Metadata => {
            let items: Vec<Value> = objects.iter().map(|object| metadata_only(object)).collect();
            let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata, "items": items});
            json_response(StatusCode::OK, &list)
        }
        Form::Table => {
            json_response(StatusCode::OK, &table::render(resource, &objects, metadata, now, include))
        }
    }
}

/// Adds one `Warning` header per warning (RFC 7234, code 299).
pub(crate) fn with_warnings(mut response: Response, warnings: &[String]) -> Response {
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(WARNING, value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, header::ACCEPT};

    use super::Form;

    #[test]
    fn the_first_form_that_is_had() {
        let form = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            Form::of(&headers).ok()
        };
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(form(table), Some(Form::Table));
        assert_eq!(form("application/vnd.kubernetes.protobuf, application/json"), Some(Form::Object));
        assert_eq!(form("application/vnd.kubernetes.protobuf"), None);
        assert_eq!(form("*/*"), Some(Form::Object));
        assert_eq!(
            form("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"),
            Some(Form::Metadata)
        );
    }
}
