//! Changes under flows that are open.

use model::{Plane, Protocol};

use super::reach::{WEB, WEB_VIP, web_node_port};
use crate::{
    cluster::Service,
    expect::{Probe, Want, masqueraded, own},
    places::{Node, Place, Pod, To},
    world::World,
};

use Node::A;
use Place::Client;
use Pod::{A1, A2, B1, B2};

pub(super) fn endpoint_added(world: &mut World) {
    world.program(&[Service::web(&[A2])]);
    let probe = Probe::tcp(Place::Pod(A1), WEB);
    let (mut held, _) = world.hold(probe);
    world.program(&[Service::web(&[A2, B1])]);
    held.expect(A2);
    world.expect(probe, own(&[A2, B1]));
}

/// Flows of the others go on.
pub(super) fn endpoint_removed(world: &mut World) {
    world.program(&[Service::web(&[A2, B1, B2])]);
    let probes = [
        Probe::tcp(Place::Pod(A1), WEB),
        Probe::tcp(Client, WEB_VIP),
        Probe::tcp(Client, web_node_port(A)),
        Probe::tcp(Place::Pod(A1), WEB).by_packets(),
    ];
    let mut held: Vec<_> =
        probes.iter().flat_map(|probe| [A2, B1].map(|pod| (world.hold_by(*probe, pod), pod))).collect();
    world.program(&[Service::web(&[A2, B1])]);
    for (flow, pod) in &mut held {
        flow.expect(*pod);
        flow.expect_intact_body(1 << 16);
    }
    world.expect(probes[0], own(&[A2, B1]));
    world.expect(probes[1], masqueraded(A, &[A2, B1]));
}

/// A UDP client that keeps its socket is not left with a backend that is gone.
pub(super) fn udp_moves(world: &mut World) {
    let dns = |pods: &[Pod]| {
        [Service::new("dns", 2).port("dns", Protocol::Udp, 53, 8080).node_port(30053).on_vip().backends(pods)]
    };
    world.program(&dns(&[A2]));
    let probes = [
        Probe::udp(Place::Pod(A1), To::cluster_ip(2, 53)).by_packets(),
        Probe::udp(Client, To::node(A, 30053)),
        Probe::udp(Client, To::vip(53)),
    ];
    let mut held: Vec<_> = probes.iter().map(|probe| world.hold(*probe).0).collect();
    for from in [Place::Pod(A1), Place::Host(A)] {
        held.push(world.hold_unconnected(Probe::udp(from, To::cluster_ip(2, 53))).0);
    }
    world.program(&dns(&[B1]));
    for flow in &mut held {
        flow.expect(B1);
    }
}

/// The planes differ: one moves the flow, one tells the socket's owner, who connects anew.
pub(super) fn connected_datagrams_close(world: &mut World) {
    let dns = |pods: &[Pod]| [Service::new("dns", 2).port("dns", Protocol::Udp, 53, 8080).backends(pods)];
    world.program(&dns(&[A2]));
    let probes = [Place::Pod(A1), Place::Host(A)].map(|from| Probe::udp(from, To::cluster_ip(2, 53)));
    let mut held = probes.map(|probe| world.hold(probe).0);
    world.program(&dns(&[B1]));
    for (flow, probe) in held.iter_mut().zip(probes) {
        if world.plane() == Some(Plane::Ebpf) {
            flow.expect_closed();
            *flow = world.hold(probe).0;
        }
        flow.expect(B1);
    }
}

/// Such a segment must not make the client reset a connection of the backend's.
pub(super) fn out_of_window_segments(world: &mut World) {
    world.program(&[Service::web(&[A2, B1])]);
    for backend in [A2, B1] {
        let mut held = world.hold_by(Probe::tcp(Place::Pod(A1), WEB).by_packets(), backend);
        world.expect_out_of_window_does_no_harm(&mut held, backend);
    }
}

pub(super) fn service_removed(world: &mut World) {
    world.program(&[Service::web(&[A2, B1])]);
    world.expect(Probe::tcp(Client, web_node_port(A)), masqueraded(A, &[A2, B1]));
    world.program(&[]);
    for probe in
        [Probe::tcp(Place::Pod(A1), WEB), Probe::tcp(Client, web_node_port(A)), Probe::tcp(Client, WEB_VIP)]
    {
        world.expect(probe, Want::NotAService);
    }
    world.program(&[Service::web(&[B2])]);
    world.expect(Probe::tcp(Place::Pod(A1), WEB), own(&[B2]));
}

pub(super) fn service_without_endpoints_gets_one(world: &mut World) {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let service = |pods: &[Pod]| [Service::new("late", 6).port("p", protocol, 80, 8080).backends(pods)];
        let probe = Probe { protocol, ..Probe::tcp(Place::Pod(A1), To::cluster_ip(6, 80)) };
        world.program(&service(&[]));
        world.expect(probe, Want::NoEndpoints);
        world.program(&service(&[A2, B1]));
        world.expect(probe, own(&[A2, B1]));
    }
}

/// Flows outlive the agent, and new ones are opened while it is gone.
pub(super) fn plane_restarts(world: &mut World) {
    world.program(&[Service::web(&[A2, B1])]);
    let from_pod = Probe::tcp(Place::Pod(A1), WEB);
    let probes = [from_pod, Probe::tcp(Client, WEB_VIP), from_pod.by_packets()];
    let mut held: Vec<_> =
        probes.iter().flat_map(|probe| [A2, B1].map(|pod| (world.hold_by(*probe, pod), pod))).collect();
    world.restart(|| {
        for (flow, pod) in &mut held {
            flow.expect(*pod);
        }
    });
    for (flow, pod) in &mut held {
        flow.expect(*pod);
        flow.expect_intact_body(1 << 16);
    }
    world.expect(probes[0], own(&[A2, B1]));
    world.program(&[Service::web(&[B2])]);
    world.expect(probes[1], masqueraded(A, &[B2]));
}
