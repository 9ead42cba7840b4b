//! Full tables: what has no room fails by name, everything else goes on.

use std::net::{IpAddr, SocketAddr};

use dataplane::{Dataplane as _, Key, MapFill};
use dataplane_ebpf::{Config, Sizes};
use model::{Family, FrontendAddress, FrontendKind, Protocol, ServicePort, TrafficPolicy::Cluster};

use super::{Bench, REDIRECT, on_a_node_with, small};
use crate::{
    model_of::{cluster_ip, frontend, service, with_backends},
    wire::{ACK, Frame, SYN},
};

fn sized(sizes: Sizes) -> Config {
    Config { sizes, masquerade_ports: Some(5000..=9999), ..small() }
}

/// A service with its own cluster IP port and `count` backends.
fn numbered(bench: &Bench<'_>, index: u16, count: u16) -> ServicePort {
    let backends: Vec<(SocketAddr, bool)> =
        (0..count).map(|b| (bench.at(|p| p.remote_pod, 1000 * (index + 1) + b), false)).collect();
    let frontends = vec![cluster_ip(bench.plan.cluster_ip, 100 + index)];
    with_backends(service(&format!("s{index}"), Protocol::Tcp, frontends), &backends)
}

fn fill(bench: &Bench<'_>, name: &str) -> MapFill {
    let family = if bench.plan.node.is_ipv4() { "v4" } else { "v6" };
    let name = format!("{name}_{family}");
    bench.plane.status().maps.into_iter().find(|map| map.name == name).expect("a table of that name")
}

/// The backend's port that a new flow to service `index` is sent to, or what counted instead.
fn asked(bench: &mut Bench<'_>, index: u16, client_port: u16) -> Result<u16, Vec<String>> {
    let syn = Frame::tcp(bench.at(|p| p.pod, client_port), bench.plan_cluster_ip(100 + index), SYN);
    let answer = bench.pod_sends(&syn.bytes());
    if answer.verdict != REDIRECT || answer.counted.contains_key("refused_tcp") {
        return Err(answer.reasons().into_keys().collect());
    }
    let transport = answer.frame.len() - 20;
    Ok(u16::from_be_bytes([answer.frame[transport + 2], answer.frame[transport + 3]]))
}

#[test]
fn a_full_frontend_table_refuses_new_services_by_name_and_serves_the_others() {
    on_a_node_with(sized(Sizes { frontends: 4, ..Sizes::default() }), &|bench| {
        let services =
            |bench: &Bench<'_>, from: u16| (from..from + 6).map(|i| numbered(bench, i, 2)).collect();
        let failed = bench.try_program(services(bench, 0));
        assert_eq!(failed.len(), 2, "{failed:?}");
        for (key, reason) in &failed {
            assert!(matches!(key, Key::Service(_)));
            assert!(reason.contains("table FRONTENDS_V") && reason.ends_with("is full"), "{reason}");
        }
        let full = fill(bench, "frontends");
        assert_eq!((full.entries, full.capacity), (4, 4));
        assert!(full.refused >= 2, "{full:?}");
        for index in 0..4 {
            assert!(asked(bench, index, 40_000 + index).is_ok(), "service {index}");
        }
        assert_eq!(asked(bench, 5, 40_005), Err(vec!["passed_unrelated".to_owned()]));
        // Room that others give up is used by the next attempt.
        bench.program((2..6).map(|index| numbered(bench, index, 2)).collect());
        assert!(asked(bench, 5, 40_006).is_ok());
        bench.program(vec![]);
    });
}

#[test]
fn a_service_serves_by_the_backends_that_found_room() {
    on_a_node_with(sized(Sizes { backends: 10, ..Sizes::default() }), &|bench| {
        bench.program(vec![numbered(bench, 0, 4), numbered(bench, 1, 4)]);
        let open = Frame::tcp(bench.at(|p| p.pod, 40_000), bench.plan_cluster_ip(100), SYN);
        let sent = bench.pod_sends(&open.bytes()).frame;

        let failed =
            bench.try_program(vec![numbered(bench, 0, 4), numbered(bench, 1, 4), numbered(bench, 2, 6)]);
        let [(Key::Service(id), reason)] = &failed.into_iter().collect::<Vec<_>>()[..] else {
            panic!("one service")
        };
        assert_eq!(id.service.name, "s2");
        assert!(reason.ends_with("is full"), "{reason}");
        assert!(fill(bench, "backends").refused > 0);
        let mut chosen = std::collections::BTreeSet::new();
        for port in 0..40 {
            chosen.insert(asked(bench, 2, 41_000 + port).expect("two of its six found room"));
            assert!((1000..1004).contains(&asked(bench, 0, 42_000 + port).expect("served")));
            assert!((2000..2004).contains(&asked(bench, 1, 43_000 + port).expect("served")));
        }
        assert_eq!(chosen.into_iter().collect::<Vec<_>>(), [3000, 3001]);
        // What was open goes on.
        let retransmitted = bench.pod_sends(&open.bytes());
        assert_eq!(retransmitted.frame, sent);

        // The next one finds no room at all: it refuses, and does not leak to the default route.
        let four: Vec<_> =
            (0..4).map(|index| numbered(bench, index, [4, 4, 6, 3][usize::from(index)])).collect();
        assert_eq!(bench.try_program(four).len(), 2);
        assert_eq!(asked(bench, 3, 44_000), Err(vec!["refused_tcp".to_owned()]));
        bench.program(vec![]);
    });
}

/// Every pod of a service is replaced, and there is no room for both generations.
#[test]
fn a_full_table_never_keeps_a_flow_on_a_backend_that_is_gone() {
    on_a_node_with(sized(Sizes { backends: 6, ..Sizes::default() }), &|bench| {
        bench.program(vec![numbered(bench, 0, 6)]);
        let mut next = numbered(bench, 0, 6);
        for (index, backend) in next.cluster.iter_mut().enumerate() {
            backend.address.set_port(7000 + index as u16);
        }
        bench.program(vec![next]);
        for port in 0..60 {
            let chosen = asked(bench, 0, 40_000 + port).expect("served");
            assert!((7000..7006).contains(&chosen), "{chosen}");
        }
        bench.program(vec![]);
    });
}

/// The connection table gives up what is idle longest.
#[test]
fn a_full_connection_table_keeps_the_flows_that_speak() {
    on_a_node_with(sized(Sizes::default()), &|bench| {
        let (pod, backend) = (bench.at(|p| p.pod, 39_999), bench.at(|p| p.remote_pod, 1000));
        bench.program(vec![numbered(bench, 0, 1)]);
        let out = |flags| Frame::tcp(pod, bench.plan_cluster_ip(100), flags);
        let (syn, data) = (out(SYN), out(ACK));
        bench.pod_sends(&syn.bytes());
        bench.wire_brings(&Frame::tcp(backend, pod, SYN | ACK).bytes());
        bench.pod_sends(&data.bytes());
        // Four times what the table holds.
        for port in 40_000..42_048 {
            assert!(asked(bench, 0, port).is_ok());
            bench.pod_sends(&data.bytes()).expect(
                REDIRECT,
                &data.translated(pod, backend).bytes(),
                "forwarded_established",
            );
            let heard = bench.wire_brings(&Frame::tcp(backend, pod, ACK).bytes());
            assert_eq!(heard.reasons(), [("forwarded_established".to_owned(), 1)].into(), "after {port}");
        }
        let table = fill(bench, "flows");
        assert!(table.entries <= table.capacity && table.entries > table.capacity / 2, "{table:?}");
        bench.program(vec![]);
    });
}

#[test]
fn a_family_that_no_pod_has_is_served_from_small_tables() {
    let config = Config { families: vec![Family::V4], ..sized(Sizes { frontends: 160, ..Sizes::default() }) };
    on_a_node_with(config, &|bench| {
        let rows = if bench.plan.node.is_ipv4() { 160 } else { 10 };
        assert_eq!(fill(bench, "frontends").capacity, rows);
        bench.program(vec![numbered(bench, 0, 1)]);
        assert_eq!(asked(bench, 0, 40_000), Ok(1000));
        bench.program(vec![]);
    });
}

/// Affinity makes room for new clients.
#[test]
fn a_full_affinity_table_forgets_and_serves() {
    on_a_node_with(sized(Sizes { affinity: 64, ..Sizes::default() }), &|bench| {
        let mut service = numbered(bench, 0, 4);
        service.affinity_seconds = Some(600);
        bench.program(vec![service]);
        let mut client = bench.at(|p| p.client, 40_000);
        for last in 0..=255 {
            client.set_ip(match client.ip() {
                IpAddr::V4(_) => IpAddr::from([198, 51, 100, last]),
                IpAddr::V6(ip) => {
                    let mut octets = ip.octets();
                    octets[15] = last;
                    IpAddr::from(octets)
                }
            });
            let syn = Frame::tcp(client, bench.plan_cluster_ip(100), SYN);
            let answer = bench.wire_brings(&syn.bytes());
            assert_eq!((answer.verdict, answer.reasons().len()), (REDIRECT, 1), "{:?}", answer.counted);
        }
        let table = fill(bench, "affinity");
        assert!(table.entries > 0 && table.entries <= 64 && table.capacity == 64, "{table:?}");
        bench.program(vec![]);
    });
}

/// A VIP on a port of its own, for two prefixes that are not the client's, and for the client's where `to_client`.
fn restricted(bench: &Bench<'_>, index: u16, to_client: bool) -> ServicePort {
    let v4 = bench.plan.client.is_ipv4();
    let others = if v4 { ["192.0.2.0/25", "192.0.2.128/25"] } else { ["2001:db8:d::/64", "2001:db8:e::/64"] };
    let client = if v4 { "198.51.100.0/24" } else { "2001:db8:c::/64" };
    let ranges = others.into_iter().chain(to_client.then_some(client));
    let mut vip =
        frontend(FrontendKind::LoadBalancer, FrontendAddress::Ip(bench.plan.vip), 100 + index, Cluster);
    vip.source_ranges = ranges.map(|range| range.parse().expect("range")).collect();
    let backends = [(bench.at(|p| p.remote_pod, 8080), false)];
    with_backends(service(&format!("r{index}"), Protocol::Tcp, vec![vip]), &backends)
}

/// What could not be written is never an open door.
#[test]
fn a_full_table_of_source_ranges_lets_no_stranger_in() {
    on_a_node_with(sized(Sizes { ranges: 3, ..Sizes::default() }), &|bench| {
        let asks = |bench: &mut Bench<'_>, index: u16, port: u16| {
            let (client, vip) = (bench.at(|p| p.client, port), bench.at(|p| p.vip, 100 + index));
            bench.wire_brings(&Frame::tcp(client, vip, SYN).bytes()).reasons().into_keys().next()
        };
        bench.program(vec![restricted(bench, 0, true)]);
        assert_eq!(asks(bench, 0, 40_000).as_deref(), Some("forwarded_new"));
        let failed = bench.try_program(vec![restricted(bench, 0, true), restricted(bench, 1, false)]);
        let [(Key::Service(id), reason)] = &failed.into_iter().collect::<Vec<_>>()[..] else {
            panic!("one service")
        };
        assert_eq!(id.service.name, "r1");
        assert!(reason.contains("RANGES_V") && reason.ends_with("is full"), "{reason}");
        assert!(fill(bench, "ranges").refused > 0);
        let stranger = asks(bench, 1, 40_001).expect("counted");
        assert!(!stranger.starts_with("forwarded"), "{stranger}");
        assert_eq!(asks(bench, 0, 40_002).as_deref(), Some("forwarded_new"), "the other goes on");
        bench.program(vec![restricted(bench, 1, false)]);
        assert_eq!(asks(bench, 1, 40_003).as_deref(), Some("dropped_source_range"), "there is room now");
        bench.program(vec![]);
    });
}

/// Those that have their lookup table go on, and the others choose by the hash alone.
#[test]
fn a_full_table_of_lookups_fails_by_name_and_every_service_serves() {
    on_a_node_with(sized(Sizes { lookups: 40, ..Sizes::default() }), &|bench| {
        let outside = |bench: &Bench<'_>, index: u16| {
            let mut service = numbered(bench, index, 3);
            service.frontends = restricted(bench, index, false).frontends;
            service.frontends[0].source_ranges.clear();
            service
        };
        let all: Vec<_> = (0..4).map(|index| outside(bench, index)).collect();
        let failed = bench.try_program(all);
        assert_eq!(failed.len(), 2, "{failed:?}");
        assert!(failed.values().all(|r| r.contains("MAGLEV_V") && r.ends_with("is full")), "{failed:?}");
        assert!(fill(bench, "maglev").refused > 0);
        for index in 0..4 {
            let (client, vip) = (bench.at(|p| p.client, 40_000), bench.at(|p| p.vip, 100 + index));
            let answer = bench.wire_brings(&Frame::tcp(client, vip, SYN).bytes());
            assert_eq!(answer.reasons(), [("forwarded_new".to_owned(), 1)].into(), "service {index}");
        }
        bench.program(vec![]);
    });
}
