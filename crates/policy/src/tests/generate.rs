//! Clusters by chance: few names, so that they meet; every operator, nested prefixes, ports that differ, both families.

use std::collections::BTreeMap;

use fastrand::Rng;
use model::{
    PodName, Protocol,
    policy::{Direction, L4},
};
use serde_json::{Value, json};

use super::world::{ports, sctp, tcp, udp};
use crate::{
    read::PodReading,
    world::{Connection, Party, World},
};

const NAMESPACES: [&str; 3] = ["a", "b", "c"];
const CIDRS: [&str; 14] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/16",
    "10.0.1.0/24",
    "10.0.1.77/24",
    "10.0.1.2/32",
    "10.1.0.0/24",
    "192.0.2.0/24",
    "::/0",
    "fd00::/16",
    "fd00::1:0/112",
    "fd00::1:2/128",
    "fd01::/64",
    "10.0.1.0",
];
const OUTSIDE: [&str; 6] =
    ["10.0.1.200", "10.0.9.9", "192.0.2.1", "198.51.100.1", "fd00::1:ff", "2001:db8::1"];

fn one<T: Clone>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(..of.len())].clone()
}

/// One in `n`.
fn rarely(rng: &mut Rng, n: usize) -> bool {
    rng.usize(..n) == 0
}

fn some_labels(rng: &mut Rng, keys: [&str; 2]) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for key in keys {
        if !rarely(rng, 3) {
            labels.insert(key.to_owned(), one(rng, &["x", "y", ""]).to_owned());
        }
    }
    labels
}

fn selector(rng: &mut Rng, keys: [&str; 2]) -> Value {
    match rng.usize(..7) {
        0 => json!({}),
        1 | 2 => json!({"matchLabels": {one(rng, &keys): one(rng, &["x", "y", ""])}}),
        3..=5 => {
            let expression = |rng: &mut Rng| match rng.usize(..4) {
                0 => json!({"key": one(rng, &keys), "operator": "In", "values": ["x", one(rng, &["", "y"])]}),
                1 => json!({"key": one(rng, &keys), "operator": "NotIn", "values": [one(rng, &["x", "y"])]}),
                2 => json!({"key": one(rng, &keys), "operator": "Exists"}),
                _ => json!({"key": one(rng, &keys), "operator": "DoesNotExist"}),
            };
            let all: Vec<Value> = (0..rng.usize(1..3)).map(|_| expression(rng)).collect();
            json!({"matchExpressions": all})
        }
        _ if rarely(rng, 4) => {
            json!({"matchExpressions": [{"key": one(rng, &keys), "operator": "Gt", "values": ["1"]}]})
        }
        _ => json!({"matchLabels": {keys[0]: "x", keys[1]: "y"}}),
    }
}

fn pods_selector(rng: &mut Rng) -> Value {
    selector(rng, ["app", "tier"])
}

fn namespaces_selector(rng: &mut Rng) -> Value {
    selector(rng, ["team", "env"])
}

fn some_pod(rng: &mut Rng, number: usize) -> PodReading {
    let mut addresses = vec![];
    if !rarely(rng, 8) {
        addresses.push(format!("10.0.{}.{}", 1 + number % 2, 1 + number).parse().expect("address"));
    }
    if rng.bool() {
        addresses.push(format!("fd00::{}:{}", 1 + number % 2, 1 + number).parse().expect("address"));
    }
    let labels = match rng.bool() {
        true => [("app".to_owned(), "x".to_owned())].into(),
        false => some_labels(rng, ["app", "tier"]),
    };
    PodReading {
        labels,
        addresses,
        ports: ports(one(rng, &["http=80", "http=8080", "http=80,dns=53/UDP", "http=80/SCTP,dns=53", ""])),
        node: one(rng, &["n1", "n2"]).to_owned(),
        host_network: rarely(rng, 10),
        finished: rarely(rng, 10),
        mode: None,
    }
}

fn peer(rng: &mut Rng) -> Value {
    match rng.usize(..8) {
        0 | 1 => json!({"podSelector": pods_selector(rng)}),
        2 => json!({"namespaceSelector": namespaces_selector(rng)}),
        3 => json!({"podSelector": pods_selector(rng), "namespaceSelector": namespaces_selector(rng)}),
        7 if rarely(rng, 3) => {
            one(rng, &[json!({}), json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}})])
        }
        _ => {
            let except: Vec<_> = (0..rng.usize(..3)).map(|_| one(rng, &CIDRS[..13])).collect();
            json!({"ipBlock": {"cidr": one(rng, &CIDRS), "except": except}})
        }
    }
}

fn port(rng: &mut Rng) -> Value {
    let protocol = one(rng, &[json!(null), json!("TCP"), json!("UDP"), json!("SCTP")]);
    match rng.usize(..9) {
        0 => json!({"protocol": protocol}),
        1..=3 => json!({"protocol": protocol, "port": one(rng, &[80, 53, 8080])}),
        4 | 5 => {
            json!({"protocol": protocol, "port": one(rng, &[79, 8000]), "endPort": one(rng, &[80, 8100])})
        }
        6 | 7 => json!({"protocol": protocol, "port": one(rng, &["http", "dns"])}),
        _ => one(rng, &[json!({"protocol": "ICMP"}), json!({"port": 90, "endPort": 80}), json!({"port": 0})]),
    }
}

fn rules(rng: &mut Rng, side: &str) -> Value {
    let rule = |rng: &mut Rng| {
        let mut rule = json!({});
        if !rarely(rng, 4) {
            rule[side] = (0..rng.usize(..3)).map(|_| peer(rng)).collect();
        }
        if rng.bool() {
            rule["ports"] = (0..rng.usize(..3)).map(|_| port(rng)).collect();
        }
        rule
    };
    (0..rng.usize(..3)).map(|_| rule(rng)).collect()
}

fn network_policy(rng: &mut Rng) -> Value {
    let mut spec = json!({"podSelector": pods_selector(rng)});
    if rng.bool() {
        spec["policyTypes"] =
            one(rng, &[json!(["Ingress"]), json!(["Egress"]), json!(["Ingress", "Egress"]), json!([])]);
    }
    if !rarely(rng, 4) {
        spec["ingress"] = rules(rng, "from");
    }
    if !rarely(rng, 3) {
        spec["egress"] = rules(rng, "to");
    }
    spec
}

fn admin_peer(rng: &mut Rng, direction: Direction) -> Value {
    match rng.usize(..6) {
        0 | 1 => json!({"namespaces": namespaces_selector(rng)}),
        2 | 3 => {
            json!({"pods": {"namespaceSelector": namespaces_selector(rng), "podSelector": pods_selector(rng)}})
        }
        4 if rarely(rng, 4) => json!({"nodes": {}}),
        _ if direction == Direction::Egress => {
            json!({"networks": [one(rng, &CIDRS), one(rng, &CIDRS[..13])]})
        }
        _ => json!({"namespaces": {}}),
    }
}

fn admin_protocol(rng: &mut Rng) -> Value {
    let transport = one(rng, &["tcp", "udp", "sctp"]);
    match rng.usize(..5) {
        0 => json!({transport: {}}),
        1 => json!({transport: {"destinationPort": {"number": one(rng, &[80, 53, 8080])}}}),
        2 | 3 => json!({transport: {"destinationPort": {"range": {"start": 79, "end": 8080}}}}),
        _ => json!({"destinationNamedPort": one(rng, &["http", "dns"])}),
    }
}

fn admin_rules(rng: &mut Rng, direction: Direction, side: &str) -> Value {
    let rule = |rng: &mut Rng| {
        let mut rule = json!({"action": one(rng, &["Accept", "Deny", "Pass"])});
        rule[side] = (0..rng.usize(1..3)).map(|_| admin_peer(rng, direction)).collect();
        if rng.bool() {
            rule["protocols"] = (0..rng.usize(1..3)).map(|_| admin_protocol(rng)).collect();
        }
        rule
    };
    (0..rng.usize(..4)).map(|_| rule(rng)).collect()
}

fn cluster_policy(rng: &mut Rng) -> Value {
    let subject = match rng.bool() {
        true => json!({"namespaces": namespaces_selector(rng)}),
        false => {
            json!({"pods": {"namespaceSelector": namespaces_selector(rng), "podSelector": pods_selector(rng)}})
        }
    };
    json!({
        "tier": one(rng, &["Admin", "Baseline"]), "priority": one(rng, &[0, 1, 10, 1000]), "subject": subject,
        "ingress": admin_rules(rng, Direction::Ingress, "from"), "egress": admin_rules(rng, Direction::Egress, "to"),
    })
}

/// Changes something, or makes it.
pub(super) fn step(rng: &mut Rng, world: &mut World) {
    let namespace = one(rng, &NAMESPACES);
    match rng.usize(..11) {
        0 => world.set_namespace(namespace, some_labels(rng, ["team", "env"])),
        1..=3 => {
            let number = rng.usize(..9);
            let name = PodName { namespace: one(rng, &NAMESPACES[..2]).into(), name: format!("p{number}") };
            world.pods.retain(|other, _| other.name != name.name);
            if !rarely(rng, 5) {
                world.pods.insert(name, some_pod(rng, number));
            }
        }
        4..=7 => {
            let name = PodName { namespace: namespace.into(), name: format!("np{}", rng.usize(..3)) };
            match rarely(rng, 4) {
                true => _ = world.network_policies.remove(&name),
                false => *world = std::mem::take(world).with_policy(&name.to_string(), network_policy(rng)),
            }
        }
        _ => {
            let name = format!("cnp{}", rng.usize(..4));
            match rarely(rng, 3) {
                true => _ = world.cluster_network_policies.remove(&name),
                false => *world = std::mem::take(world).with_cluster_policy(&name, cluster_policy(rng)),
            }
        }
    }
}

/// A cluster without policies.
pub(super) fn empty() -> World {
    let mut world = World::default();
    for namespace in NAMESPACES {
        world.set_namespace(namespace, BTreeMap::new());
    }
    for (number, node) in ["n1", "n2"].into_iter().enumerate() {
        let addresses = [format!("10.1.0.{}", 1 + number), format!("fd01::{}", 1 + number)];
        world.nodes.insert(node.into(), addresses.map(|ip| ip.parse().expect("address")).into());
    }
    world
}

/// A cluster with everything.
pub(super) fn world(rng: &mut Rng) -> World {
    let mut world = empty();
    for _ in 0..rng.usize(10..50) {
        step(rng, &mut world);
    }
    world
}

/// Everyone with an address.
fn parties(world: &World) -> Vec<Party> {
    let pods = world.pods.values().filter(|pod| !pod.finished).flat_map(|pod| pod.addresses.iter().copied());
    let nodes = world.nodes.values().flatten().copied();
    let outside = OUTSIDE.iter().map(|ip| ip.parse().expect("address"));
    pods.chain(nodes).chain(outside).map(|address| world.party(address).expect("one owner")).collect()
}

/// Everything that can be asked: everyone and everyone, over everything.
pub(super) fn questions(world: &World) -> Vec<Connection> {
    let parties = parties(world);
    let l4 = [
        tcp(80),
        tcp(8080),
        tcp(8100),
        tcp(53),
        udp(53),
        udp(80),
        sctp(80),
        L4::Port(Protocol::Tcp, 0),
        L4::Other,
    ];
    let mut all = vec![];
    for source in &parties {
        for destination in &parties {
            if source.address.is_ipv4() != destination.address.is_ipv4() {
                continue;
            }
            all.extend(l4.map(|l4| Connection {
                source: source.clone(),
                destination: destination.clone(),
                l4,
            }));
        }
    }
    all
}
