//! Direct server return between real sockets: a backend on either node sees the client, and the client hears the VIP.

use std::{collections::BTreeSet, net::SocketAddr};

use dataplane_ebpf::LoadBalancer;
use model::{FrontendAddress, FrontendKind, Protocol, ServicePort, TrafficPolicy::Cluster as ByCluster};

use super::{
    cluster::{Cluster, Setting, USUAL},
    talk::{ask_tcp, ask_udp},
};
use crate::model_of::{address, cluster_ip, frontend, service, with_backends};

const CLIENT: &str = "198.51.100.10";
const VIPS: [&str; 2] = ["203.0.113.10", "203.0.113.11"];

fn at(text: &str) -> SocketAddr {
    text.parse().expect("socket address")
}

fn behind_vips(protocol: Protocol, port: u16, backends: &[&str]) -> ServicePort {
    let vip = |ip| frontend(FrontendKind::LoadBalancer, FrontendAddress::Ip(address(ip)), port, ByCluster);
    let mut frontends = vec![cluster_ip(address("10.24.0.10"), port)];
    frontends.extend(VIPS.map(vip));
    frontends.push(frontend(FrontendKind::NodePort, FrontendAddress::Node, 30_000 + port, ByCluster));
    let backends: Vec<_> = backends.iter().map(|text| (at(text), false)).collect();
    with_backends(service(protocol.lowercase(), protocol, frontends), &backends)
}

#[test]
fn clients_keep_their_address_on_every_node() {
    for transmit_offload in [true, false] {
        let load_balancer = LoadBalancer::DirectReturn;
        let mut cluster = Cluster::new(Setting { load_balancer, transmit_offload, ..USUAL });
        cluster.serve();
        cluster.program(&[
            behind_vips(Protocol::Tcp, 80, &["10.20.0.5:8080", "10.20.0.6:8080", "10.20.1.7:8080"]),
            behind_vips(Protocol::Udp, 53, &["10.20.0.5:5353", "10.20.1.7:5353"]),
        ]);
        let (client, seen) = (&cluster.client, address(CLIENT));
        // More than the tunnel takes in one packet: the sender is told, and sends less.
        let body: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        let (mut by_tcp, mut by_udp) = (BTreeSet::new(), BTreeSet::new());
        for round in 0..24 {
            let body = if round % 4 == 0 { &body[..] } else { b"small" };
            for vip in VIPS {
                let greeting = ask_tcp(client, at(&format!("{vip}:80")), body);
                assert_eq!(greeting.client, seen, "{greeting:?} by {vip}");
                by_tcp.insert((vip, greeting.server));
                let greeting = ask_udp(client, at(&format!("{vip}:53")), b"question").expect("an answer");
                assert_eq!(greeting.client, seen, "{greeting:?} by {vip}");
                by_udp.insert((vip, greeting.server));
            }
            // A node port is of one node alone.
            let greeting = ask_tcp(client, SocketAddr::new(cluster.a.ip, 30_080), b"x");
            assert_eq!(greeting.client, cluster.a.ip);
            // Pods are served as ever, through the tunnel.
            ask_tcp(&cluster.a.pods[0].space, at("10.24.0.10:80"), body);
        }
        assert_eq!((by_tcp.len(), by_udp.len()), (6, 4), "every backend by every VIP: {by_tcp:?} {by_udp:?}");
        let told = || cluster.a.counter("answered_too_big") + cluster.b.counter("answered_too_big");
        // Which backend a client is given follows from its port: large ones may all have been served where they came in.
        for _ in 0..40 {
            if told() == 0 {
                VIPS.iter().for_each(|vip| _ = ask_tcp(client, at(&format!("{vip}:80")), &body));
            }
        }
        assert!(told() > 0, "some of the large ones met the tunnel's size");
        for node in [&cluster.a, &cluster.b] {
            for name in ["dropped_no_port", "dropped_table_full", "dropped_internal"] {
                assert_eq!(node.counter(name), 0, "{name} on {}", node.name);
            }
        }
        cluster.clean_up();
    }
}
