//! Deployments and ReplicaSets. Never looks at their pods.

use serde_json::{Value, json};

use super::{FieldErrors, metadata, pod, selector};
use crate::{
    meta::{Object, is_empty, text},
    select::LabelSelector,
};

pub(super) fn deployment(deployment: &Object, errors: &mut FieldErrors) {
    common(deployment, "deployment", errors);
    let strategy = &deployment["spec"]["strategy"];
    match text(strategy, &["type"]) {
        "Recreate" if !is_empty(&strategy["rollingUpdate"]) => {
            let detail = "may not be specified when strategy `type` is 'Recreate'";
            errors.forbidden("spec.strategy.rollingUpdate", detail);
        }
        "Recreate" => {}
        "RollingUpdate" => rolling_update(&strategy["rollingUpdate"], errors),
        other => errors.unsupported("spec.strategy.type", other, &["Recreate", "RollingUpdate"]),
    }
}

pub(super) fn replica_set(replica_set: &Object, errors: &mut FieldErrors) {
    common(replica_set, "replicaset", errors);
}

fn common(object: &Object, kind: &str, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    let replicas = spec["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        errors.invalid("spec.replicas", replicas, "must be greater than or equal to 0");
    }
    let labels = &spec["template"]["metadata"]["labels"];
    if spec["selector"].is_null() {
        errors.required("spec.selector", "");
    } else {
        selector::check(&spec["selector"], "spec.selector", errors);
        if is_empty(&spec["selector"]["matchLabels"]) && is_empty(&spec["selector"]["matchExpressions"]) {
            let detail = format!("empty selector is invalid for {kind}");
            errors.invalid("spec.selector", spec["selector"].clone(), detail);
        } else if !LabelSelector::from_object(&spec["selector"]).matches(labels) {
            let shown = if labels.is_null() { json!({}) } else { labels.clone() };
            let detail = "`selector` does not match template `labels`";
            errors.invalid("spec.template.metadata.labels", shown, detail);
        }
    }
    metadata::labels(labels, "spec.template.metadata.labels", errors);
    pod::spec(&spec["template"]["spec"], "spec.template.spec", errors);
    let policy = text(spec, &["template", "spec", "restartPolicy"]);
    if policy != "Always" {
        errors.unsupported("spec.template.spec.restartPolicy", policy, &["Always"]);
    }
}

fn rolling_update(rolling: &Value, errors: &mut FieldErrors) {
    for field in ["maxUnavailable", "maxSurge"] {
        let value = &rolling[field];
        let path = format!("spec.strategy.rollingUpdate.{field}");
        match value {
            Value::String(text) => {
                let percent = text.strip_suffix('%').and_then(|number| number.parse::<u32>().ok());
                if percent.is_none() {
                    let detail = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
                    errors.invalid(path, text.as_str(), detail);
                }
            }
            value if value.as_i64().unwrap_or(0) < 0 => {
                errors.invalid(path, value.clone(), "must be greater than or equal to 0");
            }
            _ => {}
        }
    }
    let zero = |field: &str| rolling[field] == 0 || rolling[field] == "0%";
    if zero("maxUnavailable") && zero("maxSurge") {
        let detail = "may not be 0 when `maxSurge` is 0";
        errors.invalid(
            "spec.strategy.rollingUpdate.maxUnavailable",
            rolling["maxUnavailable"].clone(),
            detail,
        );
    }
}

pub(super) fn update(old: &Object, object: &Object, errors: &mut FieldErrors) {
    let (was, is) = (&old["spec"]["selector"], &object["spec"]["selector"]);
    if was != is {
        errors.invalid("spec.selector", is.clone(), "field is immutable");
    }
}
