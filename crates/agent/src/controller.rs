//! The task that owns the index: objects and pods come in, what moved goes out to everyone it concerns.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cluster::{Index, Problem, Wish, watch::Seen};
use dataplane::{Key, ObjectState, ObjectStatus};
use futures::{Stream, StreamExt as _};
use jiff::Timestamp;
use model::{Endpoint, Generation, NodeConfig, Peer, PodName, Tunnel, Update};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    flows::SharedDirectory,
    health::Checks,
    wire::Interruption,
    worker::{Gone, Worker},
};

/// Objects taken in before anything is compiled: bounds how late the first of a long burst gets.
const BURST: usize = 4096;
/// How often identities that nobody uses are looked for, without anything happening.
const COLLECT_EVERY: Duration = Duration::from_secs(30);

/// Answers once the dataplane has programmed (or removed) something, or says why it could not.
pub(crate) type Programmed = oneshot::Receiver<Result<(), String>>;

/// The handle on the task.
#[derive(Clone, Debug)]
pub(crate) struct Controller {
    inbox: mpsc::UnboundedSender<Message>,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
enum Message {
    SetEndpoint(Endpoint, oneshot::Sender<Result<(), String>>),
    RemoveEndpoint(PodName, oneshot::Sender<Result<(), String>>),
    LocalAddresses(Vec<IpAddr>),
    Tunnel(Option<Tunnel>),
    /// All pods that a former agent attached were told.
    EndpointsKnown,
    Ask(Question),
}

/// Put to the index.
struct Question(Box<dyn FnOnce(&Index) + Send>);

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Question")
    }
}

/// What others may look at.
#[derive(Debug)]
struct Shared {
    waiting_for: Option<String>,
    node: Option<NodeConfig>,
    eligible: bool,
    problems: BTreeSet<Problem>,
    route_problems: Vec<ObjectStatus>,
    interruptions: BTreeMap<&'static str, String>,
    generation: Generation,
}

/// Everything that routing depends on.
#[derive(Clone, Debug)]
pub(crate) struct Nodes {
    pub(crate) own: NodeConfig,
    pub(crate) peers: BTreeMap<String, Arc<Peer>>,
}

/// Where the task sends what moved.
#[derive(Debug)]
pub(crate) struct Outlets {
    pub(crate) nodes: watch::Sender<Option<Arc<Nodes>>>,
    pub(crate) checks: watch::Sender<Checks>,
    /// Problems that were not there before.
    pub(crate) problems: mpsc::Sender<Problem>,
    /// Everything that is to be written to the API server.
    pub(crate) wishes: watch::Sender<Arc<Vec<Wish>>>,
    /// Who is who, for flows; `None` where none are told of.
    pub(crate) directory: Option<SharedDirectory>,
}

/// The task itself, to be run.
pub(crate) struct Task {
    index: Index,
    worker: Worker,
    outlets: Outlets,
    inbox: mpsc::UnboundedReceiver<Message>,
    shared: Arc<Mutex<Shared>>,
    peers: BTreeMap<String, Arc<Peer>>,
    checks: Checks,
    /// Who waits for a pod; told to the worker after the update that holds the pod.
    waiting: Vec<(Key, oneshot::Sender<Result<(), String>>)>,
}

impl Controller {
    pub(crate) fn new(index: Index, worker: Worker, outlets: Outlets) -> (Self, Task) {
        let (sender, inbox) = mpsc::unbounded_channel();
        let shared = Arc::new(Mutex::new(Shared {
            waiting_for: index.waiting_for(),
            node: None,
            eligible: true,
            problems: BTreeSet::new(),
            route_problems: vec![],
            interruptions: BTreeMap::new(),
            generation: Generation::default(),
        }));
        let task = Task {
            index,
            worker,
            outlets,
            inbox,
            shared: Arc::clone(&shared),
            peers: BTreeMap::new(),
            checks: Checks::default(),
            waiting: vec![],
        };
        (Self { inbox: sender, shared }, task)
    }

    pub(crate) fn set_endpoint(&self, endpoint: Endpoint) -> Programmed {
        self.send(|answer| Message::SetEndpoint(endpoint, answer))
    }

    pub(crate) fn remove_endpoint(&self, pod: PodName) -> Programmed {
        self.send(|answer| Message::RemoveEndpoint(pod, answer))
    }

    pub(crate) fn set_local_addresses(&self, addresses: Vec<IpAddr>) {
        // The task only ends with the agent.
        let _ = self.inbox.send(Message::LocalAddresses(addresses));
    }

    pub(crate) fn set_tunnel(&self, tunnel: Option<Tunnel>) {
        // The task only ends with the agent.
        let _ = self.inbox.send(Message::Tunnel(tunnel));
    }

    pub(crate) fn set_endpoints_known(&self) {
        // The task only ends with the agent.
        let _ = self.inbox.send(Message::EndpointsKnown);
    }

    /// Puts `question` to the index, as of everything it was told before.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Index) -> T + Send + 'static,
    ) -> Result<T, Gone> {
        let (answer, reply) = oneshot::channel();
        // Nobody may be interested any more: then the answer is dropped.
        let question = Question(Box::new(|index| drop(answer.send(question(index)))));
        self.inbox.send(Message::Ask(question)).map_err(|_| Gone)?;
        reply.await.map_err(|_| Gone)
    }

    pub(crate) fn set_route_problems(&self, problems: Vec<ObjectStatus>) {
        self.shared().route_problems = problems;
    }

    pub(crate) fn waiting_for(&self) -> Option<String> {
        self.shared().waiting_for.clone()
    }

    pub(crate) fn node_config(&self) -> Option<NodeConfig> {
        self.shared().node.clone()
    }

    pub(crate) fn node_eligible(&self) -> bool {
        self.shared().eligible
    }

    pub(crate) fn generation(&self) -> Generation {
        self.shared().generation
    }

    pub(crate) fn interruptions(&self) -> Vec<Interruption> {
        let shared = self.shared();
        let interruptions = shared.interruptions.iter();
        interruptions
            .map(|(kind, error)| Interruption { kind: (*kind).to_owned(), error: error.clone() })
            .collect()
    }

    /// What is wrong with objects and routes, in order of object.
    pub(crate) fn problems(&self) -> Vec<ObjectStatus> {
        let shared = self.shared();
        let refused = shared.problems.iter().map(|problem| ObjectStatus {
            kind: problem.object.kind.to_owned(),
            name: problem
                .object
                .to_string()
                .split_once(' ')
                .map_or_else(String::new, |(_, name)| name.to_owned()),
            state: ObjectState::Refused,
            field: Some(problem.field.clone()),
            reason: Some(problem.reason.clone()),
            generation: Generation::default(),
        });
        refused.chain(shared.route_problems.iter().cloned()).collect()
    }

    fn send(&self, message: impl FnOnce(oneshot::Sender<Result<(), String>>) -> Message) -> Programmed {
        let (answer, programmed) = oneshot::channel();
        // Where the task has ended, the answer's other end is dropped, and the asker learns it from that.
        let _ = self.inbox.send(message(answer));
        programmed
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }
}

/// Nothing that holds the lock can leave it half changed.
fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Task {
    /// Runs for as long as the dataplane lives.
    pub(crate) async fn run(mut self, watches: impl Stream<Item = Seen> + Send) -> Gone {
        let mut watches = Box::pin(watches.ready_chunks(BURST));
        let mut collect = tokio::time::interval(COLLECT_EVERY);
        let worker = self.worker.clone();
        let mut ended = std::pin::pin!(worker.ended());
        loop {
            let mut again = false;
            tokio::select! {
                Some(burst) = watches.next() => self.see(burst),
                Some(message) = self.inbox.recv() => self.take(message),
                _ = collect.tick() => again = true,
                gone = &mut ended => return gone,
            }
            if let Err(gone) = self.publish() {
                return gone;
            }
            if let Some(wishes) = self.index.take_wishes(Timestamp::now(), again) {
                self.outlets.wishes.send_replace(Arc::new(wishes));
            }
        }
    }

    fn see(&mut self, burst: Vec<Seen>) {
        for seen in burst {
            let mut shared = lock(&self.shared);
            match &seen {
                Seen::Interrupted { kind, error } => {
                    if shared.interruptions.insert(kind, error.clone()).is_none() {
                        tracing::warn!(kind, error, "watch interrupted, going on with what is known");
                    }
                }
                Seen::Service(_) => reached(&mut shared, "Service"),
                Seen::Slice(_) => reached(&mut shared, "EndpointSlice"),
                Seen::Node(_) => reached(&mut shared, "Node"),
                Seen::Pod(_) => reached(&mut shared, "Pod"),
                Seen::Namespace(_) => reached(&mut shared, "Namespace"),
                Seen::Identity(_) => reached(&mut shared, "TwinplaneIdentity"),
                Seen::Endpoint(_) => reached(&mut shared, "TwinplaneEndpoint"),
                Seen::NetworkPolicy(_) => reached(&mut shared, "NetworkPolicy"),
                Seen::ClusterNetworkPolicy(_) => reached(&mut shared, "ClusterNetworkPolicy"),
            }
            drop(shared);
            self.index.observe_seen(seen);
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::SetEndpoint(endpoint, answer) => {
                self.waiting.push((Key::Endpoint(endpoint.pod.clone()), answer));
                self.index.set_endpoint(endpoint);
            }
            Message::RemoveEndpoint(pod, answer) => {
                self.index.remove_endpoint(&pod);
                self.waiting.push((Key::Endpoint(pod), answer));
            }
            Message::LocalAddresses(addresses) => self.index.set_local_addresses(addresses),
            Message::Tunnel(tunnel) => self.index.set_tunnel(tunnel),
            Message::EndpointsKnown => self.index.set_endpoints_known(),
            Message::Ask(Question(question)) => question(&self.index),
        }
    }

    fn publish(&mut self) -> Result<(), Gone> {
        let update = self.index.take_update();
        self.publish_shared(update.as_ref());
        let news = self.index.take_news();
        if let Some(directory) = &self.outlets.directory {
            directory.learn(update.as_ref(), news);
        }
        if let Some(update) = update {
            self.publish_nodes(&update);
            if self.checks.advance(&update) {
                self.outlets.checks.send_replace(self.checks.clone());
            }
            self.worker.update(update, self.index.take_causes())?;
        }
        if self.index.waiting_for().is_none() {
            // A pod whose policy is not known yet is told of later: it would be attached, and get and send nothing.
            let is_settled = |key: &Key| !matches!(key, Key::Endpoint(pod) if !self.index.is_settled(pod));
            let (settled, waiting): (Vec<_>, Vec<_>) =
                self.waiting.drain(..).partition(|(key, _)| is_settled(key));
            self.waiting = waiting;
            for (key, answer) in settled {
                self.worker.wait(key, answer)?;
            }
        }
        Ok(())
    }

    fn publish_shared(&self, update: Option<&Update>) {
        let mut shared = lock(&self.shared);
        let waiting_for = self.index.waiting_for();
        if shared.waiting_for != waiting_for {
            match &waiting_for {
                Some(what) => tracing::info!("waiting for {what}"),
                None => tracing::info!("everything is known, programming"),
            }
            shared.waiting_for = waiting_for;
        }
        shared.eligible = self.index.node_eligible();
        if let Some(update) = update {
            shared.generation = update.generation;
            shared.node = self.index.node_config().cloned();
        }
        if !shared.problems.iter().eq(self.index.problems()) {
            let problems: BTreeSet<_> = self.index.problems().cloned().collect();
            for problem in problems.difference(&shared.problems) {
                tracing::warn!("{problem}");
                // Where too many wait, the status still tells.
                let _ = self.outlets.problems.try_send(problem.clone());
            }
            shared.problems = problems;
        }
    }

    fn publish_nodes(&mut self, update: &Update) {
        if update.node.is_none() && update.peers.is_empty() {
            return;
        }
        for (name, peer) in &update.peers {
            match peer {
                Some(peer) => _ = self.peers.insert(name.clone(), Arc::clone(peer)),
                None => _ = self.peers.remove(name),
            }
        }
        if let Some(node) = self.index.node_config() {
            let nodes = Nodes { own: node.clone(), peers: self.peers.clone() };
            self.outlets.nodes.send_replace(Some(Arc::new(nodes)));
        }
    }
}

fn reached(shared: &mut Shared, kind: &'static str) {
    if shared.interruptions.remove(kind).is_some() {
        tracing::info!(kind, "watch goes on");
    }
}
