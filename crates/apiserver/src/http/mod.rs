//! HTTP requests to operations and their results to responses. Never changes state except through `ops`.

mod body;
mod patching;
mod path;
mod query;
mod respond;
mod subresource;
mod watch;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State as Shared},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{Method, StatusCode, header::USER_AGENT, request::Parts};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

pub(crate) use respond::included;

use self::{
    path::{Path, Target},
    query::Query,
    respond::{Form, json_response, with_warnings},
};
use crate::{
    discovery, openapi,
    ops::{self, DeleteOptions, Part, Written},
    resource::Resource,
    server::Core,
    status::ApiError,
    store::Key,
};

#[derive(Clone)]
struct App {
    core: Arc<Core>,
    closing: CancellationToken,
}

/// All paths of the API.
pub(crate) fn router(core: Arc<Core>, closing: CancellationToken) -> Router {
    let healthy = || get(|| async { "ok" });
    Router::new()
        .route("/healthz", healthy())
        .route("/livez", healthy())
        .route("/readyz", healthy())
        .route("/version", get(|| async { json_response(StatusCode::OK, &discovery::version()) }))
        .route("/openapi/v2", get(openapi_v2))
        .route("/openapi/v3", get(openapi_index))
        .route("/openapi/v3/{*group}", get(openapi_group))
        .fallback(handle)
        .with_state(App { core, closing })
}

async fn openapi_v2(Shared(app): Shared<App>) -> Response {
    openapi::v2(&app.core.lock().registry)
}

async fn openapi_index(Shared(app): Shared<App>) -> Response {
    json_response(StatusCode::OK, &openapi::index(&app.core.lock().registry))
}

async fn openapi_group(
    Shared(app): Shared<App>,
    axum::extract::Path(group): axum::extract::Path<String>,
) -> Response {
    match openapi::group(&app.core.lock().registry, &group) {
        Some(document) => json_response(StatusCode::OK, &document),
        None => ApiError::UnknownPath.into_response(),
    }
}

async fn handle(Shared(app): Shared<App>, request: Request) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = route(app, request).await.unwrap_or_else(IntoResponse::into_response);
    tracing::debug!(%method, path, status = response.status().as_u16(), "answered");
    response
}

async fn route(app: App, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let path = path::parse(parts.uri.path()).ok_or(ApiError::UnknownPath)?;
    let target = match path {
        Path::Target(target) => target,
        discovery if parts.method == Method::GET => return discover(&app.core, &discovery),
        _ => return Err(ApiError::MethodNotAllowed),
    };
    let resource = app
        .core
        .lock()
        .registry
        .find(&target.group, &target.version, &target.plural)
        .ok_or(ApiError::UnknownPath)?;
    if target.namespace.is_some() && !resource.namespaced {
        return Err(ApiError::UnknownPath);
    }
    let exchange = Exchange::new(app, resource, parts)?;
    match (&target.name, &target.subresource) {
        (None, _) => exchange.collection(&target, body).await,
        (Some(_), _) if exchange.resource.namespaced && target.namespace.is_none() => {
            Err(ApiError::UnknownPath)
        }
        (Some(name), subresource) => {
            let key = Key::new(target.namespace.as_deref().unwrap_or(""), percent_decoded(name));
            match subresource {
                None => exchange.object(&key, body).await,
                Some(subresource) => exchange.subresource(&key, subresource, body).await,
            }
        }
    }
}

fn discover(core: &Core, path: &Path) -> Result<Response, ApiError> {
    let state = core.lock();
    let document = match path {
        Path::CoreVersions => Some(discovery::core_versions()),
        Path::Groups => Some(discovery::groups(&state.registry)),
        Path::Group(group) => discovery::group(&state.registry, group),
        Path::Resources { group, version } => discovery::resources(&state.registry, group, version),
        Path::Target(_) => None,
    };
    document.map(|document| json_response(StatusCode::OK, &document)).ok_or(ApiError::UnknownPath)
}

/// Names may hold any byte but `/`, `%` and few others; clients escape some, such as `:`.
fn percent_decoded(name: &str) -> String {
    let bytes = name.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let escaped = (bytes[index] == b'%')
            .then(|| name.get(index + 1..index + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok()))
            .flatten();
        decoded.push(escaped.unwrap_or(bytes[index]));
        index += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// One request on one resource.
struct Exchange {
    app: App,
    resource: Arc<Resource>,
    parts: Parts,
    query: Query,
    form: Form,
}

impl Exchange {
    fn new(app: App, resource: Arc<Resource>, parts: Parts) -> Result<Self, ApiError> {
        let query = Query::of(&parts.uri)?;
        let form = Form::of(&parts.headers)?;
        Ok(Self { app, resource, parts, query, form })
    }

    /// The first word of the user agent, as the real server names a manager that gives no name.
    fn manager(&self) -> &str {
        let agent = self.parts.headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or("");
        agent.split('/').next().filter(|name| !name.is_empty()).unwrap_or("unknown")
    }

    async fn collection(self, target: &Target, body: axum::body::Body) -> Result<Response, ApiError> {
        let namespace = target.namespace.as_deref();
        match self.parts.method {
            Method::GET if self.query.flag("watch") => {
                let filter = self.query.filter(&self.resource, namespace)?;
                watch::start(&self.app.core, self.app.closing, self.resource, filter, self.form, &self.query)
            }
            Method::GET => self.list(namespace),
            Method::POST if self.resource.namespaced == namespace.is_some() => {
                let options = self.query.write_options(self.manager())?;
                let object = body::read(&self.parts.headers, body).await?;
                if object.is_null() {
                    return Err(ApiError::BadRequest("the request has no body".to_owned()));
                }
                let written =
                    ops::create(&mut self.app.core.lock(), &self.resource, namespace, object, &options)?;
                Ok(self.written(StatusCode::CREATED, &written))
            }
            Method::DELETE => {
                let filter = self.query.filter(&self.resource, namespace)?;
                let options = self.delete_options(body).await?;
                let mut state = self.app.core.lock();
                let deleted = ops::delete_collection(&mut state, &self.resource, &filter, &options)?;
                let version = state.store.version();
                Ok(respond::list(self.form, &self.resource, &deleted, version, self.app.core.now(), ""))
            }
            _ => Err(ApiError::MethodNotAllowed),
        }
    }

    fn list(&self, namespace: Option<&str>) -> Result<Response, ApiError> {
        let filter = self.query.filter(&self.resource, namespace)?;
        self.query.resource_version()?;
        let state = self.app.core.lock();
        let objects: Vec<_> = state
            .store
            .list(&self.resource.storage, namespace)
            .filter(|object| filter.matches(object))
            .cloned()
            .collect();
        let version = state.store.version();
        drop(state);
        let include = self.query.text("includeObject");
        Ok(respond::list(self.form, &self.resource, &objects, version, self.app.core.now(), include))
    }

    async fn object(self, key: &Key, body: axum::body::Body) -> Result<Response, ApiError> {
        match self.parts.method {
            Method::GET => {
                let object = self.app.core.lock().get(&self.resource, key)?;
                Ok(respond::object(StatusCode::OK, self.form, &self.resource, &object, self.app.core.now()))
            }
            Method::PUT => self.replace(key, Part::Main, body).await,
            Method::PATCH => self.patch(key, Part::Main, body).await,
            Method::DELETE => {
                let options = self.delete_options(body).await?;
                let deleted = ops::delete(&mut self.app.core.lock(), &self.resource, key, &options)?;
                Ok(respond::object(StatusCode::OK, self.form, &self.resource, &deleted, self.app.core.now()))
            }
            _ => Err(ApiError::MethodNotAllowed),
        }
    }

    async fn replace(&self, key: &Key, part: Part, body: axum::body::Body) -> Result<Response, ApiError> {
        let options = self.query.write_options(self.manager())?;
        let object = body::read(&self.parts.headers, body).await?;
        let mut state = self.app.core.lock();
        let written = ops::update(&mut state, &self.resource, key, part, &options, |_| Ok(object))?;
        drop(state);
        Ok(self.written(StatusCode::OK, &written))
    }

    fn written(&self, status: StatusCode, written: &Written) -> Response {
        let response =
            respond::object(status, self.form, &self.resource, &written.object, self.app.core.now());
        with_warnings(response, &written.warnings)
    }

    /// Parameters and body together; the body wins.
    async fn delete_options(&self, body: axum::body::Body) -> Result<DeleteOptions, ApiError> {
        let mut options = self.query.delete_options()?;
        let body = body::read(&self.parts.headers, body).await?;
        if let (Value::Object(options), Value::Object(body)) = (&mut options, body) {
            options.extend(body);
        }
        DeleteOptions::parse(&options)
    }
}
