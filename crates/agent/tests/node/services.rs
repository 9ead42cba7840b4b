//! Objects of the API reach the dataplane, and what is wrong with them is told.

use dataplane::{ObjectState, ServiceRow};
use serde_json::{Value, json};

use crate::support::{Node, SERVICES, SLICES, load_balancer, run, slice};

pub(crate) fn backends(rows: &[ServiceRow], frontend: &str) -> Option<Vec<String>> {
    let row = rows.iter().find(|row| row.frontend.to_string() == frontend)?;
    Some(row.backends.iter().map(|backend| backend.address.to_string()).collect())
}

#[test]
fn a_service_reaches_the_plane_and_follows_its_endpoints() {
    let node = Node::start();
    let status = node.wait(node.client.status()).expect("status");
    assert!(status.waiting_for.is_some(), "the agent says what it waits for: {status:?}");
    node.create_nodes();
    let service = node.api("POST", SERVICES, &load_balancer("web"));
    let cluster_ip = format!("{}:80", service["spec"]["clusterIP"].as_str().expect("a cluster IP"));
    let node_port = format!("10.128.0.11:{}", service["spec"]["ports"][0]["nodePort"]);
    for endpoints in
        [&[("10.20.0.2", "node-a"), ("10.20.1.2", "node-b")][..], &[("10.20.1.2", "node-b")], &[]]
    {
        let object = slice("web", endpoints);
        match node.wait(node.client.services()).expect("services").iter().any(|row| !row.backends.is_empty())
        {
            false => node.api("POST", SLICES, &object),
            true => node.api("PATCH", &format!("{SLICES}/web-1"), &json!({"endpoints": object["endpoints"]})),
        };
        let all: Vec<_> = endpoints.iter().map(|(ip, _)| format!("{ip}:8080")).collect();
        let local = endpoints.iter().filter(|(_, node)| *node == "node-a");
        let local: Vec<_> = local.map(|(ip, _)| format!("{ip}:8080")).collect();
        node.until("the plane follows", async || {
            let rows = node.client.services().await.expect("services");
            let cluster = backends(&rows, &cluster_ip)?;
            (cluster == all && backends(&rows, &node_port)? == local).then_some(())
        });
    }
}

#[test]
fn conflicts_are_told_by_status_and_by_an_event_and_concern_nobody_else() {
    let node = Node::start();
    node.create_nodes();
    for (name, port) in [("first", 80), ("second", 80), ("third", 81)] {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
            "spec": {"externalIPs": ["198.51.100.9"], "ports": [{"port": port}]},
        });
        node.api("POST", SERVICES, &service);
    }
    let problem = node.until("the conflict is told", async || {
        node.client.status().await.expect("status").problems.into_iter().next()
    });
    assert_eq!((problem.kind.as_str(), problem.name.as_str()), ("Service", "default/second"));
    assert_eq!((problem.state, problem.field.as_deref()), (ObjectState::Refused, Some("spec.externalIPs")));
    let rows = node.until("the others are programmed", async || {
        let rows = node.client.services().await.expect("services");
        (rows.iter().filter(|row| row.frontend.ip().to_string() == "198.51.100.9").count() == 2)
            .then_some(rows)
    });
    let owner = |port| {
        let row = rows.iter().find(|row| row.frontend.to_string() == format!("198.51.100.9:{port}"));
        row.and_then(|row| row.service.clone()).map(|service| service.name)
    };
    assert_eq!((owner(80), owner(81)), (Some("first".into()), Some("third".into())));
    let event = node.until("an event", async || {
        let events = node.api("GET", "/api/v1/namespaces/default/events", &Value::Null);
        events["items"].as_array().and_then(|items| items.first().cloned())
    });
    assert_eq!(event["involvedObject"]["name"], "second");
    assert_eq!(event["type"], "Warning");
    assert!(event["message"].as_str().expect("message").contains("already taken by Service default/first"));
}

#[test]
fn routes_to_other_nodes_come_change_and_go_and_foreign_ones_stay() {
    let node = Node::start();
    run(node.namespace.command("ip").args(["route", "add", "10.99.0.0/16", "via", "10.128.0.99"]));
    node.create_nodes();
    let routes = || run(node.namespace.command("ip").args(["route", "show"]));
    let until = |what: &str, expected: &dyn Fn(&str) -> bool| {
        node.until(what, async || expected(&routes()).then_some(()));
    };
    until("routed", &|routes| {
        routes.contains("10.20.1.0/24 via 10.128.0.12 dev up0 proto 84")
            && routes.contains("unreachable 10.20.0.0/24 proto 84")
    });
    let moved = json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.128.0.13"}]}});
    node.api("PATCH", "/api/v1/nodes/node-b/status", &moved);
    until("moved", &|routes| {
        routes.contains("10.20.1.0/24 via 10.128.0.13") && !routes.contains("10.128.0.12")
    });
    node.api("DELETE", "/api/v1/nodes/node-b", &Value::Null);
    until("gone", &|routes| !routes.contains("10.20.1.0/24"));
    assert!(routes().contains("10.99.0.0/16 via 10.128.0.99"), "a foreign route stays");
    let forward = run(node.namespace.command("cat").arg("/proc/sys/net/ipv4/ip_forward"));
    assert_eq!(forward.trim(), "1");
}

#[test]
fn a_stopped_agent_leaves_the_datapath_and_the_next_one_takes_it_over() {
    let mut node = Node::start();
    node.create_nodes();
    node.api("POST", SERVICES, &load_balancer("web"));
    node.until("programmed", async || {
        let rows = node.client.services().await.expect("services");
        rows.iter().any(|row| row.service.as_ref().is_some_and(|service| service.name == "web")).then_some(())
    });
    let before = node.fake.kernel().frontends.clone();
    node.stop_agent();
    assert!(!node.socket().exists());
    assert_eq!(node.fake.kernel().frontends, before, "it forwards without the agent");
    node.start_agent();
    node.until("the new agent is in step", async || {
        let status = node.client.status().await.ok()?;
        (status.waiting_for.is_none() && status.programmed == status.generation).then_some(())
    });
    assert_eq!(node.fake.kernel().frontends, before);
}

/// A cluster IP Service of a fixed address, with one endpoint.
pub(crate) fn create_service(node: &Node, name: &str, last: u8) {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": format!("10.24.0.{last}"), "ports": [{"name": "http", "port": 80}]},
    });
    node.api("POST", SERVICES, &service);
    node.api("POST", SLICES, &slice(name, &[(&format!("10.20.1.{last}"), "node-b")]));
}

#[test]
fn an_api_server_that_comes_back_with_a_lower_version_is_followed_and_disturbs_nothing() {
    let mut node = Node::start();
    node.create_nodes();
    for (name, last) in [("kept", 11), ("gone", 12), ("moved", 13)] {
        create_service(&node, name, last);
    }
    // What is not in the older state that comes back, and makes its version lower.
    for number in 0..20 {
        node.api(
            "PATCH",
            &format!("{SERVICES}/kept"),
            &json!({"metadata": {"labels": {"n": number.to_string()}}}),
        );
    }
    let programmed = |node: &Node| {
        let rows = node.wait(node.client.services()).expect("services");
        let endpoint = |last| backends(&rows, &format!("10.24.0.{last}:80"));
        [11, 12, 13].map(endpoint)
    };
    let one = |address: &str| Some(vec![format!("{address}:8080")]);
    let all = [one("10.20.1.11"), one("10.20.1.12"), one("10.20.1.13")];
    node.until("all are programmed", async || {
        let rows = node.client.services().await.expect("services");
        backends(&rows, "10.24.0.13:80").filter(|backends| !backends.is_empty())
    });
    assert_eq!(programmed(&node), all);

    node.stop_api_server();
    node.until("the agent notices", async || {
        let status = node.client.status().await.expect("status");
        (!status.interruptions.is_empty()).then_some(())
    });
    assert_eq!(programmed(&node), all, "without an API server everything stays");

    // The server is set back before anyone sees it: its lists are complete from the first request on.
    node.restart_api_server(&|node| {
        node.create_node_objects();
        create_service(node, "kept", 11);
        create_service(node, "moved", 14);
    });
    node.until("the agent follows", async || {
        let rows = node.client.services().await.expect("services");
        let kept = backends(&rows, "10.24.0.11:80")?;
        // Not for one moment.
        assert_eq!(Some(kept), one("10.20.1.11"));
        let moved = backends(&rows, "10.24.0.14:80").filter(|moved| !moved.is_empty())?;
        (moved == ["10.20.1.14:8080"] && backends(&rows, "10.24.0.12:80").is_none()).then_some(())
    });
    node.api("PATCH", &format!("{SLICES}/kept-1"), &json!({"endpoints": []}));
    node.until("changes arrive", async || {
        let rows = node.client.services().await.expect("services");
        backends(&rows, "10.24.0.11:80").filter(Vec::is_empty)
    });
}
