//! The server: its state, the objects a cluster always has, and serving on any number of listeners.
//! Never handles a request itself; see `http`.

use std::{
    future::Future,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{Router, serve::ListenerExt as _};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    alloc,
    config::Config,
    http,
    meta::Object,
    ops::{self, WriteOptions},
    state::State,
    status::ApiError,
};

/// What every request handler shares.
#[derive(Debug)]
pub(crate) struct Core {
    state: Mutex<State>,
    config: Config,
}

impl Core {
    /// The state, for one step. Never held across an await.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // Every write is finished or not begun when a panic unwinds: the state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn now(&self) -> jiff::Timestamp {
        self.config.clock.now()
    }
}

/// A Kubernetes API server in memory. Clones serve the same cluster.
#[derive(Debug, Clone)]
pub struct ApiServer {
    core: Arc<Core>,
}

/// Why a server could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// `Config::service_cidrs` is empty, or has two ranges of one family.
    #[error("use service ranges {0}: one per address family is needed, at least one and at most two")]
    ServiceCidrs(String),
    /// One of the objects every cluster has was refused.
    #[error("create {object}: {reason}")]
    Bootstrap {
        /// Kind and name.
        object: String,
        /// The server's own message.
        reason: String,
    },
}

impl ApiServer {
    /// A server that holds what every new cluster has: its namespaces and `default/kubernetes` at the first address of
    /// the primary service range.
    pub fn new(config: Config) -> Result<Self, SetupError> {
        let cidrs = &config.service_cidrs;
        let one_family = cidrs.len() == 2 && cidrs[0].addr().is_ipv4() == cidrs[1].addr().is_ipv4();
        if cidrs.is_empty() || cidrs.len() > 2 || one_family {
            let text: Vec<String> = cidrs.iter().map(ToString::to_string).collect();
            return Err(SetupError::ServiceCidrs(format!("[{}]", text.join(", "))));
        }
        let mut state = State::new(config.clone());
        for (plural, group, namespace, object) in bootstrap_objects(&config) {
            let named = format!("{} {}", object["kind"], object["metadata"]["name"]);
            create(&mut state, group, plural, namespace, object)
                .map_err(|error| SetupError::Bootstrap { object: named, reason: error.to_string() })?;
        }
        Ok(Self { core: Arc::new(Core { state: Mutex::new(state), config }) })
    }

    /// The API as an axum router. Watches it opens end when their client leaves or their time is up.
    pub fn router(&self) -> Router {
        http::router(Arc::clone(&self.core), CancellationToken::new())
    }

    /// Serves the API in plain HTTP/1.1 on one listener until `shutdown` is done; open watches end then.
    ///
    /// May be called once per listener, for listeners made in any network namespace.
    pub async fn serve(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let closing = CancellationToken::new();
        let router = http::router(Arc::clone(&self.core), closing.clone());
        let listener = listener.tap_io(|stream| {
            // Head and body leave apart: with Nagle's algorithm the body waits for a delayed acknowledgement (40 ms).
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "cannot set TCP_NODELAY");
            }
        });
        axum::serve(listener, router)
            .with_graceful_shutdown(async move {
                shutdown.await;
                closing.cancel();
            })
            .await
    }
}

fn create(
    state: &mut State,
    group: &str,
    plural: &str,
    namespace: Option<&str>,
    object: Object,
) -> Result<(), ApiError> {
    let resource = state.registry.find(group, "v1", plural).ok_or(ApiError::UnknownPath)?;
    let options = WriteOptions { manager: "kube-apiserver".to_owned(), ..WriteOptions::default() };
    ops::create(state, &resource, namespace, object, &options).map(drop)
}

/// Plural, group, namespace and body, in the order they must be made.
fn bootstrap_objects(config: &Config) -> Vec<(&'static str, &'static str, Option<&'static str>, Value)> {
    let mut objects: Vec<_> = ["default", "kube-system", "kube-public", "kube-node-lease"]
        .into_iter()
        .map(|name| ("namespaces", "", None, json!({"kind": "Namespace", "metadata": {"name": name}})))
        .collect();
    let cidrs: Vec<String> = config.service_cidrs.iter().map(|cidr| cidr.trunc().to_string()).collect();
    objects.push((
        "servicecidrs",
        "networking.k8s.io",
        None,
        json!({"kind": "ServiceCIDR", "metadata": {"name": "kubernetes"}, "spec": {"cidrs": cidrs}}),
    ));
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let port = config.advertise.map_or(6443, |(_, port)| port);
    objects.push((
        "services",
        "",
        Some("default"),
        json!({"kind": "Service", "metadata": {"name": "kubernetes", "labels": labels}, "spec": {
            "type": "ClusterIP",
            "clusterIP": alloc::host(&config.service_cidrs[0], 1).to_string(),
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
        }}),
    ));
    if let Some((address, port)) = config.advertise {
        objects.push((
            "endpointslices",
            "discovery.k8s.io",
            Some("default"),
            json!({"kind": "EndpointSlice",
                "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
                "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
                "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true}}],
                "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}),
        ));
    }
    objects
}
