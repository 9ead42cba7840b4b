//! The controllers' shared view of the cluster: one kube-rs reflector per kind, and who to wake when it changes.
//!
//! Never decides. Readers get sorted copies, so that every plan is deterministic.

use std::{fmt::Debug, hash::Hash, sync::Arc, time::Duration};

use futures::StreamExt as _;
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    runtime::{
        WatchStreamExt as _,
        reflector::{ObjectRef, Store, store},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// What a kind must be to be watched: all of `k8s-openapi`'s are.
pub(super) trait Kind:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

impl<K> Kind for K
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Hash + Eq,
{
}

/// How long a writer waits to see its own write come back; afterwards it plans on what it has.
const SETTLE: Duration = Duration::from_secs(2);

/// All objects of one kind as last heard from the API.
pub(super) struct Watched<K: Kind> {
    store: Store<K>,
    version: watch::Receiver<u64>,
}

impl<K: Kind> Clone for Watched<K> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), version: self.version.clone() }
    }
}

impl<K: Kind> Watched<K> {
    fn start(client: &Client, tasks: &mut JoinSet<()>, shutdown: &CancellationToken) -> Self {
        let (reader, mut writer) = store::<K>();
        let (bump, version) = watch::channel(0);
        let api = Api::<K>::all(client.clone());
        let shutdown = shutdown.clone();
        tasks.spawn(async move {
            let events = watcher(api, watcher::Config::default()).default_backoff();
            let mut events = std::pin::pin!(events.take_until(shutdown.cancelled_owned()));
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => {
                        writer.apply_watcher_event(&event);
                        if !matches!(event, watcher::Event::Init | watcher::Event::InitApply(_)) {
                            bump.send_modify(|version| *version += 1);
                        }
                    }
                    Err(error) => tracing::warn!(kind = %K::kind(&()), %error, "watch interrupted"),
                }
            }
        });
        Self { store: reader, version }
    }

    /// Every object, by namespace and name.
    pub(super) fn all(&self) -> Vec<Arc<K>> {
        let mut objects = self.store.state();
        objects.sort_by_cached_key(|object| (object.namespace(), object.name_any()));
        objects
    }

    pub(super) fn get(&self, namespace: Option<&str>, name: &str) -> Option<Arc<K>> {
        let reference = ObjectRef::<K>::new(name);
        self.store.get(&match namespace {
            Some(namespace) => reference.within(namespace),
            None => reference,
        })
    }

    /// Wakes whoever holds it when any object of the kind changed.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.version.clone()
    }

    async fn ready(&self) {
        // The writer is dropped only at shutdown, which the callers watch themselves.
        let _ = self.store.wait_until_ready().await;
    }

    /// Waits until this view has `written` or something newer, so that no plan is older than its own writes.
    pub(super) async fn settle(&self, written: &K) {
        let meta = written.meta();
        let (namespace, name) = (meta.namespace.as_deref(), meta.name.as_deref().unwrap_or_default());
        let wanted = version_of(written);
        self.until(|| {
            self.get(namespace, name)
                .is_some_and(|seen| seen.meta().uid != meta.uid || version_of(seen.as_ref()) >= wanted)
        })
        .await;
    }

    /// Waits until the object is gone, replaced or marked as being deleted.
    pub(super) async fn settle_deleted(&self, namespace: Option<&str>, name: &str, uid: Option<&str>) {
        self.until(|| {
            self.get(namespace, name).is_none_or(|seen| {
                seen.meta().uid.as_deref() != uid || seen.meta().deletion_timestamp.is_some()
            })
        })
        .await;
    }

    /// Waits until `seen` holds, at most [`SETTLE`].
    pub(super) async fn until(&self, seen: impl Fn() -> bool) {
        let mut version = self.version.clone();
        let wait = async { while !seen() && version.changed().await.is_ok() {} };
        if tokio::time::timeout(SETTLE, wait).await.is_err() {
            tracing::warn!(kind = %K::kind(&()), "own write not seen in time");
        }
    }
}

/// Resource versions are decimal and grow over all kinds; one that is not counts as the oldest.
fn version_of<K: Kind>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// The kinds that controllers plan on.
#[derive(Clone)]
pub(super) struct World {
    pub(super) nodes: Watched<Node>,
    pub(super) pods: Watched<Pod>,
    pub(super) services: Watched<Service>,
    pub(super) slices: Watched<EndpointSlice>,
    pub(super) deployments: Watched<Deployment>,
    pub(super) replica_sets: Watched<ReplicaSet>,
}

impl World {
    /// Starts the watches on `tasks`; returns once every kind has been listed or `shutdown` was called.
    pub(super) async fn start(
        client: &Client,
        tasks: &mut JoinSet<()>,
        shutdown: &CancellationToken,
    ) -> Self {
        let world = Self {
            nodes: Watched::start(client, tasks, shutdown),
            pods: Watched::start(client, tasks, shutdown),
            services: Watched::start(client, tasks, shutdown),
            slices: Watched::start(client, tasks, shutdown),
            deployments: Watched::start(client, tasks, shutdown),
            replica_sets: Watched::start(client, tasks, shutdown),
        };
        let listed = async {
            world.nodes.ready().await;
            world.pods.ready().await;
            world.services.ready().await;
            world.slices.ready().await;
            world.deployments.ready().await;
            world.replica_sets.ready().await;
        };
        tokio::select! {
            () = listed => {}
            () = shutdown.cancelled() => {}
        }
        world
    }
}
