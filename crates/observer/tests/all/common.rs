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
use tokio::{net::TcpListener, sync::oneshot};
use tonic::transport::Channel;

/// A server in plain text; stops when dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Server {
    pub(crate) async fn start(routes: tonic::service::Routes) -> Self {
        let listener: TcpListener = serve::bind_loopback("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(async move {
            serve::loopback(listener, routes, async move { drop(stopped.await) }).await.unwrap();
        });
        Self { address, _stop }
    }

    pub(crate) async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address))
            .unwrap()
            // Small, so that a client that stops reading is soon one that nothing can be sent to.
            .initial_stream_window_size(64 * 1024)
            .initial_connection_window_size(4 << 20)
            .connect()
            .await
            .unwrap()
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

/// A node in a runtime of its own on a unix socket: ends as a process does, with all its connections.
pub(crate) struct Process(Option<tokio::runtime::Runtime>);

impl Process {
    pub(crate) fn start(path: &std::path::Path, routes: tonic::service::Routes) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let _context = runtime.enter();
        let listener = serve::bind_unix(path).unwrap();
        runtime.spawn(serve::unix(listener, routes, std::future::pending()));
        drop(_context);
        Self(Some(runtime))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
