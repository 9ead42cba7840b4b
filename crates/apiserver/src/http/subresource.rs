//! `/status`, `/scale`, and a pod's `/binding` and `/eviction`. Never anything of the main resource.

use axum::{body::Body, response::Response};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    Exchange,
    body::{self, PatchType},
    respond::json_response,
};
use crate::{
    meta::{self, Object, text},
    ops::{self, DeleteOptions, Part},
    patch,
    resource::{Builtin, ScalePaths},
    status::ApiError,
    store::Key,
};

impl Exchange {
    pub(super) async fn subresource(self, key: &Key, name: &str, body: Body) -> Result<Response, ApiError> {
        let builtin = self.resource.builtin();
        match name {
            "status" if self.resource.status => match self.parts.method {
                Method::GET => self.object(key, body).await,
                Method::PUT => self.replace(key, Part::Status, body).await,
                Method::PATCH => self.patch(key, Part::Status, body).await,
                _ => Err(ApiError::MethodNotAllowed),
            },
            "scale" => match self.resource.scale.clone() {
                Some(paths) => self.scale(key, &paths, body).await,
                None => Err(ApiError::UnknownPath),
            },
            "binding" | "eviction" if builtin == Some(Builtin::Pod) => {
                if self.parts.method != Method::POST {
                    return Err(ApiError::MethodNotAllowed);
                }
                let sent = body::read(&self.parts.headers, body).await?;
                if name == "binding" { self.bind(key, &sent) } else { self.evict(key, &sent) }
            }
            _ => Err(ApiError::UnknownPath),
        }
    }

    async fn scale(&self, key: &Key, paths: &ScalePaths, body: Body) -> Result<Response, ApiError> {
        let show =
            |object: &Object| json_response(StatusCode::OK, &ops::scale_of(&self.resource, paths, object));
        let (kind, sent) = match self.parts.method {
            Method::GET => {
                let object = self.app.core.lock().get(&self.resource, key)?;
                return Ok(show(&object));
            }
            Method::PUT => (None, body::read(&self.parts.headers, body).await?),
            Method::PATCH => {
                let (kind, sent) = body::read_patch(&self.parts.headers, body).await?;
                (Some(kind), sent)
            }
            _ => return Err(ApiError::MethodNotAllowed),
        };
        let options = self.query.write_options(self.manager())?;
        let mut state = self.app.core.lock();
        let written = ops::update(&mut state, &self.resource, key, Part::Main, &options, |current| {
            let scale = next_scale(ops::scale_of(&self.resource, paths, current), kind, sent)?;
            ops::apply_scale(paths, current, &scale)
        })?;
        drop(state);
        Ok(show(&written.object))
    }

    /// Puts a pod on a node, once.
    fn bind(&self, key: &Key, binding: &Value) -> Result<Response, ApiError> {
        let node = text(binding, &["target", "name"]);
        if node.is_empty() {
            return Err(ApiError::BadRequest("Binding is invalid: target.name: Required value".to_owned()));
        }
        let options = self.query.write_options(self.manager())?;
        let now = self.app.core.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let mut state = self.app.core.lock();
        ops::update(&mut state, &self.resource, key, Part::Binding, &options, |current| {
            let bound = text(current, &["spec", "nodeName"]);
            if !bound.is_empty() {
                return Err(ApiError::Conflict {
                    group: String::new(),
                    resource: "pods/binding".to_owned(),
                    name: key.name.clone(),
                    detail: format!("pod {} is already assigned to node {bound:?}", key.name),
                });
            }
            let mut pod = current.clone();
            meta::member(&mut pod, "spec").insert("nodeName".into(), node.into());
            let status = meta::member(&mut pod, "status");
            let conditions = status.entry("conditions").or_insert_with(|| json!([]));
            if let Value::Array(conditions) = conditions {
                conditions.retain(|condition| condition["type"] != "PodScheduled");
                conditions.push(json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": now}));
            }
            Ok(pod)
        })?;
        Ok(json_response(StatusCode::CREATED, &success()))
    }

    /// Deletes a pod as `kubectl drain` asks; there are no disruption budgets to consult.
    fn evict(&self, key: &Key, eviction: &Value) -> Result<Response, ApiError> {
        let options = DeleteOptions::parse(&eviction["deleteOptions"])?;
        ops::delete(&mut self.app.core.lock(), &self.resource, key, &options)?;
        Ok(json_response(StatusCode::CREATED, &success()))
    }
}

/// The Scale that a PUT or a patch makes of the current one. A Scale has no lists: all but JSON patches merge alike.
fn next_scale(current: Value, kind: Option<PatchType>, sent: Value) -> Result<Value, ApiError> {
    match kind {
        None => Ok(sent),
        Some(PatchType::Json) => patch::json_patch(&current, &sent),
        Some(PatchType::Merge | PatchType::Strategic | PatchType::Apply) => {
            let mut scale = current;
            patch::merge(&mut scale, &sent);
            Ok(scale)
        }
    }
}

fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
}
