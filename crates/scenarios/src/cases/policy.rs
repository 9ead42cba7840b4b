//! Traffic policies, refusals, source ranges, terminating backends.

use std::time::{Duration, Instant};

use model::{Family, Plane, Protocol};

use super::reach::{WEB, WEB_VIP, web_node_port};
use crate::{
    cluster::Service,
    expect::{Probe, Want, masqueraded, own},
    places::{Node, Place, Pod, To},
    world::World,
};

use Node::{A, B};
use Place::Client;
use Pod::{A1, A2, B1, B2};

/// Outside clients reach the node's own backends only, and are seen by them.
pub(super) fn external_local(world: &mut World) {
    world.program(&[Service::web(&[A1, A2, B1]).external_local()]);
    for (node, pods) in [(A, &[A1, A2][..]), (B, &[B1])] {
        world.expect(Probe::tcp(Client, WEB_VIP).via(node), own(pods));
        world.expect(Probe::tcp(Client, web_node_port(node)), own(pods));
    }
}

/// The planes differ: one refuses, one is silent as kube-proxy.
pub(super) fn no_local_endpoints(world: &mut World) {
    world.program(&[Service::web(&[B1]).external_local()]);
    world.expect(Probe::tcp(Client, WEB_VIP).via(A), Want::NoLocalEndpoints);
    world.expect(Probe::tcp(Client, web_node_port(A)), Want::NoLocalEndpoints);
    world.expect(Probe::tcp(Client, WEB_VIP).via(B), own(&[B1]));
}

/// Local policy binds outside clients only.
pub(super) fn local_policy_short_circuits(world: &mut World) {
    world.program(&[Service::web(&[B1, B2]).external_local()]);
    for frontend in [WEB_VIP, web_node_port(A)] {
        world.expect(Probe::tcp(Place::Pod(A1), frontend), own(&[B1, B2]));
    }
}

/// The node's own processes are no outside clients either; frontends on the node's own addresses need no network.
pub(super) fn host_to_own_addresses(world: &mut World) {
    let local = Service::web(&[B1, B2]).external_local();
    for (service, pods) in [(Service::web(&[A1, B1]), [A1, B1]), (local, [B1, B2])] {
        world.program(&[service]);
        for frontend in [WEB_VIP, web_node_port(A)] {
            world.expect(Probe::tcp(Place::Host(A), frontend), masqueraded(A, &pods));
        }
    }
}

/// The planes differ: what a node sends to an external IP without endpoints is refused, or leaves as if none were there.
pub(super) fn host_to_outside_addresses(world: &mut World) {
    world.program(&[Service::web(&[A1, B1]).external_ip(77)]);
    world.expect(Probe::tcp(Place::Host(A), To::external_ip(77, 80)), masqueraded(A, &[A1, B1]));
    world.program(&[Service::web(&[]).external_ip(77)]);
    world.expect(Probe::tcp(Place::Host(A), To::external_ip(77, 80)), Want::NoEndpoints);
    world.expect(Probe::tcp(Place::Pod(A1), To::external_ip(77, 80)), Want::NoEndpoints);
}

/// The planes differ: a load-balancer address is local, and answers node ports on one of them.
pub(super) fn node_port_at_load_balancer_address(world: &mut World) {
    world.program(&[Service::web(&[A1, B1])]);
    for node in Node::ALL {
        world.expect(Probe::tcp(Client, To::vip(30080)).via(node), Want::NotAService);
    }
}

/// The planes differ: where node ports are not served, one still refuses those that have no endpoint.
pub(super) fn filtered_node_port_without_endpoints(world: &mut World) {
    world.serve_node_ports_within(&["192.0.2.0/24", "2001:db8:2::/48"]);
    for pods in [&[A1, B1][..], &[]] {
        world.program(&[Service::web(pods)]);
        world.expect(Probe::tcp(Client, web_node_port(A)), Want::NotAService);
    }
}

/// The planes differ: where node ports are not served, one still is silent where none is local.
pub(super) fn filtered_node_port_without_local_endpoints(world: &mut World) {
    world.serve_node_ports_within(&["192.0.2.0/24", "2001:db8:2::/48"]);
    world.program(&[Service::web(&[B1]).external_local()]);
    world.expect(Probe::tcp(Client, web_node_port(A)), Want::NotAService);
}

pub(super) fn internal_local(world: &mut World) {
    world.program(&[Service::web(&[A2, B1]).internal_local()]);
    world.expect(Probe::tcp(Place::Pod(A1), WEB), own(&[A2]));
    world.expect(Probe::tcp(Place::Pod(B2), WEB), own(&[B1]));
    world.program(&[Service::web(&[B1]).internal_local()]);
    world.expect(Probe::tcp(Place::Pod(A1), WEB), Want::NoLocalEndpoints);
    // The other kinds of frontend have a policy of their own.
    world.expect(Probe::tcp(Client, WEB_VIP), masqueraded(A, &[B1]));
}

pub(super) fn no_endpoints(world: &mut World) {
    let dns = Service::new("dns", 2).port("dns", Protocol::Udp, 53, 8080).node_port(30053);
    world.program(&[Service::web(&[]), dns]);
    for probe in [
        Probe::tcp(Place::Pod(A1), WEB),
        Probe::tcp(Place::Host(A), WEB),
        Probe::tcp(Client, WEB_VIP),
        Probe::tcp(Client, web_node_port(B)),
        Probe::udp(Place::Pod(A1), To::cluster_ip(2, 53)),
        Probe::udp(Client, To::node(A, 30053)),
    ] {
        world.expect(probe, Want::NoEndpoints);
    }
}

/// Whether a pod may send is asked first on one plane, whether anybody is there on the other.
pub(super) fn denied_without_endpoints(world: &mut World) {
    world.program(&[Service::web(&[])]);
    world.close_pods();
    world.expect(Probe::tcp(Place::Pod(A1), WEB), Want::NoEndpoints);
    world.expect(Probe::tcp(Place::Host(A), WEB), Want::NoEndpoints);
    world.expect(Probe::tcp(Client, WEB_VIP), Want::NoEndpoints);
}

/// They guard the load-balancer address, and nothing else.
pub(super) fn source_ranges(world: &mut World) {
    world.program(&[Service::web(&[A2, B1]).source_ranges(&["192.0.2.0/24", "2001:db8:2::/48"])]);
    world.expect(Probe::tcp(Client, WEB_VIP), Want::SourceDenied);
    world.expect(Probe::tcp(Place::Pod(A1), WEB_VIP), Want::SourceDenied);
    world.expect(Probe::tcp(Client, web_node_port(A)), masqueraded(A, &[A2, B1]));
    world.expect(Probe::tcp(Place::Pod(A1), WEB), own(&[A2, B1]));
    world.program(&[Service::web(&[A2, B1]).source_ranges(&[
        "192.0.2.0/24",
        "2001:db8:2::/48",
        "198.51.100.0/25",
        "2001:db8:c::/64",
    ])]);
    world.expect(Probe::tcp(Client, WEB_VIP), masqueraded(A, &[A2, B1]));
    world.program(&[Service::web(&[A2, B1])
        .external_local()
        .source_ranges(&["198.51.100.10/32", "2001:db8:c::10/128"])]);
    world.expect(Probe::tcp(Client, WEB_VIP).via(B), own(&[B1]));
    world.program(&[Service::web(&[A2, B1])]);
    world.expect(Probe::tcp(Place::Pod(A1), WEB_VIP), masqueraded(A, &[A2, B1]));
}

/// A node reaches the load-balancer address, which is one of its own, where its own address may.
pub(super) fn source_ranges_on_the_node(world: &mut World) {
    world.program(&[Service::web(&[A2, B1]).source_ranges(&["10.128.0.0/24", "fd00:128::/64"])]);
    world.expect(Probe::tcp(Place::Host(A), WEB_VIP), masqueraded(A, &[A2, B1]));
    world.program(&[Service::web(&[A2, B1]).source_ranges(&["192.0.2.0/24", "2001:db8:2::/48"])]);
    world.expect(Probe::tcp(Place::Host(A), WEB_VIP), Want::SourceDenied);
}

/// Only where no ready backend is left.
pub(super) fn terminating(world: &mut World) {
    world.program(&[Service::web(&[A2]).terminating(&[B1])]);
    world.expect(Probe::tcp(Place::Pod(A1), WEB), own(&[A2]));
    world.program(&[Service::web(&[]).terminating(&[A2, B1])]);
    world.expect(Probe::tcp(Place::Pod(A1), WEB), own(&[A2, B1]));
}

/// Outside clients keep the node's own terminating backend; inside clients use the ready one elsewhere.
pub(super) fn terminating_local(world: &mut World) {
    world.program(&[Service::web(&[B1]).terminating(&[A2]).external_local()]);
    world.expect(Probe::tcp(Client, WEB_VIP).via(A), own(&[A2]));
    world.expect(Probe::tcp(Place::Pod(A1), WEB), own(&[B1]));
}

pub(super) fn affinity(world: &mut World) {
    world.program(&[Service::web(&[A1, A2, B1]).affinity(600)]);
    for probe in [Probe::tcp(Place::Pod(B2), WEB), Probe::tcp(Client, WEB_VIP)] {
        if let Some(counts) = world.count(probe.times(30)) {
            assert_eq!(counts.len(), 1, "{probe:?}: {counts:?}");
        }
    }
    world.program(&[Service::web(&[A1, A2, B1])]);
    world.expect(Probe::tcp(Place::Pod(B2), WEB), own(&[A1, A2, B1]));
}

/// What a client was given is kept while it comes back, and no longer than the timeout after that. Where a client's next
/// choice is a matter of its hash, only one that was given another backend than that shows it: each is given two in turn.
pub(super) fn affinity_expires(world: &mut World) {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let services = |pods: &[Pod]| {
        let local = Service::new("local", 3).port("http", Protocol::Tcp, 81, 8080).on_vip().external_local();
        let dns = Service::new("dns", 2).port("dns", Protocol::Udp, 53, 8080).on_vip();
        let all = [Service::web(&[]), local, dns];
        all.map(|service| service.backends(pods).affinity(TIMEOUT.as_secs() as u32))
    };
    let mut pending = vec![
        Probe::tcp(Place::Pod(B2), WEB),
        Probe::tcp(Place::Pod(B2), WEB).by_packets(),
        Probe::tcp(Client, WEB_VIP),
        Probe::tcp(Client, To::vip(81)),
        Probe::udp(Client, To::vip(53)),
        Probe::udp(Place::Host(A), To::cluster_ip(2, 53)),
    ];
    for given in [A1, A2].into_iter().cycle().take(30) {
        world.program(&services(&[given]));
        let ask = |probe: &Probe| (*probe, Instant::now(), world.hold(*probe).1);
        let mut asked: Vec<_> = pending.iter().map(ask).collect();
        world.program(&services(&[A1, A2, B1]));
        if world.plane().is_none() {
            return;
        }
        assert!(asked.iter().all(|(.., answers)| *answers == Some(given)), "{asked:?}");
        // For longer than the timeout, by connections that follow sooner.
        let begun = Instant::now();
        while begun.elapsed() < TIMEOUT + TIMEOUT / 2 {
            for (probe, at, before) in &mut asked {
                let now = Instant::now();
                let mut answers = world.hold(*probe).1;
                if probe.protocol == Protocol::Udp && answers != *before {
                    // A port that a datagram socket had a moment ago may still be that one's flow.
                    answers = world.hold(*probe).1;
                }
                // Where the machine stood still in between it may have been forgotten.
                if at.elapsed() < TIMEOUT * 3 / 4 {
                    assert_eq!(answers, *before, "{probe:?} after {:?}", begun.elapsed());
                }
                (*at, *before) = (now, answers);
            }
            std::thread::sleep(TIMEOUT / 10);
        }
        std::thread::sleep(TIMEOUT + TIMEOUT / 4);
        asked.retain(|(probe, _, before)| world.hold(*probe).1 == *before);
        pending = asked.into_iter().map(|(probe, ..)| probe).collect();
        if pending.is_empty() {
            return;
        }
    }
    panic!("never forgotten: {pending:?}")
}

/// The planes differ: one remembers what a pod was given by its socket and what its packets were given, one makes no
/// difference.
pub(super) fn affinity_per_way(world: &mut World) {
    world.program(&[Service::web(&[A1, A2, B1]).affinity(600)]);
    let ways = [Probe::tcp(Place::Pod(B2), WEB), Probe::tcp(Place::Pod(B2), web_node_port(B))];
    let given =
        ways.map(|probe| world.count(probe.times(15)).map(|counts| counts.into_keys().collect::<Vec<_>>()));
    for backends in given.iter().flatten() {
        assert_eq!(backends.len(), 1, "each way has its own: {given:?}");
    }
    if world.plane() == Some(Plane::Iptables) {
        assert_eq!(given[0], given[1]);
    }
}

/// The planes differ in IPv4: one serves the node itself at 127.0.0.1.
pub(super) fn node_port_on_localhost(world: &mut World) {
    world.program(&[Service::web(&[A1, B1])]);
    let probe = Probe::tcp(Place::Host(A), To::loopback(30080));
    if (world.plane(), world.family()) == (Some(Plane::Iptables), Family::V4) {
        let answered: Vec<_> = world.count(probe).into_iter().flatten().map(|(pod, _)| pod).collect();
        assert_eq!(answered, [A1, B1]);
    } else {
        world.expect(probe, Want::NotAService);
    }
}
