//! Every flag of `twinplane observe`, with the shipped command, asked of a server with flows that are known. No root.

#[expect(dead_code, reason = "shared with tests of labs")]
mod common;

use std::{io::Write as _, net::IpAddr, process::Stdio, sync::Arc};

use flow::{
    event::{
        Body, Event, Flow, Interface, Ip, L4, Node as FlowNode, PolicyMatch, Rare, Seen, Service, TcpFlags,
        Time,
    },
    feed::Feed,
    proto::flow::{
        Dns, DropReason, Http, HttpHeader, L7FlowType, Layer7, SocketTranslationPoint, TraceObservationPoint,
        TraceReason, TrafficDirection, Verdict, layer7::Record,
    },
    ring::Capacity,
    testing::{at, lost, pod, syn},
};
use observer::{
    node::{Identity, Node},
    peers::Peers,
    serve,
};
use serde_json::Value;

use common::{BINARY, run, succeeded, texts};

/// Flow number n is at second n of the epoch and has n as its source port.
fn flows() -> Vec<Flow> {
    let (web, db, other) = (pod("shop", "web-1", 300), pod("shop", "db-0", 301), pod("other", "web-9", 302));
    let ip = |source: &str, destination: &str| {
        let parse = |text: &str| text.parse::<IpAddr>().expect("an address");
        let (source, destination) = (parse(source), parse(destination));
        Some(Ip { source, destination, source_xlated: None, encrypted: false })
    };
    let tcp = |source, flags| L4::Tcp { source, destination: 80, flags };
    let l7 = |kind: L7FlowType, record| {
        Seen::L7(Box::new(Layer7 { r#type: kind.into(), latency_ns: 2_000_000, record: Some(record) }))
    };
    let http = Http {
        method: "GET".into(),
        url: "http://web/cart?x".into(),
        protocol: "HTTP/1.1".into(),
        code: 404,
        headers: vec![HttpHeader { key: "X-Mark".into(), value: "7".into() }],
    };
    let dns = Dns { query: "web.shop.svc.".into(), qtypes: vec!["A".into()], ..Dns::default() };
    let to_network = Seen::Trace { point: TraceObservationPoint::ToNetwork, reason: TraceReason::New };
    let socket = SocketTranslationPoint::SockXlatePointPreDirectionFwd;
    let service = Service { name: "db".into(), namespace: "shop".into() };
    let between = Flow { source: web.clone(), destination: db.clone(), ..syn() };
    let dropped = Flow { verdict: Verdict::Dropped, is_reply: None, ..between.clone() };
    let rare = Rare { trace_id: "4bf9".into(), ip_trace_id: 9, ..Rare::default() };
    vec![
        Flow { l4: tcp(1, TcpFlags::SYN), destination_service: Some(service.into()), ..between.clone() },
        Flow {
            l4: L4::Udp { source: 2, destination: 53 },
            source: other.clone(),
            seen: to_network,
            direction: TrafficDirection::Egress,
            ..between.clone()
        },
        Flow {
            l4: tcp(3, TcpFlags::SYN),
            seen: Seen::Drop(DropReason::PolicyDenied),
            ip: ip("10.9.9.9", "10.244.0.11"),
            ..dropped.clone()
        },
        Flow {
            l4: tcp(4, TcpFlags::default()),
            seen: l7(L7FlowType::Response, Record::Http(http)),
            ..between.clone()
        },
        Flow {
            l4: L4::Udp { source: 5, destination: 53 },
            seen: l7(L7FlowType::Request, Record::Dns(dns)),
            ..between.clone()
        },
        Flow {
            l4: tcp(6, TcpFlags::SYN.with(TcpFlags::ACK)),
            source: db,
            destination: web,
            is_reply: Some(true),
            ..between.clone()
        },
        Flow {
            l4: tcp(7, TcpFlags::FIN.with(TcpFlags::ACK)),
            ip: ip("fd00::7", "fd00::8"),
            interface: Some(Interface { index: 7, name: "tp7".into() }.into()),
            ..between.clone()
        },
        Flow {
            l4: tcp(8, TcpFlags::SYN),
            seen: Seen::PolicyVerdict(PolicyMatch::L3L4),
            node: Arc::new(FlowNode { name: "b".into(), labels: vec!["zone=z1".into()] }),
            ..dropped
        },
        Flow {
            l4: tcp(9, TcpFlags::default()),
            seen: Seen::Socket { point: socket, cookie: 1, cgroup: 2 },
            verdict: Verdict::Translated,
            destination_names: Some(vec!["db.example.com".to_owned()].into()),
            rare: Some(rare.into()),
            ..between
        },
    ]
}

/// A node with these flows, on a socket in a folder of its own.
struct Server {
    folder: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let mut feed = Feed::new(Capacity::DEFAULT);
        let seconds = |number: usize| number as i64 * 1_000_000_000;
        feed.append(flows().into_iter().enumerate().map(|(n, flow)| at(seconds(n + 1), flow)));
        let identity = Identity { name: "vm".into(), version: "v1".into() };
        let node = Node::new(identity, feed.readers());
        runtime.block_on(async {
            let routes = serve::node_routes(node, Peers::default()).await.expect("routes");
            let listener = serve::bind_unix(&folder.path().join("sock")).expect("a socket");
            tokio::spawn(serve::unix(listener, routes, std::future::pending()));
        });
        Self { folder, _runtime: runtime }
    }

    fn address(&self) -> String {
        format!("unix://{}", self.folder.path().join("sock").display())
    }

    fn command(&self, flags: &[&str]) -> std::process::Output {
        let address = self.address();
        run(&[&["observe", "--server", &address], flags].concat())
    }

    /// Stdout and stderr.
    fn observe(&self, flags: &[&str]) -> (String, String) {
        let output = self.command(flags);
        succeeded(&output);
        texts(&output)
    }

    /// The source ports of what is shown.
    fn ports(&self, flags: &[&str]) -> Vec<u64> {
        ports(&self.observe(&[flags, &["-o", "json", "--no-answers"]].concat()).0)
    }
}

fn ports(out: &str) -> Vec<u64> {
    let port = |line: &str| {
        let answer: Value = serde_json::from_str(line).expect("JSON");
        let l4 = &answer["flow"]["l4"];
        l4["TCP"]["source_port"].as_u64().or(l4["UDP"]["source_port"].as_u64())
    };
    out.lines().filter_map(port).collect()
}

#[test]
fn every_filter_shows_what_it_says() {
    let server = Server::start();
    let all = [1, 2, 3, 4, 5, 6, 7, 8, 9];
    let cases: &[(&[&str], &[u64])] = &[
        (&[], &all),
        (&["--last", "2"], &[8, 9]),
        (&["--first", "2"], &[1, 2]),
        (&["--all"], &all),
        (&["--since", "1970-01-01T00:00:08Z"], &[8, 9]),
        (&["--until", "1970-01-01T00:00:02Z"], &[1, 2]),
        (&["--since", "1970-01-01T00:00:03Z", "--until", "1970-01-01T00:00:04Z"], &[3, 4]),
        (&["--verdict", "DROPPED"], &[3, 8]),
        (&["--not", "--verdict", "FORWARDED"], &[3, 8, 9]),
        (&["--drop-reason-desc", "POLICY_DENIED"], &[3, 8]),
        (&["--pod", "other/web"], &[2]),
        (&["--from-pod", "shop/db"], &[6]),
        (&["--to-pod", "shop/web"], &[6]),
        (&["--namespace", "other"], &[2]),
        (&["--from-namespace", "other"], &[2]),
        (&["--to-namespace", "shop", "--last", "1"], &[9]),
        (&["--from-label", "k8s:app=nginx", "--protocol", "dns"], &[5]),
        (&["--label", "app=apache"], &[]),
        (&["--identity", "302"], &[2]),
        (&["--from-identity", "301"], &[6]),
        (&["--to-identity", "300"], &[6]),
        (&["--service", "shop/db"], &[1]),
        (&["--protocol", "udp"], &[2, 5]),
        (&["--protocol", "http"], &[4]),
        (&["--port", "53"], &[2, 5]),
        (&["--from-port", "3"], &[3]),
        (&["--to-port", "53"], &[2, 5]),
        (&["--ip", "10.9.9.9"], &[3]),
        (&["--from-ip", "10.9.0.0/16"], &[3]),
        (&["--to-ip", "fd00::/64"], &[7]),
        (&["-6"], &[7]),
        (&["--ip-version", "v6"], &[7]),
        (&["--http-method", "GET"], &[4]),
        (&["--http-status", "4+"], &[4]),
        (&["--http-path", "/ca.t"], &[4]),
        (&["--http-url", "web/cart"], &[4]),
        (&["--http-header", "X-Mark:7"], &[4]),
        (&["--dns-query", "web\\.shop"], &[5]),
        (&["--to-fqdn", "*.example.com"], &[9]),
        (&["--type", "drop"], &[3]),
        (&["--type", "l7"], &[4, 5]),
        (&["--type", "policy-verdict"], &[8]),
        (&["--type", "trace-sock"], &[9]),
        (&["--type", "trace:to-network"], &[2]),
        (&["--tcp-flags", "SYN"], &[1, 3, 6, 8]),
        (&["--tcp-flags", "syn,ack", "--tcp-flags", "FIN"], &[6, 7]),
        (&["--traffic-direction", "egress"], &[2]),
        (&["--node-name", "b"], &[8]),
        (&["--node-label", "zone=z1"], &[8]),
        (&["--interface", "tp7"], &[7]),
        (&["--trace-id", "4bf9"], &[9]),
        (&["--ip-trace-id", "9"], &[9]),
        (&["--cluster", "default", "--first", "1"], &[1]),
        (&["--unencrypted", "--last", "1"], &[9]),
        (&["--encrypted"], &[]),
        (&["--allowlist", r#"{"source_port":["1"]} {"source_port":["4"]}"#], &[1, 4]),
        (&["--denylist", r#"{"verdict":["FORWARDED","DROPPED"]}"#], &[9]),
        (&["--verdict", "DROPPED", "--not", "--type", "drop"], &[8]),
    ];
    for (flags, wanted) in cases {
        assert_eq!(server.ports(flags), *wanted, "{flags:?}");
    }
    // Not Hubble's: who asks for one end sees the answers of the other.
    let both = server.observe(&["--to-pod", "shop/db", "--protocol", "tcp", "-o", "json"]).0;
    assert_eq!(ports(&both), [1, 3, 4, 6, 7, 8, 9]);
}

#[test]
fn outputs_colours_and_coverage() {
    let server = Server::start();
    let (compact, coverage) = server.observe(&["--last", "1", "--print-node-name", "--verdict", "DROPPED"]);
    let line = "Jan  1 00:00:08.000 [b]: shop/web-1:8 (ID:300) <> shop/db-0:80 (ID:301) policy-verdict:L3-L4 INGRESS DENIED (TCP Flags: SYN)\n";
    assert_eq!(compact, line);
    assert!(
        coverage.contains("1 shown, 9 seen since the server started") && coverage.contains("none lost"),
        "{coverage}"
    );
    let (dict, _) = server.observe(&["--first", "2", "-o", "dict"]);
    assert!(dict.contains("  TIMESTAMP: Jan  1 00:00:01.000\n") && dict.contains("------------\n"), "{dict}");
    let (tab, _) = server.observe(&["--first", "2", "-o", "tab"]);
    let rows: Vec<&str> = tab.lines().collect();
    assert!(
        rows.len() == 3 && rows[0].starts_with("TIMESTAMP ") && rows[1].contains("shop/web-1:1"),
        "{tab}"
    );
    for json in ["json", "jsonpb"] {
        let (out, _) =
            server.observe(&["--first", "1", "-o", json, "--field-mask", "verdict,source.pod_name"]);
        let answer: Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(
            answer["flow"],
            serde_json::json!({"verdict": "FORWARDED", "source": {"pod_name": "web-1"}})
        );
    }
    let is_coloured =
        |flags: &[&str]| server.observe(&[&["--last", "1"], flags].concat()).0.contains('\u{1b}');
    assert!(is_coloured(&["--color", "always"]));
    assert!(!is_coloured(&["--color", "never"]) && !is_coloured(&[]), "it is no terminal");
    let (numeric, _) = server.observe(&["--first", "1", "--numeric"]);
    assert!(numeric.contains("10.244.0.10:1 (ID:300) -> 10.244.0.11:80"), "{numeric}");
    let (summary, _) = server.observe(&["--summary"]);
    for part in ["Top talkers", "shop/db-0:80", "Drops by reason and pair", "Policy denied"] {
        assert!(summary.contains(part), "{part}: {summary}");
    }
}

#[test]
fn what_cannot_be_asked_is_said() {
    let server = Server::start();
    for (flags, said) in [
        (&["--ip", "nonsense"][..], "source_ip"),
        (&["--http-path", "("], "http_path"),
        (&["--verdict", "MAYBE"], "MAYBE"),
        (&["--since", "yesterday"], "yesterday"),
        (&["--first", "1", "--last", "1"], "--first and --last"),
        (&["--follow", "-o", "tab"], "follow"),
        (&["--not"], "--not"),
        (&["--allowlist", r#"{"sorce_pod":["a"]}"#], "sorce_pod"),
        (&["-o", "json", "--field-mask", "nothing"], "nothing"),
        (&["--from-pod", "a/b", "--from-ip", "10.0.0.1"], "cannot be combined"),
    ] {
        let output = server.command(flags);
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
        let (out, err) = texts(&output);
        assert!(out.is_empty() && err.contains(said), "{flags:?}: {err}");
    }
    let nowhere = run(&["observe", "--server", "unix:///no/such.sock"]);
    assert!(texts(&nowhere).1.contains("is an ebpf agent running here"), "{}", texts(&nowhere).1);
}

/// What was printed or exported can be asked again, by a file or a pipe.
#[test]
fn json_lines_are_asked_as_a_server_is() {
    let server = Server::start();
    let mut lines = server.observe(&["--all", "-o", "json"]).0;
    let loss = Event { time: Time(0), body: Body::Lost(*lost_event()) };
    lines += &flow::json::to_string(&loss.to_response("vm").expect("an answer")).expect("JSON");
    lines += "\nno JSON\n";
    let path = server.folder.path().join("flows.log");
    std::fs::write(&path, &lines).expect("written");
    let file = path.to_str().expect("a path");
    let read = |flags: &[&str]| {
        let output = run(&[&["observe", "--input-file", file], flags].concat());
        succeeded(&output);
        texts(&output)
    };
    let (out, coverage) = read(&["-o", "json"]);
    assert_eq!(ports(&out), [1, 2, 3, 4, 5, 6, 7, 8, 9], "all, not the last twenty");
    for part in
        ["9 shown, of 11 lines, 1 of which could not be read", "3 between kernel and agent", "line 11: "]
    {
        assert!(coverage.contains(part), "{part}: {coverage}");
    }
    assert_eq!(ports(&read(&["-o", "json", "--verdict", "DROPPED"]).0), [3, 8]);
    assert_eq!(ports(&read(&["-o", "json", "--last", "2"]).0), [8, 9]);
    assert_eq!(ports(&read(&["-o", "json", "--since", "1970-01-01T00:00:07Z"]).0), [7, 8, 9]);
    assert_eq!(read(&["--first", "1"]).0, server.observe(&["--first", "1"]).0);
    assert_eq!(run(&["observe", "--input-file", file, "-f"]).status.code(), Some(2));

    let mut command = std::process::Command::new(BINARY);
    command.args(["observe", "--input-file", "-", "--summary"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::null()).spawn().expect("started");
    child.stdin.take().expect("a pipe").write_all(lines.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("ended");
    assert!(texts(&output).0.contains("Policy denied"), "{}", texts(&output).0);
}

fn lost_event() -> Box<flow::proto::flow::LostEvent> {
    match lost(3) {
        Body::Lost(event) => Box::new(event),
        _ => unreachable!("a loss"),
    }
}

/// A follower gets what comes later, and ends with a broken pipe.
#[test]
fn a_follower_sees_new_flows() {
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut feed = Feed::new(Capacity::DEFAULT);
    let node = Node::new(Identity { name: "vm".into(), version: "v1".into() }, feed.readers());
    let path = folder.path().join("sock");
    runtime.block_on(async {
        let routes = serve::node_routes(node, Peers::default()).await.expect("routes");
        tokio::spawn(serve::unix(serve::bind_unix(&path).expect("a socket"), routes, std::future::pending()));
    });
    feed.append([at(1, syn())]);
    let address = format!("unix://{}", path.display());
    let mut command = std::process::Command::new(BINARY);
    command.args(["observe", "--server", &address, "-f", "--last", "1"]).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::null()).spawn().expect("started");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().expect("a pipe")));
    assert!(lines.next().expect("a line").expect("text").contains("SYN"));
    feed.append([at(2, Flow { l4: L4::Udp { source: 1, destination: 2 }, ..syn() })]);
    assert!(lines.next().expect("a line").expect("text").contains("(UDP)"));
    drop(lines);
    // Written to a pipe that nobody reads: success.
    feed.append([at(3, syn())]);
    assert!(child.wait().expect("ended").success());
}
