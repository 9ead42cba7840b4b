//! SCTP in the kernel's rules and connection table, both families: associations are opened by packets of our own, as the
//! kernel need not have SCTP sockets, and no rule may make it load them.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use dataplane::Dataplane as _;
use model::{Family, FrontendKind, Masquerade, Protocol, ServicePort};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, recv, sendto,
        socket,
    },
};

use crate::{
    common::{backends, cidr, frontend, id, ip, node_port, service, snapshot},
    node::{apply, node, on_a_node, run, saved},
};

fn storage(address: SocketAddr) -> SockaddrStorage {
    match address {
        SocketAddr::V4(address) => address.into(),
        SocketAddr::V6(address) => address.into(),
    }
}

/// Sees all SCTP that reaches `address`.
fn raw(address: IpAddr) -> OwnedFd {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Raw, flags, SockProtocol::Sctp).expect("raw socket");
    bind(socket.as_raw_fd(), &storage(SocketAddr::new(address, 0))).expect("bind");
    socket
}

/// An INIT chunk (RFC 9260, 3.3.2). The checksum is left to whoever translates: conntrack checks what comes in only.
fn init(from: u16, to: u16) -> Vec<u8> {
    let common = [from.to_be_bytes(), to.to_be_bytes()].concat();
    let tag_and_checksum = [0; 8];
    let chunk = [1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1];
    [&common[..], &tag_and_checksum, &chunk].concat()
}

/// The ports of the next packet that `socket` sees.
fn seen(socket: &OwnedFd, family: Family) -> (u16, u16) {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut buffer = [0; 256];
    loop {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => {
                // IPv4 hands the header over as well.
                let at = if family == Family::V4 { usize::from(buffer[0] & 15) * 4 } else { 0 };
                let port = |at: usize| u16::from_be_bytes([buffer[at], buffer[at + 1]]);
                assert!(length > at + 12, "{length} bytes");
                return (port(at), port(at + 2));
            }
            Err(Errno::EAGAIN) => assert!(Instant::now() < deadline, "nothing came"),
            Err(error) => panic!("{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn sctp(family: Family, cluster_ip: &str, backend: &str) -> ServicePort {
    let id = model::ServicePortId { family, ..id("t", "sctp", "p", Protocol::Sctp) };
    let frontends = vec![frontend(FrontendKind::ClusterIp, cluster_ip, 80), node_port(30080)];
    service(id, frontends, backends(&[backend], true))
}

#[test]
fn associations_reach_their_backend_in_both_families() {
    on_a_node("sctp", |plane| {
        run("ip", "addr add fd00:128::11/64 dev uplink nodad");
        run("ip", "addr add fd00:20::1/128 dev lo nodad");
        run("ip", "-6 route add default via fd00:128::1");
        let mut node = node();
        node.addresses.push(ip("fd00:128::11"));
        node.cluster_cidrs.push(cidr("fd00:20::/64"));
        let (v4, v6) = ("10.20.0.1:8080", "[fd00:20::1]:8080");
        let modules = || std::fs::read_to_string("/proc/modules").unwrap_or_default();
        let before = modules();
        apply(
            plane,
            &snapshot(node, [sctp(Family::V4, "10.24.0.1", v4), sctp(Family::V6, "fd00:24::1", v6)]),
        );
        assert!(saved().contains("-p sctp"), "{}", saved());
        for (family, own, cluster_ip, node_address, backend) in [
            (Family::V4, "10.128.0.11", "10.24.0.1", "10.128.0.11", v4),
            (Family::V6, "fd00:128::11", "fd00:24::1", "fd00:128::11", v6),
        ] {
            let backend: SocketAddr = backend.parse().expect("address");
            let (server, client) = (raw(backend.ip()), raw(ip(own)));
            for (from, to, port) in [(5000, cluster_ip, 80), (5001, node_address, 30080)] {
                let target = SocketAddr::new(ip(to), 0);
                let bytes = init(from, port);
                sendto(client.as_raw_fd(), &bytes, &storage(target), MsgFlags::empty()).expect("send");
                assert_eq!(seen(&server, family).1, 8080, "{family:?} {to}:{port}");
                let target = SocketAddr::new(ip(to), port);
                let tracked = plane.connections(usize::MAX).expect("connections");
                let flow = tracked.iter().find(|c| c.protocol == Protocol::Sctp && c.destination == target);
                let flow = flow.unwrap_or_else(|| panic!("{target} is not tracked: {tracked:?}"));
                assert_eq!(flow.backend, backend);
                assert_eq!(flow.masquerade, Masquerade::Yes, "the source port moves with --random-fully");
            }
        }
        let loaded = |modules: &str| modules.lines().any(|line| line.starts_with("sctp "));
        assert_eq!(loaded(&modules()), loaded(&before), "rules load no SCTP sockets");
        plane.clean_up().expect("clean up");
    });
}
