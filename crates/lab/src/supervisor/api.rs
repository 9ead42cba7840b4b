//! The supervisor's own API on `lab.sock`: what the lab is, and what its load balancer does; stops and starts agents.

use std::sync::{Arc, OnceLock};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, post},
};
use tokio::net::UnixListener;

use super::Shared;
use crate::{
    edge::{Edge, EdgeStatus, TargetPool},
    status::Status,
};

#[derive(Clone, Debug)]
struct Sources {
    shared: Arc<Shared>,
    /// Unset until the load balancer runs.
    edge: Arc<OnceLock<Edge>>,
}

/// Serves until the runtime ends.
pub(super) async fn serve(listener: UnixListener, shared: Arc<Shared>, edge: Arc<OnceLock<Edge>>) {
    let router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/edge", get(edge_status))
        .route("/v1/target-pools/{name}", get(target_pool))
        .route("/v1/nodes/{node}/agent/start", post(start_agent))
        .route("/v1/nodes/{node}/agent/stop", post(stop_agent))
        .with_state(Sources { shared, edge });
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the supervisor's socket is gone");
    }
}

async fn status(State(sources): State<Sources>) -> Json<Status> {
    Json(sources.shared.status())
}

async fn edge_status(State(sources): State<Sources>) -> Json<EdgeStatus> {
    Json(sources.edge.get().map(Edge::status).unwrap_or_default())
}

async fn start_agent(
    State(sources): State<Sources>,
    Path(node): Path<String>,
) -> Result<(), (StatusCode, String)> {
    want(&sources, &node, true)
}

async fn stop_agent(
    State(sources): State<Sources>,
    Path(node): Path<String>,
) -> Result<(), (StatusCode, String)> {
    want(&sources, &node, false)
}

fn want(sources: &Sources, node: &str, runs: bool) -> Result<(), (StatusCode, String)> {
    let wanted = sources.shared.wanted.get(node);
    wanted.ok_or_else(|| (StatusCode::NOT_FOUND, format!("no node {node}")))?.send_replace(runs);
    Ok(())
}

async fn target_pool(
    State(sources): State<Sources>,
    Path(name): Path<String>,
) -> Result<Json<TargetPool>, (StatusCode, String)> {
    let pools = sources.edge.get().map(Edge::status).unwrap_or_default().target_pools;
    let pool = pools.into_iter().find(|pool| pool.name == name);
    pool.map(Json).ok_or_else(|| (StatusCode::NOT_FOUND, format!("no target pool {name}")))
}
