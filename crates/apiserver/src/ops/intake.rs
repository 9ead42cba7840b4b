//! Checks that a body is the kind its path says and has the field types of that kind; drops what the kind does not
//! have. Never checks values; that is `validation`.

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        coordination::v1::Lease,
        core::v1::{
            ConfigMap, Endpoints, Event, LimitRange, Namespace, Node, Pod, ResourceQuota, Secret, Service,
            ServiceAccount,
        },
        discovery::v1::EndpointSlice,
        networking::v1::{IPAddress, NetworkPolicy, ServiceCIDR},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use serde::de::DeserializeOwned;
use serde_ignored::Path;
use serde_json::Value;

use super::FieldValidation;
use crate::{
    meta::{self, Object},
    resource::{Builtin, Resource, Schema},
    status::ApiError,
};

/// Checks or fills in `apiVersion` and `kind`.
pub(crate) fn check_type(resource: &Resource, object: &mut Object) -> Result<(), ApiError> {
    let api_version = resource.api_version();
    let Some(members) = object.as_object_mut() else {
        return Err(ApiError::BadRequest(format!(
            "the body is not a {}: it is not an object",
            resource.kind
        )));
    };
    for (key, expected) in [("apiVersion", api_version.as_str()), ("kind", resource.kind.as_str())] {
        match members.get(key).and_then(Value::as_str) {
            None | Some("") => {
                members.insert(key.to_owned(), expected.into());
            }
            Some(found) if found == expected => {}
            Some(found) if key == "kind" => {
                return Err(ApiError::BadRequest(format!(
                    "{found} in version {:?} cannot be handled as a {expected}: no kind {found:?} is registered \
                     for this path",
                    resource.version,
                )));
            }
            Some(found) => {
                return Err(ApiError::BadRequest(format!(
                    "the API version in the data ({found}) does not match the expected API version ({expected})"
                )));
            }
        }
    }
    Ok(())
}

/// Checks field types and removes unknown fields; answers warnings about them, or an error under strict validation.
pub(crate) fn typed(
    resource: &Resource,
    object: &mut Object,
    validation: FieldValidation,
) -> Result<Vec<String>, ApiError> {
    meta::drop_nulls(object);
    let unknown = match &resource.schema {
        Schema::Builtin(builtin) => {
            stringify_quantities(object);
            decode(*builtin, object)
        }
        Schema::Custom(custom) => custom_unknown(object, &custom.schema),
    }
    .map_err(|problem| cannot_handle(resource, &problem))?;
    let warnings: Vec<String> =
        unknown.iter().map(|path| format!("unknown field {:?}", path.dotted())).collect();
    for path in &unknown {
        path.remove_from(object);
    }
    match validation {
        FieldValidation::Strict if !warnings.is_empty() => {
            Err(cannot_handle(resource, &format!("strict decoding error: {}", warnings.join(", "))))
        }
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Warn | FieldValidation::Strict => Ok(warnings),
    }
}

fn cannot_handle(resource: &Resource, problem: &str) -> ApiError {
    let (kind, version) = (&resource.kind, resource.api_version());
    let version = version.rsplit('/').next().unwrap_or("").to_owned();
    ApiError::BadRequest(format!("{kind} in version {version:?} cannot be handled as a {kind}: {problem}"))
}

/// A field's place: member names and list positions.
#[derive(Debug, PartialEq, Eq)]
struct FieldPath(Vec<String>);

impl FieldPath {
    fn of(path: &Path<'_>) -> Self {
        let mut steps = Vec::new();
        let mut next = Some(path);
        while let Some(step) = next {
            next = match step {
                Path::Root => None,
                Path::Seq { parent, index } => {
                    steps.push(index.to_string());
                    Some(*parent)
                }
                Path::Map { parent, key } => {
                    steps.push(key.clone());
                    Some(*parent)
                }
                Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
                    Some(*parent)
                }
            };
        }
        steps.reverse();
        Self(steps)
    }

    /// `spec.ports[0].foo`.
    fn dotted(&self) -> String {
        let mut text = String::new();
        for step in &self.0 {
            if step.bytes().all(|byte| byte.is_ascii_digit()) {
                text.push_str(&format!("[{step}]"));
            } else {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(step);
            }
        }
        text
    }

    fn remove_from(&self, object: &mut Object) {
        let Some((last, parents)) = self.0.split_last() else { return };
        let parent = parents.iter().try_fold(object, |value, step| match value {
            Value::Object(members) => members.get_mut(step),
            Value::Array(elements) => elements.get_mut(step.parse::<usize>().ok()?),
            _ => None,
        });
        if let Some(Value::Object(members)) = parent {
            members.remove(last);
        }
    }
}

fn decode_as<T: DeserializeOwned>(object: &Object) -> Result<Vec<FieldPath>, String> {
    let mut unknown = Vec::new();
    let mut note = |path: Path<'_>| unknown.push(FieldPath::of(&path));
    let decoded: Result<T, _> =
        serde_path_to_error::deserialize(serde_ignored::Deserializer::new(object, &mut note));
    match decoded {
        Ok(_) => Ok(unknown),
        Err(error) => Err(format!("{}: {}", error.path(), error.inner())),
    }
}

fn decode(builtin: Builtin, object: &Object) -> Result<Vec<FieldPath>, String> {
    match builtin {
        Builtin::ConfigMap => decode_as::<ConfigMap>(object),
        Builtin::CustomResourceDefinition => decode_as::<CustomResourceDefinition>(object),
        Builtin::Deployment => decode_as::<Deployment>(object),
        Builtin::EndpointSlice => decode_as::<EndpointSlice>(object),
        Builtin::Endpoints => decode_as::<Endpoints>(object),
        Builtin::Event => decode_as::<Event>(object),
        Builtin::IpAddress => decode_as::<IPAddress>(object),
        Builtin::Lease => decode_as::<Lease>(object),
        Builtin::LimitRange => decode_as::<LimitRange>(object),
        Builtin::Namespace => decode_as::<Namespace>(object),
        Builtin::NetworkPolicy => decode_as::<NetworkPolicy>(object),
        Builtin::Node => decode_as::<Node>(object),
        Builtin::Pod => decode_as::<Pod>(object),
        Builtin::ReplicaSet => decode_as::<ReplicaSet>(object),
        Builtin::ResourceQuota => decode_as::<ResourceQuota>(object),
        Builtin::Secret => decode_as::<Secret>(object),
        Builtin::Service => decode_as::<Service>(object),
        Builtin::ServiceAccount => decode_as::<ServiceAccount>(object),
        Builtin::ServiceCidr => decode_as::<ServiceCIDR>(object),
    }
}

/// Fields of a custom object that its structural schema has no room for. Without properties there is nothing to miss.
fn custom_unknown(object: &Object, schema: &Value) -> Result<Vec<FieldPath>, String> {
    if !object["metadata"].is_null() {
        let metadata = serde_json::json!({"metadata": object["metadata"]});
        decode_as::<ConfigMap>(&metadata_only(&metadata))?;
    }
    let mut unknown = Vec::new();
    if let (Some(members), Some(properties)) = (object.as_object(), schema["properties"].as_object()) {
        for (key, value) in members {
            if matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
                continue;
            }
            match properties.get(key) {
                Some(property) => prune(value, property, &mut vec![key.clone()], &mut unknown),
                None if schema["x-kubernetes-preserve-unknown-fields"] == true => {}
                None => unknown.push(FieldPath(vec![key.clone()])),
            }
        }
    }
    Ok(unknown)
}

fn metadata_only(object: &Value) -> Value {
    let mut object = object.clone();
    object["apiVersion"] = "v1".into();
    object["kind"] = "ConfigMap".into();
    object
}

fn prune(value: &Value, schema: &Value, path: &mut Vec<String>, unknown: &mut Vec<FieldPath>) {
    if schema["x-kubernetes-preserve-unknown-fields"] == true && schema["properties"].is_null() {
        return;
    }
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                path.push(key.clone());
                if !schema["properties"][key].is_null() {
                    prune(member, &schema["properties"][key], path, unknown);
                } else if schema["additionalProperties"].is_object() {
                    prune(member, &schema["additionalProperties"], path, unknown);
                } else if schema["additionalProperties"] != true
                    && schema["x-kubernetes-preserve-unknown-fields"] != true
                {
                    unknown.push(FieldPath(path.clone()));
                }
                path.pop();
            }
        }
        Value::Array(elements) => {
            for (index, element) in elements.iter().enumerate() {
                path.push(index.to_string());
                prune(element, &schema["items"], path, unknown);
                path.pop();
            }
        }
        _ => {}
    }
}

/// Quantities may be written as numbers; they are kept as text.
fn stringify_quantities(object: &mut Object) {
    for (pod, containers) in [
        ("/spec", ["containers", "initContainers"]),
        ("/spec/template/spec", ["containers", "initContainers"]),
    ] {
        let Some(pod) = object.pointer_mut(pod) else { continue };
        for list in containers {
            for container in meta::items_mut(pod, &[list]) {
                for kind in ["limits", "requests"] {
                    stringify(container.pointer_mut(&format!("/resources/{kind}")));
                }
            }
        }
    }
    for node in ["/status/capacity", "/status/allocatable"] {
        stringify(object.pointer_mut(node));
    }
}

fn stringify(quantities: Option<&mut Value>) {
    for quantity in quantities.and_then(Value::as_object_mut).into_iter().flat_map(|map| map.values_mut()) {
        if quantity.is_number() {
            *quantity = quantity.to_string().into();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resource::Registry;

    fn service() -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"},
               "spec": {"ports": [{"port": 80, "foo": 1}], "bar": {}, "selector": null}})
    }

    #[test]
    fn unknown_fields_are_dropped_and_named() {
        let services = Registry::new().find("", "v1", "services").unwrap();
        let mut object = service();
        let warnings = typed(&services, &mut object, FieldValidation::Warn).unwrap();
        assert_eq!(warnings, [r#"unknown field "spec.bar""#, r#"unknown field "spec.ports[0].foo""#]);
        assert_eq!(object["spec"], json!({"ports": [{"port": 80}]}));
    }

    #[test]
    fn strict_validation_refuses_them() {
        let services = Registry::new().find("", "v1", "services").unwrap();
        let error = typed(&services, &mut service(), FieldValidation::Strict).unwrap_err().to_string();
        assert_eq!(
            error,
            r#"Service in version "v1" cannot be handled as a Service: strict decoding error: unknown field "spec.bar", unknown field "spec.ports[0].foo""#
        );
    }

    #[test]
    fn wrong_types_name_the_field() {
        let services = Registry::new().find("", "v1", "services").unwrap();
        let mut object = service();
        object["spec"]["ports"][0]["port"] = "http".into();
        let error = typed(&services, &mut object, FieldValidation::Ignore).unwrap_err().to_string();
        assert!(error.contains("spec.ports[0].port: invalid type: string"), "{error}");
    }

    #[test]
    fn the_kind_must_be_the_path_s() {
        let services = Registry::new().find("", "v1", "services").unwrap();
        assert!(check_type(&services, &mut json!({"kind": "Pod"})).is_err());
        assert!(check_type(&services, &mut json!({"apiVersion": "v2"})).is_err());
        let mut bare = json!({});
        check_type(&services, &mut bare).unwrap();
        assert_eq!(bare, json!({"apiVersion": "v1", "kind": "Service"}));
    }
}
