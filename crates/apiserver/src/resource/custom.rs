//! Resources made from CustomResourceDefinitions. Never validates the definition; see `validation`.

use std::sync::Arc;

use serde_json::Value;

use super::{Resource, ScalePaths, Schema};
use crate::meta::{items, text};

/// What a definition says about one version of its kind.
#[derive(Debug, Clone)]
pub(crate) struct CustomKind {
    pub(crate) list_kind: String,
    pub(crate) columns: Vec<Column>,
    /// `openAPIV3Schema`, or `Null`.
    pub(crate) schema: Value,
}

/// One of `additionalPrinterColumns`.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) format: String,
    pub(crate) description: String,
    pub(crate) priority: i64,
    pub(crate) path: String,
}

/// The resources of a definition, one per served version.
pub(super) fn resources(definition: &Value) -> Vec<Arc<Resource>> {
    let spec = &definition["spec"];
    items(spec, &["versions"])
        .iter()
        .filter(|version| version["served"] == true)
        .map(|version| Arc::new(resource(spec, version)))
        .collect()
}

fn resource(spec: &Value, version: &Value) -> Resource {
    let names = &spec["names"];
    let strings = |value: &Value| {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let kind = text(names, &["kind"]).to_owned();
    let or = |value: &str, default: String| if value.is_empty() { default } else { value.to_owned() };
    let group = text(spec, &["group"]).to_owned();
    let plural = text(names, &["plural"]).to_owned();
    Resource {
        version: text(version, &["name"]).to_owned(),
        singular: or(text(names, &["singular"]), kind.to_lowercase()),
        short_names: strings(&names["shortNames"]),
        categories: strings(&names["categories"]),
        namespaced: text(spec, &["scope"]) == "Namespaced",
        status: !version["subresources"]["status"].is_null(),
        scale: scale(&version["subresources"]["scale"]),
        storage: format!("{plural}.{group}").into(),
        schema: Schema::Custom(Arc::new(CustomKind {
            list_kind: or(text(names, &["listKind"]), format!("{kind}List")),
            columns: items(version, &["additionalPrinterColumns"]).iter().map(column).collect(),
            schema: version["schema"]["openAPIV3Schema"].clone(),
        })),
        group,
        kind,
        plural,
    }
}

fn column(value: &Value) -> Column {
    Column {
        name: text(value, &["name"]).to_owned(),
        kind: text(value, &["type"]).to_owned(),
        format: text(value, &["format"]).to_owned(),
        description: text(value, &["description"]).to_owned(),
        priority: value["priority"].as_i64().unwrap_or(0),
        path: text(value, &["jsonPath"]).to_owned(),
    }
}

fn scale(value: &Value) -> Option<ScalePaths> {
    let path = |key: &str| {
        let text = text(value, &[key]);
        (!text.is_empty()).then(|| text.trim_start_matches('.').split('.').map(str::to_owned).collect())
    };
    Some(ScalePaths {
        spec: path("specReplicasPath")?,
        status: path("statusReplicasPath")?,
        selector: path("labelSelectorPath"),
    })
}
