//! Host ports of this node's pods: fact 129, and what happens where others want the same place.

use crate::support::*;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use model::{FrontendKind::HostPort, oracle::Origin};
use serde_json::{Value, json};

/// Pod ns/NAME of node-a at 10.20.0.7 and fd20::7, made at 00:00:0SECOND, with one container of `ports`.
fn pod(name: &str, second: u8, ports: Value, patch: Value) -> Value {
    let base = json!({
        "metadata": {"namespace": "ns", "name": name, "creationTimestamp": format!("2026-01-01T00:00:0{second}Z")},
        "spec": {"nodeName": NODE, "containers": [{"name": "c", "ports": ports}]},
        "status": {"phase": "Running", "podIP": "10.20.0.7", "podIPs": [{"ip": "10.20.0.7"}, {"ip": "fd20::7"}]},
    });
    merged(base, &patch)
}

fn with_pods(pods: &[&Value]) -> Cluster {
    let mut cluster = Cluster::new();
    for pod in pods {
        cluster.apply::<Pod>(pod);
    }
    cluster.settle();
    cluster
}

#[test]
fn a_host_port_leads_to_its_pod_alone_in_each_family() {
    let ports = json!([{"containerPort": 8080, "hostPort": 80}, {"containerPort": 9090}]);
    let cluster = with_pods(&[&pod("web", 0, ports, json!({}))]);
    assert_eq!(
        cluster.frontends(),
        ["ns/web:hostPort-80 HostPort node:80/TCP", "ns/web:hostPort-80 HostPort node:80/TCP"]
    );
    let ports: Vec<_> = cluster.snapshot.services.values().collect();
    assert_eq!(target(ports[0], HostPort, Origin::External), "10.20.0.7:8080");
    assert_eq!(target(ports[1], HostPort, Origin::External), "[fd20::7]:8080");
    assert!(ports.iter().all(|port| port.id.is_host_port() && port.endpoints.len() == 1));
}

#[test]
fn only_what_the_node_itself_sends_to_a_host_port_is_masqueraded() {
    let ports = json!([{"containerPort": 8080, "hostPort": 80}]);
    let cluster = with_pods(&[&pod("web", 0, ports, json!({}))]);
    let port = cluster.snapshot.services.values().next().expect("a port");
    for (origin, expected) in [
        (Origin::Pod, model::Masquerade::No),
        (Origin::Node, model::Masquerade::Yes),
        (Origin::External, model::Masquerade::No),
    ] {
        let model::Target::Backends(_, masquerade) = port.target(&port.frontends[0], origin) else {
            panic!("{origin:?}: no backend")
        };
        assert_eq!(masquerade, expected, "{origin:?}");
    }
}

#[test]
fn fact_129_another_address_or_protocol_is_no_conflict() {
    let asks = |ip: &str, protocol: &str| json!([{"containerPort": 80, "hostPort": 54323, "hostIP": ip, "protocol": protocol}]);
    let cluster = with_pods(&[
        &pod("a", 0, asks("127.0.0.1", "TCP"), json!({})),
        &pod("b", 1, asks("10.128.0.11", "TCP"), json!({})),
        &pod("c", 2, asks("10.128.0.11", "UDP"), json!({})),
        &pod("d", 3, asks("::", "TCP"), json!({})),
    ]);
    assert_eq!(cluster.problems(), [""; 0]);
    assert_eq!(
        cluster.frontends(),
        [
            "ns/a:hostPort-54323@127.0.0.1 HostPort 127.0.0.1:54323/TCP",
            "ns/b:hostPort-54323@10.128.0.11 HostPort 10.128.0.11:54323/TCP",
            "ns/c:hostPort-54323@10.128.0.11 HostPort 10.128.0.11:54323/UDP",
            "ns/d:hostPort-54323 HostPort node:54323/TCP",
        ]
    );
}

#[test]
fn pods_without_a_mapping_yield_nothing_and_a_mapping_ends_with_its_pod() {
    let ports = json!([{"containerPort": 8080, "hostPort": 80}]);
    for (why, patch) in [
        ("another node's", json!({"spec": {"nodeName": "node-b"}})),
        ("in the host's network", json!({"spec": {"hostNetwork": true}})),
        ("no address yet", json!({"status": {"podIP": null, "podIPs": null}})),
        ("succeeded", json!({"status": {"phase": "Succeeded"}})),
        ("failed (evicted)", json!({"status": {"phase": "Failed"}})),
    ] {
        let mut cluster = with_pods(&[&pod("web", 0, ports.clone(), json!({}))]);
        assert_eq!(cluster.frontends().len(), 2);
        cluster.apply::<Pod>(&pod("web", 0, ports.clone(), patch)).settle();
        assert_eq!(cluster.frontends(), [""; 0], "{why}");
    }
    let running = pod("web", 0, ports.clone(), json!({}));
    let mut cluster = with_pods(&[&running]);
    let terminating = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:01:00Z"}});
    cluster.apply::<Pod>(&pod("web", 0, ports, terminating)).settle();
    assert_eq!(cluster.frontends().len(), 2, "for as long as it runs");
    cluster.delete::<Pod>(&running).settle();
    assert_eq!(cluster.frontends(), [""; 0]);
}

#[test]
fn containers_that_live_as_long_as_the_pod_count() {
    let init = |restart: Option<&str>| {
        let ports = json!([{"containerPort": 8080, "hostPort": 80}]);
        let containers = json!([{"name": "i", "restartPolicy": restart, "ports": ports}]);
        with_pods(&[&pod("web", 0, json!([]), json!({"spec": {"initContainers": containers}}))]).frontends()
    };
    assert_eq!(init(Some("Always")).len(), 2);
    assert_eq!(init(None), [""; 0]);
}

#[test]
fn the_older_pod_keeps_a_host_port_and_the_younger_inherits_it() {
    let ports = json!([{"containerPort": 8080, "hostPort": 80}]);
    let (old, new) = (pod("z", 0, ports.clone(), json!({})), pod("a", 1, ports.clone(), json!({})));
    for order in [[&old, &new], [&new, &old]] {
        let mut cluster = with_pods(&order);
        assert!(cluster.frontends().iter().all(|frontend| frontend.starts_with("ns/z")));
        let taken =
            "Pod ns/a: spec.containers[0].ports[0].hostPort: node port 80/TCP is already taken by Pod ns/z";
        assert_eq!(cluster.problems(), [taken, taken], "one per family");
        cluster.delete::<Pod>(&old).settle();
        assert!(cluster.frontends().iter().all(|frontend| frontend.starts_with("ns/a")));
        assert_eq!((cluster.frontends().len(), cluster.problems().len()), (2, 0));
        // Made anew under its name, it is another pod, and the younger one.
        cluster.apply::<Pod>(&pod("z", 2, ports.clone(), json!({}))).settle();
        assert!(cluster.frontends().iter().all(|frontend| frontend.starts_with("ns/a")));
    }
}

#[test]
fn services_come_before_host_ports_address_by_address() {
    let asks = |ip: &str| json!([{"containerPort": 8080, "hostPort": 30080, "hostIP": ip}]);
    let node_port = load_balancer(json!({}));
    let second = json!([{"type": "InternalIP", "address": "10.128.0.11"}, {"type": "InternalIP", "address": "10.128.0.12"}]);
    for (why, service, host_ip, expected) in [
        ("a node port takes all", node_port.clone(), "0.0.0.0", vec![]),
        ("a node port takes each", node_port, "10.128.0.12", vec![]),
        (
            "an external IP takes itself",
            service("web", json!({"spec": {"externalIPs": ["10.128.0.11"], "ports": [{"port": 30080}]}})),
            "0.0.0.0",
            vec!["ns/pod:hostPort-30080 HostPort 10.128.0.12:30080/TCP"],
        ),
    ] {
        let mut cluster = Cluster::new();
        cluster.apply::<Node>(&node(NODE, json!({"status": {"addresses": second}})));
        cluster.apply::<Pod>(&pod("pod", 0, asks(host_ip), json!({}))).settle();
        assert_eq!(cluster.frontends().len(), 1, "{why}: alone");
        cluster.apply::<Service>(&service).settle();
        let of_pod: Vec<_> = cluster.frontends().into_iter().filter(|f| f.contains("HostPort")).collect();
        assert_eq!(of_pod, expected, "{why}");
        assert_eq!(cluster.problems().is_empty(), !expected.is_empty(), "{why}");
        cluster.delete::<Service>(&service).settle();
        assert_eq!((cluster.frontends().len(), cluster.problems().len()), (1, 0), "{why}: alone again");
    }
}

#[test]
fn a_bad_host_port_is_named_and_the_others_are_mapped() {
    for (bad, reason) in [
        (
            json!({"containerPort": 1, "hostPort": 70_000}),
            "hostPort: port must be between 1 and 65535, not 70000",
        ),
        (
            json!({"containerPort": 0, "hostPort": 81}),
            "containerPort: port must be between 1 and 65535, not 0",
        ),
        (
            json!({"containerPort": 1, "hostPort": 81, "hostIP": "here"}),
            "hostIP: \"here\" is not a valid IP address",
        ),
        (
            json!({"containerPort": 1, "hostPort": 81, "protocol": "ICMP"}),
            "protocol: unsupported protocol \"ICMP\": want TCP, UDP or SCTP",
        ),
    ] {
        let ports = json!([bad, {"containerPort": 8080, "hostPort": 80}]);
        let cluster = with_pods(&[&pod("web", 0, ports, json!({}))]);
        assert_eq!(cluster.problems(), [format!("Pod ns/web: spec.containers[0].ports[0].{reason}")]);
        assert_eq!(cluster.frontends().len(), 2);
    }
}
