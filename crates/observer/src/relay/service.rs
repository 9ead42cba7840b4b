//! `observer.Observer` over all nodes. Never answers for a node that did not.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use flow::{
    filter::Filters,
    proto::{
        observer::{
            GetAgentEventsRequest, GetAgentEventsResponse, GetDebugEventsRequest, GetDebugEventsResponse,
            GetFlowsRequest, GetFlowsResponse, GetNamespacesRequest, GetNamespacesResponse, GetNodesRequest,
            GetNodesResponse, Namespace, Node, ServerStatusRequest, ServerStatusResponse, Tls,
            observer_client::ObserverClient, observer_server::Observer,
        },
        relay::NodeState,
    },
};
use futures::{Stream, StreamExt as _, TryStreamExt as _, future::join_all};
use prometheus_client::registry::Registry;
use tokio::{sync::Semaphore, time::timeout};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status, metadata::MetadataValue, transport::Channel};

use super::{
    Config, NodeStatus, Task,
    collect::Collect,
    follow_peers,
    metrics::{Counts, View},
    pool::Pool,
};
use crate::{
    names::RELAY_VERSION,
    node::{Answers, Identity, mask},
    peers::Peers,
    stream::Asked,
};

/// The most streams at a time: as many as the windows of one connection to a node have room for.
const MAX_STREAMS: usize = 256;
/// How long nodes have to say how they are; a client waits 12 s.
const NODE_TIMEOUT: Duration = Duration::from_secs(3);
/// The most unavailable nodes that a status names.
const MAX_NAMED: usize = 64;

/// A relay; clones share everything, and the last one to go ends its connections.
#[derive(Clone, Debug)]
pub struct Relay(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    identity: Identity,
    pool: Pool,
    streams: Arc<Semaphore>,
    counts: Counts,
    _following: Task,
}

impl Relay {
    /// Connects to the peer service and to the nodes it names, and goes on doing so. Needs a tokio runtime.
    pub fn start(config: Config) -> Self {
        let pool = Pool::new(config.certificates.clone(), config.retry);
        let identity = config.identity.clone();
        let following = Task(tokio::spawn(follow_peers::follow(config, pool.clone())));
        Self(Arc::new(Inner {
            identity,
            pool,
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            counts: Counts::default(),
            _following: following,
        }))
    }

    /// All nodes by name.
    pub fn nodes(&self) -> Vec<(String, NodeStatus)> {
        self.0.pool.nodes().iter().map(|(name, node)| (name.clone(), node.clone())).collect()
    }

    /// Shows from now on how it does.
    pub fn register(&self, registry: &mut Registry) {
        let view =
            View { nodes: self.0.pool.subscribe(), streams: Arc::clone(&self.0.streams), of: MAX_STREAMS };
        self.0.counts.register(registry, view);
    }

    /// The nodes as peers, for whoever watches them here.
    pub(crate) fn peers(&self) -> Peers {
        self.0.pool.peers()
    }

    /// Whether any node is connected, whenever that may have changed, for as long as the relay lives.
    pub(crate) fn is_connected(&self) -> impl Stream<Item = bool> + Send + use<> {
        WatchStream::new(self.0.pool.subscribe())
            .map(|nodes| nodes.values().any(|node| node.channel.is_some()))
    }

    fn answer<T>(&self, message: T) -> Response<T> {
        let mut response = Response::new(message);
        if let Ok(version) = MetadataValue::try_from(self.0.identity.version.as_str()) {
            response.metadata_mut().insert(RELAY_VERSION, version);
        }
        response
    }

    /// What the connected nodes say; `None` for those that do not.
    async fn ask_all<T>(
        &self,
        ask: impl AsyncFn(ObserverClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Vec<(String, NodeStatus, Option<T>)> {
        let ask = &ask;
        join_all(self.nodes().into_iter().map(|(name, node)| async move {
            let said = match node.channel.clone() {
                Some(channel) => timeout(NODE_TIMEOUT, ask(ObserverClient::new(channel))).await.ok(),
                None => None,
            };
            (name, node, said.and_then(Result::ok).map(Response::into_inner))
        }))
        .await
    }

    async fn statuses(&self) -> Vec<(String, NodeStatus, Option<ServerStatusResponse>)> {
        self.ask_all(async |mut node| node.server_status(ServerStatusRequest {}).await).await
    }
}

#[tonic::async_trait]
impl Observer for Relay {
    type GetFlowsStream = Answers<GetFlowsResponse>;
    type GetAgentEventsStream = Answers<GetAgentEventsResponse>;
    type GetDebugEventsStream = Answers<GetDebugEventsResponse>;

    async fn get_flows(
        &self,
        request: Request<GetFlowsRequest>,
    ) -> Result<Response<Self::GetFlowsStream>, Status> {
        self.0.counts.asked("GetFlows");
        let request = request.into_inner();
        let GetFlowsRequest { number, first, follow, since, until, .. } = request;
        // Refused here, and not by every node for itself.
        Asked { number, first, follow, since, until }.range()?;
        Filters::new(&request.whitelist, &request.blacklist)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        mask(&request)?;
        let refused = |_| Status::resource_exhausted("open a stream: as many are open as are allowed");
        let permit = Arc::clone(&self.0.streams).try_acquire_owned().map_err(refused)?;
        let (pool, name) = (&self.0.pool, self.0.identity.name.clone());
        let collect = Collect::new(request, name, pool.subscribe(), pool.liars());
        let counts = self.0.counts.clone();
        let answers = collect.answers(permit).inspect_ok(move |answer| counts.answered(answer));
        Ok(self.answer(Box::pin(answers)))
    }

    async fn get_agent_events(
        &self,
        _: Request<GetAgentEventsRequest>,
    ) -> Result<Response<Self::GetAgentEventsStream>, Status> {
        Err(Status::unimplemented("GetAgentEvents not yet implemented"))
    }

    async fn get_debug_events(
        &self,
        _: Request<GetDebugEventsRequest>,
    ) -> Result<Response<Self::GetDebugEventsStream>, Status> {
        Err(Status::unimplemented("GetDebugEvents not yet implemented"))
    }

    async fn get_nodes(&self, _: Request<GetNodesRequest>) -> Result<Response<GetNodesResponse>, Status> {
        self.0.counts.asked("GetNodes");
        let nodes = self.statuses().await.into_iter().map(|(name, node, said)| {
            let state =
                if said.is_none() && node.channel.is_some() { NodeState::NodeError } else { node.state };
            let said = said.unwrap_or_default();
            Node {
                name,
                version: said.version,
                address: node.peer.address,
                state: state.into(),
                tls: Some(Tls {
                    enabled: node.peer.server_name.is_some(),
                    server_name: node.peer.server_name.unwrap_or_default(),
                }),
                uptime_ns: said.uptime_ns,
                num_flows: said.num_flows,
                max_flows: said.max_flows,
                seen_flows: said.seen_flows,
            }
        });
        Ok(self.answer(GetNodesResponse { nodes: nodes.collect() }))
    }

    async fn get_namespaces(
        &self,
        _: Request<GetNamespacesRequest>,
    ) -> Result<Response<GetNamespacesResponse>, Status> {
        self.0.counts.asked("GetNamespaces");
        let said = self.ask_all(async |mut node| node.get_namespaces(GetNamespacesRequest {}).await).await;
        let all: BTreeSet<(String, String)> = said
            .into_iter()
            .filter_map(|(_, _, said)| said)
            .flat_map(|said| said.namespaces)
            .map(|one| (one.cluster, one.namespace))
            .collect();
        let namespaces =
            all.into_iter().map(|(cluster, namespace)| Namespace { cluster, namespace }).collect();
        Ok(self.answer(GetNamespacesResponse { namespaces }))
    }

    async fn server_status(
        &self,
        _: Request<ServerStatusRequest>,
    ) -> Result<Response<ServerStatusResponse>, Status> {
        self.0.counts.asked("ServerStatus");
        let mut all = ServerStatusResponse { version: self.0.identity.version.clone(), ..Default::default() };
        let (mut connected, mut unavailable) = (0, 0);
        for (name, _, said) in self.statuses().await {
            let Some(said) = said else {
                unavailable += 1;
                if all.unavailable_nodes.len() < MAX_NAMED {
                    all.unavailable_nodes.push(name);
                }
                continue;
            };
            connected += 1;
            all.num_flows += said.num_flows;
            all.max_flows += said.max_flows;
            all.seen_flows += said.seen_flows;
            all.flows_rate += said.flows_rate;
            all.uptime_ns = all.uptime_ns.max(said.uptime_ns);
        }
        all.num_connected_nodes = Some(connected);
        all.num_unavailable_nodes = Some(unavailable);
        Ok(self.answer(all))
    }
}
