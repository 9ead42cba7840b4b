//! Serves the metrics, and what kube-proxy serves beside them. Decides nothing.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use dataplane::{ObjectState, Reconciler};
use flow::metrics::CONTENT_TYPE;
use model::Plane;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::{
    fill::Fill,
    metrics::{Metrics, NoLocalEndpoints, View},
    worker::Worker,
};

/// What a page is made of.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) plane: Plane,
    pub(crate) metrics: Metrics,
    /// Of flows, where any are told of.
    pub(crate) flows: Arc<Registry>,
    pub(crate) worker: Worker,
    pub(crate) fill: Fill,
}

/// Serves `/metrics` and `/proxyMode` on `listener`, for ever.
pub(crate) async fn serve(listener: TcpListener, context: Context) {
    let router =
        Router::new().route("/metrics", get(all)).route("/proxyMode", get(proxy_mode)).with_state(context);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "cannot serve metrics");
    }
}

async fn all(State(context): State<Context>) -> Response {
    let full_in_seconds = context.fill.full_in_seconds();
    match context.worker.ask(|reconciler| view(reconciler, full_in_seconds)).await {
        Ok(view) => {
            let page = context.metrics.render(&view, &context.flows);
            ([(header::CONTENT_TYPE, CONTENT_TYPE)], page).into_response()
        }
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
