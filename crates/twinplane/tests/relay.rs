//! A lab's relay: the flows of all nodes, and what becomes of them when an agent goes and comes back. Needs root.

mod common;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use serde_json::Value;

use common::{BINARY, Named, json, run, succeeded, texts};

const PATIENCE: Duration = Duration::from_secs(40);

impl Named {
    fn ask(&self, words: &[&str]) -> std::process::Output {
        run(&[words, &["--lab", &self.0]].concat())
    }

    /// `twinplane status --relay`, and whether all is well.
    fn relay(&self) -> (Value, bool) {
        let output = self.ask(&["status", "--relay", "-o", "json"]);
        let (out, err) = texts(&output);
        let report = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
        (report, output.status.success())
    }

    /// Until the relay sees the nodes so.
    fn until_relay_sees(&self, wanted: [&str; 2]) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (report, fine) = self.relay();
            let nodes = report["nodes"].as_array().into_iter().flatten();
            let states: Vec<_> = nodes.map(|node| node["state"].as_str().unwrap_or_default()).collect();
            if states == wanted && fine == (wanted == ["connected"; 2]) {
                return report;
            }
            assert!(Instant::now() < deadline, "wanted {wanted:?}: {report:#}\n{}", self.log("relay"));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn log(&self, what: &str) -> String {
        let path = format!("/run/twinplane/lab/{}/logs/{what}.log", self.0);
        fs::read_to_string(path).unwrap_or_default()
    }

    fn file(&self, path: &str) -> String {
        format!("/run/twinplane/lab/{}/{path}", self.0)
    }

    /// Opens a connection from the client to each node's own node port of the Service, by its number.
    fn request(&self, node_address: &str, port: u64) {
        let url = format!("http://{node_address}:{port}/");
        let curl = ["client", "--", "curl", "-sS", "--fail", "-m", "10", "-o", "/dev/null", &url];
        succeeded(&self.lab("exec", &curl));
    }
}

/// `twinplane observe -f` beside the test.
struct Following {
    child: Child,
    answers: mpsc::Receiver<Value>,
}

impl Following {
    fn start(lab: &Named, rest: &[&str]) -> Self {
        let mut child = Command::new(BINARY)
            .args(["observe", "--lab", &lab.0, "-f", "-o", "json"])
            .args(rest)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("start twinplane");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let (send, answers) = mpsc::channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let answer = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
                if send.send(answer).is_err() {
                    return;
                }
            }
        });
        Self { child, answers }
    }

    /// The next flow that this node saw, while `make` makes such.
    fn flow_of(&self, node: &str, make: impl Fn()) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            make();
            while let Ok(answer) = self.answers.recv_timeout(Duration::from_millis(200)) {
                if answer["node_name"] == node && answer["flow"].is_object() {
                    return answer;
                }
            }
            assert!(Instant::now() < deadline, "no flow of {node}");
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_node_that_goes_is_missed_and_comes_back_by_itself() {
    let lab = Named::new();
    lab.up(&["--dataplane", "ebpf"]);
    lab.until_relay_sees(["connected", "connected"]);
    let service =
        json(&lab.lab("kubectl", &["--", "-n", "netflow-test", "get", "svc", "nginx", "-o", "json"]));
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().expect("a node port");
    let from_client = ["--from-ip", "198.51.100.0/24"];
    let following = Following::start(&lab, &from_client);
    following.flow_of("node-a", || lab.request("10.128.0.11", port));
    following.flow_of("node-b", || lab.request("10.128.0.12", port));

    succeeded(&lab.lab("agent stop", &["node-b"]));
    let report = lab.until_relay_sees(["connected", "unavailable"]);
    assert_eq!((&report["connected"], &report["unavailable"]), (&1.into(), &1.into()));
    let said = succeeded(&lab.ask(&["observe", "status"]));
    assert!(
        said.contains("Connected Nodes: 1/2") && said.contains("Unavailable Nodes: 1\n  - node-b"),
        "{said}"
    );
    following.flow_of("node-a", || lab.request("10.128.0.11", port));
    let status = lab.lab("status", &[]);
    assert_eq!(status.status.code(), Some(1));
    assert!(texts(&status).0.contains("stopped"), "{}", texts(&status).0);
    // What is asked for now says who is missing, and ends.
    let (_, err) = texts(&lab.ask(&["observe", "--last", "1"]));
    assert!(err.contains("1 nodes are unavailable: node-b"), "{err}");

    succeeded(&lab.lab("agent start", &["node-b"]));
    lab.until_relay_sees(["connected", "connected"]);
    following.flow_of("node-b", || lab.request("10.128.0.12", port));
    following.flow_of("node-a", || lab.request("10.128.0.11", port));

    lists_nodes_and_peers(&lab);
    has_certificates_that_openssl_takes(&lab);
    is_gone_with_its_lab(lab);
}

fn lists_nodes_and_peers(lab: &Named) {
    let nodes = succeeded(&lab.ask(&["observe", "nodes", "-o", "wide"]));
    let rows: Vec<Vec<&str>> = nodes.lines().map(|line| line.split_whitespace().collect()).collect();
    for (row, (name, address)) in
        rows[1..].iter().zip([("node-a", "10.128.0.11:4244"), ("node-b", "10.128.0.12:4244")])
    {
        assert_eq!((row[0], row[1]), (name, "Connected"), "{nodes}");
        assert!(row.contains(&address) && row.contains(&"Enabled"), "{nodes}");
    }
    let namespaces = json(&lab.ask(&["observe", "namespaces", "-o", "json"]));
    assert!(namespaces.to_string().contains("netflow-test"), "{namespaces}");
    // The relay and each node name all nodes.
    for server in ["relay.sock", "node-a/observer.sock", "node-b/observer.sock"] {
        let mut watch = Command::new(BINARY)
            .args(["observe", "peers", "--server", &format!("unix://{}", lab.file(server))])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start twinplane");
        let out = BufReader::new(watch.stdout.take().expect("piped"));
        let lines: Vec<String> = out.lines().take(2).map_while(Result::ok).collect();
        let _ = watch.kill();
        let _ = watch.wait();
        assert_eq!(
            lines,
            [
                "PEER_ADDED   10.128.0.11:4244 node-a (TLS.ServerName: node-a.default.hubble-grpc.cilium.io)",
                "PEER_ADDED   10.128.0.12:4244 node-b (TLS.ServerName: node-b.default.hubble-grpc.cilium.io)",
            ],
            "{server}"
        );
    }
}

/// From inside the lab, by TCP: the command with the client's certificate; `openssl` with and without one.
fn has_certificates_that_openssl_takes(lab: &Named) {
    let mode = |file: &str| fs::metadata(lab.file(file)).expect(file).permissions().mode() & 0o777;
    for key in ["tls/relay.key", "tls/client.key", "tls/node-a.key"] {
        assert_eq!(mode(key), 0o600, "{key}");
    }
    assert_eq!((mode("relay.sock"), mode("node-a/observer.sock")), (0o660, 0o660));
    let (authority, certificate, key) =
        (lab.file("tls/ca.crt"), lab.file("tls/client.crt"), lab.file("tls/client.key"));
    let server = ["--server", "10.128.0.2:4245", "--tls-server-name", "instance.hubble-relay.cilium.io"];
    let files = [
        "--tls-ca-cert-files",
        &authority,
        "--tls-client-cert-file",
        &certificate,
        "--tls-client-key-file",
        &key,
    ];
    let ask = ["client", "--", BINARY, "observe", "status"];
    let said = succeeded(&lab.lab("exec", &[&ask[..], &server, &files].concat()));
    assert!(said.contains("Connected Nodes: 2/2"), "{said}");
    let refused = lab.lab("exec", &[&ask[..], &server[..2]].concat());
    assert_eq!(refused.status.code(), Some(2), "plain text: {}", texts(&refused).0);

    for (address, name) in [
        ("10.128.0.2:4245", "instance.hubble-relay.cilium.io"),
        ("10.128.0.12:4244", "node-b.default.hubble-grpc.cilium.io"),
    ] {
        let without = openssl(lab, address, name, &["-CAfile", &authority]);
        assert!(!without.0.contains("twinplane"), "{address} told something: {}", without.0);
        assert!(without.1.contains("certificate required"), "{address}: {}", without.1);
        let with = ["-CAfile", &authority, "-cert", &certificate, "-key", &key];
        let (told, log) = openssl(lab, address, name, &with);
        assert!(told.contains("twinplane") && log.contains("TLSv1.3"), "{address}: {told}\n{log}");
    }
}

/// Sends the same request, `ServerStatus`, and returns what the server said, and what `openssl` did.
fn openssl(lab: &Named, address: &str, name: &str, certificates: &[&str]) -> (String, String) {
    let mut child = Command::new(BINARY)
        .args([
            "lab", "exec", "--name", &lab.0, "client", "--", "timeout", "20", "openssl", "s_client", "-brief",
        ])
        .args(["-verify_return_error", "-verify_hostname", name, "-servername", name])
        .args(["-alpn", "h2", "-connect", address])
        .args(certificates)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start openssl");
    let mut stdin = child.stdin.take().expect("piped");
    // One that was refused may be gone already.
    let _ = stdin.write_all(&server_status());
    let (mut stdout, mut told) = (child.stdout.take().expect("piped"), vec![]);
    let mut buffer = [0; 4096];
    // The version is at the end of the answer. Without an answer, the server's alert ends it.
    while !String::from_utf8_lossy(&told).contains("twinplane") {
        match stdout.read(&mut buffer).expect("read") {
            0 => break,
            length => told.extend(&buffer[..length]),
        }
    }
    drop(stdin);
    let (_, log) = texts(&child.wait_with_output().expect("openssl ends"));
    (String::from_utf8_lossy(&told).into_owned(), log)
}

/// A whole HTTP/2 request (RFC 9113) for `ServerStatus`, with an empty message; literal header fields (RFC 7541, 6.2.2).
fn server_status() -> Vec<u8> {
    let mut fields = vec![];
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/observer.Observer/ServerStatus"),
        (":authority", "relay"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        fields.push(0);
        for text in [name, value] {
            fields.push(u8::try_from(text.len()).expect("short"));
            fields.extend(text.bytes());
        }
    }
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).expect("short");
        [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
    };
    let (headers, data, settings) = (1, 0, 4);
    let (end_stream, end_headers) = (1, 4);
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(settings, 0, 0, &[]),
        frame(headers, end_headers, 1, &fields),
        // Not compressed, no bytes.
        frame(data, end_stream, 1, &[0; 5]),
    ]
    .concat()
}

fn is_gone_with_its_lab(lab: Named) {
    let status = json(&lab.lab("status", &["-o", "json"]));
    let pid = status["relay"]["process"]["pid"].as_u64().expect("a relay runs");
    assert!(runs(pid));
    succeeded(&lab.lab("down", &[]));
    assert!(!fs::exists(lab.file("")).expect("run"));
    assert!(!runs(pid), "the relay outlives its lab");
}

/// Neither gone nor a zombie: whoever inherits one collects it in its own time (proc_pid_stat(5)).
fn runs(pid: u64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
