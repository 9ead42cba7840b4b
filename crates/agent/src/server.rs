//! The local API: HTTP over a unix socket. Whoever may open the socket may use all of it.

mod policy;

use std::{fs, io, net::IpAddr, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use cluster::{EndpointView, IdentityView, Index};
use dataplane::{Connection, ObjectState, ObjectStatus, Reconciler, ServiceRow};
use ipnet::IpNet;
use model::Endpoint;
use serde::Deserialize;
use tokio::net::UnixListener;

use crate::{
    controller::Controller,
    fill::Fill,
    pods::Pods,
    wire::{
        AddRequest, Added, AddressIdentity, AgentStatus, Attachment, CheckRequest, CollectRequest, Failure,
        FailureKind, ObjectCounts, SnapshotView,
    },
    worker::{Gone, Worker},
};

/// Connections that are listed unless another number is asked for.
const DEFAULT_CONNECTIONS: usize = 10_000;

/// What the handlers work on.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) node: String,
    pub(crate) controller: Controller,
    pub(crate) worker: Worker,
    pub(crate) pods: Arc<Pods>,
    pub(crate) fill: Fill,
}

/// Listens at `path` for the owner and the group. What an agent that has died left there is replaced.
///
/// # Errors
/// Another agent listens there, or the directory cannot be written.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another agent listens there"));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let bind = || {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        UnixListener::bind(path)
    };
    // Whoever shares the folder may remove it as long as it is empty: made once more then.
    let again = |error: io::Error| if error.kind() == io::ErrorKind::NotFound { bind() } else { Err(error) };
    let listener = bind().or_else(again)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Every path of the API.
pub(crate) fn router(context: Context) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/services", get(services))
        .route("/v1/conntrack", get(connections))
        .route("/v1/objects", get(objects))
        .route("/v1/endpoints", get(endpoints))
        .route("/v1/cluster/endpoints", get(cluster_endpoints))
        .route("/v1/identities", get(identities))
        .route("/v1/addresses", get(addresses))
        .route("/v1/policy", get(policy::get))
        .route("/v1/policy/decision", post(policy::decide))
        .route("/v1/snapshot", get(snapshot))
        .route("/v1/cni/add", post(cni_add))
        .route("/v1/cni/del", post(cni_del))
        .route("/v1/cni/check", post(cni_check))
        .route("/v1/cni/gc", post(cni_gc))
        .route("/v1/cni/status", get(cni_status))
        .with_state(context)
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self.kind {
            FailureKind::Invalid => StatusCode::BAD_REQUEST,
            FailureKind::NotFound => StatusCode::NOT_FOUND,
            FailureKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            FailureKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(self)).into_response()
    }
}

impl From<Gone> for Failure {
    fn from(gone: Gone) -> Self {
        Self { kind: FailureKind::Internal, message: gone.to_string() }
    }
}

impl From<dataplane::Error> for Failure {
    fn from(error: dataplane::Error) -> Self {
        Self { kind: FailureKind::Internal, message: error.with_causes() }
    }
}

type Answer<T> = Result<Json<T>, Failure>;

async fn status(State(context): State<Context>) -> Answer<AgentStatus> {
    let objects = all_objects(&context).await?;
    let read = |reconciler: &mut Reconciler| (reconciler.plane().status(), reconciler.programmed());
    let (dataplane, programmed) = context.worker.ask(read).await?;
    let count = |state| objects.iter().filter(|object| object.state == state).count();
    Ok(Json(AgentStatus {
        node: context.node,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        plane: dataplane.plane,
        waiting_for: context.controller.waiting_for(),
        generation: context.controller.generation(),
        programmed,
        objects: ObjectCounts {
            programmed: count(ObjectState::Programmed),
            pending: count(ObjectState::Pending),
            failed: count(ObjectState::Failed),
            refused: count(ObjectState::Refused),
        },
        problems: objects.into_iter().filter(|object| object.state != ObjectState::Programmed).collect(),
        interruptions: context.controller.interruptions(),
        dataplane,
        full_in_seconds: context.fill.full_in_seconds(),
    }))
}

async fn services(State(context): State<Context>) -> Answer<Vec<ServiceRow>> {
    Ok(Json(context.worker.ask(|reconciler| reconciler.plane().services()).await??))
}

#[derive(Deserialize)]
struct Limit {
    limit: Option<usize>,
}

async fn connections(State(context): State<Context>, Query(query): Query<Limit>) -> Answer<Vec<Connection>> {
    let limit = query.limit.unwrap_or(DEFAULT_CONNECTIONS);
    Ok(Json(context.worker.ask(move |reconciler| reconciler.plane().connections(limit)).await??))
}

async fn objects(State(context): State<Context>) -> Answer<Vec<ObjectStatus>> {
    Ok(Json(all_objects(&context).await?))
}

async fn all_objects(context: &Context) -> Result<Vec<ObjectStatus>, Gone> {
    let mut objects = context.worker.ask(|reconciler| reconciler.objects()).await?;
    objects.extend(context.controller.problems());
    objects.sort_by(|a, b| (&a.kind, &a.name, &a.field).cmp(&(&b.kind, &b.name, &b.field)));
    Ok(objects)
}

async fn endpoints(State(context): State<Context>) -> Answer<Vec<Endpoint>> {
    Ok(Json(context.pods.endpoints().await))
}

async fn cluster_endpoints(State(context): State<Context>) -> Answer<Vec<EndpointView>> {
    Ok(Json(context.controller.ask(Index::endpoint_views).await?))
}

async fn identities(State(context): State<Context>) -> Answer<Vec<IdentityView>> {
    Ok(Json(context.controller.ask(Index::identity_views).await?))
}

#[derive(Deserialize)]
struct Of {
    of: Option<IpAddr>,
}

/// The whole table as it is wanted, or what the kernel says of one address.
async fn addresses(State(context): State<Context>, Query(query): Query<Of>) -> Answer<Vec<AddressIdentity>> {
    let Some(address) = query.of else {
        let wanted = context.worker.ask(|reconciler| reconciler.wanted().addresses.clone()).await?;
        let rows = wanted.into_iter().map(|(prefix, identity)| AddressIdentity { prefix, identity });
        return Ok(Json(rows.collect()));
    };
    let found = context.worker.ask(move |reconciler| reconciler.plane().identity_of(address)).await??;
    let row = found.map(|identity| AddressIdentity { prefix: IpNet::from(address), identity });
    Ok(Json(row.into_iter().collect()))
}

async fn snapshot(State(context): State<Context>) -> Answer<SnapshotView> {
    let wanted = context.worker.ask(|reconciler| reconciler.wanted().clone()).await?;
    Ok(Json(SnapshotView {
        generation: wanted.generation,
        node: wanted.node,
        services: wanted.services.values().map(|port| (**port).clone()).collect(),
        endpoints: wanted.endpoints.values().map(|endpoint| (**endpoint).clone()).collect(),
        peers: wanted.peers.values().map(|peer| (**peer).clone()).collect(),
    }))
}

async fn cni_add(State(context): State<Context>, Json(request): Json<AddRequest>) -> Answer<Added> {
    // On a task of its own: a plugin that is killed half-way must not leave half a pod.
    let task = tokio::spawn(async move { context.pods.add(request).await });
    Ok(Json(task.await.map_err(|error| crashed(&error))??))
}

async fn cni_del(State(context): State<Context>, Json(attachment): Json<Attachment>) -> Answer<()> {
    let task = tokio::spawn(async move { context.pods.remove(&attachment).await });
    Ok(Json(task.await.map_err(|error| crashed(&error))??))
}

async fn cni_check(State(context): State<Context>, Json(request): Json<CheckRequest>) -> Answer<()> {
    Ok(Json(context.pods.check(&request).await?))
}

async fn cni_gc(State(context): State<Context>, Json(request): Json<CollectRequest>) -> Answer<()> {
    let task = tokio::spawn(async move { context.pods.collect(&request.valid.into_iter().collect()).await });
    Ok(Json(task.await.map_err(|error| crashed(&error))??))
}

async fn cni_status(State(context): State<Context>) -> Answer<()> {
    Ok(Json(context.pods.ready().map(drop)?))
}

fn crashed(error: &tokio::task::JoinError) -> Failure {
    Failure { kind: FailureKind::Internal, message: format!("attach or detach a pod: {error}") }
}
