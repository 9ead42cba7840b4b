//! Follows the peer service and keeps the pool to what it says. Never connects to nodes itself.

use std::{collections::BTreeSet, time::Duration};

use flow::proto::peer::{ChangeNotification, ChangeNotificationType, NotifyRequest, peer_client::PeerClient};
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    Config,
    pool::{Pool, reason},
};
use crate::{connect::connect, peers::Peer};

/// The peer service says at once which peers there are; what it has not named after so long has gone while nobody
/// listened.
const ANNOUNCED: Duration = Duration::from_secs(10);
/// The most failures that are logged until a peer service answers.
const MAX_LOGGED: usize = 64;

/// Until the task is ended.
pub(super) async fn follow(config: Config, pool: Pool) {
    let (mut failures, mut logged) = (0, BTreeSet::new());
    for service in config.peer_services.iter().cycle() {
        let error = match connect(service, config.certificates.as_ref()).await {
            Ok(channel) => {
                let mut client = PeerClient::new(channel);
                match client.notify(NotifyRequest {}).await {
                    Ok(changes) => {
                        failures = 0;
                        logged.clear();
                        listen(changes.into_inner(), &pool).await
                    }
                    Err(status) => status.message().to_owned(),
                }
            }
            Err(error) => reason(&error),
        };
        if logged.len() < MAX_LOGGED && logged.insert((&service.address, error.clone())) {
            tracing::warn!(
                address = service.address,
                error,
                "peer service is unavailable; its nodes are kept"
            );
        }
        // Every one of them is tried before it is waited for longer.
        let rounds = failures / u32::try_from(config.peer_services.len()).unwrap_or(u32::MAX);
        sleep(config.retry.wait(rounds, fastrand::f64())).await;
        failures += 1;
    }
}

/// Applies changes until the stream breaks; returns why.
async fn listen(mut changes: tonic::Streaming<ChangeNotification>, pool: &Pool) -> String {
    let before: BTreeSet<String> = pool.nodes().keys().cloned().collect();
    let mut unnamed = Some(before);
    let deadline = Instant::now() + ANNOUNCED;
    loop {
        let change = tokio::select! {
            change = changes.message() => change,
            () = sleep_until(deadline), if unnamed.is_some() => {
                unnamed.take().into_iter().flatten().for_each(|name| pool.remove(&name));
                continue;
            }
        };
        match change {
            Ok(Some(change)) => {
                if let Some(unnamed) = &mut unnamed {
                    unnamed.remove(&change.name);
                }
                apply(change, pool);
            }
            Ok(None) => return "the peer service closed the stream".into(),
            Err(status) => return status.message().to_owned(),
        }
    }
}

fn apply(change: ChangeNotification, pool: &Pool) {
    let server_name = change.tls.as_ref().map(|tls| tls.server_name.clone()).filter(|name| !name.is_empty());
    match change.r#type() {
        ChangeNotificationType::PeerAdded | ChangeNotificationType::PeerUpdated => {
            pool.add(&change.name, Peer { address: change.address, server_name });
        }
        ChangeNotificationType::PeerDeleted => pool.remove(&change.name),
        ChangeNotificationType::Unknown => tracing::warn!(name = change.name, "peer change of unknown type"),
    }
}
