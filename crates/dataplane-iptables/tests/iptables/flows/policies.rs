//! Traffic policies and source ranges: who is bound by them, and who is masqueraded.

use model::Family;
use serde_json::{Value, json};

use super::world::{HERE, THERE, Web, World};

fn world(internal: &str, external: &str) -> World {
    let policies = json!({"internalTrafficPolicy": internal, "externalTrafficPolicy": external});
    World::of([Web::load_balancer().spec(policies)])
}

#[test]
fn facts_37_63_64_masquerade_by_policy_and_origin() {
    world("Cluster", "Cluster").check(&[
        ("pod", "cluster:80", "a1 b1"),
        ("pod", "node:30080", "a1! b1!"),
        ("pod", "vip:80", "a1! b1!"),
        ("pod", "external:80", "a1! b1!"),
        ("node", "cluster:80", "a1! b1!"),
        ("node", "node:30080", "a1! b1!"),
        ("node", "vip:80", "a1! b1!"),
        ("node", "external:80", "a1! b1!"),
        ("client", "cluster:80", "a1! b1!"),
        ("client", "node:30080", "a1! b1!"),
        ("client", "node-alt:30080", "a1! b1!"),
        ("client", "vip:80", "a1! b1!"),
        ("client", "external:80", "a1! b1!"),
    ]);
    world("Local", "Cluster").check(&[
        ("pod", "cluster:80", "a1"),
        ("node", "cluster:80", "a1!"),
        ("client", "cluster:80", "a1!"),
        ("pod", "vip:80", "a1! b1!"),
        ("node", "vip:80", "a1! b1!"),
        ("client", "node:30080", "a1! b1!"),
    ]);
    world("Cluster", "Local").check(&[
        ("pod", "cluster:80", "a1 b1"),
        ("pod", "node:30080", "a1 b1"),
        ("pod", "vip:80", "a1 b1"),
        ("pod", "external:80", "a1 b1"),
        ("node", "node:30080", "a1! b1!"),
        ("node", "vip:80", "a1! b1!"),
        ("node", "external:80", "a1! b1!"),
        ("client", "cluster:80", "a1! b1!"),
        ("client", "node:30080", "a1"),
        ("client", "vip:80", "a1"),
        ("client", "external:80", "a1"),
    ]);
    world("Local", "Local").check(&[
        ("pod", "cluster:80", "a1"),
        ("client", "cluster:80", "a1!"),
        ("pod", "vip:80", "a1 b1"),
        ("node", "node:30080", "a1! b1!"),
        ("client", "vip:80", "a1"),
    ]);
}

/// Endpoints on other nodes only.
#[test]
fn facts_24_68_local_policy_without_a_local_endpoint() {
    let elsewhere = |mut world: World| {
        world.services[0].endpoints = &[("b1", THERE, "rs"), ("b2", THERE, "rs")];
        world
    };
    elsewhere(world("Cluster", "Local")).check(&[
        ("pod", "cluster:80", "b1 b2"),
        ("client", "vip:80", "DROP"),
        ("client", "external:80", "DROP"),
        ("client", "node:30080", "DROP"),
        ("client", "node-alt:30080", "DROP"),
        ("pod", "vip:80", "b1 b2"),
        ("pod", "node:30080", "b1 b2"),
        ("node", "vip:80", "b1! b2!"),
        ("node", "node:30080", "b1! b2!"),
    ]);
    elsewhere(world("Local", "Cluster")).check(&[
        ("pod", "cluster:80", "DROP"),
        ("node", "cluster:80", "DROP"),
        ("client", "cluster:80", "DROP"),
        ("client", "vip:80", "b1! b2!"),
    ]);
    elsewhere(world("Local", "Local")).check(&[
        ("pod", "cluster:80", "DROP"),
        ("client", "vip:80", "DROP"),
        ("pod", "vip:80", "b1 b2"),
    ]);
}

/// A cluster IP alone, bound to this node.
#[test]
fn fact_27_internal_policy_of_an_internal_service() {
    let web =
        |endpoints| Web::cluster_ip().spec(json!({"internalTrafficPolicy": "Local"})).endpoints(endpoints);
    World::of([web(&[("a1", HERE, "rs"), ("a2", HERE, "rs"), ("b1", THERE, "rs")])])
        .check(&[("pod", "cluster:80", "a1 a2"), ("node", "cluster:80", "a1! a2!")]);
    World::of([web(&[("b1", THERE, "rs")])])
        .check(&[("pod", "cluster:80", "DROP"), ("node", "cluster:80", "DROP")]);
    World::of([web(&[])]).check(&[("pod", "cluster:80", "REJECT")]);
}

fn guarded(ranges: &'static [&'static str], patch: Value) -> World {
    World::of([Web { ranges, ..Web::load_balancer() }.spec(patch)])
}

#[test]
fn fact_66_source_ranges_guard_the_vip_alone() {
    guarded(&["client"], json!({})).check(&[
        ("client", "vip:80", "a1! b1!"),
        ("blocked", "vip:80", "DROP"),
        ("pod", "vip:80", "DROP"),
        ("node", "vip:80", "DROP"),
        ("vip", "vip:80", "DROP"),
        ("blocked", "node:30080", "a1! b1!"),
        ("blocked", "external:80", "a1! b1!"),
        ("blocked", "cluster:80", "a1! b1!"),
        ("pod", "cluster:80", "a1 b1"),
    ]);
    // A node that is let in may have the VIP itself as its source.
    guarded(&["client", "node"], json!({})).check(&[
        ("node", "vip:80", "a1! b1!"),
        ("vip", "vip:80", "a1! b1!"),
        ("blocked", "vip:80", "DROP"),
        ("pod", "vip:80", "DROP"),
    ]);
    guarded(&["client", "pod"], json!({"externalTrafficPolicy": "Local"})).check(&[
        ("client", "vip:80", "a1"),
        ("pod", "vip:80", "a1 b1"),
        ("pod-b", "vip:80", "DROP"),
        ("blocked", "vip:80", "DROP"),
        ("blocked", "node:30080", "a1"),
    ]);
}

#[test]
fn fact_66_every_vip_is_guarded() {
    let mut world = guarded(&["client"], json!({}));
    world.services[0].vips = &["vip", "vip2"];
    world.check(&[
        ("client", "vip:80", "a1! b1!"),
        ("client", "vip2:80", "a1! b1!"),
        ("blocked", "vip:80", "DROP"),
        ("blocked", "vip2:80", "DROP"),
    ]);
}

#[test]
fn fact_70_ranges_of_a_service_without_endpoints_only_reject() {
    let mut world = guarded(&["client"], json!({}));
    world.services[0].endpoints = &[];
    world.check(&[("client", "vip:80", "REJECT"), ("blocked", "vip:80", "REJECT")]);
    for family in Family::ALL {
        let saved = world.saved(family);
        assert!(!format!("{saved:?}").contains("KUBE-FW-"), "{family:?}");
    }
}

#[test]
fn fact_72_a_vip_works_without_a_node_port() {
    let spec = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
                      "externalTrafficPolicy": "Local"});
    World::of([Web { vips: &["vip"], ..Web::cluster_ip() }.spec(spec)]).check(&[
        ("client", "vip:80", "a1"),
        ("pod", "vip:80", "a1 b1"),
        ("client", "node:30080", ""),
    ]);
}

/// Without anything outside, it changes nothing.
#[test]
fn fact_11_external_policy_of_an_internal_service_is_nothing() {
    World::of([Web::cluster_ip().spec(json!({"externalTrafficPolicy": "Local"}))])
        .check(&[("pod", "cluster:80", "a1 b1"), ("client", "cluster:80", "a1! b1!")]);
}
