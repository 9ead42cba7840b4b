//! The EndpointSlice controller: which pods stand behind a Service, in slices, with the least change.
//!
//! Writes v1 Endpoints beside them for clients older than EndpointSlices' `describe`. [`plan`] decides; this executes.

mod endpoint;
mod legacy;
mod plan;
mod topology;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use futures::{StreamExt as _, stream};
use k8s_openapi::api::{
    core::v1::{Endpoints, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Client,
    api::{DeleteParams, PostParams},
};
use tokio::sync::watch;

use self::{plan::Action, topology::Zones};
use super::{
    pass::{Controller, Outcome},
    world::World,
    write::{self, WriteError},
};

/// The Service that stands for the API itself.
const API_SERVICE: (&str, &str) = ("default", "kubernetes");

/// Services that are written at the same time: each write waits until it is seen.
const WRITERS: usize = 16;

/// Namespace and name.
type Name = (String, String);

pub(super) struct EndpointSlices {
    client: Client,
    world: World,
    api: SocketAddr,
    /// The v1 Endpoints as last written: nobody else writes them, and they are written whole.
    legacy: BTreeMap<Name, Endpoints>,
}

impl EndpointSlices {
    pub(super) fn new(client: Client, world: World, api: SocketAddr) -> Self {
        Self { client, world, api, legacy: BTreeMap::new() }
    }
}

impl Controller for EndpointSlices {
    const NAME: &'static str = "endpointslice-controller";

    fn triggers(&self) -> Vec<watch::Receiver<u64>> {
        let world = &self.world;
        vec![world.services.changes(), world.pods.changes(), world.slices.changes(), world.nodes.changes()]
    }

    async fn pass(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        let zones = Zones::of(&self.world.nodes.all());
        let mut pods = BTreeMap::<_, Vec<_>>::new();
        for pod in self.world.pods.all() {
            pods.entry(pod.metadata.namespace.clone().unwrap_or_default()).or_default().push(pod);
        }
        let mut slices = BTreeMap::<Name, Vec<_>>::new();
        for slice in self.world.slices.all() {
            slices.entry(service_of(&slice)).or_default().push(slice);
        }
        let (mut actions, mut present, mut news) = (vec![], BTreeSet::new(), vec![]);
        for service in self.world.services.all() {
            let namespace = service.metadata.namespace.clone().unwrap_or_default();
            let name = (namespace, service.metadata.name.clone().unwrap_or_default());
            let pods = pods.get(&name.0).map_or(&[][..], Vec::as_slice);
            let existing = slices.remove(&name).unwrap_or_default();
            let legacy = if (name.0.as_str(), name.1.as_str()) == API_SERVICE {
                actions.push(plan::api_slice(self.api, &existing));
                Some(legacy::api(self.api))
            } else {
                actions.push(plan::plan(&service, pods, &zones, &existing));
                let old = plan::abandoned(Some(&service), &existing);
                actions.push(old.into_iter().map(Action::Delete).collect());
                legacy::of(&service, pods)
            };
            if let Some(legacy) = legacy {
                present.insert(name.clone());
                if self.legacy.get(&name) != Some(&legacy) {
                    news.push((name, legacy));
                }
            }
        }
        for orphans in slices.values() {
            actions.push(plan::abandoned(None, orphans).into_iter().map(Action::Delete).collect());
        }
        let actions = actions.into_iter().filter(|actions| !actions.is_empty());
        let mut written =
            stream::iter(actions.map(|actions| self.execute_all(actions))).buffer_unordered(WRITERS);
        while let Some(result) = written.next().await {
            outcome.note(result);
        }
        drop(written);
        self.write_legacy(news, &mut outcome).await;
        self.forget_legacy(&present).await;
        outcome
    }
}

impl EndpointSlices {
    async fn execute_all(&self, actions: Vec<Action>) -> Result<(), WriteError> {
        let slices = &self.world.slices;
        for action in actions {
            match action {
                Action::Create(slice) => drop(write::create(&self.client, slices, slice.as_ref()).await?),
                Action::Replace(slice) => write::replace(&self.client, slices, slice.as_ref()).await?,
                Action::Delete(slice) => write::delete(&self.client, slices, slice.as_ref(), None).await?,
            }
        }
        Ok(())
    }

    /// Unwatched, so one write each without a version: the last one wins, and this is the only writer.
    async fn write_legacy(&mut self, news: Vec<(Name, Endpoints)>, outcome: &mut Outcome) {
        let this = &*self;
        let writes = news.into_iter().map(|(name, endpoints)| async move {
            this.put_legacy(&name, &endpoints).await.map(|()| (name, endpoints))
        });
        let results: Vec<_> = stream::iter(writes).buffer_unordered(WRITERS).collect().await;
        for result in results {
            outcome.note(result.map(|(name, endpoints)| drop(self.legacy.insert(name, endpoints))));
        }
    }

    /// One that was never written is probably new; one that was may have been deleted by somebody.
    async fn put_legacy(&self, name: &Name, endpoints: &Endpoints) -> Result<(), WriteError> {
        let api = write::api::<Endpoints>(&self.client, Some(&name.0));
        let parameters = PostParams::default();
        let written = if self.legacy.contains_key(name) {
            match api.replace(&name.1, &parameters, endpoints).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {
                    api.create(&parameters, endpoints).await
                }
                answer => answer,
            }
        } else {
            match api.create(&parameters, endpoints).await {
                Err(kube::Error::Api(status)) if status.is_already_exists() => {
                    api.replace(&name.1, &parameters, endpoints).await
                }
                answer => answer,
            }
        };
        let refused = |error| WriteError::new::<Endpoints>("write", format!("{}/{}", name.0, name.1), error);
        written.map(drop).map_err(refused)
    }

    /// Removes the Endpoints of Services that are gone.
    async fn forget_legacy(&mut self, present: &BTreeSet<Name>) {
        let gone: Vec<_> = self.legacy.keys().filter(|key| !present.contains(*key)).cloned().collect();
        for key in gone {
            let api = write::api::<Endpoints>(&self.client, Some(&key.0));
            match api.delete(&key.1, &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => {
                    tracing::warn!(%error, "delete endpoints");
                    continue;
                }
                Ok(_) => {}
            }
            self.legacy.remove(&key);
        }
    }
}

/// The pods that `service` selects; a Service without selector selects none.
fn selected<'a>(service: &'a Service, pods: &'a [Arc<Pod>]) -> impl Iterator<Item = &'a Arc<Pod>> {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selector = selector.filter(|selector| !selector.is_empty());
    pods.iter().filter(move |pod| {
        let labels = pod.metadata.labels.as_ref();
        selector.is_some_and(|selector| {
            selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
        })
    })
}

/// The Service that the slice names; the empty name where it names none.
fn service_of(slice: &EndpointSlice) -> Name {
    let meta = &slice.metadata;
    let service = meta.labels.as_ref().and_then(|labels| labels.get(plan::SERVICE_NAME));
    (meta.namespace.clone().unwrap_or_default(), service.cloned().unwrap_or_default())
}

/// Slices of this controller, as opposed to mirrored or hand-made ones.
fn is_managed(slice: &EndpointSlice) -> bool {
    let labels = slice.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(plan::MANAGED_BY)).map(String::as_str) == Some(plan::CONTROLLER)
}
