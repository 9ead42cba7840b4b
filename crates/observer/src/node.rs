//! `observer.Observer` of one node, over its ring. Never knows other nodes: `GetNodes` is for a relay to answer.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use flow::{
    event::{Body, Time},
    feed::Namespaces,
    filter::Filters,
    mask::Mask,
    proto::observer::{
        GetAgentEventsRequest, GetAgentEventsResponse, GetDebugEventsRequest, GetDebugEventsResponse,
        GetFlowsRequest, GetFlowsResponse, GetNamespacesRequest, GetNamespacesResponse, GetNodesRequest,
        GetNodesResponse, ServerStatusRequest, ServerStatusResponse, get_flows_response::ResponseTypes,
        observer_server::Observer,
    },
    ring::{Read, Ring},
};
use futures::Stream;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tonic::{Request, Response, Status, metadata::MetadataValue};

use crate::{
    names::SERVER_VERSION,
    stream::{Asked, answers},
};

/// A stream of answers.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The most streams that are served at a time.
pub const MAX_STREAMS: usize = 2048;

/// Who answers.
#[derive(Clone, Debug)]
pub struct Identity {
    /// `node`, or `cluster/node` where the cluster is not the default one.
    pub name: String,
    pub version: String,
}

/// A node's observer; clones share everything.
#[derive(Clone, Debug)]
pub struct Node(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    identity: Identity,
    ring: Ring,
    namespaces: Namespaces,
    started: Instant,
    streams: Arc<Semaphore>,
}

impl Node {
    /// Over the readers of a feed; it counts as started now.
    pub fn new(identity: Identity, (ring, namespaces): (Ring, Namespaces)) -> Self {
        Self::with_limit(identity, (ring, namespaces), MAX_STREAMS)
    }

    /// With another limit of streams.
    pub fn with_limit(identity: Identity, (ring, namespaces): (Ring, Namespaces), streams: usize) -> Self {
        let streams = Arc::new(Semaphore::new(streams));
        Self(Arc::new(Inner { identity, ring, namespaces, started: Instant::now(), streams }))
    }

    fn permit(&self) -> Result<OwnedSemaphorePermit, Status> {
        let refused = |_| Status::resource_exhausted("open a stream: as many are open as are allowed");
        Arc::clone(&self.0.streams).try_acquire_owned().map_err(refused)
    }

    fn answer<T>(&self, message: T) -> Response<T> {
        let mut response = Response::new(message);
        if let Ok(version) = MetadataValue::try_from(self.0.identity.version.as_str()) {
            response.metadata_mut().insert(SERVER_VERSION, version);
        }
        response
    }

    /// Flows per second over the last minute, or over as much of it as the ring holds.
    fn rate(&self, now: Time) -> f64 {
        let ring = &self.0.ring;
        let from = Time(now.0 - MINUTE);
        let (mut flows, mut oldest) = (0_u64, None);
        for number in (ring.tail()..ring.head()).rev() {
            let Read::Event(event) = ring.read(number) else { break };
            if event.time < from {
                oldest = None;
                break;
            }
            if event.flow().is_some() {
                flows += 1;
            }
            oldest = Some(event.time);
        }
        let full = ring.tail() > 0;
        let seconds = match oldest {
            Some(oldest) if full => (now.0 - oldest.0) as f64 / 1e9,
            Some(_) | None => 60.0,
        };
        if seconds > 0.0 { flows as f64 / seconds } else { 0.0 }
    }
}

const MINUTE: i64 = 60_000_000_000;

/// The machine's time.
pub(crate) fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Time(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// What a client asks for: `field_mask`, or where older clients put it.
pub(crate) fn mask(request: &GetFlowsRequest) -> Result<Mask, Status> {
    let older = request.experimental.as_ref().and_then(|experimental| experimental.field_mask.as_ref());
    let named = request.field_mask.as_ref().filter(|mask| !mask.paths.is_empty()).or(older);
    Mask::new(named.map_or(&[][..], |mask| mask.paths.as_slice()))
        .map_err(|error| Status::invalid_argument(error.to_string()))
}

pub(crate) fn masked(mask: &Mask, mut response: GetFlowsResponse) -> GetFlowsResponse {
    if let Some(ResponseTypes::Flow(flow)) = response.response_types {
        response.response_types = Some(ResponseTypes::Flow(Box::new(mask.apply(*flow))));
    }
    response
}

#[tonic::async_trait]
impl Observer for Node {
    type GetFlowsStream = Answers<GetFlowsResponse>;
    type GetAgentEventsStream = Answers<GetAgentEventsResponse>;
    type GetDebugEventsStream = Answers<GetDebugEventsResponse>;

    async fn get_flows(
        &self,
        request: Request<GetFlowsRequest>,
    ) -> Result<Response<Self::GetFlowsStream>, Status> {
        let request = request.into_inner();
        let GetFlowsRequest { number, first, follow, since, until, .. } = request;
        let range = Asked { number, first, follow, since, until }.range()?;
        let mask = mask(&request)?;
        let filters = Filters::new(&request.whitelist, &request.blacklist)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let node = self.0.identity.name.clone();
        let answer = move |event: Arc<flow::event::Event>| {
            event.to_response(&node).map(|response| masked(&mask, response))
        };
        let keep = Box::new(move |event: &_| filters.keep_flow(event));
        Ok(self.answer(Box::pin(answers(self.0.ring.clone(), range, keep, answer, self.permit()?))))
    }

    async fn get_agent_events(
        &self,
        request: Request<GetAgentEventsRequest>,
    ) -> Result<Response<Self::GetAgentEventsStream>, Status> {
        let GetAgentEventsRequest { number, first, follow, since, until } = request.into_inner();
        let range = Asked { number, first, follow, since, until }.range()?;
        let node_name = self.0.identity.name.clone();
        let answer = move |event: Arc<flow::event::Event>| match &event.body {
            Body::Agent(agent) => Some(GetAgentEventsResponse {
                agent_event: Some((**agent).clone()),
                node_name: node_name.clone(),
                time: Some(event.time.into()),
            }),
            Body::Flow(_) | Body::Lost(_) | Body::Debug(_) => None,
        };
        let keep = Box::new(|event: &flow::event::Event| matches!(event.body, Body::Agent(_)));
        Ok(self.answer(Box::pin(answers(self.0.ring.clone(), range, keep, answer, self.permit()?))))
    }

    async fn get_debug_events(
        &self,
        request: Request<GetDebugEventsRequest>,
    ) -> Result<Response<Self::GetDebugEventsStream>, Status> {
        let GetDebugEventsRequest { number, first, follow, since, until } = request.into_inner();
        let range = Asked { number, first, follow, since, until }.range()?;
        let node_name = self.0.identity.name.clone();
        let answer = move |event: Arc<flow::event::Event>| match &event.body {
            Body::Debug(debug) => Some(GetDebugEventsResponse {
                debug_event: Some((**debug).clone()),
                node_name: node_name.clone(),
                time: Some(event.time.into()),
            }),
            Body::Flow(_) | Body::Lost(_) | Body::Agent(_) => None,
        };
        let keep = Box::new(|event: &flow::event::Event| matches!(event.body, Body::Debug(_)));
        Ok(self.answer(Box::pin(answers(self.0.ring.clone(), range, keep, answer, self.permit()?))))
    }

    async fn get_nodes(&self, _: Request<GetNodesRequest>) -> Result<Response<GetNodesResponse>, Status> {
        Err(Status::unimplemented("GetNodes not implemented"))
    }

    async fn get_namespaces(
        &self,
        _: Request<GetNamespacesRequest>,
    ) -> Result<Response<GetNamespacesResponse>, Status> {
        Ok(self.answer(GetNamespacesResponse { namespaces: self.0.namespaces.list(now()) }))
    }

    async fn server_status(
        &self,
        _: Request<ServerStatusRequest>,
    ) -> Result<Response<ServerStatusResponse>, Status> {
        let ring = &self.0.ring;
        Ok(self.answer(ServerStatusResponse {
            num_flows: ring.len(),
            max_flows: ring.capacity(),
            seen_flows: ring.flows(),
            uptime_ns: u64::try_from(self.0.started.elapsed().as_nanos()).unwrap_or(u64::MAX),
            version: self.0.identity.version.clone(),
            flows_rate: self.rate(now()),
            ..ServerStatusResponse::default()
        }))
    }
}
