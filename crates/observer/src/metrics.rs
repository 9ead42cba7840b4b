//! Metrics over HTTP, for a process that has no other server. Never says what is counted.

use std::{io, sync::Arc};

use axum::{Router, http::header, routing::get};
use flow::metrics::{CONTENT_TYPE, render};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

/// Serves `/metrics` on `listener`, for ever.
///
/// # Errors
/// The listener fails.
pub async fn serve(listener: TcpListener, registry: Registry) -> io::Result<()> {
    let registry = Arc::new(registry);
    let page = move || {
        let page = render([&*registry]);
        async move { ([(header::CONTENT_TYPE, CONTENT_TYPE)], page) }
    };
    axum::serve(listener, Router::new().route("/metrics", get(page))).await
}
