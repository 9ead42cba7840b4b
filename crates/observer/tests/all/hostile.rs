//! What nobody should send, to a node's server and to a relay: refused or bounded, and others are served on.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use flow::{
    event::Time,
    proto::{
        flow::{Flow, FlowFilter},
        observer::{GetFlowsRequest, GetFlowsResponse, GetNodesRequest, get_flows_response::ResponseTypes},
        relay::{NodeState, NodeStatusEvent},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::Code;

use crate::{
    common::{Process, Server, all, feed, flow_of, key, node_server},
    fake::Fake,
    relay::{Cluster, change, next, observer_now},
    tls::tls_node,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;

/// An HTTP/2 frame (RFC 9113, section 4.1) on stream 1, or 0 for the connection.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[a, b, c, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// The header of a request for flows; literal fields without an index (RFC 7541, section 6.2.2).
fn get_flows() -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/observer.Observer/GetFlows"),
        (":authority", "a"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// Streams that no client of ours would make.
fn bad_streams() -> Vec<(&'static str, Vec<u8>)> {
    let opened = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let end_headers = 4;
    let with = |rest: &[Vec<u8>]| [opened.as_slice(), &rest.concat()].concat();
    let headers = frame(HEADERS, end_headers, 1, &get_flows());
    vec![
        ("noise", (0..4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()),
        ("HTTP/1.1", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        ("a preface cut short", PREFACE[..10].to_vec()),
        ("a frame longer than any may be", with(&[vec![0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1]])),
        ("garbage in header compression", with(&[frame(HEADERS, end_headers, 1, &[0xff; 64])])),
        ("headers that never end", {
            let more = frame(CONTINUATION, 0, 1, &[b'x'; 16_000]);
            with(&[vec![frame(HEADERS, 0, 1, &get_flows())], vec![more; 64]].concat())
        }),
        ("a stream that was closed in the middle of its message", {
            with(&[headers.clone(), frame(DATA, 1, 1, &[0, 0, 0, 1, 0, 7])])
        }),
        ("a message of 4 GiB", with(&[headers.clone(), frame(DATA, 0, 1, &[0, 0xff, 0xff, 0xff, 0xff, 7])])),
        ("a message that is none", with(&[headers.clone(), frame(DATA, 1, 1, &[0, 0, 0, 0, 2, 0xff, 0xff])])),
        ("a request that never comes", with(&[headers])),
    ]
}

/// Each kind of stream, many times; half of them closed for writing, half of them left as they are.
async fn survives(address: SocketAddr) -> Vec<TcpStream> {
    let mut held = vec![];
    for (what, bytes) in bad_streams() {
        for number in 0..10 {
            let mut stream = TcpStream::connect(address).await.expect(what);
            // The server may have hung up in the middle.
            let _ = stream.write_all(&bytes).await;
            if number % 2 == 0 {
                let _ = stream.shutdown().await;
            }
            held.push(stream);
        }
    }
    held
}

/// A node with one flow, and a relay before it.
async fn both(cluster: &Cluster) -> (Server, Process) {
    let mut feed = feed(15);
    feed.append([flow_of("a", 1)]);
    let server = node_server("a", &feed).await;
    let process = cluster.node("a", &feed).await;
    cluster.set_peers(&["a"]);
    cluster.until(&[("a", NodeState::NodeConnected)]).await;
    // Its ring lives as long as its servers.
    drop(feed);
    (server, process)
}

async fn serves(server: &Server) {
    let flows = all(&mut server.client().await, GetFlowsRequest::default()).await;
    assert_eq!(flows.iter().filter_map(key).collect::<Vec<_>>(), [("a".to_owned(), 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_oversize_and_half_closed_streams() {
    let cluster = Cluster::start().await;
    let (node, _process) = both(&cluster).await;
    for server in [&node, &cluster.server] {
        let held = survives(server.address).await;
        serves(server).await;
        drop(held);
        serves(server).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_message_is_answered_with_an_error() {
    let cluster = Cluster::start().await;
    let (node, _process) = both(&cluster).await;
    for server in [&node, &cluster.server] {
        for what in ["a message of 4 GiB", "a message that is none"] {
            let (_, bytes) = bad_streams().into_iter().find(|(name, _)| *name == what).unwrap();
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
            let (mut answer, mut buffer) = (vec![], [0; 1024]);
            // Its status is a header field, by name or compressed; an answer with headers on stream 1 is enough.
            let is_answer = |answer: &[u8]| {
                let mut rest = answer;
                while let [a, b, c, kind, _, s1, s2, s3, s4, payload @ ..] = rest {
                    if (*kind, [*s1, *s2, *s3, *s4]) == (HEADERS, [0, 0, 0, 1]) {
                        return true;
                    }
                    let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
                    rest = payload.get(length..).unwrap_or_default();
                }
                false
            };
            while !is_answer(&answer) {
                let read = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut buffer)).await;
                match read.expect(what).expect(what) {
                    0 => panic!("{what}: hung up without an answer"),
                    length => answer.extend(&buffer[..length]),
                }
            }
        }
        serves(server).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_that_do_not_parse_and_regex_bombs_name_their_field() {
    let cluster = Cluster::start().await;
    let (node, _process) = both(&cluster).await;
    let bomb = "((((a{100}){100}){100}){100}){100}".to_owned();
    let nested = "(".repeat(1000) + &")".repeat(1000);
    let filters = [
        ("dns_query", FlowFilter { dns_query: vec![bomb.clone()], ..FlowFilter::default() }),
        ("http_path", FlowFilter { http_path: vec![nested], ..FlowFilter::default() }),
        ("http_url", FlowFilter { http_url: vec!["x".repeat(1 << 16)], ..FlowFilter::default() }),
        ("http_url", FlowFilter { http_url: vec!["(?P<".to_owned()], ..FlowFilter::default() }),
        ("dns_query", FlowFilter { dns_query: vec![r"\pL{50}".to_owned(); 1000], ..FlowFilter::default() }),
        ("source_pod", FlowFilter { source_pod: vec![String::new()], ..FlowFilter::default() }),
        (
            "destination_ip",
            FlowFilter { destination_ip: vec!["10.0.0.0/99".into()], ..FlowFilter::default() },
        ),
        ("source_label", FlowFilter { source_label: vec!["a in (".into()], ..FlowFilter::default() }),
        ("node_name", FlowFilter { node_name: vec!["a/b/c".into()], ..FlowFilter::default() }),
    ];
    for server in [&node, &cluster.server] {
        let mut client = server.client().await;
        for (field, filter) in &filters {
            for (list, request) in [
                ("whitelist", GetFlowsRequest { whitelist: vec![filter.clone()], ..Default::default() }),
                ("blacklist", GetFlowsRequest { blacklist: vec![filter.clone()], ..Default::default() }),
            ] {
                let answer = tokio::time::timeout(Duration::from_secs(20), client.get_flows(request)).await;
                let status = answer.expect("an answer").expect_err(field);
                let names = status.message().starts_with(&format!("parse {list}[0].{field}"));
                assert!(status.code() == Code::InvalidArgument && names, "{status:?}");
                assert!(status.message().len() < 8192, "{} bytes", status.message().len());
            }
        }
        // A pattern that would take a backtracking engine for ever is matched in time.
        let patient = FlowFilter { dns_query: vec!["(a+)+$".into()], ..FlowFilter::default() };
        let request = GetFlowsRequest { blacklist: vec![patient], ..Default::default() };
        assert_eq!(all(&mut client, request).await.iter().filter_map(key).count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_followers_of_a_relay() {
    let cluster = Cluster::start().await;
    let mut a = feed(255);
    let _process = cluster.node("a", &a).await;
    cluster.set_peers(&["a"]);
    cluster.until(&[("a", NodeState::NodeConnected)]).await;
    let mut client = cluster.server.client().await;
    let follow = GetFlowsRequest { follow: true, number: 1, ..Default::default() };
    let start = observer_now();
    a.append([flow_of("a", start)]);
    let (mut streams, mut refused) = (vec![], 0);
    for _ in 0..1000 {
        match client.get_flows(follow.clone()).await {
            Ok(answer) => streams.push(answer.into_inner()),
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted);
                refused += 1;
            }
        }
    }
    assert_eq!((streams.len(), refused), (256, 744));
    for wanted in [start, start + 1] {
        for stream in &mut streams {
            while key(&next(stream).await) != Some(("a".into(), wanted)) {}
        }
        a.append([flow_of("a", start + 1)]);
    }
    // Whoever comes once they have gone is served.
    drop(streams);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while client.get_flows(follow.clone()).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "places stay taken");
        tokio::task::yield_now().await;
    }
}

/// A flow that says to be another node's.
fn claim(nanos: i64, summary: usize) -> GetFlowsResponse {
    let flow = Flow { node_name: "victim".into(), summary: "x".repeat(summary), ..Flow::default() };
    GetFlowsResponse {
        node_name: "victim".into(),
        time: Some(Time(nanos).into()),
        response_types: Some(ResponseTypes::Flow(Box::new(flow))),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_lie_hang_or_shout_speak_for_nobody_else() {
    let cluster = Cluster::start().await;
    let now = observer_now();
    let hour = 3_600_000_000_000;
    let mut honest = feed(15);
    honest.append([flow_of("honest", now - 2 * hour), flow_of("honest", now - hour)]);
    let about_others = GetFlowsResponse {
        response_types: Some(ResponseTypes::NodeStatus(NodeStatusEvent {
            state_change: NodeState::NodeGone.into(),
            node_names: vec!["honest".into()],
            message: "gone".into(),
        })),
        ..GetFlowsResponse::default()
    };
    let fake = |answers: Vec<GetFlowsResponse>, hangs| Fake { answers, hangs };
    let beyond = GetFlowsResponse {
        time: Some(prost_types::Timestamp { seconds: i64::MAX, nanos: i32::MIN }),
        ..claim(0, 0)
    };
    let _nodes = [
        cluster.node("honest", &honest).await,
        fake(vec![about_others, claim(now + 24 * hour, 0), beyond], false).start(&cluster, "liar").await,
        fake(vec![], true).start(&cluster, "silent").await,
        fake(vec![claim(now, 5 << 20)], false).start(&cluster, "loud-a").await,
        fake(vec![claim(now, 5 << 20)], false).start(&cluster, "loud-b").await,
    ];
    let names = ["honest", "liar", "loud-a", "loud-b", "silent"];
    cluster.set_peers(&names);
    cluster.until(&names.map(|name| (name, NodeState::NodeConnected))).await;
    let answers = all(&mut cluster.server.client().await, GetFlowsRequest::default()).await;

    let flows: Vec<_> = answers.iter().filter_map(key).map(|(node, _)| node).collect();
    // What is said to be of tomorrow comes after what is an hour old, and before nothing.
    assert_eq!(flows, ["honest", "honest", "liar", "liar"]);
    for answer in &answers {
        if let Some(ResponseTypes::Flow(flow)) = &answer.response_types {
            assert_eq!(flow.node_name, answer.node_name);
        }
    }
    let changes: Vec<_> = answers.iter().filter_map(change).collect();
    let name = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(changes[0], (NodeState::NodeConnected, name(&names)));
    // Two that failed alike are one message.
    let mut errors: Vec<_> = changes[1..].to_vec();
    errors.sort_by(|a, b| a.1.cmp(&b.1));
    assert_eq!(
        errors,
        [(NodeState::NodeError, name(&["loud-a", "loud-b"])), (NodeState::NodeError, name(&["silent"]))]
    );
    // Their state is told as far as they answer.
    let nodes = cluster.server.client().await.get_nodes(GetNodesRequest {}).await.unwrap().into_inner().nodes;
    let states: Vec<_> = nodes.iter().map(|node| (node.name.as_str(), node.state())).collect();
    let wrong = |name| (name, NodeState::NodeError);
    let honest = ("honest", NodeState::NodeConnected);
    assert_eq!(states, [honest, wrong("liar"), wrong("loud-a"), wrong("loud-b"), wrong("silent")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_is_told_of_errors_together_and_gets_what_is_said_later() {
    let cluster = Cluster::start().await;
    let mut honest = feed(15);
    let start = observer_now();
    honest.append([flow_of("honest", start)]);
    let loud = || Fake { answers: vec![claim(start, 5 << 20)], hangs: false };
    let _nodes = [
        cluster.node("honest", &honest).await,
        loud().start(&cluster, "loud-a").await,
        loud().start(&cluster, "loud-b").await,
        Fake { answers: vec![claim(start, 0)], hangs: false }.start(&cluster, "terse").await,
    ];
    let names = ["honest", "loud-a", "loud-b", "terse"];
    cluster.set_peers(&names);
    cluster.until(&names.map(|name| (name, NodeState::NodeConnected))).await;
    let follow = GetFlowsRequest { follow: true, number: 1, ..Default::default() };
    let mut stream = cluster.server.client().await.get_flows(follow).await.unwrap().into_inner();
    let (mut errors, mut terse) = (vec![], 0);
    while errors.is_empty() || terse < 2 {
        let answer = next(&mut stream).await;
        match (change(&answer), key(&answer)) {
            (Some((NodeState::NodeError, names)), _) => errors.push(names),
            (_, Some((node, _))) if node == "terse" => terse += 1,
            _ => {}
        }
    }
    // They were asked again meanwhile, and failed again: still one message.
    assert_eq!(errors, [["loud-a", "loud-b"]]);
    honest.append([flow_of("honest", start + 1)]);
    while key(&next(&mut stream).await) != Some(("honest".into(), start + 1)) {}
}

/// What is logged in this thread.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn with(&self, text: &str) -> usize {
        let log = String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned();
        log.lines().filter(|line| line.contains(text)).count()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// In one thread, so that the log is this test's.
#[tokio::test]
async fn what_is_refused_or_not_believed_is_logged_once() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let folder = tempfile::tempdir().unwrap();
    let address = tls_node(folder.path()).await;
    for _ in 0..20 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        // The server has answered with an alert, or hung up.
        let _ = stream.read_to_end(&mut vec![]).await;
    }
    assert_eq!(lines.with("connection refused"), 1);

    let cluster = Cluster::start().await;
    let tomorrow = observer_now() + 24 * 3_600_000_000_000;
    let liar = Fake { answers: vec![claim(tomorrow, 0); 3], hangs: false };
    let _liar = liar.start(&cluster, "liar").await;
    cluster.set_peers(&["liar", "missing"]);
    cluster.until(&[("liar", NodeState::NodeConnected), ("missing", NodeState::NodeUnavailable)]).await;
    for _ in 0..3 {
        let answers = all(&mut cluster.server.client().await, GetFlowsRequest::default()).await;
        assert_eq!(answers.iter().filter_map(key).count(), 3);
    }
    assert_eq!(lines.with("cannot be right"), 1);
    // It was tried again many times meanwhile.
    assert_eq!(lines.with("node is unavailable"), 1);
}
