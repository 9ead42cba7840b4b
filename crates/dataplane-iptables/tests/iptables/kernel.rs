//! Real sockets, rules and connection tables.

use std::io::ErrorKind;

use dataplane::{Dataplane, Key, ServiceRow};
use dataplane_iptables::{Config, IptablesDataplane, walk::End};
use model::{Changed, Family, FrontendKind, Protocol, TrafficPolicy, oracle::Packet};

use crate::{
    common::{backends, cidr, frontend, id, ip, service, snapshot},
    node::{ONE, TWO, WEB, apply, ask, node, on_a_node, run, saved, serve_tcp, web},
};

#[test]
fn connections_reach_backends_and_are_shown() {
    on_a_node("reach", |plane| {
        serve_tcp(ONE);
        serve_tcp(TWO);
        apply(plane, &snapshot(node(), [web(Protocol::Tcp, &[ONE, TWO])]));
        for frontend in [WEB, "10.128.0.11:30080"] {
            let mut answers: Vec<_> = (0..40).map(|_| ask(frontend).expect(frontend)).collect();
            answers.sort();
            answers.dedup();
            assert_eq!(answers, [ONE, TWO], "{frontend}");
        }
        let rows = plane.services().expect("services");
        let shown: Vec<_> =
            rows.iter().map(|row| (row.kind, row.frontend.to_string(), addresses(row))).collect();
        let both = || vec![ONE.to_owned(), TWO.to_owned()];
        assert_eq!(
            shown,
            [
                (FrontendKind::ClusterIp, WEB.to_owned(), both()),
                (FrontendKind::NodePort, "10.128.0.11:30080".to_owned(), both())
            ]
        );
        let connections = plane.connections(usize::MAX).expect("connections");
        let to_web = connections.iter().filter(|c| c.destination.to_string() == WEB).collect::<Vec<_>>();
        assert!(to_web.len() >= 40, "{}", to_web.len());
        assert!(to_web.iter().all(|c| [ONE, TWO].contains(&c.backend.to_string().as_str())), "{to_web:?}");
        assert_eq!(plane.connections(7).expect("connections").len(), 7);
    });
}

fn addresses(row: &ServiceRow) -> Vec<String> {
    row.backends.iter().map(|backend| backend.address.to_string()).collect()
}

#[test]
fn ipv6_is_the_same() {
    on_a_node("v6", |plane| {
        run("ip", "addr add fd00:128::11/64 dev uplink nodad");
        run("ip", "addr add fd00:20::1/128 dev lo nodad");
        run("ip", "-6 route add default via fd00:128::1");
        serve_tcp("[fd00:20::1]:8080");
        let mut web = web(Protocol::Tcp, &["[fd00:20::1]:8080"]);
        web.id.family = Family::V6;
        web.frontends[0] = frontend(FrontendKind::ClusterIp, "fd00:24::1", 80);
        let mut node = node();
        node.addresses.push(ip("fd00:128::11"));
        node.cluster_cidrs.push(cidr("fd00:20::/64"));
        let state = snapshot(node, [web]);
        apply(plane, &state);
        assert_eq!(plane.repair(&state).expect("repair"), [""; 0], "what is read back is what was written");
        for frontend in ["[fd00:24::1]:80", "[fd00:128::11]:30080"] {
            assert_eq!(ask(frontend).expect(frontend), "[fd00:20::1]:8080");
        }
        let frontends: Vec<_> =
            plane.services().expect("rows").iter().map(|row| row.frontend.to_string()).collect();
        assert_eq!(frontends, ["[fd00:24::1]:80", "[fd00:128::11]:30080"]);
        let connections = plane.connections(usize::MAX).expect("connections");
        assert!(
            connections.iter().any(|c| c.destination.to_string() == "[fd00:24::1]:80"),
            "{connections:?}"
        );
        plane.clean_up().expect("clean up");
    });
}

#[test]
fn without_endpoints_clients_are_refused_and_counted() {
    on_a_node("refuse", |plane| {
        let empty = snapshot(node(), [web(Protocol::Tcp, &[])]);
        apply(plane, &empty);
        for frontend in [WEB, "10.128.0.11:30080"] {
            assert_eq!(
                ask(frontend).expect_err("refused").kind(),
                ErrorKind::ConnectionRefused,
                "{frontend}"
            );
        }
        let rejected = |plane: &IptablesDataplane| {
            let counters = plane.status().counters;
            counters
                .iter()
                .find(|counter| counter.name == "rejected_no_endpoints")
                .map_or(0, |counter| counter.packets)
        };
        let before = rejected(plane);
        // Node ports of the node itself are refused by its own stack before the rules see them.
        assert!(before >= 1, "{before}");
        let mut full = empty.clone();
        let next = web(Protocol::Tcp, &[ONE]);
        full.services.insert(next.id.clone(), next.into());
        plane.apply(&full, &full.changed_since(&empty)).expect("apply");
        assert_eq!(rejected(plane), before, "what a rule had counted outlives it");
        let rows = plane.services().expect("services");
        assert!(rows.iter().all(|row| addresses(row) == [ONE]), "{rows:?}");
    });
}

/// What was counted before a rule was rewritten outlives the agent, too.
#[test]
fn counts_go_on_after_a_restart() {
    on_a_node("recount", |plane| {
        let (empty, full) =
            (snapshot(node(), [web(Protocol::Tcp, &[])]), snapshot(node(), [web(Protocol::Tcp, &[ONE])]));
        let rejected = |plane: &IptablesDataplane| {
            let counters = plane.status().counters;
            counters.into_iter().find(|c| c.name == "rejected_no_endpoints").map_or(0, |c| c.packets)
        };
        apply(plane, &empty);
        ask(WEB).expect_err("refused");
        let before = rejected(plane);
        assert!(before >= 1, "{before}");
        plane.apply(&full, &full.changed_since(&empty)).expect("apply");
        let mut next = IptablesDataplane::open(Config::default()).expect("open");
        apply(&mut next, &full);
        assert_eq!(rejected(&next), before);
        // The rule comes again and counts on; a third agent starts while it stands, and rewrites it.
        next.apply(&empty, &empty.changed_since(&full)).expect("apply");
        ask(WEB).expect_err("refused");
        let more = rejected(&next);
        assert!(more > before, "{more}");
        let mut third = IptablesDataplane::open(Config::default()).expect("open");
        apply(&mut third, &full);
        assert_eq!(rejected(&third), more);
        third.clean_up().expect("clean up");
        let mut fresh = IptablesDataplane::open(Config::default()).expect("open");
        apply(&mut fresh, &full);
        assert_eq!(rejected(&fresh), 0, "nothing is left of what was cleaned up");
        fresh.clean_up().expect("clean up");
    });
}

#[test]
fn what_others_flush_comes_back() {
    on_a_node("repair", |plane| {
        serve_tcp(ONE);
        let state = snapshot(node(), [web(Protocol::Tcp, &[ONE])]);
        apply(plane, &state);
        let before = saved();
        assert_eq!(plane.repair(&state).expect("repair"), [""; 0]);
        run("iptables", "-t nat -F");
        run("iptables", "-t nat -X");
        run("iptables", "-t mangle -X KUBE-PROXY-CANARY");
        std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "0").expect("sysctl");
        let repaired = plane.repair(&state).expect("repair");
        assert!(repaired.iter().any(|what| what.contains("jump from PREROUTING")), "{repaired:?}");
        assert!(repaired.iter().any(|what| what == "set route_localnet"), "{repaired:?}");
        assert_eq!(rules(&saved()), rules(&before));
        assert_eq!(ask(WEB).expect("answer"), ONE);
        assert_eq!(plane.repair(&state).expect("repair"), [""; 0]);
    });
}

/// Without comment lines and counters.
fn rules(saved: &str) -> Vec<&str> {
    saved
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(" [").next().unwrap_or(line))
        .collect()
}

#[test]
fn clean_up_leaves_the_kernel_as_it_was() {
    on_a_node("clean", |plane| {
        run("iptables", "-t nat -N DOCKER");
        run("iptables", "-t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER");
        run("iptables", "-t filter -A FORWARD -i uplink -j ACCEPT");
        let before = saved();
        apply(plane, &snapshot(node(), [web(Protocol::Tcp, &[ONE, TWO])]));
        assert_ne!(rules(&saved()), rules(&before));
        plane.clean_up().expect("clean up");
        // A table that was touched stays, empty.
        let without_empty = |text: &str| {
            let own = ["*mangle", ":PREROUTING", ":INPUT", ":FORWARD", ":OUTPUT", ":POSTROUTING", "COMMIT"];
            let lines =
                rules(text).into_iter().filter(|line| !own.iter().any(|prefix| line.starts_with(prefix)));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(without_empty(&saved()), without_empty(&before));
        let route_localnet =
            std::fs::read_to_string("/proc/sys/net/ipv4/conf/all/route_localnet").expect("sysctl");
        assert_eq!(route_localnet.trim(), "0");
        plane.clean_up().expect("cleaning twice is no error");
    });
}

#[test]
fn a_service_that_the_kernel_refuses_is_isolated() {
    on_a_node("isolate", |plane| {
        serve_tcp(ONE);
        // The kernel remembers no client for zero seconds (`recent_mt_check`).
        let frontends = vec![frontend(FrontendKind::ClusterIp, "10.24.0.2", 80)];
        let mut bad = service(id("t", "bad", "", Protocol::Tcp), frontends, backends(&[TWO], true));
        bad.affinity_seconds = Some(0);
        let state = snapshot(node(), [bad.clone(), web(Protocol::Tcp, &[ONE])]);
        let applied = plane.apply(&state, &Changed::all(&state)).expect("apply");
        assert_eq!(applied.failed.keys().collect::<Vec<_>>(), [&Key::Service(bad.id.clone())]);
        assert_eq!(ask(WEB).expect("answer"), ONE);
    });
}

#[test]
fn a_service_that_no_rules_can_express_is_isolated() {
    on_a_node("express", |plane| {
        serve_tcp(ONE);
        let mut long = web(Protocol::Udp, &[TWO]);
        long.id.service.name = "x".repeat(300);
        let mut mixed = web(Protocol::Udp, &[TWO]);
        mixed.frontends.push(frontend(FrontendKind::ExternalIp, "203.0.113.1", 80));
        mixed.frontends[2].policy = TrafficPolicy::Local;
        let state = snapshot(node(), [mixed.clone(), long.clone(), web(Protocol::Tcp, &[ONE])]);
        let applied = plane.apply(&state, &Changed::all(&state)).expect("apply");
        let failed: Vec<_> = applied.failed.into_keys().collect();
        assert_eq!(failed, [Key::Service(mixed.id.clone()), Key::Service(long.id.clone())]);
        assert_eq!(ask(WEB).expect("answer"), ONE);
    });
}

#[test]
fn a_walk_names_the_rules_on_the_way_to_the_last_endpoint() {
    on_a_node("walk", |plane| {
        apply(plane, &snapshot(node(), [web(Protocol::Tcp, &[ONE, TWO])]));
        let packet = Packet {
            source: "198.51.100.10:40000".parse().expect("address"),
            destination: "10.128.0.11:30080".parse().expect("address"),
            protocol: Protocol::Tcp,
        };
        let endpoint = TWO.parse().expect("address");
        let walk = plane.walk(packet, endpoint).expect("walk");
        assert_eq!(walk.end, End::Translated { to: endpoint, masqueraded: true });
        let nat: Vec<_> = walk
            .matched()
            .filter(|step| step.table.as_str() == "nat")
            .map(|step| (chain(step.chain.as_str()), step.number))
            .collect();
        assert_eq!(
            nat,
            [
                ("PREROUTING", 1),
                ("KUBE-SERVICES", 2),
                ("KUBE-NODEPORTS", 2),
                ("KUBE-EXT", 1),
                ("KUBE-MARK-MASQ", 1),
                ("KUBE-EXT", 2),
                ("KUBE-SVC", 3),
                ("KUBE-SEP", 2),
                ("POSTROUTING", 1),
                ("KUBE-POSTROUTING", 2),
                ("KUBE-POSTROUTING", 3),
            ]
        );
        assert!(walk.evaluated() > walk.matched().count());
        let rules = plane.rules_of(&id("t", "web", "http", Protocol::Tcp)).expect("rules");
        let rendered =
            plane.rendered(&id("t", "web", "http", Protocol::Tcp)).expect("programmed").expect("rendered");
        assert_eq!(rules.len(), rendered.len());
    });
}

/// The part of a chain's name before its hash.
fn chain(name: &str) -> &str {
    match name.rsplit_once('-') {
        Some((kind, hash)) if hash.len() == 16 => kind,
        _ => name,
    }
}
