//! Live objects that change: what each change leaves behind, and that nothing of the old state stays.

use crate::support::*;
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use model::{FrontendKind, oracle::Origin};
use serde_json::{Value, json};

/// The kinds of the only Service's frontends, in order; empty without a Service.
fn kinds(cluster: &Cluster) -> Vec<FrontendKind> {
    let ports = cluster.snapshot.services.values();
    ports.flat_map(|port| port.frontends.iter().map(|frontend| frontend.kind)).collect()
}

#[test]
fn facts_10_42_71_a_service_is_what_its_last_type_says() {
    use FrontendKind::{ClusterIp, LoadBalancer, NodePort};
    let external_name = json!({"spec": {"type": "ExternalName", "externalName": "x.test", "clusterIP": null,
                                        "clusterIPs": null}});
    let local = json!({"spec": {"externalTrafficPolicy": "Local", "healthCheckNodePort": 32000}});
    let steps: &[(&str, Value, &[FrontendKind], bool)] = &[
        ("external name", service("web", external_name.clone()), &[], false),
        ("cluster IP", service("web", json!({})), &[ClusterIp], false),
        (
            "node port",
            service("web", json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}})),
            &[ClusterIp, NodePort],
            false,
        ),
        ("load balancer", load_balancer(local), &[ClusterIp, LoadBalancer, NodePort], true),
        (
            "load balancer without node ports",
            load_balancer(json!({"spec": {"allocateLoadBalancerNodePorts": false, "ports": [{"port": 80}]}})),
            &[ClusterIp, LoadBalancer],
            false,
        ),
        ("cluster IP again", service("web", json!({})), &[ClusterIp], false),
        ("external name again", service("web", external_name), &[], false),
        (
            "headless",
            service("web", json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}})),
            &[],
            false,
        ),
    ];
    let mut cluster = Cluster::new();
    for (why, object, expected, checked) in steps {
        cluster.apply::<Service>(object).settle();
        assert_eq!(kinds(&cluster), *expected, "{why}");
        let check = cluster.snapshot.services.values().any(|port| port.health_check_port.is_some());
        assert_eq!(check, *checked, "{why}");
        assert_eq!(cluster.problems(), [""; 0], "{why}");
    }
}

#[test]
fn fact_41_a_service_that_is_deleted_and_made_again_works() {
    let (service, slice) =
        (service("web", json!({})), slice("s", json!([endpoint("10.20.0.1", NODE, "rs")]), json!({})));
    let mut cluster = Cluster::with(&service, std::slice::from_ref(&slice));
    let before = cluster.only().clone();
    assert_eq!(cluster.delete::<Service>(&service).settle(), ["ns/web/TCP"]);
    assert_eq!(cluster.frontends(), [""; 0]);
    cluster.apply::<Service>(&service).settle();
    assert_eq!(*cluster.only(), before);
}

#[test]
fn facts_40_59_ports_and_node_ports_change_under_a_live_service() {
    let with = |ports: Value| service("web", json!({"spec": {"type": "NodePort", "ports": ports}}));
    let (a, b) = (
        json!({"name": "a", "port": 80, "nodePort": 30080}),
        json!({"name": "b", "port": 81, "nodePort": 30081}),
    );
    let mut cluster = Cluster::with(&with(json!([a])), &[]);
    assert_eq!(cluster.apply::<Service>(&with(json!([a, b]))).settle(), ["ns/web:b/TCP"]);
    assert_eq!(cluster.apply::<Service>(&with(json!([b]))).settle(), ["ns/web:a/TCP"]);
    let renumbered = json!({"name": "b", "port": 81, "nodePort": 30082});
    cluster.apply::<Service>(&with(json!([renumbered]))).settle();
    assert_eq!(
        cluster.frontends(),
        ["ns/web:b ClusterIp 10.24.0.1:81/TCP", "ns/web:b NodePort node:30082/TCP"],
        "the old number is nobody's"
    );
}

#[test]
fn facts_67_78_source_ranges_and_affinity_change_under_a_live_service() {
    let ranges = |cluster: &Cluster| cluster.only().frontends[1].source_ranges.len();
    let mut cluster = Cluster::with(&load_balancer(json!({})), &[]);
    for (given, expected) in [
        (json!(["198.51.100.0/24"]), 1),
        (json!(["198.51.100.0/24", "0.0.0.0/0"]), 0),
        (json!(["192.0.2.1/32"]), 1),
        (Value::Null, 0),
    ] {
        cluster
            .apply::<Service>(&load_balancer(json!({"spec": {"loadBalancerSourceRanges": given}})))
            .settle();
        assert_eq!(ranges(&cluster), expected, "{given}");
    }
    for (affinity, expected) in [("ClientIP", Some(10_800)), ("None", None), ("ClientIP", Some(10_800))] {
        cluster.apply::<Service>(&load_balancer(json!({"spec": {"sessionAffinity": affinity}}))).settle();
        assert_eq!(cluster.only().affinity_seconds, expected);
    }
}

#[test]
fn fact_48_publish_not_ready_addresses_is_the_condition_ready_and_nothing_else() {
    let with = |state| slice("s", json!([endpoint("10.20.0.1", NODE, state)]), json!({}));
    let mut cluster = Cluster::with(&service("web", json!({})), &[with("")]);
    for (why, state, usable) in
        [("published", "r", true), ("not any more", "", false), ("terminating, published", "rt", true)]
    {
        cluster.apply::<EndpointSlice>(&with(state)).settle();
        assert_eq!(cluster.only().usable_anywhere, usable, "{why}");
    }
}

#[test]
fn facts_95_98_every_endpoint_is_known_with_whether_it_serves_whatever_is_chosen() {
    let states =
        [("10.20.0.4", "s"), ("10.20.0.1", "rs"), ("10.20.1.2", "st"), ("10.20.1.3", ""), ("10.20.0.5", "t")];
    let endpoints: Value = states.iter().map(|(ip, state)| endpoint(ip, NODE, state)).collect();
    let mut cluster = Cluster::with(&load_balancer(json!({})), &[slice("a", endpoints, json!({}))]);
    let known = |cluster: &Cluster| -> Vec<(String, bool)> {
        let known = cluster.only().endpoints.iter();
        known.map(|known| (known.address.to_string(), known.serving)).collect()
    };
    let expected = [
        ("10.20.0.1:8080".to_owned(), true),
        ("10.20.0.4:8080".to_owned(), true),
        ("10.20.0.5:8080".to_owned(), false),
        ("10.20.1.2:8080".to_owned(), true),
        ("10.20.1.3:8080".to_owned(), false),
    ];
    assert_eq!(known(&cluster), expected);
    assert_eq!(addresses(&cluster.only().cluster), "10.20.0.1:8080", "of these one is chosen");
    let again = slice("b", json!([endpoint("10.20.1.3", NODE, "s")]), json!({}));
    cluster.apply::<EndpointSlice>(&again).settle();
    assert!(known(&cluster).contains(&("10.20.1.3:8080".to_owned(), true)), "the healthier record counts");
    let local =
        load_balancer(json!({"spec": {"externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"}}));
    cluster.apply::<Service>(&local).settle();
    assert_eq!(known(&cluster).len(), 5, "traffic policies do not matter");
}

#[test]
fn fact_21_a_changed_zone_label_chooses_anew_and_a_changed_pod_range_is_a_changed_node() {
    let hinted = |ip: &str, zone: &str| {
        merged(endpoint(ip, "node-b", "rs"), &json!({"hints": {"forZones": [{"name": zone}]}}))
    };
    let endpoints = json!([hinted("10.20.1.1", "z1"), hinted("10.20.1.2", "z2")]);
    let mut cluster = Cluster::with(&service("web", json!({})), &[slice("s", endpoints, json!({}))]);
    for (zone, expected) in [("z1", "10.20.1.1:8080"), ("z2", "10.20.1.2:8080")] {
        let labels = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}});
        cluster.apply::<Node>(&node(NODE, labels)).settle();
        assert_eq!(target(cluster.only(), FrontendKind::ClusterIp, Origin::Pod), expected);
    }
    let moved = json!({"spec": {"podCIDR": "10.20.9.0/24", "podCIDRs": ["10.20.9.0/24"]}});
    cluster.apply::<Node>(&node(NODE, moved));
    let update = cluster.index.take_update().expect("an update");
    assert_eq!(update.node.expect("a node").pod_cidrs, ["10.20.9.0/24".parse().expect("prefix")]);
}

#[test]
fn facts_12_17_20_what_changed_is_counted_with_its_trigger_time() {
    let at = |time: &str| {
        let annotation = json!({"endpoints.kubernetes.io/last-change-trigger-time": time});
        slice(
            "s",
            json!([endpoint("10.20.0.1", NODE, "rs")]),
            json!({"metadata": {"annotations": annotation}}),
        )
    };
    let mut cluster = Cluster::with(&service("web", json!({})), &[at("2026-01-01T00:00:01.5Z")]);
    let causes = cluster.index.take_causes();
    assert_eq!((causes.services, causes.slices), (1, 1));
    assert_eq!(causes.triggers, ["2026-01-01T00:00:01.5Z".parse().expect("time")]);
    cluster.apply::<EndpointSlice>(&at("2026-01-01T00:00:02Z"));
    assert_eq!(cluster.index.take_causes(), cluster::Causes::default(), "nothing that matters changed");
    let other = merged(at("yesterday"), &json!({"endpoints": [endpoint("10.20.0.2", NODE, "rs")]}));
    cluster.apply::<EndpointSlice>(&other);
    let causes = cluster.index.take_causes();
    assert_eq!((causes.slices, causes.triggers.len()), (1, 0), "a malformed time is none");
}

/// The rules are the same in either family.
#[test]
fn facts_7_9_11_17_63_hold_in_ipv6() {
    let v6 = json!({
        "spec": {"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"], "externalTrafficPolicy": "Local",
                 "loadBalancerSourceRanges": [" 2001:DB8:0::/32 ", "10.0.0.0/8"]},
        "status": {"loadBalancer": {"ingress": [{"ip": "2001:0db8::0010"}, {"ip": "2001:db8::11", "ipMode": "Proxy"},
                                                {"ip": "203.0.113.10"}]}},
    });
    let endpoints = json!([endpoint("fd20::0009", NODE, "st"), endpoint("fd20:1::1", "node-b", "rs")]);
    let twice = json!([endpoint("fd20::9", NODE, "rs")]);
    let address_type = json!({"addressType": "IPv6"});
    let slices = [slice("a", endpoints, address_type.clone()), slice("b", twice, address_type)];
    let cluster = Cluster::with(&load_balancer(v6), &slices);
    assert_eq!(
        cluster.frontends(),
        [
            "ns/web ClusterIp [fd00::1]:80/TCP",
            "ns/web LoadBalancer [2001:db8::10]:80/TCP",
            "ns/web NodePort node:30080/TCP",
        ]
    );
    let port = cluster.only();
    assert_eq!(port.frontends[1].source_ranges, ["2001:db8::/32".parse().expect("prefix")]);
    let both = "[fd20::9]:8080 [fd20:1::1]:8080";
    assert_eq!(target(port, FrontendKind::ClusterIp, Origin::Pod), both);
    assert_eq!(target(port, FrontendKind::LoadBalancer, Origin::Pod), both);
    assert_eq!(target(port, FrontendKind::LoadBalancer, Origin::External), "[fd20::9]:8080");
    assert_eq!(cluster.problems(), [""; 0]);
}

#[test]
fn fact_31_hints_do_not_bind_local_policy() {
    let hinted = |ip: &str, on: &str, zone: &str| {
        merged(endpoint(ip, on, "rs"), &json!({"hints": {"forZones": [{"name": zone}]}}))
    };
    let endpoints = json!([hinted("10.20.0.1", NODE, "z2"), hinted("10.20.1.1", "node-b", "z1")]);
    let local = load_balancer(json!({"spec": {"externalTrafficPolicy": "Local"}}));
    let mut cluster = Cluster::with(&local, &[slice("s", endpoints, json!({}))]);
    cluster
        .apply::<Node>(&node(NODE, json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "z1"}}})))
        .settle();
    let port = cluster.only();
    assert_eq!(target(port, FrontendKind::ClusterIp, Origin::Pod), "10.20.1.1:8080", "hinted to this zone");
    assert_eq!(
        target(port, FrontendKind::LoadBalancer, Origin::External),
        "10.20.0.1:8080",
        "local all the same"
    );
}
