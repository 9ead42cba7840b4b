//! Servers on loopback and clients for them.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use flow::{
    event::{Event, Flow, Node as FlowNode},
    feed::Feed,
    proto::observer::{
        GetFlowsRequest, GetFlowsResponse, get_flows_response::ResponseTypes, observer_client::ObserverClient,
    },
    ring::Capacity,
    testing::{at, pod, syn},
};
use futures::StreamExt;
use observer::{
    node::{Identity, Node},
    peers::{Peer, Peers},
    serve,
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tonic::transport::Channel;

/// A server in plain text; stops when dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) stop: Option<oneshot::Sender<()>>,
    pub(crate) task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(routes: tonic::service::Routes) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), routes).await
    }

    pub(crate) async fn at(address: SocketAddr, routes: tonic::service::Routes) -> Self {
        let listener: TcpListener = serve::bind_loopback(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            serve::loopback(listener, routes, async move { drop(stopped.await) }).await.unwrap();
        });
        Self { address, stop: Some(stop), task }
    }

    /// Breaks every connection, as a process that ends does.
    pub(crate) async fn kill(self) {
        self.task.abort();
        drop(self.task.await);
    }

    pub(crate) async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    pub(crate) async fn client(&self) -> ObserverClient<Channel> {
        ObserverClient::new(self.channel().await)
    }
}

pub(crate) fn node(name: &str, feed: &Feed) -> Node {
    Node::new(Identity { name: name.into(), version: "v1".into() }, feed.readers())
}

pub(crate) async fn node_server(name: &str, feed: &Feed) -> Server {
    Server::start(serve::node_routes(node(name, feed), Peers::default()).await.unwrap()).await
}

pub(crate) fn feed(capacity: u64) -> Feed {
    Feed::new(Capacity::new(capacity).unwrap())
}

/// A flow that `name` saw, between pods of `shop`.
pub(crate) fn flow_of(name: &str, nanos: i64) -> Event {
    let node = Arc::new(FlowNode { name: name.into(), labels: vec![] });
    at(nanos, Flow { node, source: pod("shop", "web", 300), destination: pod("shop", "db", 301), ..syn() })
}

pub(crate) fn peer(address: SocketAddr) -> Peer {
    Peer { address: address.to_string(), server_name: None }
}

pub(crate) fn peers(of: impl IntoIterator<Item = (&'static str, SocketAddr)>) -> BTreeMap<String, Peer> {
    of.into_iter().map(|(name, address)| (name.to_owned(), peer(address))).collect()
}

/// All answers to a request that ends.
pub(crate) async fn all(
    client: &mut ObserverClient<Channel>,
    request: GetFlowsRequest,
) -> Vec<GetFlowsResponse> {
    let stream = client.get_flows(request).await.unwrap().into_inner();
    let answers = stream.map(|answer| answer.unwrap()).collect::<Vec<_>>();
    tokio::time::timeout(Duration::from_secs(20), answers).await.expect("the stream ends")
}

/// Nanoseconds and node of an answer with a flow.
pub(crate) fn key(response: &GetFlowsResponse) -> Option<(String, i64)> {
    match &response.response_types {
        Some(ResponseTypes::Flow(_)) => {
            Some((response.node_name.clone(), flow::event::Time::from(response.time?).0))
        }
        _ => None,
    }
}
