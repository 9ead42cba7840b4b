//! `/openapi/v2` for kubectl before 1.27, which wants it as protobuf (gnostic's `openapi.v2.Document`). Written with a
//! two-function encoder: the document has five kinds of message, and no field schemas.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header::CONTENT_TYPE};

use super::{PARAMETERS, object_path};
use crate::resource::{Registry, Resource};

/// What clients ask for has an `@` for the second dot, which no media type may have: Go clients refuse it in an answer.
const MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The document.
pub(crate) fn v2(registry: &Registry) -> Response {
    (StatusCode::OK, [(CONTENT_TYPE, MEDIA_TYPE)], Body::from(document(registry))).into_response()
}

/// A protobuf message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    /// Appends a length-delimited field: bytes, text or a message.
    fn with(mut self, number: u8, value: impl AsRef<[u8]>) -> Self {
        // Wire type 2; field numbers here are below 16 and fit the one-byte tag.
        self.0.push(number << 3 | 2);
        let value = value.as_ref();
        let mut length = value.len();
        while length >= 0x80 {
            self.0.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        self.0.push(length as u8);
        self.0.extend_from_slice(value);
        self
    }
}

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

// Field numbers: gnostic openapiv2/OpenAPIv2.proto.
fn document(registry: &Registry) -> Vec<u8> {
    let info = Message::default().with(1, "Kubernetes").with(2, "v1.36.0");
    let paths = registry.all().fold(Message::default(), |paths, resource| {
        let item = Message::default().with(8, patch_operation(resource));
        paths.with(2, Message::default().with(1, object_path(resource)).with(2, item))
    });
    Message::default().with(1, "2.0").with(2, info).with(8, paths).0
}

fn patch_operation(resource: &Resource) -> Message {
    let kind =
        format!("group: {:?}\nkind: {:?}\nversion: {:?}\n", resource.group, resource.kind, resource.version);
    let extension = Message::default()
        .with(1, "x-kubernetes-group-version-kind")
        .with(2, Message::default().with(2, kind));
    PARAMETERS
        .iter()
        .fold(Message::default().with(5, format!("patch{}", resource.kind)), |operation, name| {
            operation.with(8, query_parameter(name))
        })
        .with(13, extension)
}

/// ParametersItem { parameter: Parameter { non_body_parameter: NonBodyParameter { query: … } } }.
fn query_parameter(name: &str) -> Message {
    let query = Message::default().with(2, "query").with(4, name).with(6, "string");
    let non_body = Message::default().with(3, query);
    Message::default().with(1, Message::default().with(2, non_body))
}
