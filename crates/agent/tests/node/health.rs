//! Health checks as load balancers see them, byte for byte.

use serde_json::json;

use crate::support::{Node, SERVICES, SLICES, load_balancer, slice};

/// Status line, headers in order of name without those that change, body.
fn split(answer: &str) -> (String, Vec<String>, String) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let mut lines = head.split("\r\n").map(str::to_owned);
    let status = lines.next().unwrap_or_default();
    let mut headers: Vec<_> = lines.filter(|line| !line.starts_with("Date: ")).collect();
    headers.sort();
    (status, headers, body.to_owned())
}

#[test]
fn facts_86_to_91_a_health_check_port_counts_local_ready_endpoints() {
    let node = Node::start();
    node.create_nodes();
    let service = node.api("POST", SERVICES, &load_balancer("web"));
    let port = &service["spec"]["healthCheckNodePort"];
    let url = format!("http://10.128.0.11:{port}/any/path");
    node.api("POST", SLICES, &slice("web", &[("10.20.1.2", "node-b")]));
    let answer = |expected: &str| {
        node.until(expected, async || {
            let answer = node.get(&url);
            answer.starts_with(expected).then_some(answer)
        })
    };
    let body = |endpoints: u32| {
        format!(
            "{{\n\t\"service\": {{\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"web\"\n\t}},\n\
             \t\"localEndpoints\": {endpoints},\n\t\"serviceProxyHealthy\": true\n}}"
        )
    };
    let (status, headers, none) = split(&answer("HTTP/1.1 503"));
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    assert_eq!(none, body(0));
    assert_eq!(
        headers,
        [
            format!("Content-Length: {}", none.len()),
            "Content-Type: application/json".into(),
            "X-Content-Type-Options: nosniff".into(),
            "X-Load-Balancing-Endpoint-Weight: 0".into(),
        ]
    );

    let two = slice("web", &[("10.20.0.2", "node-a"), ("10.20.0.3", "node-a"), ("10.20.1.2", "node-b")]);
    node.api("PATCH", &format!("{SLICES}/web-1"), &json!({"endpoints": two["endpoints"]}));
    let (status, headers, some) = split(&answer("HTTP/1.1 200"));
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert_eq!(some, body(2));
    assert!(headers.contains(&"X-Load-Balancing-Endpoint-Weight: 2".into()), "{headers:?}");

    node.api("PATCH", &format!("{SERVICES}/web"), &json!({"spec": {"externalTrafficPolicy": "Cluster"}}));
    node.until("the port closes", async || node.get(&url).is_empty().then_some(()));
    let back = json!({"spec": {"externalTrafficPolicy": "Local", "healthCheckNodePort": port}});
    node.api("PATCH", &format!("{SERVICES}/web"), &back);
    assert_eq!(split(&answer("HTTP/1.1 200")).2, body(2), "open again under the same number");
}

#[test]
fn facts_92_93_healthz_and_livez_answer_as_kube_proxys() {
    let node = Node::start();
    node.create_nodes();
    node.until("the first snapshot is programmed", async || {
        let status = node.client.status().await.ok()?;
        (status.programmed.0 > 0 && status.programmed == status.generation).then_some(())
    });
    let (status, headers, body) = split(&node.get("http://127.0.0.1:10256/healthz"));
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(headers.contains(&"Content-Type: application/json".into()), "{headers:?}");
    let health: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let keys: Vec<_> = body.split('"').filter(|word| health.get(word).is_some()).collect();
    let expected =
        ["lastUpdated", "currentTime", "nodeEligible", "healthy", "status", "lastUpdated", "healthy"];
    assert_eq!(keys, expected, "{body}");
    assert_eq!(health["lastUpdated"], health["currentTime"], "recent while healthy");
    assert_eq!((&health["nodeEligible"], &health["healthy"]), (&json!(true), &json!(true)));
    assert_eq!(health["status"]["IPv4"]["healthy"], true);
    assert!(health["status"].get("IPv6").is_none(), "the node has no IPv6 address");

    let taint = json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]);
    node.api("PATCH", "/api/v1/nodes/node-a", &json!({"spec": {"taints": taint}}));
    node.until("no longer eligible", async || {
        node.get("http://127.0.0.1:10256/healthz").starts_with("HTTP/1.1 503").then_some(())
    });
    let (status, _, body) = split(&node.get("http://127.0.0.1:10256/livez"));
    assert_eq!(status, "HTTP/1.1 200 OK", "no reason to restart the proxy");
    assert!(!body.contains("nodeEligible"), "{body}");
    let (status, _, body) = split(&node.get("http://127.0.0.1:10256/other"));
    assert_eq!((status.as_str(), body.as_str()), ("HTTP/1.1 404 Not Found", "404 page not found\n"));
}

/// The value of the line that begins with `name`, labels included.
fn metric(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim_end().parse().ok())
}

#[test]
fn facts_20_93_113_131_metrics_and_proxy_mode_are_served_on_loopback() {
    let node = Node::start();
    node.create_nodes();
    let metrics = || node.get("http://127.0.0.1:10249/metrics");
    let before = metrics();
    assert!(before.contains("application/openmetrics-text"), "{before}");
    node.api("POST", SERVICES, &load_balancer("web"));
    let mut remote = slice("web", &[("10.20.1.2", "node-b")]);
    let trigger = json!({"endpoints.kubernetes.io/last-change-trigger-time": "2999-01-01T00:00:00Z"});
    remote["metadata"]["annotations"] = trigger;
    node.api("POST", SLICES, &remote);
    node.get("http://127.0.0.1:10256/healthz");
    let text = node.until("the changes are counted", async || {
        let text = metrics();
        (metric(&text, "kubeproxy_sync_proxy_rules_endpoint_changes_total")? >= 1.0).then_some(text)
    });
    for (name, expected) in [
        ("kubeproxy_network_programming_duration_seconds_count", 1.0),
        ("kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy=\"external\"}", 1.0),
        ("kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy=\"internal\"}", 0.0),
        ("kubeproxy_proxy_healthz_total{code=\"200\"}", 1.0),
        ("kubeproxy_sync_proxy_rules_service_changes_pending", 0.0),
    ] {
        assert_eq!(metric(&text, name), Some(expected), "{name} in {text}");
    }
    let (status, _, body) = split(&node.get("http://127.0.0.1:10249/proxyMode"));
    assert_eq!((status.as_str(), body.as_str()), ("HTTP/1.1 200 OK", "ebpf"));
}

#[test]
fn fact_102_connection_tracking_is_set_as_kube_proxy_sets_it() {
    let node = Node::start();
    let read = |name: &str| {
        let path = format!("/proc/sys/net/netfilter/nf_conntrack_{name}");
        crate::support::run(node.namespace.command("cat").arg(path)).trim().to_owned()
    };
    assert_eq!(read("tcp_timeout_close_wait"), "3600");
    assert_eq!(read("tcp_timeout_established"), "86400");
}

#[test]
fn facts_86_91_health_checks_are_listened_on_where_node_ports_are_served() {
    let mut node = Node::without_agent();
    node.config.node_ports = model::NodePortAddresses::Primary;
    crate::support::run(node.namespace.command("ip").args(["addr", "add", "10.128.0.99/24", "dev", "up0"]));
    node.start_agent();
    node.create_nodes();
    let service = node.api("POST", SERVICES, &load_balancer("web"));
    let port = &service["spec"]["healthCheckNodePort"];
    node.until("the port is open", async || {
        node.get(&format!("http://10.128.0.11:{port}/")).starts_with("HTTP/1.1 503").then_some(())
    });
    assert_eq!(node.get(&format!("http://10.128.0.99:{port}/")), "", "a secondary address");
}
