//! From objects to frontends and backends: facts 1 to 21, as tables.

use crate::support::*;
use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use serde_json::{Value, json};

fn frontends_of(service: &Value) -> Vec<String> {
    Cluster::with(service, &[]).frontends()
}

#[test]
fn fact_1_one_entry_per_port_and_protocol() {
    let ports = json!([{"name": "a", "port": 53, "protocol": "TCP"}, {"name": "b", "port": 53, "protocol": "UDP"},
                       {"name": "c", "port": 53, "protocol": "SCTP"}]);
    let three = service("web", json!({"spec": {"ports": ports}}));
    let mut cluster = Cluster::with(&three, &[]);
    assert_eq!(
        cluster.frontends(),
        [
            "ns/web:a ClusterIp 10.24.0.1:53/TCP",
            "ns/web:b ClusterIp 10.24.0.1:53/UDP",
            "ns/web:c ClusterIp 10.24.0.1:53/SCTP"
        ]
    );
    let two = service("web", json!({"spec": {"ports": [ports[0], ports[2]]}}));
    assert_eq!(cluster.apply::<Service>(&two).settle(), ["ns/web:b/UDP"], "removing one port moves one");
}

#[test]
fn facts_2_to_4_what_is_not_ours_yields_nothing() {
    for (why, patch) in [
        ("headless", json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}})),
        ("no cluster IP yet", json!({"spec": {"clusterIP": "", "clusterIPs": null}})),
        (
            "ExternalName with a cluster IP",
            json!({"spec": {"type": "ExternalName", "externalName": "x.test"}}),
        ),
        (
            "another proxy's",
            json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": "x"}}}),
        ),
    ] {
        assert_eq!(frontends_of(&service("web", patch)), [""; 0], "{why}");
    }
}

#[test]
fn fact_4_the_proxy_name_label_takes_a_live_service_down_and_its_removal_brings_it_back() {
    let ours = service("web", json!({}));
    let foreign =
        service("web", json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": "x"}}}));
    let mut cluster = Cluster::with(&ours, &[]);
    cluster.apply::<Service>(&foreign).settle();
    assert_eq!(cluster.frontends(), [""; 0]);
    cluster.apply::<Service>(&ours).settle();
    assert_eq!(cluster.frontends().len(), 1);
}

#[test]
fn fact_5_a_headless_label_on_a_live_slice_takes_its_endpoints_away() {
    let endpoints = json!([endpoint("10.20.0.1", NODE, "rs")]);
    let live = slice("s", endpoints.clone(), json!({}));
    let labelled =
        slice("s", endpoints, json!({"metadata": {"labels": {"service.kubernetes.io/headless": ""}}}));
    let mut cluster = Cluster::with(&service("web", json!({})), &[live]);
    assert!(cluster.only().usable_anywhere);
    cluster.apply::<EndpointSlice>(&labelled).settle();
    assert!(!cluster.only().usable_anywhere);
}

#[test]
fn fact_6_families_are_independent() {
    let dual = load_balancer(json!({
        "spec": {"clusterIPs": ["10.24.0.1", "fd00::1"], "externalIPs": ["198.51.100.9", "2001:db8::9"],
                 "loadBalancerSourceRanges": ["198.51.100.0/24"]},
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.10"}, {"ip": "2001:db8::10"}]}},
    }));
    let endpoints = json!([endpoint("fd20::1", NODE, "rs")]);
    let cluster = Cluster::with(&dual, &[slice("s", endpoints, json!({"addressType": "IPv6"}))]);
    assert_eq!(
        cluster.frontends(),
        [
            "ns/web ClusterIp 10.24.0.1:80/TCP",
            "ns/web ExternalIp 198.51.100.9:80/TCP",
            "ns/web LoadBalancer 203.0.113.10:80/TCP",
            "ns/web NodePort node:30080/TCP",
            "ns/web ClusterIp [fd00::1]:80/TCP",
            "ns/web ExternalIp [2001:db8::9]:80/TCP",
            "ns/web LoadBalancer [2001:db8::10]:80/TCP",
            "ns/web NodePort node:30080/TCP",
        ]
    );
    let [v4, v6] = cluster.snapshot.services.values().collect::<Vec<_>>().try_into().expect("two");
    assert_eq!((v4.usable_anywhere, v6.usable_anywhere), (false, true));
    assert_eq!(v4.frontends[2].source_ranges.len(), 1);
    assert_eq!(v6.frontends[2].source_ranges.len(), 0, "the other family's ranges do not count");

    let single = load_balancer(json!({"spec": {"externalIPs": ["2001:db8::9"]}}));
    assert_eq!(frontends_of(&single).len(), 3, "no cluster IP of the family: nothing of the family");
}

#[test]
fn fact_7_load_balancer_addresses_count_in_vip_mode_only() {
    for (why, ingress, vip) in [
        ("no mode", json!([{"ip": "203.0.113.10"}]), true),
        ("VIP", json!([{"ip": "203.0.113.10", "ipMode": "VIP"}]), true),
        ("Proxy", json!([{"ip": "203.0.113.10", "ipMode": "Proxy"}]), false),
        ("hostname only", json!([{"hostname": "lb.test"}]), false),
    ] {
        let service = load_balancer(json!({"status": {"loadBalancer": {"ingress": ingress}}}));
        let found = frontends_of(&service).iter().any(|frontend| frontend.contains("LoadBalancer"));
        assert_eq!(found, vip, "{why}");
    }
}

#[test]
fn facts_8_9_source_ranges_are_canonicalised_and_any_means_unrestricted() {
    for (given, expected) in [
        (json!([" 198.51.100.7/24 ", "10.0.0.0/8"]), vec!["10.0.0.0/8", "198.51.100.0/24"]),
        (json!(["203.0.113.000/025", "203.0.113.0/25"]), vec!["203.0.113.0/25"]),
        (json!(["10.0.0.0/8", "0.0.0.0/0"]), vec![]),
        (json!(["2001:db8::/32"]), vec![]),
        (json!([]), vec![]),
    ] {
        let cluster =
            Cluster::with(&load_balancer(json!({"spec": {"loadBalancerSourceRanges": given}})), &[]);
        for frontend in &cluster.only().frontends {
            let ranges: Vec<_> = frontend.source_ranges.iter().map(ToString::to_string).collect();
            let only_here = frontend.kind == model::FrontendKind::LoadBalancer;
            assert_eq!(
                ranges,
                if only_here { expected.clone() } else { vec![] },
                "{given} {:?}",
                frontend.kind
            );
        }
        assert_eq!(cluster.problems(), [""; 0], "{given}");
    }
}

#[test]
fn fact_9_addresses_with_leading_zeros_are_one_with_their_canonical_form() {
    let sloppy = load_balancer(json!({
        "spec": {"clusterIPs": ["172.30.0.041"], "externalIPs": ["010.1.2.003"]},
        "status": {"loadBalancer": {"ingress": [{"ip": "203.000.113.010"}]}},
    }));
    let slice = slice("s", json!([endpoint("10.180.00.001", NODE, "rs")]), json!({}));
    let cluster = Cluster::with(&sloppy, &[slice]);
    assert_eq!(
        cluster.frontends()[..3],
        [
            "ns/web ClusterIp 172.30.0.41:80/TCP",
            "ns/web ExternalIp 10.1.2.3:80/TCP",
            "ns/web LoadBalancer 203.0.113.10:80/TCP"
        ]
    );
    assert_eq!(addresses(&cluster.only().cluster), "10.180.0.1:8080");
}

#[test]
fn fact_10_the_health_check_port_belongs_to_load_balancers_with_local_policy() {
    let local = json!({"spec": {"externalTrafficPolicy": "Local", "healthCheckNodePort": 32000}});
    let of = |service: &Value| Cluster::with(service, &[]).only().health_check_port.map(model::Port::get);
    assert_eq!(of(&load_balancer(local.clone())), Some(32000));
    assert_eq!(of(&service("web", local.clone())), None, "a cluster IP Service");
    assert_eq!(of(&load_balancer(json!({"spec": {"healthCheckNodePort": 32000}}))), None, "Cluster policy");
    let mut cluster = Cluster::with(&load_balancer(local.clone()), &[]);
    assert_eq!(cluster.apply::<Service>(&load_balancer(local)).settle(), [""; 0], "an unchanged update");
}

#[test]
fn fact_11_external_policy_without_an_outside_frontend_is_ignored() {
    let service = service("web", json!({"spec": {"externalTrafficPolicy": "Local"}}));
    let endpoints = json!([endpoint("10.20.0.1", NODE, "rs")]);
    let cluster = Cluster::with(&service, &[slice("s", endpoints, json!({}))]);
    assert_eq!(addresses(&cluster.only().local), "", "local endpoints are not even computed");
}

#[test]
fn fact_12_changes_coalesce() {
    let mut cluster = Cluster::new();
    let service = service("web", json!({}));
    cluster.apply::<Service>(&service).delete::<Service>(&service);
    assert_eq!(cluster.settle(), [""; 0], "came and went");
    cluster.apply::<Service>(&service).settle();
    cluster.delete::<Service>(&service).apply::<Service>(&service);
    assert_eq!(cluster.settle(), [""; 0], "went and came back the same");
}

#[test]
fn fact_13_slices_of_a_service_are_a_union_and_unlabelled_ones_are_nobodys() {
    let a = slice("a", json!([endpoint("10.20.0.1", NODE, "rs")]), json!({}));
    let b = slice(
        "b",
        json!([endpoint("10.20.0.2", NODE, "rs")]),
        json!({"ports": [{"name": "", "port": 9090}]}),
    );
    let labels = json!({"metadata": {"labels": {"kubernetes.io/service-name": null}}});
    let unlabelled = slice("c", json!([endpoint("10.20.0.3", NODE, "rs")]), labels);
    let mut cluster = Cluster::with(&service("web", json!({})), &[a.clone(), b, unlabelled]);
    assert_eq!(addresses(&cluster.only().cluster), "10.20.0.1:8080 10.20.0.2:9090");
    cluster.delete::<EndpointSlice>(&a).settle();
    assert_eq!(addresses(&cluster.only().cluster), "10.20.0.2:9090");
}

#[test]
fn fact_13_a_slice_that_changes_its_service_leaves_the_old_one() {
    let endpoints = json!([endpoint("10.20.0.1", NODE, "rs")]);
    let mut cluster = Cluster::with(&service("web", json!({})), &[slice("s", endpoints.clone(), json!({}))]);
    let moved = json!({"metadata": {"labels": {"kubernetes.io/service-name": "other"}}});
    cluster.apply::<EndpointSlice>(&slice("s", endpoints, moved)).settle();
    assert!(!cluster.only().usable_anywhere);
}

#[test]
fn fact_14_ports_without_name_or_number_and_further_addresses_are_ignored() {
    let ports = json!([{"port": 1}, {"name": ""}, {"name": "", "port": 0}, {"name": "", "port": 8080}]);
    let endpoints = json!([{"addresses": ["10.20.0.1", "10.20.0.2"]}, {"addresses": []}]);
    let cluster =
        Cluster::with(&service("web", json!({})), &[slice("s", endpoints, json!({"ports": ports}))]);
    assert_eq!(addresses(&cluster.only().cluster), "10.20.0.1:8080");
    assert_eq!(cluster.problems(), [""; 0]);
}

#[test]
fn facts_15_16_condition_and_locality_defaults() {
    for (endpoint, usable, local) in [
        (json!({"addresses": ["10.20.0.1"]}), true, false),
        (json!({"addresses": ["10.20.0.1"], "nodeName": NODE, "conditions": {}}), true, true),
        (
            json!({"addresses": ["10.20.0.1"], "nodeName": "other", "conditions": {"terminating": false}}),
            true,
            false,
        ),
        (json!({"addresses": ["10.20.0.1"], "conditions": {"ready": false}}), false, false),
        (
            json!({"addresses": ["10.20.0.1"], "conditions": {"ready": false, "terminating": true}}),
            true,
            false,
        ),
    ] {
        let cluster = Cluster::with(&service("web", json!({})), &[slice("s", json!([endpoint]), json!({}))]);
        assert_eq!(cluster.only().usable_anywhere, usable, "{endpoint}");
        assert_eq!(cluster.only().cluster.iter().any(|b| b.local), local, "{endpoint}");
    }
}

#[test]
fn facts_17_19_duplicates_count_once_the_healthier_wins_and_the_order_is_fixed() {
    let draining =
        slice("a", json!([endpoint("10.20.0.9", NODE, "st"), endpoint("10.20.0.10", NODE, "rs")]), json!({}));
    let ready = slice("b", json!([endpoint("10.20.0.9", NODE, "rs")]), json!({}));
    for slices in [[draining.clone(), ready.clone()], [ready, draining]] {
        let cluster = Cluster::with(&service("web", json!({})), &slices);
        assert_eq!(addresses(&cluster.only().cluster), "10.20.0.9:8080 10.20.0.10:8080");
        assert!(cluster.only().cluster.iter().all(|backend| !backend.terminating));
    }
}

#[test]
fn fact_18_renaming_renumbering_and_emptying_end_in_exactly_the_new_state() {
    let named = |name: &str, port: u16| json!({"spec": {"ports": [{"name": name, "port": port}]}});
    let ports = |name: &str, port: u16| json!({"ports": [{"name": name, "port": port}]});
    let endpoints = || json!([endpoint("10.20.0.1", NODE, "rs")]);
    let mut cluster =
        Cluster::with(&service("web", named("a", 80)), &[slice("s", endpoints(), ports("a", 8080))]);
    for (why, name, port, target, slice_endpoints, expected) in [
        ("renamed", "b", 80, 8080, endpoints(), "10.20.0.1:8080"),
        ("renumbered", "b", 81, 8081, endpoints(), "10.20.0.1:8081"),
        ("emptied", "b", 81, 8081, json!([]), ""),
        ("filled", "b", 81, 8082, endpoints(), "10.20.0.1:8082"),
    ] {
        cluster.apply::<Service>(&service("web", named(name, port)));
        cluster.apply::<EndpointSlice>(&slice("s", slice_endpoints, ports(name, target))).settle();
        assert_eq!(cluster.frontends(), [format!("ns/web:{name} ClusterIp 10.24.0.1:{port}/TCP")], "{why}");
        assert_eq!(addresses(&cluster.only().cluster), expected, "{why}");
    }
}

#[test]
fn fact_21_nothing_is_answered_before_all_lists_and_the_own_node_are_there() {
    let mut cluster = Cluster::unsynced();
    cluster.list::<Service>(&[service("web", json!({}))]);
    let waits = |cluster: &mut Cluster, what: &str| {
        assert_eq!(cluster.index.take_update(), None);
        assert_eq!(cluster.index.waiting_for().as_deref(), Some(what));
    };
    waits(&mut cluster, "the list of Node objects");
    cluster.list::<Node>(&[]);
    waits(&mut cluster, "the list of EndpointSlice objects");
    cluster.list::<EndpointSlice>(&[slice("s", json!([endpoint("10.20.0.1", NODE, "rs")]), json!({}))]);
    waits(&mut cluster, "the list of Pod objects");
    cluster.list::<Pod>(&[]);
    waits(&mut cluster, "Node node-a: not found");
    cluster.apply::<Node>(&node(NODE, json!({"status": {"addresses": []}})));
    waits(&mut cluster, "Node node-a: status.addresses: no valid InternalIP");
    cluster.apply::<Node>(&node(NODE, json!({"spec": {"podCIDR": null, "podCIDRs": null}})));
    waits(&mut cluster, "Node node-a: spec.podCIDR: none assigned");
    cluster.apply::<Node>(&node(NODE, json!({})));
    assert_eq!(cluster.index.waiting_for(), None);
    assert_eq!(cluster.settle(), ["ns/web/TCP"]);
    assert!(cluster.only().usable_anywhere, "the first answer has the endpoints in it");
}

#[test]
fn fact_21_a_deleted_or_doomed_node_still_forwards_but_is_not_eligible() {
    let mut cluster = Cluster::new();
    assert!(cluster.index.node_eligible());
    let taint =
        json!({"spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}});
    cluster.apply::<Node>(&node(NODE, taint));
    assert!(!cluster.index.node_eligible());
    cluster.apply::<Node>(&node(NODE, json!({})));
    assert!(cluster.index.node_eligible());
    cluster.delete::<Node>(&node(NODE, json!({}))).settle();
    assert!(!cluster.index.node_eligible());
    assert_eq!(cluster.snapshot.node.name, NODE);
    assert_eq!(cluster.index.waiting_for(), None);
}

#[test]
fn facts_77_80_affinity_defaults_and_range() {
    for (spec, seconds, problems) in [
        (json!({"sessionAffinity": "None"}), None, 0),
        (json!({"sessionAffinity": "ClientIP"}), Some(10_800), 0),
        (
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}),
            Some(5),
            0,
        ),
        (
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}),
            Some(10_800),
            1,
        ),
        (
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86_401}}}),
            Some(10_800),
            1,
        ),
        (json!({"sessionAffinity": "Cookie"}), None, 1),
    ] {
        let cluster = Cluster::with(&service("web", json!({"spec": spec})), &[]);
        assert_eq!(cluster.only().affinity_seconds, seconds, "{spec}");
        assert_eq!(cluster.problems().len(), problems, "{spec}");
    }
}

#[test]
fn other_nodes_are_peers_and_heartbeats_move_nothing() {
    let mut cluster = Cluster::new();
    let b = node(
        "node-b",
        json!({
        "spec": {"podCIDR": "10.20.1.0/24", "podCIDRs": ["10.20.1.0/24", "fd20:1::/64"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.128.0.12"}]}}),
    );
    cluster.apply::<Node>(&b).settle();
    let peer = &cluster.snapshot.peers["node-b"];
    assert_eq!(peer.addresses, ["10.128.0.12".parse::<std::net::IpAddr>().expect("address")]);
    assert_eq!(peer.pod_cidrs.len(), 2);
    let heartbeat =
        merged(b.clone(), &json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}));
    cluster.apply::<Node>(&heartbeat);
    assert_eq!(cluster.index.take_update(), None);
    cluster.delete::<Node>(&b).settle();
    assert!(cluster.snapshot.peers.is_empty());
}
