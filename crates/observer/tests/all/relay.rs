//! A relay before nodes on unix sockets, asked by a tonic client.

use std::{collections::BTreeMap, path::Path, time::Duration};

use crate::common::{Process, Server, all, feed, flow_of, key, node};
use flow::{
    event::{Event, Time},
    feed::Feed,
    proto::{
        flow::FlowFilter,
        observer::{
            GetFlowsRequest, GetFlowsResponse, GetNamespacesRequest, GetNodesRequest, ServerStatusRequest,
            get_flows_response::ResponseTypes,
        },
        peer::{NotifyRequest, peer_client::PeerClient},
        relay::NodeState,
    },
    testing::{lost, openmetrics},
};
use observer::{
    connect::Target,
    node::Identity,
    peers::{Peer, Peers},
    relay::{Config, Relay, Retry},
    serve,
};
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::{Code, Streaming};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// A peer service, and a relay that follows it.
pub(crate) struct Cluster {
    folder: tempfile::TempDir,
    peers: Peers,
    /// The peer service's own node has no flows and is no peer.
    _peer_service: Server,
    relay: Relay,
    pub(crate) server: Server,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let peers = Peers::default();
        let routes = serve::node_routes(node("peers", &feed(1)), peers.clone()).await.unwrap();
        let peer_service = Server::start(routes).await;
        let relay = Relay::start(Config {
            identity: Identity { name: "relay".into(), version: "r1".into() },
            peer_services: vec![Target { address: peer_service.address.to_string(), server_name: None }],
            certificates: None,
            retry: Retry { first: Duration::from_millis(10), longest: Duration::from_millis(50) },
        });
        let server = Server::start(serve::relay_routes(relay.clone()).await.unwrap()).await;
        let folder = tempfile::tempdir().unwrap();
        Self { folder, peers, _peer_service: peer_service, relay, server }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn set_peers(&self, names: &[&str]) {
        let peer = |name: &&str| {
            let address = format!("unix://{}", socket(self.folder.path(), name).display());
            ((*name).to_owned(), Peer { address, server_name: None })
        };
        self.peers.set(names.iter().map(peer).collect::<BTreeMap<_, _>>());
    }

    pub(crate) async fn node(&self, name: &str, feed: &Feed) -> Process {
        let routes = serve::node_routes(node(name, feed), Peers::default()).await.unwrap();
        Process::start(&socket(self.folder.path(), name), routes)
    }

    /// Until the relay sees the nodes so.
    pub(crate) async fn until(&self, wanted: &[(&str, NodeState)]) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let nodes = self.relay.nodes();
            if nodes.iter().map(|(name, node)| (name.as_str(), node.state)).eq(wanted.iter().copied()) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "wanted {wanted:?}, have {nodes:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

pub(crate) fn socket(folder: &Path, name: &str) -> std::path::PathBuf {
    folder.join(format!("{name}.sock"))
}

/// Changes of nodes in an answer.
pub(crate) fn change(response: &GetFlowsResponse) -> Option<(NodeState, Vec<String>)> {
    match &response.response_types {
        Some(ResponseTypes::NodeStatus(status)) => Some((status.state_change(), status.node_names.clone())),
        _ => None,
    }
}

pub(crate) async fn next(stream: &mut Streaming<GetFlowsResponse>) -> GetFlowsResponse {
    tokio::time::timeout(Duration::from_secs(20), stream.message())
        .await
        .expect("an answer")
        .unwrap()
        .unwrap()
}

use NodeState::{NodeConnected, NodeError, NodeGone, NodeUnavailable};

#[tokio::test(flavor = "multi_thread")]
async fn flows_of_all_nodes_come_in_the_order_of_time() {
    let cluster = Cluster::start().await;
    let (mut a, mut b) = (feed(4095), feed(4095));
    // Interleaved, and more than a queue holds.
    a.append((0..2000).map(|n| flow_of("a", n * 2)));
    b.append((0..1000).map(|n| flow_of("b", n * 4 + 1)));
    let _nodes = (cluster.node("a", &a).await, cluster.node("b", &b).await);
    cluster.set_peers(&["a", "b", "missing"]);
    cluster.until(&[("a", NodeConnected), ("b", NodeConnected), ("missing", NodeUnavailable)]).await;
    let mut client = cluster.server.client().await;
    let answers = all(&mut client, GetFlowsRequest::default()).await;
    assert_eq!(
        answers.iter().filter_map(change).collect::<Vec<_>>(),
        [(NodeConnected, vec!["a".into(), "b".into()]), (NodeUnavailable, vec!["missing".into()])]
    );
    let keys: Vec<_> = answers.iter().filter_map(key).collect();
    assert_eq!(keys.len(), 3000);
    assert!(keys.is_sorted_by_key(|(_, time)| *time));
    // The last ones of each node.
    let last = all(&mut client, GetFlowsRequest { number: 2, ..Default::default() }).await;
    let keys: Vec<_> = last.iter().filter_map(key).collect();
    assert_eq!(keys, [("b".into(), 3993), ("a".into(), 3996), ("b".into(), 3997), ("a".into(), 3998)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_relay_says_of_its_nodes() {
    let cluster = Cluster::start().await;
    let mut health = HealthClient::new(cluster.server.channel().await);
    let mut is_serving = async |service: &str| {
        let answer = health.check(HealthCheckRequest { service: service.into() }).await.unwrap();
        answer.into_inner().status() == ServingStatus::Serving
    };
    assert!(is_serving("").await && !is_serving("observer.Observer").await, "no node is connected yet");
    let (mut a, b) = (feed(15), feed(31));
    a.append((0..20).map(|n| flow_of("a", observer_now() + n)));
    let _nodes = (cluster.node("a", &a).await, cluster.node("b", &b).await);
    cluster.set_peers(&["a", "b", "missing"]);
    cluster.until(&[("a", NodeConnected), ("b", NodeConnected), ("missing", NodeUnavailable)]).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !is_serving("observer.Observer").await {
        assert!(tokio::time::Instant::now() < deadline, "nodes are connected");
    }
    let mut peers = PeerClient::new(cluster.server.channel().await);
    let mut peers = peers.notify(NotifyRequest {}).await.unwrap().into_inner();
    for name in ["a", "b", "missing"] {
        assert_eq!(peers.message().await.unwrap().unwrap().name, name);
    }
    let mut client = cluster.server.client().await;
    let response = client.server_status(ServerStatusRequest {}).await.unwrap();
    assert_eq!(response.metadata().get("hubble-relay-version").unwrap(), "r1");
    let status = response.into_inner();
    assert_eq!((status.num_flows, status.max_flows, status.seen_flows), (15, 46, 20));
    assert_eq!((status.num_connected_nodes, status.num_unavailable_nodes), (Some(2), Some(1)));
    assert_eq!(status.unavailable_nodes, ["missing"]);
    let nodes = client.get_nodes(GetNodesRequest {}).await.unwrap().into_inner().nodes;
    let states: Vec<_> =
        nodes.iter().map(|node| (node.name.as_str(), node.state(), node.max_flows)).collect();
    assert_eq!(states, [("a", NodeConnected, 15), ("b", NodeConnected, 31), ("missing", NodeUnavailable, 0)]);
    let namespaces = client.get_namespaces(GetNamespacesRequest {}).await.unwrap().into_inner().namespaces;
    assert_eq!(namespaces.iter().map(|one| one.namespace.as_str()).collect::<Vec<_>>(), ["shop"]);
    let bad = FlowFilter { source_port: vec!["x".into()], ..Default::default() };
    let status =
        client.get_flows(GetFlowsRequest { whitelist: vec![bad], ..Default::default() }).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "parse whitelist[0].source_port \"x\": not a port number")
    );
}

pub(crate) fn observer_now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_nanos()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_goes_and_comes_back_while_others_are_followed() {
    let cluster = Cluster::start().await;
    let (mut a, mut b) = (feed(255), feed(255));
    let _a_server = cluster.node("a", &a).await;
    let b_server = cluster.node("b", &b).await;
    cluster.set_peers(&["a", "b"]);
    cluster.until(&[("a", NodeConnected), ("b", NodeConnected)]).await;
    let mut client = cluster.server.client().await;
    let follow = GetFlowsRequest { follow: true, ..Default::default() };
    // With a number, so that it is known when both nodes are being followed: each sends what it has.
    let start = observer_now();
    a.append([flow_of("a", start)]);
    b.append([flow_of("b", start + 1)]);
    let request = GetFlowsRequest { number: 1, ..follow };
    let mut stream = client.get_flows(request).await.unwrap().into_inner();
    assert_eq!(change(&next(&mut stream).await), Some((NodeConnected, vec!["a".into(), "b".into()])));
    assert_eq!(key(&next(&mut stream).await), Some(("a".into(), start)));
    assert_eq!(key(&next(&mut stream).await), Some(("b".into(), start + 1)));

    drop(b_server);
    // The stream breaks, and the connection is seen to be lost; which is first is chance.
    let mut changes = Vec::new();
    while !changes.contains(&(NodeUnavailable, vec!["b".to_owned()]))
        && !changes.contains(&(NodeError, vec!["b".to_owned()]))
    {
        changes.extend(change(&next(&mut stream).await));
    }
    cluster.until(&[("a", NodeConnected), ("b", NodeUnavailable)]).await;
    a.append([flow_of("a", start + 2)]);
    loop {
        let answer = next(&mut stream).await;
        if let Some(key) = key(&answer) {
            assert_eq!(key, ("a".into(), start + 2));
            break;
        }
    }

    // While it was away it saw a flow; it is not asked again for what it said before.
    b.append([flow_of("b", start + 3)]);
    let _b_server = cluster.node("b", &b).await;
    let mut seen = (false, false);
    while seen != (true, true) {
        let answer = next(&mut stream).await;
        match (change(&answer), key(&answer)) {
            (Some((NodeConnected, names)), _) => seen.0 |= names == ["b"],
            (_, Some(key)) => {
                assert_eq!(key, ("b".into(), start + 3));
                seen.1 = true;
            }
            _ => {}
        }
    }

    cluster.set_peers(&["a"]);
    loop {
        if let Some((NodeGone, names)) = change(&next(&mut stream).await) {
            assert_eq!(names, ["b"]);
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_reading_harms_nobody_and_is_told() {
    let cluster = Cluster::start().await;
    let mut a = feed(255);
    let _a_server = cluster.node("a", &a).await;
    cluster.set_peers(&["a"]);
    cluster.until(&[("a", NodeConnected)]).await;
    let start = observer_now() - 3_600_000_000_000;
    a.append([flow_of("a", start)]);
    // Each has its first flow: both are being followed.
    let request = GetFlowsRequest { follow: true, number: 1, ..Default::default() };
    let open = async || {
        let mut stream = cluster.server.client().await.get_flows(request.clone()).await.unwrap().into_inner();
        assert!(change(&next(&mut stream).await).is_some());
        assert_eq!(key(&next(&mut stream).await), Some(("a".into(), start)));
        stream
    };
    let (mut stalled, mut reading) = (open().await, open().await);
    const EVENTS: u64 = 8000;
    for batch in 0..EVENTS / 50 {
        let time = |n: u64| start + (batch * 50 + n) as i64 * 100_000_000 / 50;
        a.append((1..=50).map(|n| flow_of("a", time(n))));
        for n in 1..=50 {
            assert_eq!(key(&next(&mut reading).await), Some(("a".into(), time(n))));
        }
    }
    let (mut got, mut told) = (0, 0);
    while got + told < EVENTS {
        match next(&mut stalled).await.response_types {
            Some(ResponseTypes::LostEvents(lost)) => told += lost.num_events_lost,
            _ => got += 1,
        }
    }
    assert_eq!(got + told, EVENTS);
    assert!(told > 0, "got {got}");
    assert_eq!(a.readers().0.missed(), told);
}

/// The page as it is scraped: whole, and with what happened.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_tells_how_it_does_in_openmetrics() {
    let cluster = Cluster::start().await;
    let mut a = feed(4095);
    a.append([flow_of("a", 0), Event { time: Time(1), body: lost(7) }]);
    a.append((2..6).map(|n| flow_of("a", n)));
    let _node = cluster.node("a", &a).await;
    cluster.set_peers(&["a", "missing"]);
    cluster.until(&[("a", NodeConnected), ("missing", NodeUnavailable)]).await;
    let mut registry = Registry::default();
    cluster.relay.register(&mut registry);
    flow::metrics::register_build(&mut registry, "relay");
    let listener = serve::bind_loopback("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(observer::metrics::serve(listener, registry));
    let mut client = cluster.server.client().await;
    let last = GetFlowsRequest { number: 5, ..GetFlowsRequest::default() };
    assert_eq!(all(&mut client, last).await.iter().filter_map(key).count(), 5);

    let page = scrape(address).await;
    let (head, body) = page.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains(flow::metrics::CONTENT_TYPE), "{head}");
    let families = openmetrics::parse(body).unwrap_or_else(|error| panic!("{error}\n{body}"));
    let value = |family: &str, label: &str| {
        let samples = families[family].samples.iter();
        samples.filter(|it| it.labels.values().any(|value| value == label)).map(|it| it.value).sum::<f64>()
    };
    assert_eq!(value("twinplane_relay_requests", "GetFlows"), 1.0);
    assert_eq!(value("twinplane_relay_answers", "flow"), 5.0);
    assert_eq!(value("hubble_lost_events", "perf_event_ring_buffer"), 7.0, "{body}");
    assert_eq!(value("hubble_relay_pool_peer_connection_status", "READY"), 1.0);
    assert_eq!(value("hubble_relay_pool_peer_connection_status", "TRANSIENT_FAILURE"), 1.0);
    assert_eq!(value("twinplane_build", "relay"), 1.0);
}

async fn scrape(address: std::net::SocketAddr) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    page
}
