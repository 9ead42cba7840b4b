//! `peer.Peer`: which nodes serve flows. A client gets what changed since it last looked, however slow it is; nothing is
//! queued for it. Never connects to a peer.

use std::{collections::BTreeMap, sync::Arc};

use flow::proto::peer::{
    ChangeNotification, ChangeNotificationType, NotifyRequest, Tls, peer_server::Peer as PeerService,
};
use futures::stream;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::node::Answers;

/// Where a node serves flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// `address:port`.
    pub address: String,
    /// The name in its certificate; `None`: it speaks plain text.
    pub server_name: Option<String>,
}

type Known = Arc<BTreeMap<String, Peer>>;

/// All peers by name; clones share them.
#[derive(Clone, Debug)]
pub struct Peers(Arc<watch::Sender<Known>>);

impl Default for Peers {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Known::default())))
    }
}

impl Peers {
    /// Replaces what is known.
    pub fn set(&self, peers: BTreeMap<String, Peer>) {
        self.0.send_if_modified(|known| {
            let changed = **known != peers;
            if changed {
                *known = Arc::new(peers);
            }
            changed
        });
    }

    /// What led from one state to the other: removals, then the rest, each by name.
    fn changes(old: &BTreeMap<String, Peer>, new: &BTreeMap<String, Peer>) -> Vec<ChangeNotification> {
        let change = |kind: ChangeNotificationType, name: &str, peer: &Peer| ChangeNotification {
            name: name.to_owned(),
            address: peer.address.clone(),
            r#type: kind.into(),
            tls: peer.server_name.clone().map(|server_name| Tls { server_name }),
        };
        let gone = old.iter().filter(|(name, _)| !new.contains_key(*name));
        let gone = gone.map(|(name, peer)| change(ChangeNotificationType::PeerDeleted, name, peer));
        let rest = new.iter().filter_map(|(name, peer)| match old.get(name) {
            None => Some(change(ChangeNotificationType::PeerAdded, name, peer)),
            Some(before) if before != peer => Some(change(ChangeNotificationType::PeerUpdated, name, peer)),
            Some(_) => None,
        });
        gone.chain(rest).collect()
    }
}

#[tonic::async_trait]
impl PeerService for Peers {
    type NotifyStream = Answers<ChangeNotification>;

    async fn notify(&self, _: Request<NotifyRequest>) -> Result<Response<Self::NotifyStream>, Status> {
        let mut watched = self.0.subscribe();
        watched.mark_changed();
        let state = (watched, Known::default(), Vec::new().into_iter());
        let changes = stream::unfold(state, |(mut watched, mut told, mut left)| async move {
            loop {
                if let Some(change) = left.next() {
                    return Some((Ok(change), (watched, told, left)));
                }
                watched.changed().await.ok()?;
                let known = Arc::clone(&watched.borrow_and_update());
                left = Self::changes(&told, &known).into_iter();
                told = known;
            }
        });
        Ok(Response::new(Box::pin(changes)))
    }
}
