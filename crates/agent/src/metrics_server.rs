//! Serves the metrics, and what kube-proxy serves beside them. Decides nothing.

use std::collections::BTreeMap;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use dataplane::{ObjectState, Reconciler};
use model::Plane;
use tokio::net::TcpListener;

use crate::{
    fill::Fill,
    metrics::{Metrics, NoLocalEndpoints, View},
    worker::Worker,
};

/// As OpenMetrics 1.0 names itself.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone)]
struct Context {
    plane: Plane,
    metrics: Metrics,
    worker: Worker,
    fill: Fill,
}

/// Serves `/metrics` and `/proxyMode` on `listener`, for ever.
pub(crate) async fn serve(listener: TcpListener, plane: Plane, metrics: Metrics, worker: Worker, fill: Fill) {
    let router = Router::new()
        .route("/metrics", get(all))
        .route("/proxyMode", get(proxy_mode))
        .with_state(Context { plane, metrics, worker, fill });
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "cannot serve metrics");
    }
}

async fn all(State(context): State<Context>) -> Response {
    let full_in_seconds = context.fill.full_in_seconds();
    match context.worker.ask(|reconciler| view(reconciler, full_in_seconds)).await {
        Ok(view) => ([(header::CONTENT_TYPE, OPEN_METRICS)], context.metrics.render(&view)).into_response(),
        Err(gone) => (StatusCode::INTERNAL_SERVER_ERROR, gone.to_string()).into_response(),
    }
}

fn view(reconciler: &mut Reconciler, full_in_seconds: BTreeMap<String, u64>) -> View {
    let mut objects = BTreeMap::<ObjectState, usize>::new();
    for object in reconciler.objects() {
        *objects.entry(object.state).or_default() += 1;
    }
    View {
        status: reconciler.plane().status(),
        no_local_endpoints: NoLocalEndpoints::of(reconciler.wanted()),
        objects: objects.into_iter().collect(),
        full_in_seconds,
    }
}

/// The plane's name, as kube-proxy answers with its mode.
async fn proxy_mode(State(context): State<Context>) -> Response {
    ([(header::X_CONTENT_TYPE_OPTIONS, "nosniff")], context.plane.as_str()).into_response()
}
