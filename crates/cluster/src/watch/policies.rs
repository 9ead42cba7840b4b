//! The watches that only policies need. ClusterNetworkPolicy is a kind that most clusters do not have: then there are none, and
//! it is asked again now and then.

use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::{
    Api, Client,
    api::ListParams,
    runtime::watcher::{Config, Event},
};
use policy::v1alpha2::ClusterNetworkPolicy;

use super::{Seen, chain, events};
use crate::Kind as _;

/// Pause before the API server is asked again whether it has the kind.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// The same, where it did not answer.
const PAUSE: Duration = Duration::from_secs(1);

/// Watches policies, for an [`crate::Index`] that enforces them. Never ends.
pub fn watch_policies(client: &Client) -> impl Stream<Item = Seen> + Send + use<> {
    let seen = |event| Seen::NetworkPolicy(Box::new(event));
    let ours = events::<NetworkPolicy>(client.clone(), Config::default(), seen);
    let client = client.clone();
    let admins = stream::once(is_served(client.clone())).flat_map(move |served| {
        let none = match served {
            true => vec![],
            false => vec![Event::Init, Event::InitDone],
        };
        let none = stream::iter(none).map(|event| Seen::ClusterNetworkPolicy(Box::new(event)));
        let client = client.clone();
        let all = stream::once(until_served(client.clone(), served)).flat_map(move |()| {
            events::<ClusterNetworkPolicy>(client.clone(), Config::default(), |event| {
                Seen::ClusterNetworkPolicy(Box::new(event))
            })
        });
        none.chain(all)
    });
    stream::select(ours.boxed(), admins.boxed())
}

/// Whether the API server has the kind; waits for an answer.
async fn is_served(client: Client) -> bool {
    let api: Api<ClusterNetworkPolicy> = Api::all(client);
    loop {
        match api.list_metadata(&ListParams::default().limit(1)).await {
            Ok(_) => return true,
            Err(kube::Error::Api(status)) if status.code == 404 => return false,
            // Whatever else is wrong, the watch meets it too and tells of it.
            Err(kube::Error::Api(_)) => return true,
            Err(error) => {
                let kind = ClusterNetworkPolicy::KIND;
                tracing::debug!(kind, error = chain(&error), "cannot reach the API server");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn until_served(client: Client, served: bool) {
    let mut served = served;
    while !served {
        tokio::time::sleep(LOOK_AGAIN).await;
        served = is_served(client.clone()).await;
    }
}
