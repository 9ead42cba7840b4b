//! Writes identities, endpoints and what policies are to be told to the API server, as the index wishes.
//!
//! Decides nothing: every write is conditional on what the index had seen, and what came of it the watches tell. A wish that
//! stays is tried again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cluster::{TwinplaneEndpoint, TwinplaneIdentity, UNUSED_SINCE, Wish};
use futures::{StreamExt as _, stream};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{
    Api, Client, Error,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use model::IdentityId;
use policy::v1alpha2::ClusterNetworkPolicy;
use serde_json::{Value, json};
use tokio::sync::watch;

/// How long a wish is left alone after it was tried: the watches need a moment, the API server perhaps more.
const TRY_EVERY: Duration = Duration::from_secs(1);
/// Writes at a time.
const AT_ONCE: usize = 8;

/// Grants wishes for as long as there may be any.
pub(crate) async fn grant(client: Client, mut wishes: watch::Receiver<Arc<Vec<Wish>>>) {
    let mut tried: Vec<(Wish, Instant)> = vec![];
    let mut failing = false;
    loop {
        let wanted = Arc::clone(&wishes.borrow_and_update());
        tried.retain(|(wish, since)| since.elapsed() < TRY_EVERY && wanted.contains(wish));
        let due: Vec<Wish> =
            wanted.iter().filter(|wish| !tried.iter().any(|(other, _)| other == *wish)).cloned().collect();
        let writing =
            stream::iter(due.clone()).map(|wish| grant_one(client.clone(), wish)).buffer_unordered(AT_ONCE);
        let results: Vec<Result<(), Error>> = writing.collect().await;
        let error = results.into_iter().find_map(Result::err);
        match &error {
            Some(error) if !failing => tracing::warn!(%error, "cannot write identities, will try again"),
            None if failing && !due.is_empty() => tracing::info!("identities can be written again"),
            _ => {}
        }
        failing = error.is_some() || (failing && due.is_empty());
        tried.extend(due.into_iter().map(|wish| (wish, Instant::now())));
        let more = async {
            match wanted.is_empty() {
                true => std::future::pending().await,
                false => tokio::time::sleep(TRY_EVERY).await,
            }
        };
        tokio::select! {
            changed = wishes.changed() => if changed.is_err() { return },
            () = more => {}
        }
    }
}

async fn grant_one(client: Client, wish: Wish) -> Result<(), Error> {
    let client = &client;
    let done = match &wish {
        Wish::Create { id, labels } => {
            let identity = TwinplaneIdentity::new(*id, labels.clone());
            identities(client).create(&PostParams::default(), &identity).await.map(drop)
        }
        Wish::Keep { id, version } => annotate(client, *id, version, Value::Null).await,
        Wish::Mark { id, version, since } => annotate(client, *id, version, json!(since.to_string())).await,
        Wish::Remove { id, version } => {
            identities(client).delete(&id.to_string(), &at(version)).await.map(drop)
        }
        Wish::Publish { endpoint, replaces } => publish(client, endpoint, replaces.as_ref()).await,
        Wish::Judge { policy, version, others, judgement } => {
            let now = judgement.condition(Time(Timestamp::now()));
            let conditions: Vec<_> = others.iter().chain([&now]).collect();
            let status =
                json!({"metadata": {"resourceVersion": version}, "status": {"conditions": conditions}});
            let api = Api::<ClusterNetworkPolicy>::all(client.clone());
            api.patch_status(policy, &PatchParams::default(), &Patch::Merge(status)).await.map(drop)
        }
        Wish::Withdraw { pod, version } => {
            endpoints(client, &pod.namespace).delete(&pod.name, &at(version)).await.map(drop)
        }
    };
    match done {
        // Someone was there before: the watches tell who, and what is to be done now.
        Err(Error::Api(status)) if matches!(status.code, 404 | 409) => {
            tracing::debug!(?wish, message = status.message, "void");
            Ok(())
        }
        done => done.inspect(|()| tracing::debug!(?wish, "granted")),
    }
}

async fn annotate(client: &Client, id: IdentityId, version: &str, since: Value) -> Result<(), Error> {
    let metadata = json!({"resourceVersion": version, "annotations": {UNUSED_SINCE: since}});
    let patch = Patch::Merge(json!({"metadata": metadata}));
    identities(client).patch(&id.to_string(), &PatchParams::default(), &patch).await.map(drop)
}

async fn publish(
    client: &Client,
    endpoint: &TwinplaneEndpoint,
    replaces: Option<&String>,
) -> Result<(), Error> {
    let namespace = endpoint.metadata.namespace.as_deref().unwrap_or_default();
    let name = endpoint.metadata.name.as_deref().unwrap_or_default();
    let api = endpoints(client, namespace);
    match replaces {
        None => api.create(&PostParams::default(), endpoint).await.map(drop),
        Some(version) => {
            let mut endpoint = endpoint.clone();
            endpoint.metadata.resource_version = Some(version.clone());
            api.replace(name, &PostParams::default(), &endpoint).await.map(drop)
        }
    }
}

fn at(version: &str) -> DeleteParams {
    let preconditions = Preconditions { resource_version: Some(version.to_owned()), uid: None };
    DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }
}

fn identities(client: &Client) -> Api<TwinplaneIdentity> {
    Api::all(client.clone())
}

fn endpoints(client: &Client, namespace: &str) -> Api<TwinplaneEndpoint> {
    Api::namespaced(client.clone(), namespace)
}
