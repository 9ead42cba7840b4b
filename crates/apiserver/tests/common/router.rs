//! Requests straight to a server's router, without a socket, at a fixed time and with counted randomness.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use apiserver::{ApiServer, Clock, Config, Entropy};
use axum::{Router, body::Body};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use jiff::Timestamp;
use serde_json::{Value, json};
use tower::ServiceExt;

pub(crate) const MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub(crate) const SERVICES: &str = "/api/v1/namespaces/default/services";
pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";

pub(crate) fn map(name: &str) -> Value {
    json!({"metadata": {"name": name}})
}

pub(crate) fn step(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

/// Counts up: uids, names and ports are the same in every run.
#[derive(Default)]
struct Counter(AtomicU64);

impl Entropy for Counter {
    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

struct Fixed(Mutex<Timestamp>);

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

/// A server's router.
pub(crate) struct Api(Router);

impl Api {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new(vec!["10.24.0.0/20".parse().unwrap()]);
        config.entropy = Arc::new(Counter::default());
        config.clock = Arc::new(Fixed(Mutex::new("2026-01-01T00:00:00.5Z".parse().unwrap())));
        change(&mut config);
        Self(ApiServer::new(config).unwrap().router())
    }

    pub(crate) async fn respond(
        &self,
        method: &str,
        uri: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> http::Response<Body> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.0.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap()
    }

    pub(crate) async fn send(&self, method: &str, uri: &str, kind: &str, body: &str) -> (StatusCode, Value) {
        let response = self.respond(method, uri, &[("content-type", kind)], body).await;
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub(crate) async fn json(&self, method: &str, uri: &str, body: Value) -> (StatusCode, Value) {
        self.send(method, uri, "application/json", &body.to_string()).await
    }

    pub(crate) async fn get(&self, uri: &str) -> (StatusCode, Value) {
        self.send("GET", uri, "", "").await
    }

    pub(crate) async fn create(&self, uri: &str, body: Value) -> Value {
        let (status, object) = self.json("POST", uri, body).await;
        assert_eq!(status, StatusCode::CREATED, "{object}");
        object
    }

    pub(crate) async fn watch(&self, uri: &str) -> Watch {
        let response = self.respond("GET", uri, &[], "").await;
        assert_eq!(response.status(), StatusCode::OK);
        Watch(response.into_body())
    }
}

/// An open watch.
pub(crate) struct Watch(pub(crate) Body);

impl Watch {
    /// The next event; none at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        let frame =
            tokio::time::timeout(Duration::from_secs(10), self.0.frame()).await.expect("an event in time");
        let line = frame?.unwrap().into_data().unwrap();
        assert_eq!(line.last(), Some(&b'\n'));
        Some(serde_json::from_slice(&line).unwrap())
    }

    /// Type and name of the next event.
    pub(crate) async fn step(&mut self) -> (String, String) {
        let event = self.next().await.expect("an event");
        let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
        (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
    }
}
