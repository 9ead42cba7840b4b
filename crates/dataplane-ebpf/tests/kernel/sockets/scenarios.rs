//! What clients experience.

use std::{collections::BTreeMap, io::ErrorKind, net::SocketAddr, time::Duration};

use dataplane::Dataplane as _;
use dataplane_ebpf::{Attach, Checksums};
use model::{
    FrontendAddress, FrontendKind, Masquerade, Protocol, ServicePort, TrafficPolicy,
    TrafficPolicy::{Cluster as ByCluster, Local as ByLocal},
};

use super::{
    cluster::{Cluster, Setting, USUAL},
    talk::{ask_tcp, ask_udp, refused_tcp, serve_tcp, serve_udp},
};
use crate::{
    model_of::{address, cluster_ip, frontend, service, with_backends},
    space,
};

const NODE_PORT: u16 = 30080;

fn at(text: &str) -> SocketAddr {
    text.parse().expect("socket address")
}

/// A TCP service behind a cluster IP, the VIPs of both nodes and a node port.
fn web(policy: TrafficPolicy, backends: &[&str]) -> ServicePort {
    let mut frontends = vec![cluster_ip(address("10.24.0.10"), 80)];
    for vip in ["203.0.113.10", "203.0.113.11"] {
        frontends.push(frontend(FrontendKind::LoadBalancer, FrontendAddress::Ip(address(vip)), 80, policy));
    }
    frontends.push(frontend(FrontendKind::NodePort, FrontendAddress::Node, NODE_PORT, policy));
    let backends: Vec<_> = backends.iter().map(|text| (at(text), false)).collect();
    with_backends(service("web", Protocol::Tcp, frontends), &backends)
}

fn dns(backends: &[&str]) -> ServicePort {
    let mut frontends = vec![cluster_ip(address("10.24.0.10"), 53)];
    frontends.push(frontend(FrontendKind::NodePort, FrontendAddress::Node, 30053, ByCluster));
    let backends: Vec<_> = backends.iter().map(|text| (at(text), false)).collect();
    with_backends(service("dns", Protocol::Udp, frontends), &backends)
}

const ALL: [&str; 3] = ["10.20.0.5:8080", "10.20.0.6:8080", "10.20.1.7:8080"];
const ALL_DNS: [&str; 3] = ["10.20.0.5:5353", "10.20.0.6:5353", "10.20.1.7:5353"];

/// Every frontend, from every kind of client: all must work, for each way that the plane can be set up.
fn everything_works(setting: Setting) {
    let mut cluster = Cluster::new(setting);
    cluster.serve();
    cluster.program(&[web(ByCluster, &ALL), dns(&ALL_DNS)]);
    let body: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
    let (a1, client) = (&cluster.a.pods[0].space, &cluster.client);
    let mut answered = BTreeMap::<String, u32>::new();
    for round in 0..12 {
        let body = if round < 3 { &body[..] } else { b"small" };
        let by_cluster_ip = ask_tcp(a1, at("10.24.0.10:80"), body);
        // A pod that reaches itself sees the node, other pods see the pod.
        let expected = if by_cluster_ip.server == "a1" { cluster.a.ip } else { cluster.a.pods[0].ip };
        assert_eq!(by_cluster_ip.client, expected, "{by_cluster_ip:?}");
        *answered.entry(by_cluster_ip.server).or_default() += 1;
        for (frontend, node) in [("203.0.113.10:80", &cluster.a), ("203.0.113.11:80", &cluster.b)] {
            assert_eq!(ask_tcp(client, at(frontend), body).client, node.ip, "masqueraded by {frontend}");
        }
        let node_port = SocketAddr::new(cluster.b.ip, NODE_PORT);
        assert_eq!(ask_tcp(client, node_port, body).client, cluster.b.ip);
        // The host itself, by a frontend that is routed out of it; also where no neighbour is known yet.
        space::ip(&cluster.a.space, "neigh flush dev eth0\n");
        assert_eq!(ask_tcp(&cluster.a.space, at("10.24.0.10:80"), body).client, cluster.a.ip);
        let by_udp = ask_udp(a1, at("10.24.0.10:53"), b"question").expect("answer");
        assert!(ALL_DNS.len() == 3 && !by_udp.server.is_empty());
        ask_udp(client, SocketAddr::new(cluster.a.ip, 30053), b"question").expect("answer");
        ask_udp(&cluster.a.space, at("10.24.0.10:53"), b"question").expect("answer");
    }
    assert!(answered.len() > 1, "only one of three backends ever answered: {answered:?}");
    // In fragments: larger than any MTU here.
    ask_udp(a1, at("10.24.0.10:53"), &body[..4000]).expect("answer in fragments");
    assert!(cluster.a.counter("forwarded_established") > 100);
    for node in [&cluster.a, &cluster.b] {
        for counter in node.plane.as_ref().expect("open").status().counters {
            assert!(!counter.name.starts_with("dropped_") || counter.packets == 0, "{counter:?}");
        }
    }
    cluster.clean_up();
}

#[test]
fn every_client_reaches_every_frontend() {
    everything_works(USUAL);
}

#[test]
fn every_client_reaches_every_frontend_without_transmit_offload() {
    everything_works(Setting { transmit_offload: false, ..USUAL });
}

#[test]
fn every_client_reaches_every_frontend_through_clsact() {
    everything_works(Setting { attach: Attach::Clsact, ..USUAL });
}

#[test]
fn every_client_reaches_every_frontend_with_checksums_by_helper() {
    everything_works(Setting { checksums: Checksums::ByHelper, ..USUAL });
    everything_works(Setting { checksums: Checksums::ByHelper, transmit_offload: false, ..USUAL });
}

#[test]
fn local_policy_keeps_the_clients_address_and_refuses_where_no_pod_is() {
    let mut cluster = Cluster::new(USUAL);
    cluster.serve();
    cluster.program(&[web(ByLocal, &["10.20.0.5:8080", "10.20.0.6:8080"])]);
    let client = address("198.51.100.10");
    for _ in 0..6 {
        assert_eq!(ask_tcp(&cluster.client, at("203.0.113.10:80"), b"x").client, client);
        let greeting = ask_tcp(&cluster.b.pods[0].space, at("203.0.113.11:80"), b"x");
        assert_eq!(greeting.client, cluster.b.pods[0].ip, "pods reach every backend, unmasqueraded");
    }
    for frontend in [at("203.0.113.11:80"), SocketAddr::new(cluster.b.ip, NODE_PORT)] {
        let (kind, took) = refused_tcp(&cluster.client, frontend);
        assert_eq!(kind, ErrorKind::ConnectionRefused, "{frontend}");
        assert!(took < Duration::from_millis(50), "{frontend}: {took:?}");
    }
    assert_eq!(cluster.b.counter("refused_tcp"), 2);
    cluster.clean_up();
}

#[test]
fn without_any_backend_everyone_is_refused_at_once() {
    for transmit_offload in [true, false] {
        let mut cluster = Cluster::new(Setting { transmit_offload, ..USUAL });
        cluster.program(&[web(ByCluster, &[]), dns(&[])]);
        let pod = &cluster.a.pods[0].space;
        for (space, frontend) in [
            (pod, at("10.24.0.10:80")),
            (&cluster.client, at("203.0.113.10:80")),
            (&cluster.a.space, at("10.24.0.10:80")),
        ] {
            let (kind, took) = refused_tcp(space, frontend);
            assert_eq!(kind, ErrorKind::ConnectionRefused, "{frontend}");
            assert!(took < Duration::from_millis(50), "{frontend}: {took:?}");
        }
        for space in [pod, &cluster.a.space] {
            let error = ask_udp(space, at("10.24.0.10:53"), b"anyone?").expect_err("nobody");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        }
        cluster.clean_up();
    }
}

#[test]
fn a_closed_port_behind_a_frontend_is_heard_of_through_it() {
    let mut cluster = Cluster::new(USUAL);
    // Nobody serves: the pods' own stacks answer, TCP by a reset, UDP by an ICMP error.
    cluster.program(&[web(ByCluster, &["10.20.1.7:8080"]), dns(&["10.20.1.7:5353"])]);
    for space in [&cluster.a.pods[0].space, &cluster.client] {
        let node_port = SocketAddr::new(cluster.a.ip, 30053);
        let error = ask_udp(space, node_port, b"anyone?").expect_err("nobody");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
    assert!(cluster.a.counter("forwarded_icmp_error") >= 2);
    let (kind, _) = refused_tcp(&cluster.a.pods[0].space, at("10.24.0.10:80"));
    assert_eq!(kind, ErrorKind::ConnectionRefused);
    cluster.clean_up();
}

#[test]
fn a_process_of_the_node_serves_as_a_backend() {
    let mut cluster = Cluster::new(USUAL);
    serve_tcp(&cluster.b.space, "host-b", at("10.128.0.12:9090"));
    serve_udp(&cluster.b.space, "host-b", at("10.128.0.12:9053"));
    cluster.program(&[web(ByCluster, &["10.128.0.12:9090"]), dns(&["10.128.0.12:9053"])]);
    for space in [&cluster.a.pods[0].space, &cluster.b.pods[0].space, &cluster.client] {
        let frontend = if std::ptr::eq(space, &cluster.client) { "203.0.113.11:80" } else { "10.24.0.10:80" };
        assert_eq!(ask_tcp(space, at(frontend), b"hello").server, "host-b");
    }
    assert_eq!(
        ask_udp(&cluster.b.pods[0].space, at("10.24.0.10:53"), b"x").expect("answer").server,
        "host-b"
    );
    cluster.clean_up();
}

#[test]
fn connections_and_services_are_reported_as_the_kernel_has_them() {
    let mut cluster = Cluster::new(USUAL);
    cluster.serve();
    cluster.program(&[web(ByCluster, &["10.20.1.7:8080"])]);
    ask_tcp(&cluster.client, at("203.0.113.10:80"), b"hello");
    let plane = cluster.a.plane.as_ref().expect("open");
    let services = plane.services().expect("services");
    assert_eq!(services.len(), 4);
    assert!(services.iter().all(|row| row.service.as_ref().is_some_and(|name| name.name == "web")));
    assert!(services.iter().all(|row| row.backends.len() == 1 && !row.backends[0].local));
    let connections = plane.connections(10).expect("connections");
    let connection =
        connections.iter().find(|c| c.destination == at("203.0.113.10:80")).expect("the one made");
    assert_eq!(connection.backend, at("10.20.1.7:8080"));
    assert_eq!(connection.source.ip(), address("198.51.100.10"));
    assert_eq!((connection.source_seen.ip(), connection.masquerade), (cluster.a.ip, Masquerade::Yes));
    assert!(connection.packets >= Some(8) && connection.bytes > connection.packets, "{connection:?}");
    assert!(plane.connections(0).expect("none").is_empty());
    let id = web(ByCluster, &[]).id;
    let rows = plane.dump_service_rows(&id).expect("rows");
    assert_eq!(rows.iter().filter(|row| row.starts_with("FRONTENDS_V4 ")).count(), 4, "{rows:#?}");
    assert_eq!(rows.iter().filter(|row| row.starts_with("BACKENDS_V4 ")).count(), 1, "{rows:#?}");
    cluster.clean_up();
}
