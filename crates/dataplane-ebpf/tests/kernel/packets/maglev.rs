//! Clients from outside: every node leads a flow to the same backend.

use std::{collections::BTreeMap, net::SocketAddr, sync::Mutex};

use dataplane_ebpf::{Config, Sizes};
use model::{FrontendAddress, FrontendKind, Protocol, TrafficPolicy::Cluster};

use super::{Bench, REDIRECT, on_a_node_with, small};
use crate::{
    model_of::{frontend, service, with_backends},
    wire::{Frame, SYN},
};

const FLOWS: u16 = 150;

/// Room for all of their ports.
fn roomy() -> Config {
    Config { masquerade_ports: Some(5000..=9999), ..small() }
}

/// Which of `backends` each of some flows is led to, by client port.
fn led(bench: &mut Bench<'_>, to: SocketAddr, client_ports: impl Iterator<Item = u16>) -> BTreeMap<u16, u16> {
    let mut led = BTreeMap::new();
    for port in client_ports {
        let syn = Frame::tcp(bench.at(|p| p.client, port), to, SYN);
        let answer = bench.wire_brings(&syn.bytes());
        assert_eq!(answer.verdict, REDIRECT, "{:?}", answer.counted);
        let transport = answer.frame.len() - 20;
        led.insert(port, u16::from_be_bytes([answer.frame[transport + 2], answer.frame[transport + 3]]));
    }
    led
}

fn backends(bench: &Bench<'_>, count: u16) -> Vec<(SocketAddr, bool)> {
    (0..count).map(|index| (bench.at(|p| p.remote_pod, 8000 + index), false)).collect()
}

/// On two nodes, or on one with another set of backends.
fn twice(
    config: fn() -> Config,
    first: impl Fn(&mut Bench<'_>) -> BTreeMap<u16, u16> + Sync,
    second: impl Fn(&mut Bench<'_>) -> BTreeMap<u16, u16> + Sync,
) -> [(BTreeMap<u16, u16>, BTreeMap<u16, u16>); 2] {
    let run = |test: &(dyn Fn(&mut Bench<'_>) -> BTreeMap<u16, u16> + Sync)| {
        let found = Mutex::new(vec![]);
        on_a_node_with(config(), &|bench| {
            let led = test(bench);
            found.lock().expect("alone").push(led);
        });
        found.into_inner().expect("alone")
    };
    let (first, second) = (run(&first), run(&second));
    let mut pairs = first.into_iter().zip(second);
    std::array::from_fn(|_| pairs.next().expect("both families"))
}

#[test]
fn every_node_leads_a_flow_to_the_same_backend() {
    let test = |bench: &mut Bench<'_>| {
        let backends = backends(bench, 10);
        bench.program(vec![bench.web(Cluster, &backends)]);
        led(bench, bench.at(|p| p.vip, 80), 40_000..40_000 + FLOWS)
    };
    for (here, there) in twice(roomy, test, test) {
        assert_eq!(here, there);
        let mut shares = BTreeMap::<u16, u32>::new();
        for backend in here.values() {
            *shares.entry(*backend).or_default() += 1;
        }
        assert!(shares.len() == 10 && shares.values().all(|share| (3..=35).contains(share)), "{shares:?}");
    }
}

#[test]
fn with_one_backend_less_the_other_flows_stay() {
    let all = |bench: &mut Bench<'_>| {
        let backends = backends(bench, 10);
        bench.program(vec![bench.web(Cluster, &backends)]);
        led(bench, bench.at(|p| p.vip, 80), 40_000..40_000 + FLOWS)
    };
    let fewer = |bench: &mut Bench<'_>| {
        let mut backends = backends(bench, 10);
        bench.program(vec![bench.web(Cluster, &backends)]);
        backends.remove(3);
        // The slots of all that follow move: the table with them.
        bench.program(vec![bench.web(Cluster, &backends)]);
        led(bench, bench.at(|p| p.vip, 80), 40_000..40_000 + FLOWS)
    };
    for (before, after) in twice(roomy, all, fewer) {
        let staying: Vec<u16> =
            before.iter().filter(|(_, backend)| **backend != 8003).map(|(port, _)| *port).collect();
        let moved = staying.iter().filter(|port| before[port] != after[port]).count();
        assert!(moved * 10 < staying.len(), "{moved} of {} moved", staying.len());
        assert!(after.values().all(|backend| *backend != 8003));
    }
}

#[test]
fn under_affinity_only_the_clients_address_counts() {
    let test = |ports: std::ops::Range<u16>| {
        move |bench: &mut Bench<'_>| {
            let backends = backends(bench, 30);
            let mut web = bench.web(Cluster, &backends);
            web.affinity_seconds = Some(60);
            bench.program(vec![web]);
            led(bench, bench.at(|p| p.vip, 80), ports.clone())
        }
    };
    for (here, there) in twice(roomy, test(40_000..40_004), test(50_000..50_004)) {
        let chosen: std::collections::BTreeSet<&u16> = here.values().chain(there.values()).collect();
        assert_eq!(chosen.len(), 1, "one client, two nodes that do not know of each other");
    }
}

/// Nodes have different addresses, and the same table.
#[test]
fn a_node_port_leads_where_the_vip_leads() {
    on_a_node_with(roomy(), &|bench| {
        let backends = backends(bench, 10);
        let node_port = frontend(FrontendKind::NodePort, FrontendAddress::Node, 80, Cluster);
        let vip = frontend(FrontendKind::LoadBalancer, FrontendAddress::Ip(bench.plan.vip), 80, Cluster);
        bench.program(vec![with_backends(service("web", Protocol::Tcp, vec![vip, node_port]), &backends)]);
        let by_vip = led(bench, bench.at(|p| p.vip, 80), 40_000..40_050);
        assert_eq!(led(bench, bench.at(|p| p.node, 80), 40_000..40_050), by_vip);
    });
}

/// Without a table flows are spread all the same, and alike on every node.
#[test]
fn a_table_without_room_is_reported_and_flows_are_led_without_it() {
    let config = || Config { sizes: Sizes { lookups: 4, ..Sizes::default() }, ..roomy() };
    let test = |bench: &mut Bench<'_>| {
        let backends = backends(bench, 10);
        let failed = bench.try_program(vec![bench.web(Cluster, &backends)]);
        assert_eq!(failed.len(), 1);
        let reason = failed.values().next().expect("one");
        assert!(reason.contains("program service test/web") && reason.contains("table MAGLEV_V"), "{reason}");
        assert!(reason.ends_with("is full"), "{reason}");
        let found = led(bench, bench.at(|p| p.vip, 80), 40_000..40_000 + FLOWS);
        bench.program(vec![]);
        found
    };
    for (here, there) in twice(config, test, test) {
        assert_eq!(here, there);
        assert_eq!(here.values().collect::<std::collections::BTreeSet<_>>().len(), 10);
    }
}
