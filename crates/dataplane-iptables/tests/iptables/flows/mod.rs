//! The packet flows that kube-proxy's own tests of its iptables mode are about, on objects, in both families: who
//! reaches which endpoint from where, seen as whom, and who is refused.

mod addresses;
mod policies;
mod world;

use dataplane_iptables::render::Options;
use serde_json::json;

use world::{HERE, ONE_EACH, THERE, Web, World};

/// Three ports share one number; a fourth protocol's packet concerns nobody.
fn three_protocols() -> Web {
    Web::cluster_ip().spec(json!({"ports": [
        {"name": "t", "port": 80, "protocol": "TCP", "targetPort": 8081},
        {"name": "u", "port": 80, "protocol": "UDP", "targetPort": 8082},
        {"name": "s", "port": 80, "protocol": "SCTP", "targetPort": 8083},
        {"name": "only-tcp", "port": 81, "protocol": "TCP"},
    ]}))
}

#[test]
fn facts_33_38_cluster_ips() {
    let one = Web::cluster_ip().endpoints(&[("a1", HERE, "rs")]);
    let two = Web { name: "two", cluster_ip: "cluster2", ..Web::cluster_ip() };
    World::of([one, two]).check(&[
        ("pod", "cluster:80", "a1"),
        ("pod-b", "cluster:80", "a1"),
        ("node", "cluster:80", "a1!"),
        ("client", "cluster:80", "a1!"),
        ("a1", "cluster:80", "a1!"),
        ("pod", "cluster2:80", "a1 b1"),
        ("node", "cluster2:80", "a1! b1!"),
        ("client", "cluster2:80", "a1! b1!"),
        ("a1", "cluster2:80", "a1! b1"),
        ("b1", "cluster2:80", "a1 b1!"),
        ("pod", "cluster:81", ""),
        ("pod", "cluster:8080", ""),
        ("pod", "cluster:80/udp", ""),
        ("pod", "unallocated:80", ""),
    ]);
}

#[test]
fn fact_34_protocols_share_a_number() {
    World::of([three_protocols()]).check(&[
        ("pod", "cluster:80/tcp", "a1:8081 b1:8081"),
        ("pod", "cluster:80/udp", "a1:8082 b1:8082"),
        ("pod", "cluster:80/sctp", "a1:8083 b1:8083"),
        ("client", "cluster:80/sctp", "a1:8083! b1:8083!"),
        ("pod", "cluster:81/tcp", "a1 b1"),
        ("pod", "cluster:81/udp", ""),
        ("pod", "cluster:81/sctp", ""),
    ]);
}

#[test]
fn fact_37_masquerade_all() {
    let options = Options { masquerade_all: true, ..Options::default() };
    World { options, ..World::of([Web::load_balancer().spec(json!({"externalTrafficPolicy": "Local"}))]) }
        .check(&[
            ("pod", "cluster:80", "a1! b1!"),
            ("node", "cluster:80", "a1! b1!"),
            ("client", "cluster:80", "a1! b1!"),
            // Not what is not a cluster IP.
            ("pod", "vip:80", "a1 b1"),
            ("client", "vip:80", "a1"),
        ]);
}

#[test]
fn facts_37_65_without_a_local_detector() {
    let without = |external: &str| World {
        detects_pods: false,
        ..World::of([Web::load_balancer().spec(json!({"externalTrafficPolicy": external}))])
    };
    without("Cluster").check(&[
        ("pod", "cluster:80", "a1 b1"),
        ("node", "cluster:80", "a1 b1"),
        ("client", "cluster:80", "a1 b1"),
        ("a1", "cluster:80", "a1! b1"),
        ("pod", "vip:80", "a1! b1!"),
        ("client", "node:30080", "a1! b1!"),
    ]);
    // Pods cannot be told from outside clients.
    without("Local").check(&[
        ("pod", "vip:80", "a1"),
        ("pod", "node:30080", "a1"),
        ("pod", "external:80", "a1"),
        ("client", "vip:80", "a1"),
        ("node", "vip:80", "a1! b1!"),
        ("node", "node:30080", "a1! b1!"),
    ]);
}

#[test]
fn facts_25_69_nothing_usable_is_rejected_everywhere() {
    for endpoints in [&[][..], &[("a1", HERE, ""), ("b1", THERE, "s")], &[("a1", HERE, "t")]] {
        for policy in ["Cluster", "Local"] {
            let policies = json!({"internalTrafficPolicy": policy, "externalTrafficPolicy": policy});
            World::of([Web::load_balancer().endpoints(endpoints).spec(policies)]).check(&[
                ("pod", "cluster:80", "REJECT"),
                ("node", "cluster:80", "REJECT"),
                ("client", "cluster:80", "REJECT"),
                ("pod", "vip:80", "REJECT"),
                ("client", "vip:80", "REJECT"),
                ("client", "external:80", "REJECT"),
                ("client", "node:30080", "REJECT"),
                ("pod", "node-alt:30080", "REJECT"),
                ("node", "node:30080", "REJECT"),
            ]);
        }
    }
}

#[test]
fn facts_81_83_terminating_endpoints() {
    let world = |endpoints| {
        World::of([Web::load_balancer().endpoints(endpoints).spec(json!({"externalTrafficPolicy": "Local"}))])
    };
    // Ready ones here: terminating ones are not used.
    world(&[("a1", HERE, "rs"), ("a2", HERE, "st"), ("b1", THERE, "rs"), ("b2", THERE, "st")]).check(&[
        ("pod", "cluster:80", "a1 b1"),
        ("client", "vip:80", "a1"),
        ("client", "node:30080", "a1"),
    ]);
    // Only terminating ones here: outside clients keep them, everyone else uses the ready ones there.
    world(&[("a1", HERE, "st"), ("a2", HERE, "t"), ("b1", THERE, "rs")]).check(&[
        ("pod", "cluster:80", "b1"),
        ("pod", "vip:80", "b1"),
        ("node", "vip:80", "b1!"),
        ("client", "vip:80", "a1"),
        ("client", "node:30080", "a1"),
        ("client", "external:80", "a1"),
    ]);
    // Only terminating ones anywhere.
    world(&[("a1", HERE, "st"), ("b1", THERE, "st")])
        .check(&[("pod", "cluster:80", "a1 b1"), ("client", "vip:80", "a1")]);
    // Only there: dropped, not rejected.
    world(&[("b1", THERE, "st")]).check(&[
        ("pod", "cluster:80", "b1"),
        ("client", "vip:80", "DROP"),
        ("client", "node:30080", "DROP"),
        ("pod", "vip:80", "b1"),
    ]);
    world(&[("a1", HERE, ""), ("b1", THERE, "")])
        .check(&[("pod", "cluster:80", "REJECT"), ("client", "vip:80", "REJECT")]);
}

#[test]
fn fact_45_endpoints_of_the_host_network() {
    let endpoints = &[("node", HERE, "rs"), ("node-b", THERE, "rs")];
    World::of([Web::load_balancer().endpoints(endpoints)]).check(&[
        ("pod", "cluster:80", "node node-b"),
        ("node", "cluster:80", "node! node-b!"),
        // What the node receives itself keeps its source.
        ("client", "cluster:80", "node node-b!"),
        ("client", "node:30080", "node node-b!"),
    ]);
}

#[test]
fn facts_2_3_7_what_is_no_frontend() {
    let named = |name, patch| Web { name, patch, cluster_ip: "cluster", ..Web::cluster_ip() };
    World::of([named("headless", json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}}))])
        .check(&[("pod", "cluster:80", "")]);
    World::of([named("alias", json!({"spec": {"type": "ExternalName", "externalName": "x.example"}}))])
        .check(&[("pod", "cluster:80", "")]);
    let mut proxied = Web::load_balancer();
    proxied.vips = &[];
    for family in model::Family::ALL {
        let vip = |name: &str| world::address(family, name).to_string();
        let ingress = json!([{"ip": vip("vip"), "ipMode": "Proxy"}, {"hostname": "lb.example"},
                             {"ip": vip("vip2"), "ipMode": "VIP"}]);
        proxied.patch["status"] = json!({"loadBalancer": {"ingress": ingress}});
        let world = World::of([proxied.clone()]);
        let saved = world.saved(family);
        let rules = saved.chain(dataplane_iptables::ruleset::Table::Nat, "KUBE-SERVICES").expect("chain");
        let names = |name: &str| rules.iter().any(|rule| rule.text.contains(&format!("-d {}/", vip(name))));
        assert!(!names("vip") && names("vip2") && names("external"), "{family:?}");
    }
}

#[test]
fn fact_1_ports_of_one_service_are_separate() {
    let web = Web::cluster_ip().spec(json!({"ports": [
        {"name": "a", "port": 80, "protocol": "TCP", "targetPort": 8081},
        {"name": "b", "port": 443, "protocol": "TCP", "targetPort": 8443},
    ]}));
    World::of([web.endpoints(ONE_EACH)]).check(&[
        ("pod", "cluster:80", "a1:8081 b1:8081"),
        ("pod", "cluster:443", "a1:8443 b1:8443"),
        ("pod", "cluster:8443", ""),
    ]);
}
