//! A node that says what a test wants it to say.

use flow::proto::observer::{
    GetAgentEventsRequest, GetAgentEventsResponse, GetDebugEventsRequest, GetDebugEventsResponse,
    GetFlowsRequest, GetFlowsResponse, GetNamespacesRequest, GetNamespacesResponse, GetNodesRequest,
    GetNodesResponse, ServerStatusRequest, ServerStatusResponse, observer_server::Observer,
};
use futures::{StreamExt as _, stream};
use observer::{node::Answers, peers::Peers, serve};
use tonic::{Request, Response, Status};

use crate::{
    common::Process,
    relay::{Cluster, socket},
};

/// A node that answers as it likes.
#[derive(Clone)]
pub(crate) struct Fake {
    pub(crate) answers: Vec<GetFlowsResponse>,
    /// Says nothing more, and does not end.
    pub(crate) hangs: bool,
}

impl Fake {
    pub(crate) async fn start(self, cluster: &Cluster, name: &str) -> Process {
        let routes = serve::node_routes(self, Peers::default()).await.unwrap();
        Process::start(&socket(cluster.folder(), name), routes)
    }
}

type Refused<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Observer for Fake {
    type GetFlowsStream = Answers<GetFlowsResponse>;
    type GetAgentEventsStream = Answers<GetAgentEventsResponse>;
    type GetDebugEventsStream = Answers<GetDebugEventsResponse>;

    async fn get_flows(&self, _: Request<GetFlowsRequest>) -> Refused<Self::GetFlowsStream> {
        let answers = stream::iter(self.answers.clone()).map(Ok);
        Ok(Response::new(match self.hangs {
            true => Box::pin(answers.chain(stream::pending())),
            false => Box::pin(answers),
        }))
    }

    async fn get_agent_events(
        &self,
        _: Request<GetAgentEventsRequest>,
    ) -> Refused<Self::GetAgentEventsStream> {
        Err(Status::unimplemented(""))
    }

    async fn get_debug_events(
        &self,
        _: Request<GetDebugEventsRequest>,
    ) -> Refused<Self::GetDebugEventsStream> {
        Err(Status::unimplemented(""))
    }

    async fn get_nodes(&self, _: Request<GetNodesRequest>) -> Refused<GetNodesResponse> {
        Err(Status::unimplemented(""))
    }

    async fn get_namespaces(&self, _: Request<GetNamespacesRequest>) -> Refused<GetNamespacesResponse> {
        Err(Status::unimplemented(""))
    }

    async fn server_status(&self, _: Request<ServerStatusRequest>) -> Refused<ServerStatusResponse> {
        Err(Status::internal("no"))
    }
}
