//! `twinplane observe` in a lab: requests from outside, as the nodes' flows show them. Needs root.

mod common;
#[path = "observe/iptables.rs"]
mod iptables;

use std::time::{Duration, Instant};

use serde_json::Value;

use common::{Named, json, run, succeeded, texts};

const REQUESTS: usize = 100;
const NODES: [&str; 2] = ["node-a", "node-b"];

impl Named {
    /// Stdout and stderr of `twinplane observe` on a node.
    fn observe(&self, node: &str, rest: &[&str]) -> (String, String) {
        let output = run(&[&["observe", "--lab", &self.0, "--node", node], rest].concat());
        succeeded(&output);
        texts(&output)
    }

    fn flows(&self, node: &str, rest: &[&str]) -> Vec<Value> {
        let (out, _) = self.observe(node, &[rest, &["--all", "-o", "json"]].concat());
        let answers = out.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        answers.filter_map(|mut answer| answer.get_mut("flow").map(Value::take)).collect()
    }

    /// What the kernels of both nodes have counted.
    fn counted(&self, name: &str) -> usize {
        let of = |node: &&str| {
            let status = json(&run(&["status", "--lab", &self.0, "--node", node, "-o", "json"]));
            let counters = status["dataplane"]["counters"].as_array().expect("counters").clone();
            let counter = counters.into_iter().find(|counter| counter["name"] == name).expect("a counter");
            counter["packets"].as_u64().and_then(|packets| usize::try_from(packets).ok()).expect("a number")
        };
        NODES.iter().map(of).sum()
    }

    /// The sum of a metric of both agents, all labels together.
    fn metric(&self, name: &str) -> usize {
        let of = |node: &&str| {
            let text =
                succeeded(&self.lab("exec", &[node, "--", "curl", "-sS", "http://127.0.0.1:10249/metrics"]));
            let values = text
                .lines()
                .filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.rsplit(' ').next());
            values.map(|value| value.parse::<usize>().expect("a whole number")).sum::<usize>()
        };
        NODES.iter().map(of).sum()
    }
}

fn has(flow: &Value, flags: &[&str]) -> bool {
    flags.iter().all(|flag| flow["l4"]["TCP"]["flags"][flag] == true)
}

fn is_reply(flow: &Value) -> bool {
    flow["is_reply"] == true
}

/// Each connection once from SYN to FIN on the node that it came in at, in both directions, with who it was.
#[test]
fn a_hundred_requests_are_seen_from_syn_to_fin_by_everyone_s_name() {
    let lab = Named::new();
    lab.up(&["--dataplane", "ebpf"]);
    let rules = json(&lab.lab("forwarding-rules list", &["-o", "json"]));
    let address = rules[0]["ipAddress"].as_str().expect("an address");
    let urls: Vec<String> = (0..REQUESTS).map(|number| format!("http://{address}/?{number}")).collect();
    let (opened, looked_up) = (lab.counted("forwarded_new"), lab.counted("slow_frontend_lookups"));
    let opened_before = entries(&lab);
    let client =
        ["client", "--", "curl", "-gsS", "--fail", "-m", "10", "-o", "/dev/null", "-H", "Connection: close"];
    succeeded(
        &lab.lab("exec", &client.into_iter().chain(urls.iter().map(String::as_str)).collect::<Vec<_>>()),
    );

    // What the client sent to nginx, and its answers; nodes' own checks have other sources.
    let to_nginx = ["--to-pod", "netflow-test/nginx", "--from-ip", "198.51.100.0/24"];
    let deadline = Instant::now() + Duration::from_secs(20);
    let flows = loop {
        let flows: Vec<Value> = NODES.iter().flat_map(|node| lab.flows(node, &to_nginx)).collect();
        let fins = flows.iter().filter(|flow| has(flow, &["FIN"])).count();
        if fins >= 2 * REQUESTS {
            break flows;
        }
        assert!(Instant::now() < deadline, "{fins} FINs of {} flows", flows.len());
        std::thread::sleep(Duration::from_millis(100));
    };
    let count = |wanted: &dyn Fn(&Value) -> bool| flows.iter().filter(|flow| wanted(flow)).count();
    assert_eq!(count(&|flow| has(flow, &["SYN"]) && !is_reply(flow)), REQUESTS);
    assert_eq!(count(&|flow| has(flow, &["SYN", "ACK"]) && is_reply(flow)), REQUESTS);
    assert_eq!(count(&|flow| has(flow, &["FIN"]) && !is_reply(flow)), REQUESTS);
    assert_eq!(count(&|flow| has(flow, &["FIN"]) && is_reply(flow)), REQUESTS);
    for flow in &flows {
        let (client, server) = match is_reply(flow) {
            true => (&flow["destination"], &flow["source"]),
            false => (&flow["source"], &flow["destination"]),
        };
        assert_eq!(flow["verdict"], "FORWARDED", "{flow}");
        assert!(server["pod_name"].as_str().is_some_and(|name| name.starts_with("nginx")), "{flow}");
        assert!(server["identity"].as_u64().is_some_and(|identity| identity >= 256), "{flow}");
        assert_eq!(client["labels"][0], "reserved:world-ipv4", "{flow}");
        assert!(
            server["labels"].to_string().contains("k8s:io.kubernetes.pod.namespace=netflow-test"),
            "{flow}"
        );
        let service = if is_reply(flow) { "source_service" } else { "destination_service" };
        assert_eq!(flow[service]["name"], "nginx", "{flow}");
        assert!(flow["interface"]["name"].is_string() && flow["uuid"].is_string(), "{flow}");
    }
    let uuids: std::collections::BTreeSet<String> =
        flows.iter().map(|flow| flow["uuid"].to_string()).collect();
    assert_eq!(uuids.len(), flows.len());

    // As the kernels count, who know nothing of events: every request is one look for a frontend.
    assert_eq!(lab.counted("slow_frontend_lookups") - looked_up, REQUESTS);
    assert_eq!(lab.counted("forwarded_new") - opened, entries(&lab) - opened_before);
    every_record_of_the_kernels_is_there(&lab);
    shows_lines_and_how_much_was_seen(&lab);
}

/// What the datapaths counted before they asked for room in their rings is what can be read.
fn every_record_of_the_kernels_is_there(lab: &Named) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let offered = lab.metric("twinplane_kernel_events_total");
        // Of a socket's call there is one record, and two flows: TRACED is the one before.
        let told = |flow: &Value| flow["verdict"] != "TRACED";
        let kept = NODES.iter().flat_map(|node| lab.flows(node, &[])).filter(told).count();
        if offered == kept && offered >= 4 * REQUESTS {
            break;
        }
        assert!(Instant::now() < deadline, "{offered} records offered, {kept} flows kept");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(lab.metric("twinplane_kernel_events_lost_total"), 0);
}

/// Packets that opened an entry, among the flows of all nodes: first ones, and answers where nothing was translated; for a
/// translated connection both entries are made at once.
fn entries(lab: &Named) -> usize {
    let plain = |flow: &Value| flow["source_service"].is_null();
    let opens = |flow: &Value| has(flow, &["SYN"]) && (!is_reply(flow) || plain(flow));
    let to_nginx = ["--to-pod", "netflow-test/nginx"];
    NODES.iter().flat_map(|node| lab.flows(node, &to_nginx)).filter(opens).count()
}

/// The lines of a node that has seen requests.
fn shows_lines_and_how_much_was_seen(lab: &Named) {
    let last = ["--to-pod", "netflow-test/nginx", "--last", "20"];
    let (lines, coverage) = lab.observe("node-a", &last);
    assert_eq!(lines.lines().count(), 20, "{lines}");
    for part in ["SYN)", "SYN, ACK)", "ACK, FIN)", " -> netflow-test/nginx", " <- netflow-test/nginx", "(ID:"]
    {
        assert!(lines.contains(part), "{part}: {lines}");
    }
    assert!(lines.lines().all(|line| line.contains(" FORWARDED (TCP Flags: ")), "{lines}");
    assert!(coverage.contains("flows: 20 shown, ") && coverage.contains("none lost"), "{coverage}");
    // Hubble's own meaning: no answers.
    let (sent, _) = lab.observe("node-a", &[&last[..], &["--no-answers"]].concat());
    assert!(sent.contains(" -> ") && !sent.contains(" <- "), "{sent}");

    let (summary, _) = lab.observe("node-a", &["--summary", "--to-pod", "netflow-test/nginx"]);
    assert!(summary.contains("CLIENT") && summary.contains("netflow-test/nginx"), "{summary}");
    let bad = run(&["observe", "--lab", &lab.0, "--node", "node-a", "--ip", "nonsense"]);
    assert_eq!(bad.status.code(), Some(2));
    assert!(texts(&bad).1.contains("InvalidArgument"), "{}", texts(&bad).1);
    let socket = format!("/run/twinplane/lab/{}/node-a/observer.sock", lab.0);
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(socket).expect("a socket").permissions());
    assert_eq!(mode & 0o777, 0o660);
}
