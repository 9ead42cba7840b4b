//! Which endpoints a client reaches: facts 22 to 32, as tables.

use crate::support::*;
use model::{FrontendKind::*, oracle::Origin::*};
use serde_json::{Value, json};

/// Service policies, endpoints (address suffix, node, state), then what a pod gets at the cluster IP and an
/// outside client at the load-balancer address.
struct Row {
    why: &'static str,
    internal: &'static str,
    external: &'static str,
    endpoints: &'static [(&'static str, &'static str, &'static str)],
    cluster_ip: &'static str,
    vip: &'static str,
}

const HERE: &str = NODE;
const THERE: &str = "node-b";

fn check(rows: &[Row]) {
    for row in rows {
        let service = load_balancer(json!({"spec": {
            "internalTrafficPolicy": row.internal, "externalTrafficPolicy": row.external}}));
        let endpoints = row.endpoints.iter();
        let endpoints: Value =
            endpoints.map(|(ip, node, state)| endpoint(&format!("10.20.{ip}"), node, state)).collect();
        let cluster = Cluster::with(&service, &[slice("s", endpoints, json!({}))]);
        let port = cluster.only();
        let short = |text: String| text.replace("10.20.", "").replace(":8080", "");
        assert_eq!(short(target(port, ClusterIp, Pod)), row.cluster_ip, "cluster IP: {}", row.why);
        assert_eq!(short(target(port, LoadBalancer, External)), row.vip, "VIP: {}", row.why);
        assert_eq!(target(port, NodePort, External), target(port, LoadBalancer, External), "{}", row.why);
    }
}

#[test]
fn fact_22_cluster_policy_ready_else_serving_terminating_never_neither() {
    let row = |why, endpoints, both| Row {
        why,
        internal: "Cluster",
        external: "Cluster",
        endpoints,
        cluster_ip: both,
        vip: both,
    };
    check(&[
        row("all ready", &[("0.1", HERE, "rs"), ("1.1", THERE, "rs")], "0.1 1.1"),
        row("terminating is not used beside ready", &[("0.1", HERE, "st"), ("1.1", THERE, "rs")], "1.1"),
        row("not ready is not used beside ready", &[("0.1", HERE, "s"), ("1.1", THERE, "rs")], "1.1"),
        row("only terminating", &[("0.1", HERE, "st"), ("1.1", THERE, "st")], "0.1 1.1"),
        row("terminating but not serving", &[("0.1", HERE, "t")], "REJECT"),
        row("serving, not ready, not terminating", &[("0.1", HERE, "s")], "REJECT"),
        row("neither", &[("0.1", HERE, ""), ("1.1", THERE, "st")], "1.1"),
    ]);
}

#[test]
fn fact_23_local_policy_local_ready_else_local_serving_terminating() {
    let both_local = |why, endpoints, both| Row {
        why,
        internal: "Local",
        external: "Local",
        endpoints,
        cluster_ip: both,
        vip: both,
    };
    check(&[
        both_local("local ready", &[("0.1", HERE, "rs"), ("1.1", THERE, "rs")], "0.1"),
        both_local(
            "local terminating although remote is ready",
            &[("0.1", HERE, "st"), ("1.1", THERE, "rs")],
            "0.1",
        ),
        both_local("ready wins locally", &[("0.1", HERE, "st"), ("0.2", HERE, "rs")], "0.2"),
    ]);
}

#[test]
fn facts_24_25_remote_only_drops_and_nothing_rejects() {
    let local = |why, endpoints, both| Row {
        why,
        internal: "Local",
        external: "Local",
        endpoints,
        cluster_ip: both,
        vip: both,
    };
    check(&[
        local("remote ready", &[("1.1", THERE, "rs")], "DROP"),
        local("remote terminating", &[("1.1", THERE, "st")], "DROP"),
        local("local unusable, remote usable", &[("0.1", HERE, ""), ("1.1", THERE, "rs")], "DROP"),
        local("nothing usable", &[("0.1", HERE, ""), ("1.1", THERE, "s")], "REJECT"),
        local("none at all", &[], "REJECT"),
    ]);
}

#[test]
fn fact_26_each_policy_binds_its_own_kind_of_traffic() {
    let endpoints: &[_] = &[("0.1", HERE, "rs"), ("1.1", THERE, "rs")];
    let row = |why, internal, external, cluster_ip, vip| Row {
        why,
        internal,
        external,
        endpoints,
        cluster_ip,
        vip,
    };
    check(&[
        row("internal only", "Local", "Cluster", "0.1", "0.1 1.1"),
        row("external only", "Cluster", "Local", "0.1 1.1", "0.1"),
        row("both", "Local", "Local", "0.1", "0.1"),
        row("neither", "Cluster", "Cluster", "0.1 1.1", "0.1 1.1"),
    ]);
}

#[test]
fn facts_82_83_terminating_local_for_outside_ready_remote_for_inside() {
    let row = |why, endpoints, cluster_ip, vip| Row {
        why,
        internal: "Cluster",
        external: "Local",
        endpoints,
        cluster_ip,
        vip,
    };
    check(&[
        row("82", &[("0.1", HERE, "st"), ("1.1", THERE, "rs")], "1.1", "0.1"),
        row("83", &[("1.1", THERE, "st")], "1.1", "DROP"),
    ]);
}

#[test]
fn fact_27_internal_local_without_outside_frontends_computes_no_cluster_endpoints() {
    let service = service("web", json!({"spec": {"internalTrafficPolicy": "Local"}}));
    let endpoints = json!([endpoint("10.20.0.1", HERE, "rs"), endpoint("10.20.1.1", THERE, "rs")]);
    let cluster = Cluster::with(&service, &[slice("s", endpoints, json!({}))]);
    assert_eq!(addresses(&cluster.only().cluster), "");
    assert_eq!(addresses(&cluster.only().local), "10.20.0.1:8080");
}

#[test]
fn fact_63_local_policy_lets_pods_and_the_node_reach_every_endpoint() {
    let service = load_balancer(json!({"spec": {"externalTrafficPolicy": "Local"}}));
    let endpoints = json!([endpoint("10.20.1.1", THERE, "rs")]);
    let cluster = Cluster::with(&service, &[slice("s", endpoints, json!({}))]);
    for origin in [Pod, Node] {
        assert_eq!(target(cluster.only(), LoadBalancer, origin), "10.20.1.1:8080");
    }
    assert_eq!(target(cluster.only(), LoadBalancer, External), "DROP");
}

/// Zone hints and node hints of two ready endpoints on another node, the own node's zone, and what is chosen.
type HintRow = (
    &'static str,
    [&'static [&'static str]; 2],
    [&'static [&'static str]; 2],
    Option<&'static str>,
    &'static str,
);

#[test]
fn facts_28_to_32_hints_narrow_only_where_every_ready_endpoint_has_them() {
    let none: [&[&str]; 2] = [&[], &[]];
    let rows: &[HintRow] = &[
        ("28: hinted to this zone", [&["z1"], &["z2"]], none, Some("z1"), "1"),
        ("28: one endpoint lacks a hint", [&["z1"], &[]], none, Some("z1"), "1 2"),
        ("28: no ready endpoint for this zone", [&["z2"], &["z2"]], none, Some("z1"), "1 2"),
        ("29: several zones", [&["z1", "z2"], &["z2"]], none, Some("z2"), "1 2"),
        ("30: hinted to this node", [&["z1"], &["z1"]], [&["node-a"], &["node-b"]], Some("z1"), "1"),
        (
            "30: no node matches, the zone does",
            [&["z1"], &["z2"]],
            [&["node-b"], &["node-b"]],
            Some("z1"),
            "1",
        ),
        ("30: one lacks a node hint", [&["z1"], &["z2"]], [&["node-a"], &[]], Some("z2"), "2"),
        ("32: empty zone label", [&["z1"], &["z2"]], none, Some(""), "1 2"),
        ("32: no zone label", [&["z1"], &["z2"]], none, None, "1 2"),
        ("32: a zone nobody names", [&["z1"], &["z2"]], none, Some("z9"), "1 2"),
    ];
    for (why, zones, nodes, zone, expected) in rows {
        let mut endpoints: Vec<_> = (0..2)
            .map(|i| {
                let zones: Value = zones[i].iter().map(|z| json!({"name": z})).collect();
                let nodes: Value = nodes[i].iter().map(|n| json!({"name": n})).collect();
                let hints = json!({"hints": {"forZones": zones, "forNodes": nodes}});
                merged(endpoint(&format!("10.20.1.{}", i + 1), THERE, "rs"), &hints)
            })
            .collect();
        // Fact 29: an endpoint that is not ready counts neither for "every" nor for "at least one".
        endpoints.push(endpoint("10.20.1.9", THERE, ""));
        let mut cluster =
            Cluster::with(&service("web", json!({})), &[slice("s", endpoints.into(), json!({}))]);
        let labels = zone.map_or(json!({}), |zone| json!({"topology.kubernetes.io/zone": zone}));
        cluster
            .apply::<k8s_openapi::api::core::v1::Node>(&node(NODE, json!({"metadata": {"labels": labels}})));
        cluster.settle();
        let short = target(cluster.only(), ClusterIp, Pod).replace("10.20.1.", "").replace(":8080", "");
        assert_eq!(short, *expected, "{why}");
    }
}
