//! One client's request at all nodes: a stream per node, merged by time, with events about the nodes in between. Pulled by
//! the client; a node whose queue is full is not read, so that its own ring counts what the client misses. Never outlives
//! its client.

use std::{
    collections::{BTreeMap, VecDeque},
    future::poll_fn,
    task::Poll,
    time::Duration,
};

use flow::{
    event::Time,
    proto::{
        observer::{
            GetFlowsRequest, GetFlowsResponse, get_flows_response::ResponseTypes,
            observer_client::ObserverClient,
        },
        relay::{NodeState, NodeStatusEvent},
    },
};
use futures::{Stream, stream};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, watch},
    time::{Instant, sleep_until},
};
use tonic::{Status, transport::Channel};

use super::{
    Task,
    merge::{Merge, Patience},
    pool::{NodeStatus, Nodes},
};
use crate::node::now;

/// How long a flow that goes on waits for a quiet node, and how long an answer that ends waits for a slow one.
const FOLLOW_WAIT: Duration = Duration::from_secs(1);
const END_WAIT: Duration = Duration::from_secs(5);
/// Answers on their way from a node's stream to its queue.
const ON_THE_WAY: usize = 16;

type Answer = Result<GetFlowsResponse, Status>;

#[derive(Debug)]
pub(super) struct Collect {
    request: GetFlowsRequest,
    relay: String,
    nodes: watch::Receiver<Nodes>,
    sources: BTreeMap<String, Source>,
    merge: Merge<GetFlowsResponse>,
    /// Events about nodes go before flows.
    status: VecDeque<GetFlowsResponse>,
}

/// A node that was asked.
#[derive(Debug)]
struct Source {
    /// `None`: its stream has ended.
    answers: Option<(mpsc::Receiver<Answer>, Task)>,
    connection: u64,
    last: Option<Time>,
}

enum Woken {
    Answers,
    Nodes,
}

impl Collect {
    /// Asks every node that is connected.
    pub(super) fn new(request: GetFlowsRequest, relay: String, nodes: watch::Receiver<Nodes>) -> Self {
        let patience = if request.follow {
            Patience { wait: FOLLOW_WAIT, until_full: true }
        } else {
            Patience { wait: END_WAIT, until_full: false }
        };
        let merge = Merge::new(patience);
        let mut collect =
            Self { request, relay, nodes, sources: BTreeMap::new(), merge, status: VecDeque::new() };
        collect.look_at_nodes(true);
        collect
    }

    /// What the client gets; the permit lasts as long as the stream.
    pub(super) fn answers(self, permit: OwnedSemaphorePermit) -> impl Stream<Item = Answer> + Send {
        stream::unfold((self, permit), |(mut collect, permit)| async move {
            let answer = collect.next().await?;
            Some((Ok(answer), (collect, permit)))
        })
    }

    async fn next(&mut self) -> Option<GetFlowsResponse> {
        loop {
            if let Some(status) = self.status.pop_front() {
                return Some(status);
            }
            self.take_what_is_there();
            if let Some(answer) = self.merge.pop(Instant::now()) {
                return Some(answer);
            }
            if !self.status.is_empty() {
                continue;
            }
            if self.merge.is_done() && (!self.request.follow || self.request.until.is_some()) {
                return None;
            }
            if matches!(self.wait().await, Some(Woken::Nodes)) {
                self.look_at_nodes(false);
            }
        }
    }

    /// Until there is something to do; `None`: an answer has waited long enough.
    async fn wait(&mut self) -> Option<Woken> {
        let wake_at = self.merge.wake_at();
        let follow = self.request.follow;
        let nodes = &mut self.nodes;
        let (sources, merge) = (&mut self.sources, &mut self.merge);
        let answers = poll_fn(|cx| {
            let mut ready = false;
            for (name, source) in sources.iter_mut() {
                let Some((answers, _)) = &mut source.answers else { continue };
                // A full queue waits for the client, or for another node.
                if merge.has_room(name)
                    && let Poll::Ready(answer) = answers.poll_recv(cx)
                {
                    ready = true;
                    accept(name, source, answer, merge, &mut self.status, &self.relay);
                }
            }
            if ready { Poll::Ready(()) } else { Poll::Pending }
        });
        tokio::select! {
            () = answers => Some(Woken::Answers),
            Ok(()) = nodes.changed(), if follow => Some(Woken::Nodes),
            () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => None,
        }
    }

    fn take_what_is_there(&mut self) {
        for (name, source) in &mut self.sources {
            while self.merge.has_room(name) {
                let Some((answers, _)) = &mut source.answers else { break };
                let answer = match answers.try_recv() {
                    Ok(answer) => Some(answer),
                    Err(mpsc::error::TryRecvError::Disconnected) => None,
                    Err(mpsc::error::TryRecvError::Empty) => break,
                };
                accept(name, source, answer, &mut self.merge, &mut self.status, &self.relay);
            }
        }
    }

    /// Asks nodes that came or came back; says what became of all.
    fn look_at_nodes(&mut self, first: bool) {
        let nodes = Nodes::clone(&self.nodes.borrow_and_update());
        let gone: Vec<String> =
            self.sources.keys().filter(|name| !nodes.contains_key(*name)).cloned().collect();
        for name in &gone {
            self.sources.remove(name);
            self.merge.end(name);
        }
        let (mut connected, mut unavailable) = (Vec::new(), Vec::new());
        for (name, node) in &*nodes {
            let known = self.sources.get(name);
            match &node.channel {
                Some(channel) if known.is_none_or(|source| source.connection != node.connection) => {
                    self.ask(name, node, channel.clone(), first);
                    connected.push(name.clone());
                }
                None if first || known.is_some_and(|source| source.answers.is_some()) => {
                    if let Some(source) = self.sources.get_mut(name) {
                        source.answers = None;
                        self.merge.end(name);
                    }
                    unavailable.push(name.clone());
                }
                Some(_) | None => {}
            }
        }
        for (state, names) in [
            (NodeState::NodeConnected, connected),
            (NodeState::NodeUnavailable, unavailable),
            (NodeState::NodeGone, gone),
        ] {
            if !names.is_empty() {
                self.status.push_back(status(&self.relay, state, names, String::new()));
            }
        }
    }

    /// Starts a node's stream. One that came late is asked for what is new since the client came, one that came back for
    /// what is new since its last answer.
    fn ask(&mut self, name: &str, node: &NodeStatus, channel: Channel, first: bool) {
        let last = self.sources.get(name).and_then(|source| source.last);
        let mut request = self.request.clone();
        if !first {
            request.number = 0;
            request.since = last.map(|Time(nanos)| Time(nanos.saturating_add(1)).into()).or(request.since);
        }
        let (send, answers) = mpsc::channel(ON_THE_WAY);
        let task = Task(tokio::spawn(pump(channel, request, send)));
        let source = Source { answers: Some((answers, task)), connection: node.connection, last };
        self.sources.insert(name.to_owned(), source);
        self.merge.add(name);
    }
}

/// Hands on what a node says until it ends, or its client has gone.
async fn pump(channel: Channel, request: GetFlowsRequest, send: mpsc::Sender<Answer>) {
    let mut answers = match ObserverClient::new(channel).get_flows(request).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => return drop(send.send(Err(status)).await),
    };
    while let Some(answer) = answers.message().await.transpose() {
        let failed = answer.is_err();
        if send.send(answer).await.is_err() || failed {
            return;
        }
    }
}

/// Takes what a node said; `None`: nothing more.
fn accept(
    name: &str,
    source: &mut Source,
    answer: Option<Answer>,
    merge: &mut Merge<GetFlowsResponse>,
    events: &mut VecDeque<GetFlowsResponse>,
    relay: &str,
) {
    match answer {
        Some(Ok(mut answer)) => {
            // A node speaks for itself only.
            answer.node_name = name.to_owned();
            let time = answer.time.map_or(Time::default(), Time::from);
            if matches!(answer.response_types, Some(ResponseTypes::Flow(_))) {
                source.last = Some(time.min(now()));
            }
            merge.push(name, (time, now()), Instant::now(), answer);
        }
        Some(Err(error)) => {
            let message = format!("{}: {}", error.code(), error.message());
            events.push_back(status(relay, NodeState::NodeError, vec![name.to_owned()], message));
            source.answers = None;
            merge.end(name);
        }
        None => {
            source.answers = None;
            merge.end(name);
        }
    }
}

fn status(relay: &str, state: NodeState, node_names: Vec<String>, message: String) -> GetFlowsResponse {
    GetFlowsResponse {
        node_name: relay.to_owned(),
        time: Some(now().into()),
        response_types: Some(ResponseTypes::NodeStatus(NodeStatusEvent {
            state_change: state.into(),
            node_names,
            message,
        })),
    }
}
