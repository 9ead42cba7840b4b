//! ClusterNetworkPolicies (facts N1 to N4).

use serde_json::{Value, json};

use super::world::{allowed, denied, faults, tcp, udp};
use crate::world::World;

fn base() -> World {
    World::default()
        .with_namespace("x", "team=red")
        .with_namespace("y", "team=blue")
        .with_pod("x/a", "app=a", "10.0.1.1", "http=80")
        .with_pod("y/b", "app=b", "10.0.2.1", "http=8080")
}

fn policy(tier: &str, priority: i32, direction: &str, rules: Value) -> Value {
    json!({"tier": tier, "priority": priority, "subject": {"namespaces": {}}, direction: rules})
}

fn from_blue(action: &str) -> Value {
    json!({"action": action, "from": [{"namespaces": {"matchLabels": {"team": "blue"}}}]})
}

fn everyone(action: &str) -> Value {
    json!({"action": action, "from": [{"namespaces": {}}]})
}

#[test]
fn n1_admin_comes_before_network_policies_and_they_before_the_baseline() {
    let np = |ingress: Value| json!({"podSelector": {}, "ingress": ingress});
    let accept = policy("Admin", 5, "ingress", json!([from_blue("Accept")]));
    allowed(
        &base().with_policy("x/p", np(json!([]))).with_cluster_policy("c", accept),
        "y/b",
        "x/a",
        tcp(80),
    );
    let deny = policy("Admin", 5, "ingress", json!([from_blue("Deny")]));
    denied(&base().with_policy("x/p", np(json!([{}]))).with_cluster_policy("c", deny), "y/b", "x/a", tcp(80));
    let deny = policy("Baseline", 5, "ingress", json!([from_blue("Deny")]));
    let world = base().with_cluster_policy("c", deny);
    denied(&world, "y/b", "x/a", tcp(80));
    allowed(&world.with_policy("x/p", np(json!([{}]))), "y/b", "x/a", tcp(80));
    let accept = policy("Baseline", 5, "ingress", json!([from_blue("Accept")]));
    denied(&base().with_policy("x/p", np(json!([]))).with_cluster_policy("c", accept), "y/b", "x/a", tcp(80));
}

#[test]
fn n1_the_lowest_priority_and_the_first_rule_decide() {
    let world = base()
        .with_cluster_policy("a", policy("Admin", 10, "ingress", json!([everyone("Deny")])))
        .with_cluster_policy(
            "b",
            policy("Admin", 9, "ingress", json!([from_blue("Accept"), from_blue("Deny")])),
        );
    allowed(&world, "y/b", "x/a", tcp(80));
    denied(&world, "x/a", "x/a", tcp(80));
    let ties = base()
        .with_cluster_policy("b", policy("Admin", 9, "ingress", json!([everyone("Deny")])))
        .with_cluster_policy("a", policy("Admin", 9, "ingress", json!([everyone("Accept")])));
    allowed(&ties, "y/b", "x/a", tcp(80));
}

#[test]
fn n1_pass_leaves_the_tier() {
    let admin = policy("Admin", 5, "ingress", json!([from_blue("Pass"), everyone("Deny")]));
    let world = base().with_cluster_policy("c", admin);
    allowed(&world, "y/b", "x/a", tcp(80));
    denied(&world, "x/a", "x/a", tcp(80));
    let isolated = world.clone().with_policy("x/p", json!({"podSelector": {}}));
    denied(&isolated, "y/b", "x/a", tcp(80));
    let baseline = policy("Baseline", 5, "ingress", json!([everyone("Deny")]));
    denied(&world.with_cluster_policy("d", baseline), "y/b", "x/a", tcp(80));
}

#[test]
fn n2_tiers_are_asked_by_direction() {
    let baseline = policy("Baseline", 5, "ingress", json!([everyone("Deny")]));
    let egress_only = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]});
    let world = base().with_cluster_policy("c", baseline).with_policy("x/p", egress_only);
    denied(&world, "y/b", "x/a", tcp(80));
}

#[test]
fn n3_networks_match_pods_too() {
    let to = |action: &str, peer: Value| json!({"action": action, "to": [peer]});
    let networks = json!({"networks": ["0.0.0.0/0"]});
    let deny = policy("Admin", 5, "egress", json!([to("Deny", networks.clone())]));
    denied(&base().with_cluster_policy("c", deny), "x/a", "y/b", tcp(80));
    let rules = json!([to("Pass", json!({"namespaces": {}})), to("Deny", networks)]);
    let world = base().with_cluster_policy("c", policy("Admin", 5, "egress", rules));
    allowed(&world, "x/a", "y/b", tcp(80));
    denied(&world, "x/a", "192.0.2.1", tcp(80));
}

#[test]
fn n4_what_is_not_known_is_closed() {
    for peer in [
        json!({"nodes": {}}),
        json!({"domainNames": ["example.org"]}),
        json!({"galaxies": {}}),
        json!({}),
        json!({"networks": ["10.0.0"]}),
        json!({"namespaces": {}, "pods": {"podSelector": {}}}),
    ] {
        let rule = |action: &str| json!([{"action": action, "to": [{"namespaces": {}}, peer]}]);
        for (action, open) in [("Deny", false), ("Pass", false), ("Accept", true)] {
            let world = base().with_cluster_policy("c", policy("Admin", 5, "egress", rule(action)));
            let world = world.with_cluster_policy("rest", policy("Baseline", 5, "egress", json!([])));
            match open {
                true => allowed(&world, "x/a", "192.0.2.1", tcp(80)),
                false => denied(&world, "x/a", "192.0.2.1", tcp(80)),
            }
            assert_eq!(
                faults(&world),
                ["spec.egress[0].to[1]".to_owned()].map(|at| match peer.get("networks") {
                    Some(_) => format!("{at}.networks[0]"),
                    None => at,
                })
            );
        }
        let accept = policy("Admin", 5, "egress", rule("Accept"));
        let isolated = json!({"podSelector": {}, "policyTypes": ["Egress"]});
        let world = base().with_cluster_policy("c", accept).with_policy("x/p", isolated);
        denied(&world, "x/a", "y/b", tcp(80));
    }
}

#[test]
fn refused_peers_say_that_they_are_not_supported() {
    let rule = json!([{"action": "Accept", "to": [{"nodes": {}}]}]);
    let world = base().with_cluster_policy("c", policy("Admin", 5, "egress", rule));
    let offline = crate::offline::Offline::of(&world);
    let told: Vec<_> = offline.problems().iter().map(ToString::to_string).collect();
    assert_eq!(told, ["ClusterNetworkPolicy c: spec.egress[0].to[0]: nodes peers are not supported"]);
}

#[test]
fn ports_are_numbers_ranges_whole_protocols_or_names_of_the_destination() {
    let rule = |protocol: Value| {
        let rule = json!([{"action": "Deny", "from": [{"namespaces": {}}], "protocols": [protocol]}]);
        base().with_cluster_policy("c", policy("Admin", 5, "ingress", rule))
    };
    let number = rule(json!({"tcp": {"destinationPort": {"number": 80}}}));
    denied(&number, "y/b", "x/a", tcp(80));
    allowed(&number, "y/b", "x/a", tcp(81));
    allowed(&number, "y/b", "x/a", udp(80));
    let range = rule(json!({"udp": {"destinationPort": {"range": {"start": 80, "end": 90}}}}));
    denied(&range, "y/b", "x/a", udp(90));
    allowed(&range, "y/b", "x/a", udp(91));
    denied(&rule(json!({"udp": {}})), "y/b", "x/a", udp(1));
    let name = rule(json!({"destinationNamedPort": "http"}));
    denied(&name, "y/b", "x/a", tcp(80));
    allowed(&name, "y/b", "x/a", tcp(8080));
    denied(&name, "x/a", "y/b", tcp(8080));
    denied(&rule(json!({"sctp": {"destinationPort": {}}})), "y/b", "x/a", udp(1));
}
