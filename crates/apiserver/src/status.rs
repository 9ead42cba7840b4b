//! Errors in the form a Kubernetes API server answers: each turns into one `Status` object.
//! Never decides what is wrong; that is done where the request is handled.

use serde_json::{Value, json};

use crate::validation::FieldErrors;

/// What went wrong with a request; [`ApiError::status`] is what the client sees.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("{} {name:?} not found", qualified(resource, group))]
    NotFound { group: String, resource: String, name: String },
    #[error("the server could not find the requested resource")]
    UnknownPath,
    #[error("{} {name:?} already exists", qualified(resource, group))]
    AlreadyExists { group: String, resource: String, name: String },
    #[error("Operation cannot be fulfilled on {} {name:?}: {detail}", qualified(resource, group))]
    Conflict { group: String, resource: String, name: String, detail: String },
    #[error("Apply failed with {}", conflicts_text(.0))]
    ApplyConflict(Vec<ApplyConflict>),
    #[error("{} {name:?} is invalid: {errors}", qualified(kind, group))]
    Invalid { group: String, kind: String, name: String, errors: FieldErrors },
    #[error("{} {name:?} is forbidden: {detail}", qualified(resource, group))]
    Forbidden { group: String, resource: String, name: String, detail: String },
    #[error("{0}")]
    BadRequest(String),
    #[error("the server does not allow this method on the requested resource")]
    MethodNotAllowed,
    #[error("only the following media types are accepted: application/json, application/yaml")]
    NotAcceptable,
    #[error("the body of the request was in an unknown format - accepted media types include: {accepted}")]
    UnsupportedMediaType { accepted: &'static str },
    #[error("{0}")]
    Expired(String),
    #[error("Request entity too large: limit is {limit}")]
    TooLarge { limit: usize },
    #[error("{0}")]
    UnprocessablePatch(String),
    #[error("{0}")]
    Internal(String),
}

/// A field that another manager owns and that an apply would change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApplyConflict {
    /// As messages name it: quoted, and how it came by the field.
    pub(crate) manager: String,
    pub(crate) field: String,
}

/// `deployments.apps`, or `services` for the core group.
fn qualified(name: &str, group: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

fn conflicts_text(conflicts: &[ApplyConflict]) -> String {
    let plural = if conflicts.len() == 1 { "conflict" } else { "conflicts" };
    match conflicts {
        [one] => format!("1 {plural}: conflict with {}: {}", one.manager, one.field),
        many => {
            let mut text = format!("{} {plural}:", many.len());
            let mut managers: Vec<&str> = many.iter().map(|c| c.manager.as_str()).collect();
            managers.dedup();
            for manager in managers {
                text.push_str(&format!(" conflicts with {manager}:"));
                for conflict in many.iter().filter(|c| c.manager == manager) {
                    text.push_str(&format!("\n- {}", conflict.field));
                }
            }
            text
        }
    }
}

impl ApiError {
    /// HTTP code and the machine-readable reason.
    pub(crate) const fn code(&self) -> (u16, &'static str) {
        match self {
            Self::NotFound { .. } | Self::UnknownPath => (404, "NotFound"),
            Self::AlreadyExists { .. } => (409, "AlreadyExists"),
            Self::Conflict { .. } | Self::ApplyConflict(_) => (409, "Conflict"),
            Self::Invalid { .. } => (422, "Invalid"),
            Self::UnprocessablePatch(_) => (422, "Invalid"),
            Self::Forbidden { .. } => (403, "Forbidden"),
            Self::BadRequest(_) => (400, "BadRequest"),
            Self::MethodNotAllowed => (405, "MethodNotAllowed"),
            Self::NotAcceptable => (406, "NotAcceptable"),
            Self::UnsupportedMediaType { .. } => (415, "UnsupportedMediaType"),
            Self::Expired(_) => (410, "Expired"),
            Self::TooLarge { .. } => (413, "RequestEntityTooLarge"),
            Self::Internal(_) => (500, "InternalError"),
        }
    }

    /// The `Status` object.
    pub(crate) fn status(&self) -> Value {
        let (code, reason) = self.code();
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.to_string(), "reason": reason, "code": code,
        });
        if let Some(details) = self.details() {
            status["details"] = details;
        }
        status
    }

    fn details(&self) -> Option<Value> {
        let object = |group: &str, kind: &str, name: &str| {
            let mut details = json!({"name": name, "kind": kind});
            if !group.is_empty() {
                details["group"] = group.into();
            }
            details
        };
        match self {
            Self::NotFound { group, resource, name }
            | Self::AlreadyExists { group, resource, name }
            | Self::Conflict { group, resource, name, .. }
            | Self::Forbidden { group, resource, name, .. } => Some(object(group, resource, name)),
            Self::Invalid { group, kind, name, errors } => {
                let mut details = object(group, kind, name);
                details["causes"] = errors.causes();
                Some(details)
            }
            Self::ApplyConflict(conflicts) => {
                let causes: Vec<Value> = conflicts
                    .iter()
                    .map(|c| {
                        json!({
                            "reason": "FieldManagerConflict",
                            "message": format!("conflict with {}", c.manager),
                            "field": c.field,
                        })
                    })
                    .collect();
                Some(json!({ "causes": causes }))
            }
            Self::UnknownPath | Self::MethodNotAllowed => Some(json!({})),
            _ => None,
        }
    }
}
