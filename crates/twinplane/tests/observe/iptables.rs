//! The same on the iptables plane, whose agents are told to tell: what connection tracking and rules say, and no more.

use super::*;

const MANIFEST: &str = r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "nobody", "namespace": "netflow-test"},
    "spec": {"clusterIP": "10.24.3.7", "ports": [{"port": 80}]}}"#;

impl Named {
    /// Waits until both nodes have `count` flows that are `wanted`, of those that `filters` let through.
    fn until(&self, filters: &[&str], wanted: &dyn Fn(&Value) -> bool, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let flows: Vec<Value> = NODES.iter().flat_map(|node| self.flows(node, filters)).collect();
            let found = flows.iter().filter(|flow| wanted(flow)).count();
            if found >= count {
                return flows;
            }
            assert!(Instant::now() < deadline, "{found} of {count} in {flows:#?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
fn on_the_iptables_plane_flows_have_names_but_no_verdict_unless_a_rule_gave_one() {
    let lab = Named::new();
    lab.up(&["--dataplane", "iptables", "--agent-arg=--flows=on"]);
    let rules = json(&lab.lab("forwarding-rules list", &["-o", "json"]));
    let address = rules[0]["ipAddress"].as_str().expect("an address");
    let urls: Vec<String> = (0..REQUESTS).map(|number| format!("http://{address}/?{number}")).collect();
    let client =
        ["client", "--", "curl", "-gsS", "--fail", "-m", "10", "-o", "/dev/null", "-H", "Connection: close"];
    succeeded(
        &lab.lab("exec", &client.into_iter().chain(urls.iter().map(String::as_str)).collect::<Vec<_>>()),
    );
    let from_client = ["--to-pod", "netflow-test/nginx", "--from-ip", "198.51.100.0/24"];
    // FINs that cross may be told of as one: see the plane.
    let flows = lab.until(&from_client, &|flow| has(flow, &["FIN"]), REQUESTS);
    let count = |wanted: &dyn Fn(&Value) -> bool| flows.iter().filter(|flow| wanted(flow)).count();
    // Each connection is one entry of the node that it came in at; a node that it went on to sees that node's address.
    assert_eq!(count(&|flow| has(flow, &["SYN"]) && flow["is_reply"] == false), REQUESTS);
    assert_eq!(count(&|flow| has(flow, &["SYN", "ACK"]) && is_reply(flow)), REQUESTS);
    for flow in &flows {
        let (client, server) = match is_reply(flow) {
            true => (&flow["destination"], &flow["source"]),
            false => (&flow["source"], &flow["destination"]),
        };
        assert!(flow["verdict"].is_null() || flow["verdict"] == "VERDICT_UNKNOWN", "{flow}");
        assert!(server["pod_name"].as_str().is_some_and(|name| name.starts_with("nginx")), "{flow}");
        assert!(server["identity"].as_u64().is_some_and(|identity| identity >= 256), "{flow}");
        assert_eq!(client["labels"][0], "reserved:world-ipv4", "{flow}");
        let service = if is_reply(flow) { "source_service" } else { "destination_service" };
        assert_eq!(flow[service]["name"], "nginx", "{flow}");
        assert!(flow["interface"].is_null(), "{flow}");
    }
    let (lines, coverage) = lab.observe("node-a", &["--to-pod", "netflow-test/nginx", "--last", "20"]);
    assert!(lines.contains(" to-stack VERDICT_UNKNOWN (TCP Flags: SYN)"), "{lines}");
    assert!(coverage.contains("none lost"), "{coverage}");
    what_a_rule_refuses_is_dropped(&lab);
    what_is_not_seen_is_said(&lab);
}

fn what_a_rule_refuses_is_dropped(lab: &Named) {
    let manifest = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(manifest.path(), MANIFEST).expect("write");
    succeeded(&lab.lab("kubectl", &["--", "apply", "-f", manifest.path().to_str().expect("UTF-8")]));
    let refused = |flow: &Value| flow["verdict"] == "DROPPED";
    let deadline = Instant::now() + Duration::from_secs(20);
    // Until its rule is there, nobody answers.
    let flows = loop {
        lab.lab("exec", &["node-a", "--", "curl", "-sS", "-m", "1", "http://10.24.3.7/"]);
        let flows = lab.flows("node-a", &["--to-service", "netflow-test/nobody", "--verdict", "DROPPED"]);
        if flows.iter().any(refused) {
            break flows;
        }
        assert!(Instant::now() < deadline, "{flows:#?}");
    };
    for flow in &flows {
        assert_eq!(flow["drop_reason_desc"], "SERVICE_BACKEND_NOT_FOUND", "{flow}");
        assert_eq!(flow["traffic_direction"], "EGRESS", "{flow}");
        assert_eq!(flow["source"]["labels"][0], "reserved:host", "{flow}");
        assert!(has(flow, &["SYN"]) && flow["interface"]["name"].is_string(), "{flow}");
    }
}

fn what_is_not_seen_is_said(lab: &Named) {
    let status = json(&run(&["status", "--lab", &lab.0, "--node", "node-a", "-o", "json"]));
    let unseen = status["dataplane"]["unseen"].as_array().expect("a list").clone();
    let of = |word: &str| {
        unseen.iter().any(|entry| entry["what"].as_str().is_some_and(|what| what.contains(word)))
    };
    for word in ["verdicts", "interface", "drops by others", "packets and bytes", "older than the agent"] {
        assert!(of(word), "{word}: {unseen:?}");
    }
    let table = succeeded(&run(&["status", "--lab", &lab.0, "--node", "node-a"]));
    assert!(table.contains("NOT IN FLOWS"), "{table}");
}
