//! What ports mean (facts A4, A8, A9), other protocols (C6, C7), and Services (V1, V2).

use model::policy::L4;
use serde_json::{Value, json};

use super::world::{allowed, denied, faults, sctp, tcp, udp};
use crate::world::World;

/// Two servers of one template that call different numbers "http", and a client.
fn base() -> World {
    World::default()
        .with_pod("x/s1", "app=s", "10.0.1.1", "http=80,dns=53/UDP")
        .with_pod("x/s2", "app=s", "10.0.1.2", "http=8080")
        .with_pod("x/c", "app=c", "10.0.1.3", "http=9999")
        .with_pod("y/other", "", "10.0.2.1", "dns=53")
}

fn ingress(ports: Value) -> World {
    base().with_policy(
        "x/p",
        json!({"podSelector": {"matchLabels": {"app": "s"}}, "ingress": [{"ports": ports}]}),
    )
}

fn egress(rule: Value) -> World {
    let selector = json!({"matchLabels": {"app": "c"}});
    base().with_policy("x/p", json!({"podSelector": selector, "policyTypes": ["Egress"], "egress": [rule]}))
}

#[test]
fn a4_protocols_default_to_tcp_and_ports_to_all_of_it() {
    let world = ingress(json!([{"port": 80}]));
    allowed(&world, "x/c", "x/s1", tcp(80));
    denied(&world, "x/c", "x/s1", udp(80));
    denied(&world, "x/c", "x/s1", sctp(80));
    let world = ingress(json!([{"protocol": "UDP"}]));
    allowed(&world, "x/c", "x/s1", udp(1));
    denied(&world, "x/c", "x/s1", tcp(1));
}

#[test]
fn a4_end_port_is_included_and_needs_a_lower_port() {
    let world = ingress(json!([{"port": 1000, "endPort": 2000}]));
    for (port, inside) in
        [(999, false), (1000, true), (1023, true), (1024, true), (2000, true), (2001, false)]
    {
        match inside {
            true => allowed(&world, "x/c", "x/s1", tcp(port)),
            false => denied(&world, "x/c", "x/s1", tcp(port)),
        }
    }
    for wrong in [
        json!({"port": 80, "endPort": 79}),
        json!({"endPort": 80}),
        json!({"port": "http", "endPort": 80}),
        json!({"port": 65536}),
    ] {
        let world = ingress(json!([wrong]));
        denied(&world, "x/c", "x/s1", tcp(80));
        assert_eq!(faults(&world).len(), 1, "{wrong}");
    }
    let one = ingress(json!([{"port": 80, "endPort": 80}]));
    allowed(&one, "x/c", "x/s1", tcp(80));
    denied(&one, "x/c", "x/s1", tcp(81));
}

#[test]
fn a8_named_ports_are_those_of_each_destination() {
    let world = ingress(json!([{"port": "http"}]));
    allowed(&world, "x/c", "x/s1", tcp(80));
    denied(&world, "x/c", "x/s1", tcp(8080));
    allowed(&world, "x/c", "x/s2", tcp(8080));
    denied(&world, "x/c", "x/s2", tcp(80));
}

#[test]
fn a8_named_ports_in_egress_are_the_destinations_not_the_senders() {
    for to in [json!([{"podSelector": {}}]), json!([]), json!([{"ipBlock": {"cidr": "10.0.0.0/8"}}])] {
        let world = egress(json!({"to": to, "ports": [{"port": "http"}]}));
        allowed(&world, "x/c", "x/s1", tcp(80));
        denied(&world, "x/c", "x/s1", tcp(8080));
        allowed(&world, "x/c", "x/s2", tcp(8080));
        denied(&world, "x/c", "x/s2", tcp(9999));
        denied(&world, "x/c", "10.0.9.9", tcp(80));
        denied(&world, "x/c", "y/other", tcp(80));
    }
    let elsewhere =
        egress(json!({"to": [{"ipBlock": {"cidr": "10.0.1.2/32"}}], "ports": [{"port": "http"}]}));
    denied(&elsewhere, "x/c", "x/s1", tcp(80));
    allowed(&elsewhere, "x/c", "x/s2", tcp(8080));
}

#[test]
fn a8_a_name_is_of_its_protocol_and_an_unknown_one_is_nobodys() {
    let world = ingress(json!([{"port": "dns", "protocol": "UDP"}]));
    allowed(&world, "x/c", "x/s1", udp(53));
    denied(&world, "x/c", "x/s1", tcp(53));
    denied(&world, "x/c", "x/s2", udp(53));
    denied(&ingress(json!([{"port": "dns"}])), "x/c", "x/s1", udp(53));
    let unknown = ingress(json!([{"port": "nope"}]));
    denied(&unknown, "x/c", "x/s1", tcp(80));
    assert!(faults(&unknown).is_empty(), "for another pod it may have a meaning");
}

#[test]
fn a8_with_blocks_a_name_is_of_the_pod_that_is_selected() {
    let world = base().with_policy(
        "x/p",
        json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [{"port": "http"}]}]}),
    );
    allowed(&world, "192.0.2.1", "x/s2", tcp(8080));
    denied(&world, "192.0.2.1", "x/s2", tcp(80));
}

#[test]
fn a9_a_numeric_port_need_not_be_declared() {
    allowed(&ingress(json!([{"port": 7777}])), "x/c", "x/s2", tcp(7777));
}

#[test]
fn c6_a_rule_with_ports_does_not_allow_icmp_and_one_without_does() {
    denied(&ingress(json!([{"protocol": "UDP"}])), "x/c", "x/s1", L4::Other);
    allowed(&ingress(json!([])), "x/c", "x/s1", L4::Other);
    denied(&base().with_policy("x/p", json!({"podSelector": {}})), "x/c", "x/s1", L4::Other);
}

#[test]
fn c7_sctp_is_a_protocol_of_its_own() {
    let world = ingress(json!([{"protocol": "SCTP", "port": 36412}]));
    allowed(&world, "x/c", "x/s1", sctp(36_412));
    denied(&world, "x/c", "x/s1", tcp(36_412));
}

#[test]
fn v1_egress_is_judged_by_the_backend_and_its_port() {
    let to = json!([{"podSelector": {"matchLabels": {"app": "s"}}}]);
    // The connection as it leaves: translated from a Service's port 80 to the pod's 8080.
    allowed(&egress(json!({"to": to, "ports": [{"port": 8080}]})), "x/c", "x/s2", tcp(8080));
    denied(&egress(json!({"to": to, "ports": [{"port": 80}]})), "x/c", "x/s2", tcp(8080));
}

#[test]
fn v2_no_network_policy_keeps_a_pod_from_itself_but_a_cluster_policy_may() {
    let isolated =
        base().with_policy("x/p", json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}));
    allowed(&isolated, "x/c", "x/c", tcp(80));
    let deny = json!({"action": "Deny", "from": [{"namespaces": {}}]});
    let forbidden = isolated.with_cluster_policy(
        "deny",
        json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "ingress": [deny]}),
    );
    denied(&forbidden, "x/c", "x/c", tcp(80));
}
