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
    errors::Errors,
    merge::{Merge, Patience},
    pool::{Liars, NodeStatus, Nodes},
};
use crate::node::now;

/// How long a flow that goes on waits for a quiet node.
const FOLLOW_WAIT: Duration = Duration::from_secs(1);
/// How long an answer that ends waits for a slow node, which is given up then.
const END_WAIT: Duration = Duration::from_secs(5);
/// How long a follower waits before it asks a node again that ended its stream and is still connected.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// Answers on their way from a node's stream to its queue.
const ON_THE_WAY: usize = 16;
/// Nanoseconds by which a node's clock may be ahead without anybody being told.
const CLOCKS_DIFFER: i64 = 60_000_000_000;

type Answer = Result<GetFlowsResponse, Status>;

#[derive(Debug)]
pub(super) struct Collect {
    request: GetFlowsRequest,
    relay: String,
    nodes: watch::Receiver<Nodes>,
    liars: Liars,
    sources: BTreeMap<String, Source>,
    merge: Merge<GetFlowsResponse>,
    /// Events about nodes go before flows.
    status: VecDeque<GetFlowsResponse>,
    errors: Errors,
}

/// A node that was asked.
#[derive(Debug)]
struct Source {
    /// `None`: its stream has ended.
    answers: Option<(mpsc::Receiver<Answer>, Task)>,
    connection: u64,
    /// The client knows it as connected.
    connected: bool,
    last: Option<Time>,
    /// When it was asked, or said something.
    heard: Instant,
}

enum Woken {
    Answers,
    Nodes,
}

impl Collect {
    /// Asks every node that is connected.
    pub(super) fn new(
        request: GetFlowsRequest,
        relay: String,
        nodes: watch::Receiver<Nodes>,
        liars: Liars,
    ) -> Self {
        let patience = if request.follow {
            Patience { wait: FOLLOW_WAIT, until_full: true }
        } else {
            Patience { wait: END_WAIT, until_full: false }
        };
        let mut collect = Self {
            request,
            relay,
            nodes,
            liars,
            sources: BTreeMap::new(),
            merge: Merge::new(patience),
            status: VecDeque::new(),
            errors: Errors::default(),
        };
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
            let now = Instant::now();
            self.give_up_silent(now);
            self.ask_again(now);
            if let Some(answer) = self.merge.pop(now) {
                return Some(answer);
            }
            let ends = self.merge.is_done() && (!self.request.follow || self.request.until.is_some());
            if ends || self.errors.due().is_some_and(|due| due <= now) {
                self.tell_errors();
            }
            if !self.status.is_empty() {
                continue;
            }
            if ends {
                return None;
            }
            if matches!(self.wait().await, Some(Woken::Nodes)) {
                self.look_at_nodes(false);
            }
        }
    }

    /// Until there is something to do; `None`: something has waited long enough.
    async fn wait(&mut self) -> Option<Woken> {
        let wake_at = [self.merge.wake_at(), self.errors.due(), self.silent_at(), self.ask_again_at()];
        let wake_at = wake_at.into_iter().flatten().min();
        let follow = self.request.follow;
        let nodes = &mut self.nodes;
        let mut ear = Ear { merge: &mut self.merge, errors: &mut self.errors, liars: &self.liars };
        let sources = &mut self.sources;
        let answers = poll_fn(|cx| {
            let mut ready = false;
            for (name, source) in sources.iter_mut() {
                let Some((answers, _)) = &mut source.answers else { continue };
                // A full queue waits for the client, or for another node.
                if ear.merge.has_room(name)
                    && let Poll::Ready(answer) = answers.poll_recv(cx)
                {
                    ready = true;
                    ear.accept(name, source, answer);
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
        let mut ear = Ear { merge: &mut self.merge, errors: &mut self.errors, liars: &self.liars };
        for (name, source) in &mut self.sources {
            while ear.merge.has_room(name) {
                let Some((answers, _)) = &mut source.answers else { break };
                let answer = match answers.try_recv() {
                    Ok(answer) => Some(answer),
                    Err(mpsc::error::TryRecvError::Disconnected) => None,
                    Err(mpsc::error::TryRecvError::Empty) => break,
                };
                ear.accept(name, source, answer);
            }
        }
    }

    /// Nodes that are being waited for, with the time until which they are.
    fn waited_for(&self) -> impl Iterator<Item = (&String, Instant)> {
        let ends = !self.request.follow;
        let waited = self
            .sources
            .iter()
            .filter(move |(name, source)| ends && source.answers.is_some() && self.merge.has_room(name));
        waited.map(|(name, source)| (name, source.heard + END_WAIT))
    }

    fn silent_at(&self) -> Option<Instant> {
        self.waited_for().map(|(_, until)| until).min()
    }

    /// An answer that ends does so without nodes that hang.
    fn give_up_silent(&mut self, now: Instant) {
        let silent: Vec<String> =
            self.waited_for().filter(|(_, until)| *until <= now).map(|(name, _)| name.clone()).collect();
        for name in silent {
            self.errors.add(&name, "no answer", now);
            if let Some(source) = self.sources.get_mut(&name) {
                source.answers = None;
            }
            self.merge.end(&name);
        }
    }

    /// Nodes that are connected and said that there is nothing more, with the time when they are asked again.
    fn ended(&self) -> impl Iterator<Item = (&String, Instant)> {
        let goes_on = self.request.follow && self.request.until.is_none();
        let ended =
            self.sources.iter().filter(move |(_, it)| goes_on && it.connected && it.answers.is_none());
        ended.map(|(name, source)| (name, source.heard + ASK_AGAIN))
    }

    fn ask_again_at(&self) -> Option<Instant> {
        self.ended().map(|(_, at)| at).min()
    }

    /// A node that has too many streams, or that could not be understood once.
    fn ask_again(&mut self, now: Instant) {
        let due: Vec<String> =
            self.ended().filter(|(_, at)| *at <= now).map(|(name, _)| name.clone()).collect();
        let nodes = Nodes::clone(&self.nodes.borrow());
        for name in due {
            match nodes.get(&name).and_then(|node| Some((node, node.channel.clone()?))) {
                Some((node, channel)) => self.ask(&name, node, channel, false),
                // Its state is about to be looked at.
                None => drop(self.sources.get_mut(&name).map(|source| source.heard = now)),
            }
        }
    }

    fn tell_errors(&mut self) {
        for (message, nodes) in self.errors.take() {
            self.status.push_back(status(&self.relay, NodeState::NodeError, nodes, message));
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
            let known = self.sources.get_mut(name);
            match &node.channel {
                Some(channel) if known.as_ref().is_none_or(|it| it.connection != node.connection) => {
                    if known.is_none_or(|source| !source.connected) {
                        connected.push(name.clone());
                    }
                    self.ask(name, node, channel.clone(), first);
                }
                None => {
                    let told = known.as_ref().is_some_and(|source| !source.connected);
                    if let Some(source) = known {
                        (source.answers, source.connected) = (None, false);
                        self.merge.end(name);
                    }
                    if first || (!told && self.sources.contains_key(name)) {
                        unavailable.push(name.clone());
                    }
                }
                Some(_) => {}
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
        let source = Source {
            answers: Some((answers, task)),
            connection: node.connection,
            connected: true,
            last,
            heard: Instant::now(),
        };
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

/// Takes what nodes say.
struct Ear<'a> {
    merge: &'a mut Merge<GetFlowsResponse>,
    errors: &'a mut Errors,
    liars: &'a Liars,
}

impl Ear<'_> {
    /// `None`: nothing more.
    fn accept(&mut self, name: &str, source: &mut Source, answer: Option<Answer>) {
        source.heard = Instant::now();
        let answer = match answer {
            Some(Ok(answer)) => answer,
            Some(Err(error)) => {
                let message = format!("{}: {}", error.code(), error.message());
                self.errors.add(name, &message, source.heard);
                source.answers = None;
                return self.merge.end(name);
            }
            None => {
                source.answers = None;
                return self.merge.end(name);
            }
        };
        let Some(answer) = own(name, answer) else { return };
        let (time, clock) = (answer.time.map_or(Time::default(), Time::from), now());
        if matches!(answer.response_types, Some(ResponseTypes::Flow(_))) {
            source.last = Some(time.min(clock));
            if time.0.saturating_sub(clock.0) > CLOCKS_DIFFER || self.merge.is_distrusted(name) {
                self.liars.note(name);
            }
        }
        self.merge.push(name, (time, clock), source.heard, answer);
    }
}

/// A node speaks for itself only: neither for another node nor about one.
fn own(name: &str, mut answer: GetFlowsResponse) -> Option<GetFlowsResponse> {
    name.clone_into(&mut answer.node_name);
    match &mut answer.response_types {
        Some(ResponseTypes::Flow(flow)) if !flow.node_name.is_empty() => {
            name.clone_into(&mut flow.node_name);
        }
        Some(ResponseTypes::Flow(_) | ResponseTypes::LostEvents(_)) => {}
        Some(ResponseTypes::NodeStatus(_)) | None => return None,
    }
    Some(answer)
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
