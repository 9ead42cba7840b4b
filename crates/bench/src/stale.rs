//! How long the iptables plane takes to forget the tracked UDP flows of an endpoint that is gone.
//!
//! Real flows: their first packets pass the plane's rules and end in a device that swallows them.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::AsRawFd as _,
    time::Instant,
};

use anyhow::{Context as _, ensure};
use dataplane::Dataplane;
use model::{Changed, Family::V4, FrontendKind, KnownEndpoint, Plane, Protocol, ServicePort};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};
use scenarios::{
    places::{Node, cluster_ip},
    topology::Topology,
};

use crate::{
    plane,
    rows::{Report, median},
    scale,
    wire::Frame,
};

const FLOWS: u32 = 100_000;
/// Two endpoints that swallow; one of them goes.
const BACKENDS: [[u8; 4]; 2] = [[198, 18, 0, 1], [198, 18, 0, 2]];
const PORT: u16 = 8053;
const ROUNDS: u32 = 3;

pub(crate) fn measure(report: &mut Report) -> anyhow::Result<()> {
    let mut rounds = vec![];
    for _ in 0..ROUNDS {
        rounds.push((one_leaves(0)?, one_leaves(FLOWS)?));
    }
    let (none, full) = rounds.into_iter().unzip();
    report.add(
        ("udp-cleanup-100k", "one UDP endpoint less: 100,000 tracked flows read, half deleted, iptables"),
        (median(full), "ms"),
        (median(none), "no flows"),
    );
    Ok(())
}

/// Milliseconds that a change takes which leaves half of `flows` without their endpoint.
fn one_leaves(flows: u32) -> anyhow::Result<f64> {
    let topology = Topology::new();
    let node = topology.node(Node::A);
    for arguments in [
        ["link", "add", "swallow", "type", "veth", "peer", "name", "swallowed"].as_slice(),
        // Without ARP frames carry the sender's own address: the other end passes them over.
        &["link", "set", "swallow", "arp", "off", "up"],
        &["link", "set", "swallowed", "up"],
        &["route", "add", "198.18.0.0/15", "dev", "swallow"],
    ] {
        let status = node.command("ip").args(arguments).status().context("run ip")?;
        ensure!(status.success(), "ip {} failed", arguments.join(" "));
    }
    let pins = plane::Pins::new(&topology.name);
    let mut opened = plane::open(Plane::Iptables, &topology, Node::A, &pins)?;
    let mut snapshot = plane::bare_snapshot(&topology, Node::A);
    scale::put(&mut snapshot, service(&BACKENDS));
    plane::apply(&mut *opened, node, &snapshot, &Changed::all(&snapshot))?;
    node.run(|| send(flows))??;
    let before = tracked(&mut *opened, &topology)?;
    let old = snapshot.clone();
    scale::put(&mut snapshot, service(&BACKENDS[1..]));
    let changed = snapshot.changed_since(&old);
    let start = Instant::now();
    plane::apply(&mut *opened, node, &snapshot, &changed)?;
    let took = start.elapsed().as_secs_f64() * 1e3;
    let after = tracked(&mut *opened, &topology)?;
    check(flows, before, after)?;
    node.run(|| opened.clean_up())??;
    Ok(took)
}

fn service(backends: &[[u8; 4]]) -> ServicePort {
    let backends: Vec<_> =
        backends.iter().map(|address| (SocketAddr::from((*address, PORT)), false)).collect();
    let mut service = scale::service("dns", &[(FrontendKind::ClusterIp, cluster_ip(53).of(V4))], &backends);
    service.id.protocol = Protocol::Udp;
    let known = |(address, _): &(SocketAddr, bool)| KnownEndpoint { address: *address, serving: true };
    service.endpoints = backends.iter().map(known).collect();
    service
}

/// The first packets of that many flows to the Service, from pods' addresses, as if they were the node's own.
fn send(flows: u32) -> anyhow::Result<()> {
    const PORTS: u32 = 50_000;
    let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
    let frontend = SocketAddr::new(cluster_ip(53).of(V4), 80);
    let IpAddr::V4(address) = frontend.ip() else { anyhow::bail!("an IPv6 address on an IPv4 socket") };
    let to = SockaddrIn::from(std::net::SocketAddrV4::new(address, 0));
    for flow in 0..flows {
        let pod = Ipv4Addr::from(0x0a14_0064 + flow / PORTS);
        let source = SocketAddr::new(pod.into(), (flow % PORTS + 10_000) as u16);
        let packet = Frame::udp(source, frontend).packet();
        sendto(raw.as_raw_fd(), &packet, &to, MsgFlags::empty())
            .with_context(|| format!("send from {source}"))?;
    }
    Ok(())
}

/// Flows to each of the two endpoints.
fn tracked(opened: &mut dyn Dataplane, topology: &Topology) -> anyhow::Result<[u32; 2]> {
    // Borrowed mutably: a plane may move to another thread, but not be shared.
    let whole = &mut *opened;
    let entries = topology.node(Node::A).run(move || whole.connections(usize::MAX))??;
    Ok(BACKENDS.map(|backend| {
        let address = SocketAddr::from((backend, PORT));
        entries.iter().filter(|entry| entry.backend == address).count() as u32
    }))
}

/// A timing of anything else would be worth nothing.
fn check(flows: u32, before: [u32; 2], after: [u32; 2]) -> anyhow::Result<()> {
    let [gone, stays] = before;
    ensure!(gone + stays == flows, "{gone} and {stays} of {flows} flows are tracked");
    ensure!(gone.abs_diff(stays) <= flows / 50, "{gone} flows to one endpoint, {stays} to the other");
    ensure!(after == [0, stays], "{after:?} flows are left of {before:?}");
    Ok(())
}
