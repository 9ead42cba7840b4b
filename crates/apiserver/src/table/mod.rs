//! Objects as rows of a `Table`, which is what `kubectl get` prints: the real server's columns and cell texts.
//! Never selects or orders objects.

mod age;
mod cells;
mod custom;
mod json_path;
mod pod;

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    http::included,
    meta::Object,
    resource::{Builtin, Resource, Schema},
};

/// A column: its name, its type, and whether only `-o wide` shows it.
#[derive(Debug, Clone, Copy)]
struct Column {
    name: &'static str,
    kind: &'static str,
    wide: bool,
}

const fn text(name: &'static str) -> Column {
    Column { name, kind: "string", wide: false }
}

const fn number(name: &'static str) -> Column {
    Column { name, kind: "integer", wide: false }
}

const fn wide(name: &'static str) -> Column {
    Column { name, kind: "string", wide: true }
}

const NAME: Column = text("Name");
const AGE: Column = text("Age");

fn columns(builtin: Builtin) -> Vec<Column> {
    match builtin {
        Builtin::ConfigMap => vec![NAME, number("Data"), AGE],
        Builtin::CustomResourceDefinition | Builtin::LimitRange => {
            vec![NAME, Column { name: "Created At", kind: "date", wide: false }]
        }
        Builtin::Deployment => vec![
            NAME,
            text("Ready"),
            number("Up-to-date"),
            number("Available"),
            AGE,
            wide("Containers"),
            wide("Images"),
            wide("Selector"),
        ],
        Builtin::EndpointSlice => vec![NAME, text("AddressType"), text("Ports"), text("Endpoints"), AGE],
        Builtin::Endpoints => vec![NAME, text("Endpoints"), AGE],
        Builtin::Event => vec![
            text("Last Seen"),
            text("Type"),
            text("Reason"),
            text("Object"),
            wide("Subobject"),
            wide("Source"),
            text("Message"),
            wide("First Seen"),
            Column { name: "Count", kind: "integer", wide: true },
            Column { name: "Name", kind: "string", wide: true },
        ],
        Builtin::Lease => vec![NAME, text("Holder"), AGE],
        Builtin::Namespace => vec![NAME, text("Status"), AGE],
        Builtin::NetworkPolicy => vec![NAME, text("Pod-Selector"), AGE],
        Builtin::Node => vec![
            NAME,
            text("Status"),
            text("Roles"),
            AGE,
            text("Version"),
            wide("Internal-IP"),
            wide("External-IP"),
            wide("OS-Image"),
            wide("Kernel-Version"),
            wide("Container-Runtime"),
        ],
        Builtin::Pod => vec![
            NAME,
            text("Ready"),
            text("Status"),
            text("Restarts"),
            AGE,
            wide("IP"),
            wide("Node"),
            wide("Nominated Node"),
            wide("Readiness Gates"),
        ],
        Builtin::ReplicaSet => vec![
            NAME,
            number("Desired"),
            number("Current"),
            number("Ready"),
            AGE,
            wide("Containers"),
            wide("Images"),
            wide("Selector"),
        ],
        Builtin::ResourceQuota => vec![NAME, text("Request"), text("Limit"), AGE],
        Builtin::Secret => vec![NAME, text("Type"), number("Data"), AGE],
        Builtin::Service => vec![
            NAME,
            text("Type"),
            text("Cluster-IP"),
            text("External-IP"),
            text("Port(s)"),
            AGE,
            wide("Selector"),
        ],
        Builtin::ServiceAccount => vec![NAME, number("Secrets"), AGE],
        Builtin::IpAddress => vec![NAME, text("ParentRef")],
        Builtin::ServiceCidr => vec![NAME, text("CIDRs"), AGE],
    }
}

/// The table of some objects of one kind. `include` is the request's `includeObject`.
pub(crate) fn render(
    resource: &Resource,
    objects: &[Arc<Object>],
    metadata: Value,
    now: Timestamp,
    include: &str,
) -> Value {
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let cells = match &resource.schema {
                Schema::Builtin(builtin) => cells::cells(*builtin, object, now),
                Schema::Custom(custom) => custom::cells(&custom.columns, object, now),
            };
            json!({"cells": cells, "object": included(object, include)})
        })
        .collect();
    let definitions = match &resource.schema {
        Schema::Builtin(builtin) => columns(*builtin).iter().map(definition).collect(),
        Schema::Custom(custom) => custom::definitions(&custom.columns),
    };
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": Value::Array(definitions), "rows": rows,
    })
}

fn definition(column: &Column) -> Value {
    let format = if column.name == "Name" { "name" } else { "" };
    json!({
        "name": column.name, "type": column.kind, "format": format, "description": "",
        "priority": i64::from(column.wide),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::{columns, render};
    use crate::resource::{Registry, Schema};

    /// Every kind's row has a cell per column, whatever its objects leave out.
    #[test]
    fn rows_are_as_wide_as_their_header() {
        let registry = Registry::new();
        for resource in registry.all() {
            let Schema::Builtin(builtin) = resource.schema else { continue };
            let object = Arc::new(json!({"metadata": {"name": "x"}}));
            let table = render(resource, &[object], json!({}), jiff::Timestamp::UNIX_EPOCH, "");
            assert_eq!(
                table["rows"][0]["cells"].as_array().unwrap().len(),
                columns(builtin).len(),
                "{}",
                resource.kind
            );
        }
    }
}
