//! Who is reached from where, and whom the backend sees.

use model::{Family, Protocol};

use crate::{
    cluster::Service,
    expect::{Probe, Seen, Want, masqueraded, mixed, own},
    places::{Node, Place, Pod, To},
    world::World,
};

use Node::{A, B};
use Place::Client;
use Pod::{A1, A2, B1, B2};

pub(super) const WEB: To = To::cluster_ip(1, 80);
pub(super) const WEB_VIP: To = To::vip(80);

pub(super) fn web_node_port(node: Node) -> To {
    To::node(node, 30080)
}

pub(super) fn pod_to_cluster_ip(world: &mut World) {
    world.program(&[Service::web(&[A2, B1, B2])]);
    world.expect(Probe::tcp(Place::Pod(A1), WEB), own(&[A2, B1, B2]));
    world.program(&[Service::web(&[A2])]);
    world.expect(Probe::tcp(Place::Pod(A1), WEB), own(&[A2]));
    world.expect(Probe::tcp(Place::Pod(B1), WEB), own(&[A2]));
}

pub(super) fn pod_to_cluster_ip_udp(world: &mut World) {
    world.program(&[Service::new("dns", 2).port("dns", Protocol::Udp, 53, 8080).backends(&[A2, B1])]);
    world.expect(Probe::udp(Place::Pod(A1), To::cluster_ip(2, 53)), own(&[A2, B1]));
}

/// A pod that is given itself must not see its own address as the client's: its packets are masqueraded. The planes differ
/// where its socket is given itself.
pub(super) fn hairpin(world: &mut World) {
    world.program(&[Service::web(&[A1])]);
    world.expect(Probe::tcp(Place::Pod(A1), WEB), masqueraded(A, &[A1]));
    world.program(&[Service::web(&[A1, B1])]);
    world.expect(Probe::tcp(Place::Pod(A1), WEB), mixed(&[(A1, Seen::Node(A)), (B1, Seen::Own)]));
}

pub(super) fn host_to_cluster_ip(world: &mut World) {
    world.program(&[Service::web(&[A1, B1])]);
    world.expect(Probe::tcp(Place::Host(A), WEB), masqueraded(A, &[A1, B1]));
    world.expect(Probe::tcp(Place::Host(B), WEB), masqueraded(B, &[A1, B1]));
    world.expect(Probe::tcp(Place::Host(B), WEB).by_packets(), masqueraded(B, &[A1, B1]));
}

pub(super) fn client_to_node_port(world: &mut World) {
    world.program(&[Service::web(&[A1, B1, B2])]);
    for node in Node::ALL {
        world.expect(Probe::tcp(Client, web_node_port(node)), masqueraded(node, &[A1, B1, B2]));
    }
    world.program(&[Service::new("dns", 2)
        .port("dns", Protocol::Udp, 53, 8080)
        .node_port(30053)
        .backends(&[A1, B1])]);
    for node in Node::ALL {
        world.expect(Probe::udp(Client, To::node(node, 30053)), masqueraded(node, &[A1, B1]));
    }
}

pub(super) fn client_to_vip(world: &mut World) {
    world.program(&[Service::web(&[A1, A2, B1])]);
    for node in Node::ALL {
        world.expect(Probe::tcp(Client, WEB_VIP).via(node), masqueraded(node, &[A1, A2, B1]));
    }
    // A port that no Service has on the address.
    world.expect(Probe::tcp(Client, To::vip(81)), Want::NotAService);
}

/// The packet never leaves for the load balancer.
pub(super) fn pod_to_vip(world: &mut World) {
    world.program(&[Service::web(&[A2, B1])]);
    world.expect(Probe::tcp(Place::Pod(A1), WEB_VIP).via(B), masqueraded(A, &[A2, B1]));
}

pub(super) fn pod_to_node_port(world: &mut World) {
    world.program(&[Service::web(&[A2, B1])]);
    world.expect(Probe::tcp(Place::Pod(A1), web_node_port(A)), masqueraded(A, &[A2, B1]));
    world.expect(Probe::tcp(Place::Pod(A1), web_node_port(B)), masqueraded(B, &[A2, B1]));
}

pub(super) fn external_ip(world: &mut World) {
    world.program(&[Service::web(&[A2, B1]).external_ip(77)]);
    world.expect(Probe::tcp(Place::Pod(A1), To::external_ip(77, 80)), masqueraded(A, &[A2, B1]));
}

pub(super) fn several_ports(world: &mut World) {
    let service =
        Service::new("two", 3).port("http", Protocol::Tcp, 80, 8080).port("admin", Protocol::Tcp, 9000, 9090);
    world.program(&[service.backends(&[A2, B1])]);
    for port in [80, 9000] {
        world.expect(Probe::tcp(Place::Pod(A1), To::cluster_ip(3, port)), own(&[A2, B1]));
    }
}

/// Different Services' backends, so that an answer tells which one it came by.
pub(super) fn tcp_and_udp_on_one_port(world: &mut World) {
    let address = To::cluster_ip(4, 53);
    let both = |tcp: &[Pod], udp: &[Pod]| {
        [
            Service::new("stream", 4).port("dns", Protocol::Tcp, 53, 8080).backends(tcp),
            Service::new("datagram", 4).port("dns", Protocol::Udp, 53, 8080).backends(udp),
        ]
    };
    world.program(&both(&[A2], &[B1]));
    world.expect(Probe::tcp(Place::Pod(A1), address), own(&[A2]));
    world.expect(Probe::udp(Place::Pod(A1), address), own(&[B1]));
    world.program(&both(&[], &[B1]));
    world.expect(Probe::tcp(Place::Pod(A1), address), Want::NoEndpoints);
    world.expect(Probe::udp(Place::Pod(A1), address), own(&[B1]));
}

/// One load balancer's, from inside and outside; then two that share its address, so that an answer tells which one it
/// came by.
pub(super) fn tcp_and_udp_at_a_vip(world: &mut World) {
    let address = To::vip(53);
    let port = |service: Service, protocol| {
        let name = if protocol == Protocol::Tcp { "tcp" } else { "udp" };
        service.port(name, protocol, 53, 8080).node_port(30053).on_vip()
    };
    let both = port(port(Service::new("dns", 4), Protocol::Tcp), Protocol::Udp);
    let froms = [Client, Place::Pod(A1), Place::Host(A)];
    world.program(&[both.backends(&[A2, B1])]);
    for from in froms {
        world.expect(Probe::tcp(from, address), masqueraded(A, &[A2, B1]));
        world.expect(Probe::udp(from, address), masqueraded(A, &[A2, B1]));
    }
    let apart = |tcp: &[Pod], udp: &[Pod]| {
        let stream = port(Service::new("stream", 4), Protocol::Tcp).backends(tcp);
        [stream, port(Service::new("datagram", 5), Protocol::Udp).backends(udp)]
    };
    world.program(&apart(&[A2], &[B1]));
    for from in froms {
        world.expect(Probe::tcp(from, address), masqueraded(A, &[A2]));
        world.expect(Probe::udp(from, address), masqueraded(A, &[B1]));
    }
    world.program(&apart(&[], &[B1]));
    for from in froms {
        world.expect(Probe::tcp(from, address), Want::NoEndpoints);
        world.expect(Probe::udp(from, address), masqueraded(A, &[B1]));
    }
}

pub(super) fn named_ports_differ(world: &mut World) {
    world.program(&[Service::new("named", 5).named_port("http", 80, 8080, 9090).backends(&[A2, B1])]);
    world.expect(Probe::tcp(Place::Pod(A1), To::cluster_ip(5, 80)), own(&[A2, B1]));
}

/// A Service of one family is nothing in the other.
pub(super) fn single_stack(world: &mut World) {
    let (own_family, other) = match world.family() {
        Family::V4 => (Family::V4, Family::V6),
        Family::V6 => (Family::V6, Family::V4),
    };
    world.program(&[Service::web(&[A2, B1]).only(own_family)]);
    world.expect(Probe::tcp(Place::Pod(A1), WEB), own(&[A2, B1]));
    world.expect(Probe::tcp(Client, WEB_VIP), masqueraded(A, &[A2, B1]));
    world.program(&[Service::web(&[A2, B1]).only(other)]);
    for probe in
        [Probe::tcp(Place::Pod(A1), WEB), Probe::tcp(Client, WEB_VIP), Probe::tcp(Client, web_node_port(A))]
    {
        world.expect(probe, Want::NotAService);
    }
}

/// 300 connections over three backends: each gets 100, with a standard deviation of 8.2. Five of those are met by
/// chance once in a million.
pub(super) fn spread_is_even(world: &mut World) {
    world.program(&[Service::web(&[A1, A2, B1])]);
    let from_pod = Probe::tcp(Place::Pod(B2), WEB);
    for probe in [Probe::tcp(Client, WEB_VIP), from_pod, from_pod.by_packets()] {
        if let Some(counts) = world.count(probe.times(300)) {
            assert!(counts.values().all(|count| (59..=141).contains(count)), "{probe:?}: {counts:?}");
        }
    }
}

pub(super) fn body_is_intact(world: &mut World) {
    world.program(&[Service::web(&[A2, B1])]);
    intact_from_everywhere(world);
}

/// Packets then carry complete checksums, which are fixed up in another way.
pub(super) fn no_transmit_offload(world: &mut World) {
    world.program(&[Service::web(&[A2, B1])]);
    world.disable_transmit_offload();
    intact_from_everywhere(world);
    world.expect(Probe::tcp(Place::Pod(A1), WEB), own(&[A2, B1]));
    world.expect(Probe::tcp(Client, WEB_VIP), masqueraded(A, &[A2, B1]));
}

fn intact_from_everywhere(world: &World) {
    for backend in [A2, B1] {
        for probe in everywhere() {
            world.hold_by(probe, backend).expect_intact_body(1 << 20);
        }
    }
}

fn everywhere() -> [Probe; 6] {
    [
        Probe::tcp(Place::Pod(A1), WEB),
        Probe::tcp(Place::Pod(A1), WEB).by_packets(),
        Probe::tcp(Client, WEB_VIP),
        Probe::tcp(Client, web_node_port(B)),
        Probe::tcp(Place::Host(A), WEB),
        Probe::tcp(Place::Host(A), WEB).by_packets(),
    ]
}

/// Larger than the wire takes in one piece.
pub(super) fn large_datagrams(world: &mut World) {
    world.program(&[dns()]);
    datagrams_of(world, 2000);
    datagrams_of(world, 9000);
    datagrams_of_the_host(world);
}

fn datagrams_of_the_host(world: &World) {
    let from_host = Probe::udp(Place::Host(A), To::cluster_ip(2, 53)).by_packets();
    for size in [1400, 9000] {
        world.expect(from_host.datagram(size), masqueraded(A, &[A2, B1]));
    }
}

fn dns() -> Service {
    let dns = Service::new("dns", 2).port("dns", Protocol::Udp, 53, 8080).node_port(30053);
    dns.backends(&[A2, B1])
}

fn datagrams_of(world: &World, size: usize) {
    let from_pod = Probe::udp(Place::Pod(A1), To::cluster_ip(2, 53)).datagram(size);
    world.expect(from_pod, own(&[A2, B1]));
    let from_outside = Probe::udp(Client, To::node(A, 30053)).datagram(size);
    world.expect(from_outside, masqueraded(A, &[A2, B1]));
}

/// Senders offer 1,500 bytes. What the router says of their packets is about a backend's address, or a masquerading
/// node's; each must hear it of the address that it knows, or nothing large ever arrives.
///
/// Not asked: large IPv6 datagrams of the host. It hears of the path to the frontend, and the iptables plane sends what fits
/// the path to the backend, of which nobody told it.
pub(super) fn narrow_path(world: &mut World) {
    world.narrow(1300);
    world.program(&[Service::web(&[A2, B1]), dns()]);
    transfers(world);
}

/// Between the nodes through VXLAN, which takes 50 bytes less than pods, hosts and clients send.
pub(super) fn tunnel(world: &mut World) {
    world.add_tunnel();
    world.program(&[Service::web(&[A2, B1]), dns()]);
    transfers(world);
    datagrams_of_the_host(world);
    world.expect(Probe::tcp(Place::Pod(A1), WEB), own(&[A2, B1]));
    for probe in [Probe::tcp(Place::Host(A), WEB), Probe::tcp(Place::Host(A), WEB).by_packets()] {
        world.expect(probe, masqueraded(A, &[A2, B1]));
    }
    world.expect(Probe::tcp(Client, WEB_VIP), masqueraded(A, &[A2, B1]));
    world.expect(Probe::tcp(Client, web_node_port(B)), masqueraded(B, &[A2, B1]));
}

fn transfers(world: &World) {
    for backend in [A2, B1] {
        for probe in everywhere() {
            let mut held = world.hold_by(probe, backend);
            for size in [1400, 9000, 1 << 20] {
                held.expect_intact_body(size);
            }
        }
    }
    for size in [1400, 9000] {
        datagrams_of(world, size);
    }
}
