//! Objects as rows of a `Table`, which is what `kubectl get` prints. Never selects or orders objects.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    http::included,
    meta::{self, Object, text},
    resource::Resource,
};

pub(crate) fn render(
    _resource: &Resource,
    objects: &[Arc<Object>],
    metadata: Value,
    _now: Timestamp,
    include: &str,
) -> Value {
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| json!({"cells": [meta::name(object), text(object, &["metadata", "creationTimestamp"])], "object": included(object, include)}))
        .collect();
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": [
            {"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0},
            {"name": "Created At", "type": "date", "format": "", "description": "", "priority": 0}],
        "rows": rows})
}
