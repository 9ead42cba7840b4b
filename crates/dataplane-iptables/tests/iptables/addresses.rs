//! Node ports and host ports: at which of the node's addresses they answer, in the kernel.

use std::io::ErrorKind;

use dataplane::Dataplane as _;
use dataplane_iptables::{Config, IptablesDataplane};
use model::{
    Family, Frontend, FrontendAddress, FrontendKind, NodePortAddresses, PodName, Port, Protocol, ServicePort,
    ServicePortId, Snapshot, TrafficPolicy,
};

use crate::{
    common::{backends, cidr, ip, service, snapshot},
    node::{ONE, apply, ask, node, on_a_node, run, saved, serve_tcp, web},
};

const PRIMARY: &str = "10.128.0.11:30080";
const SECONDARY: &str = "192.168.7.11:30080";
const LOOPBACK: &str = "127.0.0.1:30080";

fn state(node_ports: NodePortAddresses) -> Snapshot {
    let mut node = node();
    node.addresses.push(ip("192.168.7.11"));
    node.node_ports = node_ports;
    snapshot(node, [web(Protocol::Tcp, &[ONE])])
}

fn within(prefixes: &[&str]) -> NodePortAddresses {
    NodePortAddresses::Within(prefixes.iter().map(|prefix| cidr(prefix)).collect())
}

/// Which of the three answer.
fn answering() -> Vec<&'static str> {
    let answers = |address: &&str| match ask(address) {
        Ok(by) => {
            assert_eq!(by, ONE);
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{address}");
            false
        }
    };
    [PRIMARY, SECONDARY, LOOPBACK].into_iter().filter(answers).collect()
}

#[test]
fn node_ports_answer_at_the_addresses_that_are_asked_for() {
    on_a_node("nodeports", |plane| {
        run("ip", "addr add 192.168.7.11/24 dev uplink");
        serve_tcp(ONE);
        for (filter, want) in [
            (NodePortAddresses::All, vec![PRIMARY, SECONDARY, LOOPBACK]),
            (NodePortAddresses::Primary, vec![PRIMARY]),
            (within(&["192.168.7.0/24"]), vec![SECONDARY]),
            (within(&["10.128.0.11/32", "127.0.0.0/8"]), vec![PRIMARY, LOOPBACK]),
            // Only the other family is named, or everything: no restriction.
            (within(&["fd00::/8"]), vec![PRIMARY, SECONDARY, LOOPBACK]),
            (within(&["0.0.0.0/0"]), vec![PRIMARY, SECONDARY, LOOPBACK]),
            (within(&["172.16.0.0/12"]), vec![]),
        ] {
            let state = state(filter.clone());
            apply(plane, &state);
            assert_eq!(answering(), want, "{filter:?}");
            assert_eq!(plane.repair(&state).expect("repair"), [""; 0], "{filter:?}");
            let rows = plane.services().expect("rows");
            let shown = rows.iter().filter(|row| row.kind == FrontendKind::NodePort);
            let shown: Vec<_> = shown.map(|row| row.frontend.to_string()).collect();
            let elsewhere: Vec<_> = want.into_iter().filter(|address| *address != LOOPBACK).collect();
            assert_eq!(shown, elsewhere, "{filter:?}");
        }
    });
}

#[test]
fn node_ports_answer_on_loopback_only_where_that_is_on() {
    on_a_node("localhost", |plane| {
        run("ip", "addr add 192.168.7.11/24 dev uplink");
        serve_tcp(ONE);
        apply(plane, &state(NodePortAddresses::All));
        assert_eq!(answering(), [PRIMARY, SECONDARY, LOOPBACK]);
        let seen = plane.connections(usize::MAX).expect("connections");
        let mut loopback = seen.iter().filter(|c| c.destination.to_string() == LOOPBACK);
        assert!(loopback.all(|c| c.masquerade == model::Masquerade::Yes), "{seen:?}");
        let accepted = |plane: &IptablesDataplane| {
            let counters = plane.status().counters;
            counters.into_iter().find(|c| c.name == "accepted_localhost_node_port").map_or(0, |c| c.packets)
        };
        assert!(accepted(plane) > 0, "kube-proxy's counter of node ports on loopback");
        plane.clean_up().expect("clean up");
        let mut without =
            IptablesDataplane::open(Config { localhost_node_ports: false, ..Config::default() })
                .expect("open");
        for filter in
            [NodePortAddresses::All, within(&["0.0.0.0/0"]), within(&["127.0.0.0/8", "10.128.0.0/24"])]
        {
            apply(&mut without, &state(filter.clone()));
            assert!(!answering().contains(&LOOPBACK), "{filter:?}");
            assert!(answering().contains(&PRIMARY), "{filter:?}");
            assert!(!saved().contains("KUBE-FIREWALL"), "nothing is let in that a rule must keep out");
        }
        without.clean_up().expect("clean up");
    });
}

#[test]
fn ipv6_node_ports_never_answer_on_loopback() {
    on_a_node("localhost6", |plane| {
        run("ip", "addr add fd00:128::11/64 dev uplink nodad");
        run("ip", "addr add fd00:20::1/128 dev lo nodad");
        run("ip", "-6 route add default via fd00:128::1");
        serve_tcp("[fd00:20::1]:8080");
        let mut web = web(Protocol::Tcp, &["[fd00:20::1]:8080"]);
        web.id.family = Family::V6;
        web.frontends[0] = crate::common::frontend(FrontendKind::ClusterIp, "fd00:24::1", 80);
        for filter in [NodePortAddresses::All, within(&["::1/128", "fd00:128::/64"])] {
            let mut node = node();
            node.addresses.push(ip("fd00:128::11"));
            node.node_ports = filter.clone();
            apply(plane, &snapshot(node, [web.clone()]));
            assert_eq!(ask("[fd00:128::11]:30080").expect("answer"), "[fd00:20::1]:8080", "{filter:?}");
            assert_eq!(ask("[::1]:30080").expect_err("refused").kind(), ErrorKind::ConnectionRefused);
        }
        plane.clean_up().expect("clean up");
    });
}

/// Port 9000 of a pod, at one address or at all of the node.
fn host_port(protocol: Protocol, at: Option<&str>, pod: &str) -> ServicePort {
    let number = Port::new(9000).expect("port");
    let name = PodName { namespace: "t".into(), name: format!("pod-{protocol}").to_lowercase() };
    let id = ServicePortId::of_host_port(&name, (at.map(ip), number), protocol, Family::V4);
    let frontend = Frontend {
        kind: FrontendKind::HostPort,
        address: at.map_or(FrontendAddress::Node, |at| FrontendAddress::Ip(ip(at))),
        port: number,
        policy: TrafficPolicy::Local,
        source_ranges: vec![],
    };
    service(id, vec![frontend], backends(&[pod], true))
}

#[test]
fn host_ports_answer_at_the_node_or_at_one_of_its_addresses() {
    on_a_node("hostports", |plane| {
        run("ip", "addr add 192.168.7.11/24 dev uplink");
        serve_tcp(ONE);
        let state = |ports: Vec<ServicePort>| {
            let mut node = node();
            node.addresses.push(ip("192.168.7.11"));
            snapshot(node, ports)
        };
        let before = saved();
        let all = state(vec![host_port(Protocol::Tcp, None, ONE), host_port(Protocol::Udp, None, ONE)]);
        apply(plane, &all);
        assert_eq!(plane.repair(&all).expect("repair"), [""; 0]);
        for address in ["10.128.0.11:9000", "192.168.7.11:9000", "127.0.0.1:9000"] {
            assert_eq!(ask(address).expect(address), ONE);
        }
        let rows = plane.services().expect("rows");
        assert!(
            rows.iter().all(|row| row.kind == FrontendKind::HostPort && row.backends.len() == 1),
            "{rows:?}"
        );
        assert_eq!(rows.len(), 4, "two addresses, two protocols: {rows:?}");
        let one = state(vec![host_port(Protocol::Tcp, Some("192.168.7.11"), ONE)]);
        plane.apply(&one, &one.changed_since(&all)).expect("apply");
        assert_eq!(ask("192.168.7.11:9000").expect("answer"), ONE);
        let refused = ask("10.128.0.11:9000").expect_err("not at this address");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        plane.apply(&state(vec![]), &state(vec![]).changed_since(&one)).expect("apply");
        assert!(!saved().contains("HOSTPORT"), "{}", saved());
        plane.clean_up().expect("clean up");
        assert!(!before.contains("KUBE-"));
    });
}
