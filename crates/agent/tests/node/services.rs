//! Objects of the API reach the dataplane, and what is wrong with them is told.

use dataplane::{ObjectState, ServiceRow};
use serde_json::{Value, json};

use crate::support::{Node, SERVICES, SLICES, load_balancer, run, slice};

fn backends(rows: &[ServiceRow], frontend: &str) -> Option<Vec<String>> {
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
