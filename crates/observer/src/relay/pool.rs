//! The connections to all nodes and their states. A task per node connects, notices when the connection is lost, and
//! connects again. Never asks a node for flows.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use flow::proto::{
    observer::{ServerStatusRequest, observer_client::ObserverClient},
    relay::NodeState,
};
use tokio::{
    sync::watch,
    time::{Duration, sleep},
};
use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{Retry, Task};
use crate::{
    connect::{ConnectError, Target, connect},
    names::HEALTH_SERVICE,
    peers::{Peer, Peers},
    tls::Certificates,
};

/// A node as the relay knows it.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    pub peer: Peer,
    pub state: NodeState,
    /// Why it is unavailable.
    pub message: String,
    /// There while connected.
    pub(super) channel: Option<Channel>,
    /// Counts connections, so that a request is made once per connection.
    pub(super) connection: u64,
}

pub(super) type Nodes = Arc<BTreeMap<String, NodeStatus>>;

/// The most nodes that are connected to; Kubernetes has at most 5,000 in a cluster. More would be somebody's invention.
const MAX_NODES: usize = 8192;

/// How often a node without health checks is asked whether it is there.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// All nodes; clones share them.
#[derive(Clone, Debug)]
pub(super) struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    nodes: watch::Sender<Nodes>,
    /// The same, for who watches peers here.
    peers: Peers,
    liars: Liars,
    tasks: Mutex<BTreeMap<String, Task>>,
    certificates: Option<Arc<Certificates>>,
    retry: Retry,
}

impl Pool {
    pub(super) fn new(certificates: Option<Arc<Certificates>>, retry: Retry) -> Self {
        Self(Arc::new(Inner {
            nodes: watch::Sender::default(),
            peers: Peers::default(),
            liars: Liars::default(),
            tasks: Mutex::default(),
            certificates,
            retry,
        }))
    }

    pub(super) fn peers(&self) -> Peers {
        self.0.peers.clone()
    }

    pub(super) fn liars(&self) -> Liars {
        self.0.liars.clone()
    }

    pub(super) fn nodes(&self) -> Nodes {
        Arc::clone(&self.0.nodes.borrow())
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Nodes> {
        self.0.nodes.subscribe()
    }

    /// Connects to a new peer, or anew to one that moved.
    pub(super) fn add(&self, name: &str, peer: Peer) {
        let nodes = self.nodes();
        let known = nodes.get(name);
        if known.is_some_and(|node| node.peer == peer) {
            return;
        }
        if known.is_none() && nodes.len() >= MAX_NODES {
            return tracing::debug!(node = name, "more than {MAX_NODES} peers: this one is left out");
        }
        let connection = known.map_or(0, |node| node.connection);
        let (state, message) = (NodeState::NodeUnavailable, "not connected yet".to_owned());
        let status = NodeStatus { peer: peer.clone(), state, message, channel: None, connection };
        let mut tasks = self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // The old task is gone before it could change what is set now.
        drop(tasks.remove(name));
        self.change(|nodes| drop(nodes.insert(name.to_owned(), status)));
        self.tell_peers();
        // The task does not keep the pool alive that holds it.
        let keep = keep(Arc::downgrade(&self.0), name.to_owned(), peer);
        tasks.insert(name.to_owned(), Task(tokio::spawn(keep)));
    }

    pub(super) fn remove(&self, name: &str) {
        let mut tasks = self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        drop(tasks.remove(name));
        self.change(|nodes| drop(nodes.remove(name)));
        self.tell_peers();
    }

    fn tell_peers(&self) {
        let nodes = self.nodes();
        self.0.peers.set(nodes.iter().map(|(name, node)| (name.clone(), node.peer.clone())).collect());
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, NodeStatus>)) {
        self.0.nodes.send_modify(|nodes| change(Arc::make_mut(nodes)));
    }

    fn connected(&self, name: &str, channel: Channel) {
        self.change(|nodes| {
            if let Some(node) = nodes.get_mut(name) {
                node.state = NodeState::NodeConnected;
                node.message.clear();
                node.channel = Some(channel);
                node.connection += 1;
            }
        });
        tracing::info!(node = name, "connected");
    }

    fn unavailable(&self, name: &str, message: String) {
        let before = self.nodes().get(name).map(|node| node.message.clone());
        if before.as_ref() != Some(&message) {
            tracing::warn!(node = name, reason = message, "node is unavailable");
        }
        self.change(|nodes| {
            if let Some(node) = nodes.get_mut(name) {
                node.state = NodeState::NodeUnavailable;
                node.message = message;
                node.channel = None;
            }
        });
    }
}

/// Nodes whose clocks are wrong, each logged once; clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Liars(Arc<Mutex<BTreeSet<String>>>);

impl Liars {
    pub(super) fn note(&self, node: &str) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !noted.contains(node) && noted.len() < MAX_NODES {
            noted.insert(node.to_owned());
            tracing::warn!(node, "the times of its flows cannot be right: they are sorted by their arrival");
        }
    }
}

/// Keeps one node connected until the task is ended.
async fn keep(pool: std::sync::Weak<Inner>, name: String, peer: Peer) {
    let target = Target { address: peer.address, server_name: peer.server_name };
    let mut failures = 0;
    loop {
        let Some(inner) = pool.upgrade() else { return };
        let (certificates, retry) = (inner.certificates.clone(), inner.retry);
        drop(inner);
        let connected = connect(&target, certificates.as_ref()).await;
        let message = match connected {
            Ok(channel) => {
                failures = 0;
                let Some(inner) = pool.upgrade() else { return };
                Pool(inner).connected(&name, channel.clone());
                until_lost(channel).await
            }
            Err(error) => {
                failures += 1;
                reason(&error)
            }
        };
        let Some(inner) = pool.upgrade() else { return };
        Pool(inner).unavailable(&name, message);
        sleep(retry.wait(failures, fastrand::f64())).await;
    }
}

/// The error and what led to it, on one line.
pub(super) fn reason(error: &ConnectError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Returns when the connection is lost, with the reason: a watch of the node's health lasts as long as it does.
async fn until_lost(channel: Channel) -> String {
    let mut health = HealthClient::new(channel.clone());
    let watched = health.watch(HealthCheckRequest { service: HEALTH_SERVICE.into() }).await;
    let error = match watched {
        Ok(stream) => {
            let mut stream = stream.into_inner();
            loop {
                match stream.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return "the node closed the connection".into(),
                    Err(status) => break status,
                }
            }
        }
        Err(status) => status,
    };
    if error.code() != Code::Unimplemented {
        return format!("connection lost: {}", error.message());
    }
    let mut observer = ObserverClient::new(channel);
    loop {
        sleep(POLL_INTERVAL).await;
        if let Err(status) = observer.server_status(ServerStatusRequest {}).await {
            return format!("connection lost: {}", status.message());
        }
    }
}
