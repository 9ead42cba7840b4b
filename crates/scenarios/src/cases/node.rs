//! What a node serves at its own addresses: node ports where its filter says, host ports everywhere.

use model::{NodePortAddresses, Protocol};

use super::reach::{WEB, WEB_VIP};
use crate::{
    cluster::{HostPort, Service},
    expect::{Probe, Want, masqueraded, own},
    places::{Node, Place, Pod, To},
    world::World,
};

use Node::{A, B};
use Place::Client;
use Pod::{A1, A2, B1};

const NODE_PORT: u16 = 30080;
const HOST_PORT: u16 = 9000;

const FIRST: To = To::node(A, NODE_PORT);
const SECOND: To = To::second(A, NODE_PORT);

pub(super) fn node_port_at_every_address(world: &mut World) {
    world.program(&[Service::web(&[A2, B1])]);
    for at in [FIRST, SECOND] {
        for from in [Client, Place::Pod(A1), Place::Pod(B1), Place::Host(A), Place::Host(B)] {
            world.expect(Probe::tcp(from, at), masqueraded(A, &[A2, B1]));
        }
    }
    world.program(&[Service::web(&[B1]).external_local()]);
    world.expect(Probe::tcp(Client, To::second(B, NODE_PORT)), own(&[B1]));
}

/// From anywhere, over TCP and UDP; the Service's other frontends do not know of the filter, which changes under it.
pub(super) fn node_port_at_some_addresses(world: &mut World) {
    const DNS: (To, To) = (To::node(A, 30053), To::second(A, 30053));
    let dns = Service::new("dns", 2).port("dns", Protocol::Udp, 53, 8080).node_port(30053).backends(&[A2]);
    let services = [Service::web(&[A2, B1]), dns];
    let first: &[&str] = &["10.128.0.8/29", "fd00:128::10/124"];
    let second: &[&str] = &["10.128.0.16/28", "fd00:128::20/124"];
    let within = |prefixes: &[&str]| {
        let prefixes = prefixes.iter().map(|prefix| prefix.parse().expect("prefix"));
        NodePortAddresses::Within(prefixes.collect())
    };
    for (filter, serves_first) in
        [(within(first), true), (within(second), false), (NodePortAddresses::Primary, true)]
    {
        world.serve_node_ports(filter);
        world.program(&services);
        let ((served, other), (dns, other_dns)) =
            if serves_first { ((FIRST, SECOND), DNS) } else { ((SECOND, FIRST), (DNS.1, DNS.0)) };
        for from in [Client, Place::Pod(A1), Place::Host(A), Place::Host(B)] {
            world.expect(Probe::tcp(from, served), masqueraded(A, &[A2, B1]));
            world.expect(Probe::tcp(from, other), Want::NotAService);
        }
        world.expect(Probe::udp(Client, dns), masqueraded(A, &[A2]));
        world.expect(Probe::udp(Client, other_dns), Want::NotAService);
        world.expect(Probe::tcp(Client, WEB_VIP), masqueraded(A, &[A2, B1]));
        world.expect(Probe::tcp(Place::Pod(A1), WEB), own(&[A2, B1]));
    }
}

/// A filter of the other family alone says nothing.
pub(super) fn node_port_filter_of_the_other_family(world: &mut World) {
    let other = match world.family() {
        model::Family::V4 => "2001:db8:2::/48",
        model::Family::V6 => "192.0.2.0/24",
    };
    world.serve_node_ports_within(&[other]);
    world.program(&[Service::web(&[A2, B1])]);
    for at in [FIRST, SECOND] {
        world.expect(Probe::tcp(Client, at), masqueraded(A, &[A2, B1]));
    }
}

/// The pod alone answers and sees its client, but for the node itself and for itself; other nodes have no such port.
pub(super) fn host_port(world: &mut World) {
    let port = HostPort::new(A1, Protocol::Tcp, HOST_PORT, 8080);
    world.map_host_ports(&[port]);
    world.program(&[Service::web(&[A2, B1])]);
    for at in [To::node(A, HOST_PORT), To::second(A, HOST_PORT)] {
        for from in [Client, Place::Pod(A2), Place::Pod(B1), Place::Host(B)] {
            world.expect(Probe::tcp(from, at), own(&[A1]));
        }
        world.expect(Probe::tcp(Place::Host(A), at), masqueraded(A, &[A1]));
        world.expect(Probe::tcp(Place::Pod(A1), at), masqueraded(A, &[A1]));
    }
    for from in [Client, Place::Pod(B1), Place::Host(B)] {
        world.expect(Probe::tcp(from, To::node(B, HOST_PORT)), Want::NotAService);
    }
    // It goes with its pod.
    world.map_host_ports(&[]);
    world.program(&[Service::web(&[A2, B1])]);
    world.expect(Probe::tcp(Client, To::node(A, HOST_PORT)), Want::NotAService);
    world.expect(Probe::tcp(Client, FIRST), masqueraded(A, &[A2, B1]));
}

/// One number for several pods, told apart by address or protocol.
pub(super) fn host_ports_share_a_number(world: &mut World) {
    let tcp = |pod| HostPort::new(pod, Protocol::Tcp, HOST_PORT, 8080);
    world.map_host_ports(&[
        tcp(A1).at_first(),
        tcp(A2).at_second(),
        HostPort::new(A2, Protocol::Udp, HOST_PORT, 8080),
        tcp(B1).at_second(),
    ]);
    world.program(&[]);
    world.expect(Probe::tcp(Client, To::node(A, HOST_PORT)), own(&[A1]));
    world.expect(Probe::tcp(Client, To::second(A, HOST_PORT)), own(&[A2]));
    for at in [To::node(A, HOST_PORT), To::second(A, HOST_PORT)] {
        world.expect(Probe::udp(Client, at), own(&[A2]));
    }
    world.expect(Probe::tcp(Place::Pod(A1), To::second(B, HOST_PORT)), own(&[B1]));
    world.expect(Probe::tcp(Client, To::node(B, HOST_PORT)), Want::NotAService);
}

/// The filter is for node ports.
pub(super) fn host_port_where_node_ports_are_filtered(world: &mut World) {
    world.serve_node_ports_within(&["192.0.2.0/24", "2001:db8:2::/48"]);
    world.map_host_ports(&[HostPort::new(A1, Protocol::Tcp, HOST_PORT, 8080)]);
    world.program(&[Service::web(&[A2, B1])]);
    for (host_port, node_port) in [(To::node(A, HOST_PORT), FIRST), (To::second(A, HOST_PORT), SECOND)] {
        world.expect(Probe::tcp(Client, host_port), own(&[A1]));
        world.expect(Probe::tcp(Client, node_port), Want::NotAService);
    }
}
