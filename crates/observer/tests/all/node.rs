//! A node's server asked by a tonic client, as the `hubble` command and relays ask it.

use std::{
    os::unix::fs::PermissionsExt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use crate::common::{Server, all, feed, flow_of, key, node, node_server, peer, peers};
use flow::{
    event::{Body, Event, Time},
    proto::{
        flow::{AgentEvent, AgentEventType, FlowFilter},
        observer::{
            GetAgentEventsRequest, GetDebugEventsRequest, GetFlowsRequest, GetNamespacesRequest,
            GetNodesRequest, ServerStatusRequest, get_flows_request::Experimental,
            get_flows_response::ResponseTypes, observer_client::ObserverClient,
        },
        peer::{ChangeNotificationType, NotifyRequest, peer_client::PeerClient},
    },
    testing::lost,
};
use futures::StreamExt;
use observer::{
    node::{Identity, Node},
    peers::Peers,
    serve,
};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

#[tokio::test]
async fn flows_are_sent_whole_or_masked() {
    let mut feed = feed(15);
    feed.append((1..=20).map(|time| flow_of("a", time)));
    let server = node_server("a", &feed).await;
    let mut client = server.client().await;
    let last = all(&mut client, GetFlowsRequest { number: 2, ..Default::default() }).await;
    assert_eq!(last.iter().filter_map(key).map(|(_, time)| time).collect::<Vec<_>>(), [19, 20]);
    let whole = flow_of("a", 20).to_response("a").unwrap();
    assert_eq!(last[1], whole);
    let paths = vec!["time".into(), "source.pod_name".into()];
    let mask = Some(prost_types::FieldMask { paths });
    let new = GetFlowsRequest { number: 1, field_mask: mask.clone(), ..Default::default() };
    let old = GetFlowsRequest {
        number: 1,
        experimental: Some(Experimental { field_mask: mask }),
        ..Default::default()
    };
    for request in [new, old] {
        let masked = all(&mut client, request).await.remove(0);
        assert_eq!((masked.node_name.as_str(), masked.time), ("a", whole.time));
        let Some(ResponseTypes::Flow(flow)) = masked.response_types else { panic!("not a flow") };
        assert_eq!(flow.source.unwrap().pod_name, "web");
        assert!(flow.destination.is_none() && flow.summary.is_empty() && flow.time.is_some());
    }
}

#[tokio::test]
async fn bad_requests_name_their_field() {
    let feed = feed(15);
    let server = node_server("a", &feed).await;
    let mut client = server.client().await;
    let filter = FlowFilter { source_ip: vec!["x".into()], ..Default::default() };
    for (request, message) in [
        (
            GetFlowsRequest { whitelist: vec![filter], ..Default::default() },
            "parse whitelist[0].source_ip \"x\": must be valid IP address or CIDR",
        ),
        (
            GetFlowsRequest {
                field_mask: Some(prost_types::FieldMask { paths: vec!["nothing".into()] }),
                ..Default::default()
            },
            "parse field mask: path \"nothing\" names no field of flow.Flow",
        ),
        (
            GetFlowsRequest { first: true, follow: true, ..Default::default() },
            "first cannot be specified with follow",
        ),
        (
            GetFlowsRequest {
                since: Some(prost_types::Timestamp { seconds: 0, nanos: -1 }),
                ..Default::default()
            },
            "parse since: -1 nanoseconds",
        ),
    ] {
        let status = client.get_flows(request).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, message));
    }
    let huge = FlowFilter { source_pod: vec!["x".repeat(2 << 20)], ..Default::default() };
    let status =
        client.get_flows(GetFlowsRequest { whitelist: vec![huge], ..Default::default() }).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    // Others are served on.
    assert!(all(&mut client, GetFlowsRequest::default()).await.is_empty());
}

#[tokio::test]
async fn status_namespaces_and_what_a_node_does_not_answer() {
    let mut feed = feed(15);
    let now = i64::try_from(jiff_now()).unwrap();
    feed.append((0..20).map(|n| flow_of("a", now - 20_000_000_000 + n * 1_000_000_000)));
    let server = node_server("a", &feed).await;
    let mut client = server.client().await;
    let response = client.server_status(ServerStatusRequest {}).await.unwrap();
    assert_eq!(response.metadata().get("hubble-server-version").unwrap(), "v1");
    let status = response.into_inner();
    assert_eq!((status.num_flows, status.max_flows, status.seen_flows), (15, 15, 20));
    assert_eq!((status.num_connected_nodes, status.version.as_str()), (None, "v1"));
    // 15 flows that are left of the last 15 seconds and a little.
    assert!((0.8..=1.01).contains(&status.flows_rate), "{}", status.flows_rate);
    let namespaces = client.get_namespaces(GetNamespacesRequest {}).await.unwrap().into_inner().namespaces;
    assert_eq!(namespaces.len(), 1);
    assert_eq!((namespaces[0].cluster.as_str(), namespaces[0].namespace.as_str()), ("default", "shop"));
    let status = client.get_nodes(GetNodesRequest {}).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unimplemented, "GetNodes not implemented"));
}

fn jiff_now() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos()
}

#[tokio::test]
async fn agent_and_debug_events_have_their_own_calls() {
    let mut feed = feed(15);
    let agent = AgentEvent { r#type: AgentEventType::AgentStarted.into(), notification: None };
    feed.append([
        flow_of("a", 1),
        Event { time: Time(2), body: Body::Agent(Box::new(agent)) },
        Event { time: Time(3), body: lost(4) },
        Event { time: Time(4), body: Body::Debug(Box::default()) },
    ]);
    let server = node_server("a", &feed).await;
    let mut client = server.client().await;
    let stream = client.get_agent_events(GetAgentEventsRequest::default()).await.unwrap().into_inner();
    let events: Vec<_> = stream.map(|event| event.unwrap().agent_event.unwrap()).collect().await;
    assert_eq!(events, [agent_event()]);
    let stream = client.get_debug_events(GetDebugEventsRequest::default()).await.unwrap().into_inner();
    assert_eq!(stream.count().await, 1);
    let flows = all(&mut client, GetFlowsRequest::default()).await;
    assert!(
        matches!(flows[1].response_types, Some(ResponseTypes::LostEvents(lost)) if lost.num_events_lost == 4)
    );
    assert_eq!((flows.len(), flows[1].node_name.as_str()), (2, "a"));
}

fn agent_event() -> AgentEvent {
    AgentEvent { r#type: AgentEventType::AgentStarted.into(), notification: None }
}

#[tokio::test]
async fn a_follower_that_stops_reading_harms_nobody_and_is_told() {
    let mut feed = feed(255);
    let server = node_server("a", &feed).await;
    let follow = GetFlowsRequest { follow: true, ..Default::default() };
    let mut stalled = server.client().await.get_flows(follow.clone()).await.unwrap().into_inner();
    let mut reading = server.client().await.get_flows(follow).await.unwrap().into_inner();
    // Far more than a connection's windows hold.
    const EVENTS: i64 = 8000;
    let done = Arc::new(AtomicI64::new(0));
    let reader = tokio::spawn({
        let done = Arc::clone(&done);
        async move {
            for number in 1..=EVENTS {
                let answer = reading.message().await.unwrap().unwrap();
                let (_, time) = key(&answer).expect("a reader that keeps up loses nothing");
                assert_eq!(time, number * 100_000_000);
                done.store(number, Ordering::Release);
            }
        }
    });
    let (ring, _) = feed.readers();
    for batch in 0..EVENTS / 50 {
        // As fast as the one that reads, however fast this machine is.
        while done.load(Ordering::Acquire) < (batch - 2) * 50 {
            assert!(!reader.is_finished());
            tokio::task::yield_now().await;
        }
        feed.append((1..=50).map(|n| flow_of("a", (batch * 50 + n) * 100_000_000)));
    }
    tokio::time::timeout(Duration::from_secs(60), reader).await.unwrap().unwrap();
    let (mut got, mut told) = (0, 0);
    while got + told < EVENTS as u64 {
        let answer =
            tokio::time::timeout(Duration::from_secs(20), stalled.message()).await.unwrap().unwrap().unwrap();
        match answer.response_types {
            Some(ResponseTypes::LostEvents(lost)) => told += lost.num_events_lost,
            _ => got += 1,
        }
    }
    assert_eq!(got + told, EVENTS as u64);
    assert!(told > 0);
    assert_eq!(ring.missed(), told);
}

#[tokio::test]
async fn a_thousand_followers_and_no_more_than_are_allowed() {
    let mut feed = feed(255);
    let identity = Identity { name: "a".into(), version: "v1".into() };
    let limited = Node::with_limit(identity, feed.readers(), 1000);
    let server = Server::start(serve::node_routes(limited, Peers::default()).await.unwrap()).await;
    let mut client = server.client().await;
    let follow = GetFlowsRequest { follow: true, ..Default::default() };
    let mut streams = Vec::new();
    for _ in 0..1000 {
        streams.push(client.get_flows(follow.clone()).await.unwrap().into_inner());
    }
    let refused = client.get_flows(follow.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    feed.append([flow_of("a", 1)]);
    for stream in &mut streams {
        assert_eq!(key(&stream.message().await.unwrap().unwrap()), Some(("a".into(), 1)));
    }
    // A place is free again once a follower has gone.
    streams.pop();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while client.get_flows(follow.clone()).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "the place of a follower that left stays taken");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn peers_are_told_and_then_their_changes() {
    let feed = feed(15);
    let known = Peers::default();
    let (one, two) = ("10.0.0.1:4244".parse().unwrap(), "10.0.0.2:4244".parse().unwrap());
    known.set(peers([("a", one), ("b", two)]));
    let server = Server::start(serve::node_routes(node("a", &feed), known.clone()).await.unwrap()).await;
    let mut client = PeerClient::new(server.channel().await);
    let mut changes = client.notify(NotifyRequest {}).await.unwrap().into_inner();
    let mut next = async || {
        let change = changes.message().await.unwrap().unwrap();
        (change.r#type(), change.name, change.address, change.tls.map(|tls| tls.server_name))
    };
    use ChangeNotificationType::{PeerAdded, PeerDeleted, PeerUpdated};
    assert_eq!(next().await, (PeerAdded, "a".into(), one.to_string(), None));
    assert_eq!(next().await, (PeerAdded, "b".into(), two.to_string(), None));
    let mut changed = peers([("b", one)]);
    changed.get_mut("b").unwrap().server_name = Some("name".into());
    changed.insert("c".into(), peer(two));
    known.set(changed);
    assert_eq!(next().await, (PeerDeleted, "a".into(), one.to_string(), None));
    assert_eq!(next().await, (PeerUpdated, "b".into(), one.to_string(), Some("name".into())));
    assert_eq!(next().await, (PeerAdded, "c".into(), two.to_string(), None));
}

#[tokio::test]
async fn health_and_reflection() {
    use tonic_health::pb::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    };
    let feed = feed(15);
    let server = node_server("a", &feed).await;
    let mut health = HealthClient::new(server.channel().await);
    for service in ["", "observer.Observer"] {
        let answer = health.check(HealthCheckRequest { service: service.into() }).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let unknown = health.check(HealthCheckRequest { service: "nobody".into() }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    use tonic_reflection::pb::v1alpha::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let mut reflection = ServerReflectionClient::new(server.channel().await);
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers =
        reflection.server_reflection_info(futures::stream::iter([ask])).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("not a list")
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["observer.Observer", "peer.Peer", "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
}

#[tokio::test]
async fn a_unix_socket_is_for_root_and_its_group() {
    let mut feed = feed(15);
    feed.append([flow_of("a", 1)]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hubble.sock");
    // What an earlier server left is replaced.
    drop(serve::bind_unix(&path).unwrap());
    let listener = serve::bind_unix(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let routes = serve::node_routes(node("a", &feed), Peers::default()).await.unwrap();
    let serving = tokio::spawn(serve::unix(listener, routes, std::future::pending()));
    let channel: Channel =
        Endpoint::from_shared(format!("unix://{}", path.display())).unwrap().connect().await.unwrap();
    let flows = all(&mut ObserverClient::new(channel), GetFlowsRequest::default()).await;
    assert_eq!(flows.len(), 1);
    serving.abort();
}

#[tokio::test]
async fn plain_text_is_not_served_outside_the_machine() {
    let error = serve::bind_loopback("0.0.0.0:0".parse().unwrap()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "listen on 0.0.0.0:0 without certificates: only loopback addresses are served in plain text"
    );
}
