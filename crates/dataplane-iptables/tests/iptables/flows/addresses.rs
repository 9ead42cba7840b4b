//! Node ports and health-check node ports at the node's addresses, and what conntrack calls invalid.

use dataplane_iptables::{render::Options, ruleset::Table};
use model::{Family, NodePortAddresses};
use serde_json::json;

use super::world::{Web, World, address};

fn at(node_ports: fn(Family) -> NodePortAddresses) -> World {
    World { node_ports, ..World::of([Web::load_balancer()]) }
}

fn only(family: Family, name: &str) -> NodePortAddresses {
    NodePortAddresses::Within(vec![address(family, name).into()])
}

#[test]
fn facts_53_55_node_ports_at_some_addresses() {
    const BOTH: &[(&str, &str, &str)] = &[
        ("client", "node:30080", "a1! b1!"),
        ("client", "node-alt:30080", "a1! b1!"),
        ("pod", "node:30080", "a1! b1!"),
    ];
    const FIRST: &[(&str, &str, &str)] =
        &[("client", "node:30080", "a1! b1!"), ("client", "node-alt:30080", "")];
    const SECOND: &[(&str, &str, &str)] =
        &[("client", "node:30080", ""), ("pod", "node-alt:30080", "a1! b1!")];
    at(|_| NodePortAddresses::All).check(BOTH);
    at(|_| NodePortAddresses::Primary).check(FIRST);
    at(|family| only(family, "node")).check(FIRST);
    at(|family| only(family, "node-alt")).check(SECOND);
    // Both families are named; each uses its own.
    at(|_| {
        let both = [address(Family::V4, "node"), address(Family::V6, "node")];
        NodePortAddresses::Within(both.map(Into::into).into())
    })
    .check(FIRST);
    // Only the other one is: no restriction.
    at(|family| only(if family == Family::V4 { Family::V6 } else { Family::V4 }, "node")).check(BOTH);
    at(|_| NodePortAddresses::Within(["0.0.0.0/0", "::/0"].map(crate::common::cidr).into())).check(BOTH);
    // The other frontends are not touched by it.
    at(|family| only(family, "node-alt"))
        .check(&[("client", "vip:80", "a1! b1!"), ("client", "external:80", "a1! b1!")]);
}

#[test]
fn facts_51_52_the_jump_leaves_out_loopback_where_it_does_not_work() {
    let last = |world: &World, family| {
        let saved = world.saved(family);
        saved.chain(Table::Nat, "KUBE-SERVICES").and_then(<[_]>::last).expect("rule").text.clone()
    };
    let on = at(|_| NodePortAddresses::All);
    let off = World { options: Options { localhost_node_ports: false, ..Options::default() }, ..on.clone() };
    assert!(!last(&on, Family::V4).contains('!'));
    assert!(last(&off, Family::V4).starts_with("! -d 127.0.0.0/8 "));
    for world in [on, off] {
        assert!(last(&world, Family::V6).starts_with("! -d ::1/128 "));
        assert!(last(&world, Family::V6).ends_with("-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"));
    }
}

#[test]
fn fact_90_the_health_check_port_is_let_in_at_every_address() {
    let spec = json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": 30999});
    let mut world = World::of([Web::load_balancer().spec(spec)]);
    world.node_ports = |family| only(family, "node-alt");
    for family in Family::ALL {
        assert!(world.accepts(family, 30999), "{family:?}");
        world.check(&[("client", "node:30999", ""), ("client", "node-alt:30999", "")]);
        assert!(!World::of([]).accepts(family, 30999), "gone with its Service");
        let cluster = Web::load_balancer().spec(json!({"healthCheckNodePort": 30999}));
        assert!(!World::of([cluster]).accepts(family, 30999), "policy Cluster has none");
    }
}

#[test]
fn fact_101_invalid_packets_are_dropped_unless_conntrack_is_liberal() {
    for (liberal, rules) in [(false, 1), (true, 0)] {
        let world = World { options: Options { liberal, ..Options::default() }, ..World::of([]) };
        for family in Family::ALL {
            let saved = world.saved(family);
            let forward = saved.chain(Table::Filter, "KUBE-FORWARD").expect("chain");
            let drops =
                forward.iter().filter(|rule| rule.text.contains("INVALID") && rule.text.ends_with("-j DROP"));
            assert_eq!(drops.count(), rules, "{family:?}");
        }
    }
}

#[test]
fn fact_60_counters_only_where_the_kernel_has_them() {
    for accounting in [true, false] {
        let world = World {
            options: Options { accounting, ..Options::default() },
            ..World::of([Web::load_balancer()])
        };
        for family in Family::ALL {
            let text = format!("{:?}", world.saved(family));
            assert_eq!(
                text.contains("--nfacct-name ct_state_invalid_dropped_pkts"),
                accounting,
                "{family:?}"
            );
            let localhost = accounting && family == Family::V4;
            assert_eq!(text.contains("--nfacct-name localhost_nps_accepted_pkts"), localhost, "{family:?}");
        }
    }
}
