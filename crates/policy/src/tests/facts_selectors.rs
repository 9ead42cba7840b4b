//! What selectors, lists and rules mean (facts A1 to A7), and prefixes (B1 to B6).

use serde_json::{Value, json};

use super::world::{allowed, denied, faults, tcp, udp};
use crate::world::World;

/// Three pods in two namespaces; `x/a` is who the policies are about.
fn base() -> World {
    World::default()
        .with_namespace("x", "team=red")
        .with_namespace("y", "team=blue")
        .with_pod("x/a", "app=a", "10.0.1.1 fd00::1", "")
        .with_pod("x/b", "app=b", "10.0.1.2 fd00::2", "")
        .with_pod("y/b", "app=b", "10.0.2.2 fd00::102", "")
        .with_pod("y/bare", "", "10.0.2.3", "")
}

fn ingress(rules: Value) -> World {
    base().with_policy("x/p", json!({"podSelector": {"matchLabels": {"app": "a"}}, "ingress": rules}))
}

fn from(peers: Value) -> World {
    ingress(json!([{"from": peers}]))
}

#[test]
fn a1_an_empty_selector_is_everybody_a_missing_one_nobody() {
    let world = from(json!([{"podSelector": {}}]));
    allowed(&world, "x/b", "x/a", tcp(80));
    denied(&world, "y/b", "x/a", tcp(80));
    let world = from(json!([{"namespaceSelector": {}}]));
    allowed(&world, "y/b", "x/a", tcp(80));
    let world = from(json!([{}]));
    denied(&world, "x/b", "x/a", tcp(80));
    assert_eq!(faults(&world), ["spec.ingress[0].from[0]"]);
    let null = base().with_policy("x/p", json!({"podSelector": null}));
    denied(&null, "x/b", "x/a", tcp(80));
    denied(&null, "y/b", "x/b", tcp(80));
}

#[test]
fn a1_two_selectors_in_one_peer_are_and_two_peers_are_or() {
    let (blue, b) = (json!({"matchLabels": {"team": "blue"}}), json!({"matchLabels": {"app": "b"}}));
    let both = from(json!([{"namespaceSelector": blue, "podSelector": b}]));
    allowed(&both, "y/b", "x/a", tcp(80));
    denied(&both, "x/b", "x/a", tcp(80));
    denied(&both, "y/bare", "x/a", tcp(80));
    let either = from(json!([{"namespaceSelector": blue}, {"podSelector": b}]));
    allowed(&either, "x/b", "x/a", tcp(80));
    allowed(&either, "y/bare", "x/a", tcp(80));
}

#[test]
fn a2_no_rules_deny_and_an_empty_rule_allows() {
    for rules in [json!(null), json!([])] {
        denied(&ingress(rules), "x/b", "x/a", tcp(80));
    }
    let missing = base().with_policy("x/p", json!({"podSelector": {}}));
    denied(&missing, "x/b", "x/a", tcp(80));
    for rule in [json!({}), json!({"from": [], "ports": []}), json!({"from": null, "ports": null})] {
        allowed(&ingress(json!([rule])), "192.0.2.1", "x/a", udp(80));
    }
    let any_tcp = ingress(json!([{"ports": [{}]}]));
    allowed(&any_tcp, "x/b", "x/a", tcp(7));
    denied(&any_tcp, "x/b", "x/a", udp(7));
}

#[test]
fn a3_policy_types_default_to_ingress_and_to_egress_only_with_rules() {
    let of = |spec: Value| base().with_policy("x/p", spec);
    let unset = of(json!({"podSelector": {}, "egress": []}));
    denied(&unset, "y/b", "x/a", tcp(80));
    allowed(&unset, "x/a", "y/b", tcp(80));
    let with_rule = of(json!({"podSelector": {}, "egress": [{"to": [{"podSelector": {}}]}]}));
    denied(&with_rule, "y/b", "x/a", tcp(80));
    denied(&with_rule, "x/a", "y/b", tcp(80));
    let egress_only = of(json!({"podSelector": {}, "policyTypes": ["Egress"], "ingress": []}));
    allowed(&egress_only, "y/b", "x/a", tcp(80));
    denied(&egress_only, "x/a", "y/b", tcp(80));
    let ingress_only = of(json!({"podSelector": {}, "policyTypes": ["Ingress"], "egress": [{}]}));
    allowed(&ingress_only, "x/a", "y/b", tcp(80));
}

#[test]
fn a5_what_is_not_understood_allows_nothing_and_isolates_all_the_same() {
    for (rule, field) in [
        (json!({"from": [{"serviceSelector": {}}]}), "spec.ingress[0].from[0]"),
        (json!({"from": [{"ipBlock": {"cidr": "10.0.0"}}]}), "spec.ingress[0].from[0].ipBlock.cidr"),
        (
            json!({"from": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["?"]}}]}),
            "spec.ingress[0].from[0].ipBlock.except[0]",
        ),
        (json!({"from": [{"podSelector": {}, "ipBlock": {"cidr": "0.0.0.0/0"}}]}), "spec.ingress[0].from[0]"),
        (json!({"ports": [{"protocol": "ICMP"}]}), "spec.ingress[0].ports[0].protocol"),
        (json!({"ports": [{"endPort": 90}]}), "spec.ingress[0].ports[0].endPort"),
        (
            json!({"from": [{"podSelector": {"matchExpressions": [{"key": "app", "operator": "Gt", "values": ["1"]}]}}]}),
            "spec.ingress[0].from[0].podSelector.matchExpressions[0]",
        ),
        (
            json!({"from": [{"podSelector": {"matchLabels": {"pod-template-hash": "1"}}}]}),
            "spec.ingress[0].from[0].podSelector",
        ),
    ] {
        let world = ingress(json!([rule, {"from": [{"ipBlock": {"cidr": "10.0.2.2/32"}}]}]));
        denied(&world, "x/b", "x/a", tcp(80));
        allowed(&world, "y/b", "x/a", tcp(80));
        assert_eq!(faults(&world), [field]);
    }
}

#[test]
fn a5_a_subject_that_is_not_understood_is_whoever_may_be_meant() {
    let doubtful = json!({"matchExpressions": [{"key": "app", "operator": "Like", "values": ["a"]}]});
    let world = base().with_policy("x/p", json!({"podSelector": doubtful, "ingress": [{}]}));
    denied(&world, "y/b", "x/a", tcp(80));
    denied(&world, "y/b", "x/b", tcp(80));
    let unknown = base().with_policy("x/p", json!({"podSelector": {}, "policyTypes": ["Sideways"]}));
    denied(&unknown, "y/b", "x/a", tcp(80));
    assert_eq!(faults(&unknown), ["spec.policyTypes"]);
}

#[test]
fn a6_absent_keys_meet_not_in_and_does_not_exist_but_no_empty_value() {
    let expression = |operator: &str, values: Value| {
        let expression = json!({"key": "app", "operator": operator, "values": values});
        from(json!([{"namespaceSelector": {}, "podSelector": {"matchExpressions": [expression]}}]))
    };
    allowed(&expression("NotIn", json!(["b"])), "y/bare", "x/a", tcp(80));
    denied(&expression("NotIn", json!(["b"])), "y/b", "x/a", tcp(80));
    allowed(&expression("DoesNotExist", json!(null)), "y/bare", "x/a", tcp(80));
    denied(&expression("Exists", json!(null)), "y/bare", "x/a", tcp(80));
    let empty = from(json!([{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": ""}}}]));
    denied(&empty, "y/bare", "x/a", tcp(80));
    allowed(&empty.with_pod("y/bare", "app=", "10.0.2.3", ""), "y/bare", "x/a", tcp(80));
    let both = json!({"matchLabels": {"app": "b"}, "matchExpressions": [{"key": "v", "operator": "Exists"}]});
    denied(&from(json!([{"podSelector": both}])), "x/b", "x/a", tcp(80));
}

#[test]
fn a7_ports_belong_to_the_peers_of_their_rule() {
    let b = json!({"podSelector": {"matchLabels": {"app": "b"}}});
    let world = ingress(json!([
        {"from": [b], "ports": [{"port": 80}]},
        {"from": [{"namespaceSelector": {"matchLabels": {"team": "blue"}}}], "ports": [{"port": 81}]},
    ]));
    allowed(&world, "x/b", "x/a", tcp(80));
    denied(&world, "x/b", "x/a", tcp(81));
    allowed(&world, "y/b", "x/a", tcp(81));
    denied(&world, "y/b", "x/a", tcp(80));
    let world = world.with_policy("x/q", json!({"podSelector": {}, "ingress": [{"ports": [{"port": 82}]}]}));
    allowed(&world, "x/b", "x/a", tcp(80));
    allowed(&world, "y/b", "x/a", tcp(82));
}

#[test]
fn b1_blocks_match_pods_too() {
    let world = from(json!([{"ipBlock": {"cidr": "10.0.2.2/32"}}]));
    allowed(&world, "y/b", "x/a", tcp(80));
    denied(&world, "y/bare", "x/a", tcp(80));
    allowed(&from(json!([{"ipBlock": {"cidr": "0.0.0.0/0"}}])), "y/bare", "x/a", tcp(80));
}

#[test]
fn b2_blocks_match_nodes() {
    let mut world = base().with_policy(
        "x/p",
        json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": {"cidr": "10.1.0.2/32"}}]}]}),
    );
    world.nodes.insert("n1".into(), vec!["10.1.0.1".parse().expect("address")]);
    world.nodes.insert("n2".into(), vec!["10.1.0.2".parse().expect("address")]);
    allowed(&world, "x/a", "node:n2", tcp(80));
    denied(&world, "x/a", "node:n1", tcp(80));
}

#[test]
fn b3_a_hole_denies_nobody_whom_another_rule_allows() {
    let holed = json!({"ipBlock": {"cidr": "10.0.0.0/16", "except": ["10.0.2.0/24"]}});
    denied(&from(json!([holed])), "y/b", "x/a", tcp(80));
    allowed(&from(json!([holed])), "x/b", "x/a", tcp(80));
    let world = from(json!([holed, {"ipBlock": {"cidr": "10.0.2.2/31"}}]));
    allowed(&world, "y/b", "x/a", tcp(80));
    denied(&from(json!([holed, {"ipBlock": {"cidr": "10.0.2.4/30"}}])), "y/b", "x/a", tcp(80));
}

#[test]
fn b4_a_longer_prefix_has_the_ports_of_all_that_contain_it() {
    let block = |cidr: &str, ports: Value| json!({"from": [{"ipBlock": {"cidr": cidr}}], "ports": ports});
    let world = ingress(json!([
        block("10.0.0.0/8", json!([{"port": 80}])),
        block("10.0.2.0/24", json!([{"port": 81}])),
        block("10.0.2.0/24", json!([{"port": 82}])),
    ]));
    for port in [80, 81, 82] {
        allowed(&world, "y/b", "x/a", tcp(port));
    }
    denied(&world, "x/b", "x/a", tcp(81));
    let all = ingress(json!([block("10.0.2.0/24", json!([])), block("10.0.2.0/24", json!([{"port": 81}]))]));
    allowed(&all, "y/b", "x/a", udp(99));
}

#[test]
fn b5_host_bits_are_masked() {
    let world = from(json!([{"ipBlock": {"cidr": "10.0.2.77/24", "except": ["10.0.2.3/31"]}}]));
    denied(&world, "y/b", "x/a", tcp(80));
    let world = from(json!([{"ipBlock": {"cidr": "10.0.2.77/24"}}, {"ipBlock": {"cidr": "10.0.2.5/24"}}]));
    allowed(&world, "y/b", "x/a", tcp(80));
    assert!(faults(&world).is_empty());
}

#[test]
fn b6_selectors_are_for_both_families_and_blocks_for_their_own() {
    let world = from(json!([{"podSelector": {}}]));
    allowed(&world, "fd00::2", "fd00::1", tcp(80));
    denied(&world, "fd00::102", "fd00::1", tcp(80));
    let world = from(json!([{"ipBlock": {"cidr": "0.0.0.0/0"}}]));
    denied(&world, "fd00::2", "fd00::1", tcp(80));
    allowed(&world, "x/b", "x/a", tcp(80));
    let mixed = from(json!([{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["fd00::/8"]}}]));
    allowed(&mixed, "x/b", "x/a", tcp(80));
    assert_eq!(faults(&mixed), ["spec.ingress[0].from[0].ipBlock.except[0]"]);
}
