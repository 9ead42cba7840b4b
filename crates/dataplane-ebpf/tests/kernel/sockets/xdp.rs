//! Load-balancer traffic to a backend on another node, turned around by XDP between real sockets.

use dataplane::Dataplane as _;
use dataplane_ebpf::Acceleration;
use model::{FrontendAddress, FrontendKind, Protocol, ServicePort, TrafficPolicy::Cluster as ByCluster};

use super::{
    cluster::{Cluster, Setting, USUAL},
    talk::{ask_tcp, ask_udp},
};
use crate::{
    model_of::{address, frontend, service, with_backends},
    space,
};

const VIP: &str = "203.0.113.10";

/// On the VIP that the router sends to node a; the only backend is on node b.
fn behind_vip(protocol: Protocol, port: u16, target: u16) -> ServicePort {
    let vip = frontend(FrontendKind::LoadBalancer, FrontendAddress::Ip(address(VIP)), port, ByCluster);
    let backend = (format!("10.20.1.7:{target}").parse().expect("socket address"), false);
    with_backends(service("remote", protocol, vec![vip]), &[backend])
}

fn xdp_mode(cluster: &Cluster) -> String {
    let features = cluster.a.plane.as_ref().expect("open").status().features;
    features.into_iter().find(|feature| feature.name == "xdp").expect("reported").detail
}

fn shows_xdp(cluster: &Cluster) -> bool {
    space::run(&cluster.a.space, "ip", &["-d", "link", "show", "eth0"]).contains("xdp")
}

fn turned_around(acceleration: Acceleration, mode: &str) {
    let mut cluster = Cluster::new(Setting { acceleration, transmit_offload: false, ..USUAL });
    cluster.serve();
    assert_eq!(xdp_mode(&cluster), format!("{mode} on eth0"));
    let services = [behind_vip(Protocol::Tcp, 80, 8080), behind_vip(Protocol::Udp, 53, 5353)];
    cluster.program(&services);
    let body: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
    let tcp = format!("{VIP}:80").parse().expect("socket address");
    let udp = format!("{VIP}:53").parse().expect("socket address");
    for round in 0..3 {
        assert_eq!(ask_tcp(&cluster.client, tcp, &body).client, cluster.a.ip, "masqueraded");
        assert_eq!(ask_udp(&cluster.client, udp, b"question").expect("answer").server, "b1");
        if round == 1 {
            // As a new agent does: the program is replaced in place.
            cluster.a.open();
        }
    }
    assert!(cluster.a.counter("forwarded_xdp") > 100, "{}", cluster.a.counter("forwarded_xdp"));
    let mut plane = cluster.a.plane.take().expect("open");
    cluster.a.space.run(|| plane.clean_up().expect("clean up")).expect("enter");
    assert!(!shows_xdp(&cluster));
    cluster.a.open();
    cluster.clean_up();
}

#[test]
fn by_the_driver() {
    turned_around(Acceleration::Native, "native");
    turned_around(Acceleration::Auto, "native");
}

#[test]
fn in_front_of_the_stack() {
    turned_around(Acceleration::Generic, "generic");
}

/// Senders of this machine leave their checksums to a device that is not there: tc does what XDP cannot.
#[test]
fn partial_checksums_are_left_to_tc() {
    for acceleration in [Acceleration::Native, Acceleration::Generic] {
        let mut cluster = Cluster::new(Setting { acceleration, ..USUAL });
        cluster.serve();
        cluster.program(&[behind_vip(Protocol::Tcp, 80, 8080)]);
        let tcp = format!("{VIP}:80").parse().expect("socket address");
        let body: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        assert_eq!(ask_tcp(&cluster.client, tcp, &body).client, cluster.a.ip);
        assert!(cluster.a.counter("forwarded_established") > 0);
        cluster.clean_up();
    }
}

#[test]
fn turning_it_off_takes_it_off() {
    let mut cluster = Cluster::new(Setting { acceleration: Acceleration::Auto, ..USUAL });
    assert!(shows_xdp(&cluster));
    cluster.a.accelerate(Acceleration::Off);
    assert!(!shows_xdp(&cluster));
    assert_eq!(xdp_mode(&cluster), "off by configuration");
    cluster.clean_up();
}
