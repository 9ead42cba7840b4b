//! Nodes (facts H1 to H6), and how pods, labels and policies come and go (L1 to L11, as far as it is decided here).

use model::{
    Family, IdentityId, Labels, PodName, Reserved,
    policy::{Basis, Direction, L4, Mode, PeerAddress, PolicyUpdate, Question, Verdict},
};
use serde_json::json;

use super::world::{allowed, ask, denied, name, ports, tcp};
use crate::{
    compile::{Compiler, ContainerPorts, Pod},
    offline::{Offline, readings},
    world::{Owner, Undecidable, World},
};

fn base() -> World {
    let mut world = World::default()
        .with_namespace("x", "team=red")
        .with_namespace("y", "team=blue")
        .with_pod("x/a", "app=a", "10.0.1.1 fd00::1", "")
        .with_pod("y/b", "app=b", "10.0.2.1", "");
    for (node, addresses) in [("n1", ["10.1.0.1", "10.0.1.254"]), ("n2", ["10.1.0.2", "10.0.2.254"])] {
        world.nodes.insert(node.into(), addresses.map(|ip| ip.parse().expect("address")).into());
    }
    world
}

fn isolated() -> World {
    base().with_policy("x/deny", json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}))
}

#[test]
fn h1_h3_the_own_node_reaches_its_pods_from_any_of_its_addresses() {
    allowed(&isolated(), "10.1.0.1", "x/a", tcp(80));
    allowed(&isolated(), "10.0.1.254", "x/a", tcp(80));
    let deny_all = json!({"action": "Deny", "from": [{"namespaces": {}}]});
    let spec = json!({"tier": "Admin", "priority": 0, "subject": {"namespaces": {}}, "ingress": [deny_all]});
    allowed(&isolated().with_cluster_policy("deny", spec), "10.1.0.1", "x/a", tcp(80));
}

#[test]
fn h2_a_masqueraded_outsider_is_not_the_node() {
    // Its identity is that of its address before masquerading; the node's address alone makes nobody the node.
    let offline = Offline::of(&isolated());
    let endpoint = name("x/a");
    let peer = PeerAddress { identity: Reserved::World.id(), prefix: None };
    let question =
        Question { endpoint: &endpoint, direction: Direction::Ingress, peer, l4: tcp(80), loopback: false };
    assert_eq!(offline.table().decide(&question).verdict, Verdict::Deny);
}

#[test]
fn h4_other_nodes_are_not_exempt() {
    denied(&isolated(), "10.1.0.2", "x/a", tcp(80));
    let block = json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.1.0.0/24"}}]}]});
    allowed(&isolated().with_policy("x/p", block), "10.1.0.2", "x/a", tcp(80));
}

#[test]
fn h5_pods_in_the_nodes_network_are_the_node() {
    let mut world = isolated()
        .with_policy("x/p", json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}}]}]}));
    world = world.with_pod("y/hosted", "app=b", "10.1.0.2", "");
    let hosted = world.pods.get_mut(&name("y/hosted")).expect("pod");
    (hosted.host_network, hosted.node) = (true, "n2".into());
    denied(&world, "y/hosted", "x/a", tcp(80));
    allowed(&world, "y/b", "x/a", tcp(80));
    world = world.with_policy("y/deny", json!({"podSelector": {}}));
    allowed(&world, "10.0.9.9", "y/hosted", tcp(80));
    assert!(!Offline::of(&world).table().endpoints.contains_key(&name("y/hosted")));
}

#[test]
fn h6_a_resolver_on_the_node_is_no_pod() {
    let to_dns = json!([{"to": [{"namespaceSelector": {}, "podSelector": {}}], "ports": [{"port": 53, "protocol": "UDP"}]}]);
    let world =
        base().with_policy("x/p", json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": to_dns}));
    let dns = L4::Port(model::Protocol::Udp, 53);
    allowed(&world, "x/a", "y/b", dns);
    denied(&world, "x/a", "169.254.20.10", dns);
    let block = json!([{"to": [{"ipBlock": {"cidr": "169.254.0.0/16"}}]}]);
    let world =
        world.with_policy("x/q", json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": block}));
    allowed(&world, "x/a", "169.254.20.10", dns);
}

fn labels(of: &[(&str, &str)]) -> Labels {
    let keyed = |(key, value): &(&str, &str)| (format!("k8s:{key}"), (*value).to_owned());
    of.iter().map(keyed).chain([("k8s:io.kubernetes.pod.namespace".into(), "x".into())]).collect()
}

fn pod(identity: u32, address: &str, named: &str, local: bool) -> Option<Pod> {
    Some(Pod {
        identity: IdentityId::from_raw(identity),
        addresses: vec![address.parse().expect("address")],
        ports: ports(named),
        local: local.then_some(Mode::Enforce),
    })
}

#[test]
fn l1_a_pod_is_isolated_from_the_update_that_brings_it() {
    let mut compiler = Compiler::default();
    readings(&isolated()).into_iter().for_each(|reading| compiler.set_policy(reading.policy));
    compiler.set_identity(IdentityId::from_raw(300), Some(&labels(&[])));
    compiler.take_update();
    compiler.set_pod(&name("x/new"), pod(300, "10.0.1.9", "", true));
    let update = compiler.take_update();
    let endpoint = update.endpoints[&name("x/new")].expect("there");
    assert!(endpoint.ingress.network_policy.is_some() && endpoint.egress.network_policy.is_some());
}

#[test]
fn l1_an_endpoint_of_which_nothing_is_known_gets_nothing() {
    let endpoint = name("x/unheard-of");
    let peer = PeerAddress { identity: Reserved::Host.id(), prefix: None };
    let question =
        Question { endpoint: &endpoint, direction: Direction::Ingress, peer, l4: tcp(80), loopback: false };
    let decision = Offline::of(&base()).table().decide(&question);
    assert_eq!((decision.verdict, decision.basis), (Verdict::Deny, Basis::Unknown));
}

#[test]
fn l2_an_unknown_address_of_the_cluster_is_no_pod_that_a_selector_matches() {
    let world = isolated()
        .with_policy("x/p", json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}}]}]}));
    let offline = Offline::of(&world);
    let endpoint = name("x/a");
    for (identity, verdict) in [
        (Reserved::Unmanaged.id(), Verdict::Deny),
        (Reserved::Init.id(), Verdict::Deny),
        (IdentityId::of_cluster(0), Verdict::Allow),
    ] {
        let peer = PeerAddress { identity, prefix: None };
        let question = Question {
            endpoint: &endpoint,
            direction: Direction::Ingress,
            peer,
            l4: tcp(80),
            loopback: false,
        };
        assert_eq!(offline.table().decide(&question).verdict, verdict, "{identity}");
    }
}

#[test]
fn l2_whoever_is_not_known_yet_may_be_one_whom_a_rule_denies() {
    let deny = json!({"action": "Deny", "from": [{"namespaces": {"matchLabels": {"team": "green"}}}],
        "protocols": [{"tcp": {"destinationPort": {"number": 80}}}]});
    let accept = json!({"action": "Accept", "from": [{"namespaces": {}}]});
    let spec =
        json!({"tier": "Admin", "priority": 0, "subject": {"namespaces": {}}, "ingress": [accept, deny]});
    let offline = Offline::of(&base().with_cluster_policy("deny", spec));
    let endpoint = name("x/a");
    for (identity, port, verdict) in [
        (Reserved::Unmanaged.id(), 80, Verdict::Deny),
        (Reserved::Init.id(), 80, Verdict::Deny),
        (Reserved::Unmanaged.id(), 81, Verdict::Allow),
        (Reserved::World.id(), 80, Verdict::Allow),
        (IdentityId::of_cluster(0), 80, Verdict::Allow),
    ] {
        let (peer, l4) = (PeerAddress { identity, prefix: None }, tcp(port));
        let question =
            Question { endpoint: &endpoint, direction: Direction::Ingress, peer, l4, loopback: false };
        assert_eq!(offline.table().decide(&question).verdict, verdict, "{identity} {port}");
    }
}

#[test]
fn l3_a_finished_pods_address_is_whoevers_it_is_now() {
    let mut world = isolated()
        .with_policy("x/p", json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}))
        .with_pod("x/job", "", "10.0.2.1", "");
    let connection = world.connection("10.0.1.7", "x/a", tcp(80));
    assert!(matches!(world.party("10.0.2.1".parse().expect("ip")), Err(Undecidable::Ambiguous(..))));
    world.pods.get_mut(&name("x/job")).expect("pod").finished = true;
    let mut connection = connection;
    connection.source = world.party("10.0.2.1".parse().expect("ip")).expect("one");
    assert_eq!(connection.source.owner, Owner::Pod(name("y/b")));
    assert_eq!(ask(&world, &Offline::of(&world), &connection).verdict(), Verdict::Deny);
    assert!(matches!(world.pod_party(&name("x/job"), Family::V4), Err(Undecidable::Finished(_))));
}

#[test]
fn l4_a_pod_that_is_being_deleted_is_still_one() {
    let object = json!({"metadata": {"name": "a", "namespace": "x", "deletionTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": []}, "status": {"phase": "Running", "podIPs": [{"ip": "10.0.1.1"}]}});
    let pod = crate::read::pod(&serde_json::from_value(object).expect("pod"));
    assert!(!pod.finished && pod.addresses.len() == 1);
}

#[test]
fn l5_l6_labels_count_from_when_they_change() {
    let spec = json!({"podSelector": {"matchLabels": {"app": "a"}}, "ingress": [
        {"from": [{"namespaceSelector": {"matchLabels": {"team": "blue"}}, "podSelector": {"matchLabels": {"app": "b"}}}]}]});
    let mut world = base().with_policy("x/p", spec);
    let mut offline = Offline::of(&world);
    let check = |world: &World, offline: &mut Offline, wanted| {
        offline.sync(world);
        let connection = world.connection("y/b", "x/a", tcp(80));
        assert_eq!(ask(world, offline, &connection).verdict(), wanted);
    };
    check(&world, &mut offline, Verdict::Allow);
    for (labels, wanted) in [("app=c", Verdict::Deny), ("app=b", Verdict::Allow)] {
        world = world.with_pod("y/b", labels, "10.0.2.1", "");
        check(&world, &mut offline, wanted);
    }
    for (labels, wanted) in [("team=green", Verdict::Deny), ("team=blue", Verdict::Allow)] {
        world = world.with_namespace("y", labels);
        check(&world, &mut offline, wanted);
    }
    world = world.with_pod("x/a", "app=z", "10.0.1.1", "").with_pod("y/b", "", "10.0.2.1", "");
    check(&world, &mut offline, Verdict::Allow);
    world = world.with_pod("x/a", "app=a", "10.0.1.1", "");
    check(&world, &mut offline, Verdict::Deny);
}

#[test]
fn l7_a_namespace_has_its_name_as_a_label() {
    let selector = json!({"matchLabels": {"kubernetes.io/metadata.name": "y"}});
    let world = base().with_policy(
        "x/p",
        json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": selector}]}]}),
    );
    allowed(&world, "y/b", "x/a", tcp(80));
}

#[test]
fn l8_what_a_number_stands_for_never_changes() {
    let mut world = isolated();
    let mut offline = Offline::of(&world);
    let before = offline.table().clone();
    world = world.with_policy("x/deny", json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]}));
    offline.sync(&world);
    let after = offline.table();
    for (id, ports) in &after.ports {
        assert!(before.ports.get(id).is_none_or(|old| old == ports));
    }
    let spec = |action: &str| {
        json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}},
            "ingress": [{"action": action, "from": [{"namespaces": {}}]}]})
    };
    world = world.with_cluster_policy("c", spec("Accept"));
    offline.sync(&world);
    let first = offline.table().endpoints[&name("x/a")].ingress.admin.expect("a list");
    world = world.with_cluster_policy("c", spec("Deny"));
    offline.sync(&world);
    let second = offline.table().endpoints[&name("x/a")].ingress.admin.expect("a list");
    assert_ne!(first, second, "an endpoint goes from one ranked list to the next by one write");
}

/// A compiler with a policy that allows `app=a` to `app=s` by a named port.
fn by_name() -> Compiler {
    let world = World::default().with_policy(
        "x/p",
        json!({"podSelector": {}, "policyTypes": ["Egress"],
            "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "s"}}}], "ports": [{"port": "http"}]}]}),
    );
    let mut compiler = Compiler::default();
    readings(&world).into_iter().for_each(|reading| compiler.set_policy(reading.policy));
    compiler.set_identity(IdentityId::from_raw(300), Some(&labels(&[("app", "s")])));
    compiler.set_identity(IdentityId::from_raw(301), Some(&labels(&[("app", "c")])));
    compiler.set_pod(&name("x/c"), pod(301, "10.0.1.1", "", true));
    compiler.set_pod(&name("x/s0"), pod(300, "10.0.2.10", "http=80", false));
    compiler.take_update();
    compiler
}

#[test]
fn another_pod_of_known_labels_moves_nothing() {
    let mut compiler = by_name();
    compiler.set_pod(&name("x/s1"), pod(300, "10.0.2.11", "http=80", false));
    assert_eq!(compiler.take_update(), PolicyUpdate::default());
    compiler.set_pod(&name("x/s2"), pod(300, "10.0.2.12", "http=81", false));
    let update = compiler.take_update();
    assert_eq!(update.prefixes.len(), 3, "each by its address now: {update:?}");
    compiler.set_pod(&name("x/s2"), None);
    compiler.take_update();
    assert!(compiler.table().prefixes.is_empty());
}

#[test]
fn a_pod_that_moves_to_another_identity_costs_its_own_row() {
    let mut compiler = by_name();
    compiler.set_pod(&name("x/d"), pod(301, "10.0.1.2", "", true));
    let update = compiler.take_update();
    assert_eq!((update.endpoints.len(), update.peers.len(), update.lists.len()), (1, 0, 0), "{update:?}");
}

#[test]
fn numbers_begin_where_an_earlier_process_left_off() {
    let first = crate::compile::FirstNumbers {
        list: model::policy::ListId(70),
        ports: model::policy::PortsId(80),
        prefix: 100,
        prefixes: [("10.9.0.0/16".parse().expect("prefix"), IdentityId::local(3))].into(),
    };
    let mut compiler = Compiler::new(first);
    let block = json!({"cidr": "10.0.0.0/8", "except": ["10.9.0.0/16"]});
    let block = json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": block}]}]});
    let world = World::default().with_policy("x/p", block);
    readings(&world).into_iter().for_each(|reading| compiler.set_policy(reading.policy));
    compiler.set_identity(IdentityId::from_raw(300), Some(&labels(&[])));
    let pod = Pod { ports: ContainerPorts::default(), ..pod(300, "10.0.1.1", "", true).expect("pod") };
    compiler.set_pod(&PodName { namespace: "x".into(), name: "a".into() }, Some(pod));
    compiler.take_update();
    let table = compiler.table();
    assert_eq!(table.lists.keys().next().map(|id| id.0), Some(70));
    assert_eq!(table.ports.keys().next().map(|id| id.0), Some(80));
    let identities: Vec<_> = table.prefixes.values().copied().collect();
    assert_eq!(identities, [IdentityId::local(100), IdentityId::local(3)]);
}

#[test]
fn a_new_process_gives_each_rule_the_number_that_it_had() {
    let spec = |cidr: &str| {
        json!({
            "podSelector": {}, "egress": [{}, {"ports": [{"port": 53}]}],
            "ingress": [{"from": [{"ipBlock": {"cidr": cidr}}]}, {"from": [{"podSelector": {}}]}],
        })
    };
    let number = |policies: &[(&str, &str)]| {
        let mut compiler = Compiler::default();
        for (policy, cidr) in policies {
            let world = World::default().with_policy(policy, spec(cidr));
            readings(&world).into_iter().for_each(|reading| compiler.set_policy(reading.policy));
        }
        compiler.set_identity(IdentityId::from_raw(300), Some(&labels(&[])));
        for namespace in ["x", "y"] {
            let pod =
                Pod { ports: ContainerPorts::default(), ..pod(300, "10.0.1.1", "", true).expect("pod") };
            compiler.set_pod(&PodName { namespace: namespace.into(), name: "a".into() }, Some(pod));
        }
        compiler.take_update();
        let rules = compiler.table().rules.clone();
        rules
            .into_iter()
            .map(|(id, rule)| (rule.to_string(), id))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    let before = number(&[("x/p", "10.0.0.0/8"), ("y/p", "10.1.0.0/16")]);
    assert_eq!(before.len(), 12, "two policies that isolate both ways and have two rules each way");
    // Another order, and another block in the same place.
    assert_eq!(before, number(&[("y/p", "10.1.0.0/16"), ("x/p", "192.0.2.0/24")]));
}
