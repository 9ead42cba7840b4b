//! The only way controllers write to the API: one request, then wait until their own view shows it.
//!
//! Outcomes that mean "already so" are successes, which makes every executor idempotent. Never decides what to write.

use k8s_openapi::{
    api::core::v1::{Binding, ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    core::NamespaceResourceScope,
};
use serde::Serialize;
use serde_json::Value;

use super::{
    meta::{full_name, node_of},
    world::{Kind, Watched},
};

/// A request that the API refused or that never reached it: verb, object; the cause is the source.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {kind} {name}")]
pub(super) struct WriteError {
    operation: &'static str,
    kind: String,
    name: String,
    #[source]
    source: Box<kube::Error>,
}

impl WriteError {
    pub(super) fn new<K: Kind>(operation: &'static str, name: String, source: kube::Error) -> Self {
        Self { operation, kind: K::kind(&()).into_owned(), name, source: Box::new(source) }
    }

    /// Someone else wrote in between: plan again on what they wrote.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(&*self.source, kube::Error::Api(status) if status.is_conflict() || status.code == 409)
    }
}

/// A namespaced kind that can be written.
pub(super) trait Writable: Kind + Resource<Scope = NamespaceResourceScope> + Serialize {}

impl<K: Kind + Resource<Scope = NamespaceResourceScope> + Serialize> Writable for K {}

/// Creates `object`; one that exists already under its name is left as it is.
pub(super) async fn create<K: Writable>(
    client: &Client,
    view: &Watched<K>,
    object: &K,
) -> Result<Option<K>, WriteError> {
    match api::<K>(client, object.meta().namespace.as_deref()).create(&PostParams::default(), object).await {
        Ok(created) => {
            view.settle(&created).await;
            Ok(Some(created))
        }
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(None),
        Err(error) => {
            let mut name = full_name(object.meta());
            name.push_str(object.meta().generate_name.as_deref().unwrap_or_default());
            Err(WriteError::new::<K>("create", name, error))
        }
    }
}

/// Replaces the whole object at the resource version it carries.
pub(super) async fn replace<K: Writable>(
    client: &Client,
    view: &Watched<K>,
    object: &K,
) -> Result<(), WriteError> {
    let (api, name) = place(client, object);
    finish("replace", view, object, api.replace(name, &PostParams::default(), object).await).await
}

/// Replaces the status subresource at the resource version that `object` carries.
pub(super) async fn replace_status<K: Writable>(
    client: &Client,
    view: &Watched<K>,
    object: &K,
) -> Result<(), WriteError> {
    let (api, name) = place(client, object);
    finish("update status of", view, object, api.replace_status(name, &PostParams::default(), object).await)
        .await
}

/// Merges `patch` into `object`, refused when somebody changed it since.
pub(super) async fn merge<K: Writable>(
    client: &Client,
    view: &Watched<K>,
    object: &K,
    mut patch: Value,
) -> Result<(), WriteError> {
    patch["metadata"]["resourceVersion"] = object.meta().resource_version.clone().into();
    let (api, name) = place(client, object);
    finish("patch", view, object, api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await).await
}

/// Deletes exactly this object, not a later one of its name; one that is gone is a success.
///
/// `grace` in seconds overrides the object's own; 0 removes a pod from the API at once.
pub(super) async fn delete<K: Writable>(
    client: &Client,
    view: &Watched<K>,
    object: &K,
    grace: Option<u32>,
) -> Result<(), WriteError> {
    let meta = object.meta();
    let name = meta.name.as_deref().unwrap_or_default();
    let parameters = DeleteParams {
        grace_period_seconds: grace,
        preconditions: Some(Preconditions { uid: meta.uid.clone(), resource_version: None }),
        ..DeleteParams::background()
    };
    match api::<K>(client, meta.namespace.as_deref()).delete(name, &parameters).await {
        Ok(_) => view.settle_deleted(meta.namespace.as_deref(), name, meta.uid.as_deref()).await,
        // 404: gone. 409: the name belongs to another object by now.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
        Err(error) => return Err(WriteError::new::<K>("delete", full_name(meta), error)),
    }
    Ok(())
}

/// Binds `pod` to `node`; one that has a node by now keeps it.
pub(super) async fn bind(
    client: &Client,
    view: &Watched<Pod>,
    pod: &Pod,
    node: &str,
) -> Result<(), WriteError> {
    let meta = &pod.metadata;
    let (namespace, name) = (meta.namespace.as_deref(), meta.name.as_deref().unwrap_or_default());
    let binding = Binding {
        metadata: ObjectMeta {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
    };
    let (api, parameters) = (api::<Pod>(client, namespace), PostParams::default());
    match api.create_subresource::<_, Value>("binding", name, &parameters, &binding).await {
        Ok(_) => view.until(|| view.get(namespace, name).is_none_or(|pod| node_of(&pod).is_some())).await,
        // 404: gone. 409: bound by somebody else.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
        Err(error) => return Err(WriteError::new::<Pod>("bind", full_name(meta), error)),
    }
    Ok(())
}

async fn finish<K: Kind>(
    operation: &'static str,
    view: &Watched<K>,
    object: &K,
    answer: kube::Result<K>,
) -> Result<(), WriteError> {
    match answer {
        Ok(written) => {
            view.settle(&written).await;
            Ok(())
        }
        // Gone while we planned: nothing is left to write to.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(WriteError::new::<K>(operation, full_name(object.meta()), error)),
    }
}

/// Where `object` is written to, and its name there.
fn place<'a, K: Writable>(client: &Client, object: &'a K) -> (Api<K>, &'a str) {
    let meta = object.meta();
    (api(client, meta.namespace.as_deref()), meta.name.as_deref().unwrap_or_default())
}

pub(super) fn api<K: Writable>(client: &Client, namespace: Option<&str>) -> Api<K> {
    Api::namespaced(client.clone(), namespace.unwrap_or("default"))
}
