//! The watches on the Kubernetes API: the only IO of this crate.
//!
//! Asks for what kube-proxy asks for: Services that have a cluster IP and no other proxy's name, slices of
//! Services that are not headless, all Nodes; for host ports and identities, the pods of this node; for identities, all
//! Namespaces, and our own kinds, whose definitions it sees to. Reconnects for ever, with growing pauses; what was learned
//! before stays valid meanwhile.

use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
    networking::v1::NetworkPolicy,
};
use kube::{
    Api, Client,
    api::ListParams,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Config, Event},
    },
};
use policy::v1alpha2::ClusterNetworkPolicy;

use crate::{
    Index, Kind,
    identity::{TwinplaneEndpoint, TwinplaneIdentity},
};

mod definitions;

const SERVICE_LABELS: &str = "!service.kubernetes.io/service-proxy-name";
const SERVICE_FIELDS: &str = "spec.clusterIP!=None";
const SLICE_LABELS: &str = "!service.kubernetes.io/headless";
/// Pause before the API server is asked again which selectors it knows.
const PROBE_PAUSE: Duration = Duration::from_secs(1);

/// What one of the watches has to tell.
#[derive(Debug)]
pub enum Seen {
    Service(Box<Event<Service>>),
    Slice(Box<Event<EndpointSlice>>),
    Node(Box<Event<Node>>),
    Pod(Box<Event<Pod>>),
    Namespace(Box<Event<Namespace>>),
    Identity(Box<Event<TwinplaneIdentity>>),
    Endpoint(Box<Event<TwinplaneEndpoint>>),
    NetworkPolicy(Box<Event<NetworkPolicy>>),
    ClusterNetworkPolicy(Box<Event<ClusterNetworkPolicy>>),
    /// A watch was interrupted; it goes on by itself.
    Interrupted {
        kind: &'static str,
        error: String,
    },
}

impl Index {
    /// Takes in what a watch saw; interruptions change nothing.
    pub fn observe_seen(&mut self, seen: Seen) {
        match seen {
            Seen::Service(event) => self.observe(*event),
            Seen::Slice(event) => self.observe(*event),
            Seen::Node(event) => self.observe(*event),
            Seen::Pod(event) => self.observe(*event),
            Seen::Namespace(event) => self.observe(*event),
            Seen::Identity(event) => self.observe(*event),
            Seen::Endpoint(event) => self.observe(*event),
            Seen::NetworkPolicy(event) => self.observe(*event),
            Seen::ClusterNetworkPolicy(event) => self.observe(*event),
            Seen::Interrupted { .. } => {}
        }
    }
}

/// Watches everything that an [`Index`] of `node` wants to know. Never ends.
pub fn watch(client: &Client, node: &str) -> impl Stream<Item = Seen> + Send + use<> {
    let nodes = events::<Node>(client.clone(), Config::default(), |event| Seen::Node(Box::new(event)));
    let own_pods = Config::default().fields(&format!("spec.nodeName={node}"));
    let pods = events::<Pod>(client.clone(), own_pods, |event| Seen::Pod(Box::new(event)));
    let slices =
        events(client.clone(), Config::default().labels(SLICE_LABELS), |event| Seen::Slice(Box::new(event)));
    let services = stream::once(service_selectors(client.clone())).flat_map({
        let client = client.clone();
        move |config| events(client.clone(), config, |event| Seen::Service(Box::new(event)))
    });
    let namespaces =
        events::<Namespace>(client.clone(), Config::default(), |event| Seen::Namespace(Box::new(event)));
    let ours = stream::once(definitions::ensure(client.clone())).flat_map({
        let client = client.clone();
        move |()| {
            let identities =
                events(client.clone(), Config::default(), |event| Seen::Identity(Box::new(event)));
            let endpoints =
                events(client.clone(), Config::default(), |event| Seen::Endpoint(Box::new(event)));
            stream::select(identities, endpoints)
        }
    });
    let services = stream::select(services, slices);
    let others = stream::select(namespaces, ours);
    let policies = stream::select(network_policies(client), cluster_network_policies(client));
    stream::select_all([nodes.boxed(), services.boxed(), pods.boxed(), others.boxed(), policies.boxed()])
}

fn network_policies(client: &Client) -> impl Stream<Item = Seen> + Send + use<> {
    events(client.clone(), Config::default(), |event| Seen::NetworkPolicy(Box::new(event)))
}

/// Not every cluster has the kind: where it is not served, there are none, until it is.
fn cluster_network_policies(client: &Client) -> impl Stream<Item = Seen> + Send + use<> {
    let api = Api::<ClusterNetworkPolicy>::all(client.clone());
    let told = |event: Event<ClusterNetworkPolicy>| Seen::ClusterNetworkPolicy(Box::new(event));
    let events = watcher::watcher(api, Config::default()).default_backoff();
    events.flat_map(move |event| {
        stream::iter(match event {
            Ok(event) => vec![told(event)],
            Err(watcher::Error::InitialListFailed(kube::Error::Api(status))) if status.code == 404 => {
                vec![told(Event::Init), told(Event::InitDone)]
            }
            Err(error) => {
                vec![Seen::Interrupted { kind: ClusterNetworkPolicy::KIND, error: chain(&error) }]
            }
        })
    })
}

fn events<K>(client: Client, config: Config, seen: fn(Event<K>) -> Seen) -> impl Stream<Item = Seen> + Send
where
    K: Kind + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    watcher::watcher(Api::<K>::all(client), config).default_backoff().map(move |event| {
        event.map_or_else(|error| Seen::Interrupted { kind: K::KIND, error: chain(&error) }, seen)
    })
}

/// The selectors for Services. Not every server knows the field; headless Services are passed over either way.
async fn service_selectors(client: Client) -> Config {
    let config = Config::default().labels(SERVICE_LABELS);
    let probe = ListParams::default().labels(SERVICE_LABELS).fields(SERVICE_FIELDS).limit(1);
    let services: Api<Service> = Api::all(client);
    loop {
        match services.list_metadata(&probe).await {
            Ok(_) => return config.fields(SERVICE_FIELDS),
            Err(kube::Error::Api(status)) if status.code == 400 => {
                tracing::info!("the API server cannot select Services by cluster IP: watching all of them");
                return config;
            }
            // Whatever else is wrong, the watch meets it too and tells of it.
            Err(kube::Error::Api(_)) => return config.fields(SERVICE_FIELDS),
            Err(error) => {
                tracing::debug!(error = chain(&error), "cannot reach the API server");
                tokio::time::sleep(PROBE_PAUSE).await;
            }
        }
    }
}

/// An error with its causes, each once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
