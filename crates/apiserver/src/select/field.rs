//! Field selectors: the few fields each kind lets clients select by. Never selects by labels.

use std::borrow::Cow;

use serde_json::Value;

use crate::{
    meta::{Object, at},
    resource::{Builtin, Resource},
    status::ApiError,
};

/// Terms that all must hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct FieldSelector(Vec<Term>);

#[derive(Debug, Clone)]
struct Term {
    path: Vec<String>,
    value: String,
    equal: bool,
}

impl FieldSelector {
    /// Parses `metadata.name=x,status.phase!=Failed` for a kind; other fields than the kind's are refused.
    pub(crate) fn parse(text: &str, resource: &Resource) -> Result<Self, ApiError> {
        text.split(',')
            .filter(|part| !part.is_empty())
            .map(|part| term(part, resource))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    pub(crate) fn matches(&self, object: &Object) -> bool {
        self.0.iter().all(|term| (field(object, &term.path) == term.value) == term.equal)
    }
}

fn term(part: &str, resource: &Resource) -> Result<Term, ApiError> {
    let (field, value, equal) = if let Some((field, value)) = part.split_once("!=") {
        (field, value, false)
    } else if let Some((field, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        (field, value, true)
    } else {
        return Err(ApiError::BadRequest(format!("invalid selector: '{part}'; can't understand '{part}'")));
    };
    let field = field.trim();
    let path = match field.strip_prefix("regarding.") {
        Some(rest) if resource.is(Builtin::Event) => format!("involvedObject.{rest}"),
        _ => field.to_owned(),
    };
    if !supported(resource).contains(&path.as_str()) {
        return Err(ApiError::BadRequest(format!("field label not supported: {field}")));
    }
    Ok(Term { path: path.split('.').map(str::to_owned).collect(), value: value.replace('\\', ""), equal })
}

fn supported(resource: &Resource) -> Cow<'static, [&'static str]> {
    const COMMON: &[&str] = &["metadata.name", "metadata.namespace"];
    let more: &[&str] = match resource.builtin() {
        Some(Builtin::Pod) => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        Some(Builtin::Node) => &["spec.unschedulable"],
        Some(Builtin::Event) => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        Some(Builtin::Service) => &["spec.clusterIP", "spec.type"],
        Some(Builtin::Namespace) => &["status.phase"],
        Some(Builtin::ReplicaSet) => &["status.replicas"],
        Some(Builtin::Secret) => &["type"],
        _ => return Cow::Borrowed(COMMON),
    };
    Cow::Owned([COMMON, more].concat())
}

fn field(object: &Object, path: &[String]) -> String {
    let path: Vec<&str> = match path.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["source"] => vec!["source", "component"],
        other => other.to_vec(),
    };
    match at(object, &path) {
        Value::String(text) => text.clone(),
        Value::Null if matches!(path.last(), Some(&("unschedulable" | "hostNetwork"))) => "false".to_owned(),
        Value::Null if path.last() == Some(&"replicas") => "0".to_owned(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::FieldSelector;
    use crate::resource::Registry;

    #[test]
    fn fields_of_the_kind_only() {
        let registry = Registry::new();
        let pods = registry.find("", "v1", "pods").unwrap();
        let pod =
            json!({"metadata": {"name": "p"}, "spec": {"nodeName": "a"}, "status": {"phase": "Running"}});
        let selects = |text| FieldSelector::parse(text, &pods).unwrap().matches(&pod);
        assert!(selects("spec.nodeName=a,status.phase!=Failed,status.phase!=Succeeded"));
        assert!(selects("spec.hostNetwork=false"));
        assert!(!selects("metadata.name==q"));
        assert!(FieldSelector::parse("spec.containers=x", &pods).is_err());
        assert!(FieldSelector::parse("metadata.name", &pods).is_err());
    }

    #[test]
    fn headless_services_are_not_what_a_proxy_watches() {
        let services = Registry::new().find("", "v1", "services").unwrap();
        let selector = FieldSelector::parse("spec.clusterIP!=None", &services).unwrap();
        assert!(!selector.matches(&json!({"spec": {"clusterIP": "None"}})));
        assert!(selector.matches(&json!({"spec": {"clusterIP": "10.0.0.1"}})));
    }
}
