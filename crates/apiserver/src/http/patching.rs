//! PATCH requests on objects and their status. Never stores a patch's result itself; `ops::update` does.

use axum::{body::Body, response::Response};
use http::StatusCode;
use serde_json::Value;

use super::{
    Exchange,
    body::{self, PatchType},
};
use crate::{
    meta::Object,
    ops::{self, Part},
    patch,
    resource::{Resource, Schema},
    schema::Type,
    status::ApiError,
    store::Key,
};

impl Exchange {
    pub(super) async fn patch(&self, key: &Key, part: Part, body: Body) -> Result<Response, ApiError> {
        let (kind, patch) = body::read_patch(&self.parts.headers, body).await?;
        if kind == PatchType::Apply {
            return self.apply(key, part, patch);
        }
        let options = self.query.write_options(self.manager())?;
        let mut state = self.app.core.lock();
        let written = ops::update(&mut state, &self.resource, key, part, &options, |current| {
            patched(&self.resource, kind, current, &patch)
        })?;
        drop(state);
        Ok(self.written(StatusCode::OK, &written))
    }

    fn apply(&self, key: &Key, part: Part, patch: Value) -> Result<Response, ApiError> {
        let mut options = self.query.write_options("")?;
        if options.manager.is_empty() {
            return Err(ApiError::BadRequest(
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"
                    .to_owned(),
            ));
        }
        options.force = self.query.flag("force");
        let mut state = self.app.core.lock();
        let (written, created) = ops::apply(&mut state, &self.resource, key, part, &options, patch)?;
        drop(state);
        Ok(self.written(if created { StatusCode::CREATED } else { StatusCode::OK }, &written))
    }
}

fn patched(
    resource: &Resource,
    kind: PatchType,
    current: &Object,
    patch: &Value,
) -> Result<Object, ApiError> {
    // A view of the object is what the client patches: an events.k8s.io Event has other member names.
    let current = crate::view::present(resource, &std::sync::Arc::new(current.clone()));
    let mut object = Object::clone(&current);
    match kind {
        PatchType::Json => object = patch::json_patch(&object, patch)?,
        PatchType::Merge => patch::merge(&mut object, patch),
        PatchType::Strategic if matches!(resource.schema, Schema::Custom(_)) => {
            return Err(ApiError::UnsupportedMediaType {
                accepted: "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            });
        }
        PatchType::Strategic => patch::strategic(&mut object, patch, Type::of(resource))?,
        PatchType::Apply => {}
    }
    Ok(object)
}
