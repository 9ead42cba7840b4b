//! Bad objects, conflicts and relists: what is wrong is named, and everything else keeps running.

use crate::support::*;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use serde_json::{Value, json};

#[test]
fn a_bad_field_of_a_service_is_named_and_the_rest_of_it_is_programmed() {
    let rows: &[(&str, Value, &[&str], usize)] = &[
        (
            "bad external IP",
            json!({"spec": {"externalIPs": ["198.51.100.300", "198.51.100.3"]}}),
            &["Service ns/web: spec.externalIPs[0]: \"198.51.100.300\" is not a valid IP address"],
            4,
        ),
        (
            "bad VIP",
            json!({"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113"}]}}}),
            &["Service ns/web: status.loadBalancer.ingress[0].ip: \"203.0.113\" is not a valid IP address"],
            2,
        ),
        (
            "port out of range",
            json!({"spec": {"ports": [{"name": "a", "port": 70_000}, {"name": "b", "port": 81}]}}),
            &["Service ns/web: spec.ports[0].port: port must be between 1 and 65535, not 70000"],
            2,
        ),
        (
            "unknown protocol",
            json!({"spec": {"ports": [{"name": "a", "port": 80, "protocol": "ICMP"}, {"name": "b", "port": 81}]}}),
            &["Service ns/web: spec.ports[0].protocol: unsupported protocol \"ICMP\": want TCP, UDP or SCTP"],
            2,
        ),
        (
            "bad node port",
            json!({"spec": {"ports": [{"port": 80, "nodePort": -1}]}}),
            &["Service ns/web: spec.ports[0].nodePort: port must be between 1 and 65535, not -1"],
            2,
        ),
        (
            "duplicate port",
            json!({"spec": {"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]}}),
            &["Service ns/web: spec.ports[1].port: duplicate of another port 80/TCP"],
            2,
        ),
        (
            "duplicate port name",
            json!({"spec": {"ports": [{"name": "a", "port": 80}, {"name": "a", "port": 81}]}}),
            &["Service ns/web: spec.ports[1].name: duplicate of another TCP port's name \"a\""],
            2,
        ),
        (
            "unknown policy",
            json!({"spec": {"externalTrafficPolicy": "Nearby"}}),
            &[
                "Service ns/web: spec.externalTrafficPolicy: unsupported value \"Nearby\": want Cluster or Local; \
               taken as Cluster",
            ],
            3,
        ),
        (
            "one bad source range",
            json!({"spec": {"loadBalancerSourceRanges": ["10.0.0.0/8", "10.0.0.0/40"]}}),
            &[
                "Service ns/web: spec.loadBalancerSourceRanges[1]: \"10.0.0.0/40\" is not a valid CIDR prefix, as \
               10.9.8.0/24 or 2001:db8::/64",
            ],
            3,
        ),
        (
            "only bad source ranges: never opened to everyone",
            json!({"spec": {"loadBalancerSourceRanges": ["everyone"]}}),
            &[
                "Service ns/web: spec.loadBalancerSourceRanges[0]: \"everyone\" is not a valid CIDR prefix, as \
                 10.9.8.0/24 or 2001:db8::/64",
                "Service ns/web: status.loadBalancer: withheld, because none of spec.loadBalancerSourceRanges is \
                 valid",
            ],
            2,
        ),
    ];
    let neighbour = service("other", json!({"spec": {"clusterIPs": ["10.24.0.2"]}}));
    for (why, patch, problems, frontends) in rows {
        let mut cluster = Cluster::new();
        cluster.apply::<Service>(&load_balancer(patch.clone())).apply::<Service>(&neighbour).settle();
        assert_eq!(cluster.problems(), *problems, "{why}");
        let of_web = cluster.frontends().iter().filter(|f| f.starts_with("ns/web")).count();
        assert_eq!(of_web, *frontends, "{why}: {:?}", cluster.frontends());
        assert!(cluster.frontends().contains(&"ns/other ClusterIp 10.24.0.2:80/TCP".into()), "{why}");
        cluster.apply::<Service>(&load_balancer(json!({}))).settle();
        assert_eq!(cluster.problems(), [""; 0], "{why}: corrected");
    }
}

#[test]
fn a_bad_endpoint_is_named_and_the_others_are_used() {
    for (address, reason) in [
        ("10.20.0", "\"10.20.0\" is not a valid IP address"),
        ("fd00::1", "\"fd00::1\" is not of the slice's address type"),
        ("127.0.0.1", "\"127.0.0.1\" may not be in the loopback range (127.0.0.0/8, ::1/128)"),
    ] {
        let endpoints = json!([endpoint(address, NODE, "rs"), endpoint("10.20.0.2", NODE, "rs")]);
        let cluster = Cluster::with(&service("web", json!({})), &[slice("s", endpoints, json!({}))]);
        assert_eq!(cluster.problems(), [format!("EndpointSlice ns/s: endpoints[0].addresses[0]: {reason}")]);
        assert_eq!(addresses(&cluster.only().cluster), "10.20.0.2:8080");
    }
    let ports =
        json!({"ports": [{"name": "", "port": 8080, "protocol": "QUIC"}, {"name": "", "port": 8081}]});
    let cluster = Cluster::with(
        &service("web", json!({})),
        &[slice("s", json!([endpoint("10.20.0.2", NODE, "rs")]), ports)],
    );
    assert_eq!(
        cluster.problems(),
        ["EndpointSlice ns/s: ports[0].protocol: unsupported protocol \"QUIC\": want TCP, UDP or SCTP"]
    );
    assert_eq!(addresses(&cluster.only().cluster), "10.20.0.2:8081");
}

#[test]
fn a_taken_address_stays_with_the_first_by_name_and_the_loser_keeps_the_rest() {
    let with_external_ip = |name: &str, cluster_ip: &str| {
        service(name, json!({"spec": {"clusterIPs": [cluster_ip], "externalIPs": ["198.51.100.9"]}}))
    };
    let (a, b) = (with_external_ip("a", "10.24.0.1"), with_external_ip("b", "10.24.0.2"));
    for order in [[&a, &b], [&b, &a]] {
        let mut cluster = Cluster::new();
        for service in order {
            cluster.apply::<Service>(service).settle();
        }
        assert_eq!(
            cluster.frontends(),
            [
                "ns/a ClusterIp 10.24.0.1:80/TCP",
                "ns/a ExternalIp 198.51.100.9:80/TCP",
                "ns/b ClusterIp 10.24.0.2:80/TCP"
            ]
        );
        assert_eq!(
            cluster.problems(),
            ["Service ns/b: spec.externalIPs: 198.51.100.9 port 80/TCP is already taken by Service ns/a"]
        );
        cluster.delete::<Service>(&a);
        assert_eq!(cluster.settle(), ["ns/a/TCP", "ns/b/TCP"], "the heir moves with it");
        assert!(cluster.frontends().contains(&"ns/b ExternalIp 198.51.100.9:80/TCP".into()));
        assert_eq!(cluster.problems(), [""; 0]);
    }
}

#[test]
fn whoever_is_refused_an_address_hears_who_has_it_now() {
    let with_external_ip = |name: &str, cluster_ip: &str, ip: &str| {
        service(name, json!({"spec": {"clusterIPs": [cluster_ip], "externalIPs": [ip]}}))
    };
    let refused = |name: &str, owner: &str| {
        let taken = "spec.externalIPs: 198.51.100.9 port 80/TCP is already taken";
        format!("Service ns/{name}: {taken} by Service ns/{owner}")
    };
    let mut cluster = Cluster::new();
    cluster.apply::<Service>(&with_external_ip("b", "10.24.0.2", "198.51.100.9"));
    cluster.apply::<Service>(&with_external_ip("c", "10.24.0.3", "198.51.100.9")).settle();
    assert_eq!(cluster.problems(), [refused("c", "b")]);
    cluster.apply::<Service>(&with_external_ip("a", "10.24.0.1", "198.51.100.9")).settle();
    assert_eq!(cluster.problems(), [refused("b", "a"), refused("c", "a")]);
    cluster.apply::<Service>(&with_external_ip("a", "10.24.0.1", "198.51.100.8")).settle();
    assert_eq!(cluster.problems(), [refused("c", "b")]);
}

#[test]
fn a_taken_node_port_is_per_protocol_and_named_by_its_port() {
    let node_port = |name: &str, ip: &str, protocol: &str| {
        let ports = json!([{"port": 80, "protocol": protocol, "nodePort": 30080}]);
        service(name, json!({"spec": {"type": "NodePort", "clusterIPs": [ip], "ports": ports}}))
    };
    let mut cluster = Cluster::new();
    cluster
        .apply::<Service>(&node_port("a", "10.24.0.1", "TCP"))
        .apply::<Service>(&node_port("b", "10.24.0.2", "TCP"))
        .apply::<Service>(&node_port("c", "10.24.0.3", "UDP"))
        .settle();
    assert_eq!(
        cluster.problems(),
        ["Service ns/b: spec.ports[0].nodePort: node port 30080/TCP is already taken by Service ns/a"]
    );
    let at_node = cluster.frontends().iter().filter(|f| f.contains("node:30080")).count();
    assert_eq!(at_node, 2);
}

#[test]
fn a_change_moves_its_own_service_only() {
    let mut cluster = Cluster::new();
    for i in 0..50 {
        let spec = json!({"spec": {"clusterIPs": [format!("10.24.1.{i}")]}});
        cluster.apply::<Service>(&service(&format!("s{i}"), spec));
        let labels = json!({"metadata": {"labels": {"kubernetes.io/service-name": format!("s{i}")}}});
        let endpoints = json!([endpoint("10.20.0.1", NODE, "rs")]);
        cluster.apply::<EndpointSlice>(&slice(&format!("slice-{i}"), endpoints, labels));
    }
    assert_eq!(cluster.settle().len(), 50);
    let labels = json!({"metadata": {"labels": {"kubernetes.io/service-name": "s7"}}});
    cluster.apply::<EndpointSlice>(&slice("slice-7", json!([endpoint("10.20.0.2", NODE, "rs")]), labels));
    assert_eq!(cluster.settle(), ["ns/s7/TCP"]);
}

#[test]
fn a_relist_takes_nothing_down_and_removes_what_it_does_not_list() {
    let kept = service("kept", json!({}));
    let gone = service("gone", json!({"spec": {"clusterIPs": ["10.24.0.2"]}}));
    let mut cluster = Cluster::new();
    cluster.apply::<Service>(&kept).apply::<Service>(&gone).settle();

    use kube::runtime::watcher::Event;
    cluster.index.observe(Event::<Service>::Init);
    assert_eq!(cluster.settle(), [""; 0], "the list has only begun");
    cluster.index.observe(Event::InitApply(read::<Service>(&kept)));
    assert_eq!(cluster.settle(), [""; 0], "an unchanged object moves nothing");
    cluster.index.observe(Event::<Service>::InitDone);
    assert_eq!(cluster.settle(), ["ns/gone/TCP"]);
    assert_eq!(cluster.frontends(), ["ns/kept ClusterIp 10.24.0.1:80/TCP"]);
}
