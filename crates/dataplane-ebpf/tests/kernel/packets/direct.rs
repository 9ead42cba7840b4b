//! Direct server return: packets of clients outside go whole to the backend's node, which answers them itself.

use std::process::Command;

use dataplane::Key;
use dataplane_ebpf::{Config, LoadBalancer};
use model::{Port, Protocol, TrafficPolicy::Cluster, Tunnel};

use super::{Bench, DROP, HOST_MAC, MASQUERADE_PORT, ONE_PORT, POD_MAC, REDIRECT, on_a_node_with, small};
use crate::{
    model_of::{frontend, service, with_backends},
    space,
    wire::{ACK, Body, FIN, Frame, SYN, icmp_error},
};

/// Over Ethernet and IPv4 of 1,500 bytes.
const TUNNEL_MTU: usize = 1450;

fn direct() -> Config {
    Config { load_balancer: LoadBalancer::DirectReturn, masquerade_ports: Some(ONE_PORT), ..small() }
}

/// A tunnel to the remote pod's node, in this thread's namespace.
fn add_tunnel(bench: &mut Bench<'_>) {
    let ip = |arguments: &str| {
        let status = Command::new("ip").args(arguments.split_whitespace()).status().expect("ip");
        assert!(status.success(), "ip {arguments}");
    };
    if bench.tunnel.is_none() {
        ip("link add vx0 type vxlan id 7 dstport 8472 local 10.128.0.11 dev wire0 nolearning");
        ip(&format!("link set vx0 up mtu {TUNNEL_MTU}"));
        ip("route replace 10.20.1.0/24 via 10.20.1.0 dev vx0 onlink");
        ip("route replace fd00:20:0:1::/64 via fe80::12 dev vx0");
    }
    bench.tunnel = Some(Tunnel {
        interface: "vx0".into(),
        ifindex: space::ifindex("vx0"),
        addresses: vec![],
        port: Port::new(8472).expect("port"),
    });
}

fn each_direct(test: impl Fn(&mut Bench<'_>) + Sync) {
    on_a_node_with(direct(), &|bench| {
        let made = std::ffi::CString::new("vx0").expect("name");
        // SAFETY: a valid C string.
        if unsafe { libc::if_nametoindex(made.as_ptr()) } != 0 {
            let deleted = Command::new("ip").args(["link", "del", "vx0"]).status().expect("ip");
            assert!(deleted.success());
        }
        add_tunnel(bench);
        test(bench);
    });
}

#[test]
fn a_packet_for_another_nodes_backend_leaves_whole() {
    each_direct(|bench| {
        let (client, vip) = (bench.at(|p| p.client, 50_000), bench.at(|p| p.vip, 80));
        let remote = bench.at(|p| p.remote_pod, 8080);
        let web = bench.web(Cluster, &[(remote, false)]);
        bench.program(vec![web.clone()]);
        let sent = |flags| Frame::tcp(client, vip, flags);
        let whole = |flags| sent(flags).translated(client, vip).bytes();
        bench.wire_brings(&sent(SYN).bytes()).expect(REDIRECT, &whole(SYN), "forwarded_new");
        bench.wire_brings(&sent(ACK).bytes()).expect(REDIRECT, &whole(ACK), "forwarded_updated");
        let established = bench.wire_brings(&sent(ACK).bytes());
        established.expect(REDIRECT, &whole(ACK), "forwarded_established");
        assert!(established.lookups().is_empty(), "one lookup");

        // Another backend only, on this node: the flow stays with the node that knows it.
        bench.program(vec![bench.web(Cluster, &[(bench.at(|p| p.pod, 8080), true)])]);
        bench.wire_brings(&sent(ACK).bytes()).expect(REDIRECT, &whole(ACK), "forwarded_updated");
        bench.wire_brings(&sent(ACK).bytes()).expect(REDIRECT, &whole(ACK), "forwarded_established");
        // None at all: refused.
        bench.program(vec![bench.web(Cluster, &[])]);
        assert_eq!(bench.wire_brings(&sent(ACK).bytes()).reasons(), [("refused_tcp".to_owned(), 1)].into());
        bench.program(vec![web]);
        bench.wire_brings(&sent(SYN).bytes()).expect(REDIRECT, &whole(SYN), "forwarded_new");
        bench.wire_brings(&sent(FIN | ACK).bytes()).expect(REDIRECT, &whole(FIN | ACK), "forwarded_updated");
    });
}

#[test]
fn a_backend_of_this_node_sees_the_client_and_is_answered_for_here() {
    each_direct(|bench| {
        let (client, vip) = (bench.at(|p| p.client, 50_000), bench.at(|p| p.vip, 80));
        let pod = bench.at(|p| p.pod, 8080);
        bench.program(vec![bench.web(Cluster, &[(pod, true)])]);
        let syn = Frame::tcp(client, vip, SYN);
        let delivered = syn.translated(client, pod).macs(POD_MAC, HOST_MAC);
        bench.wire_brings(&syn.bytes()).expect(REDIRECT, &delivered.bytes(), "forwarded_new");
        let answer = Frame::tcp(pod, client, SYN | ACK);
        let heard = answer.translated(vip, client);
        bench.pod_sends(&answer.bytes()).expect(REDIRECT, &heard.bytes(), "forwarded_updated");
    });
}

/// The list of local backends decides, not the one that the sending node chose from.
#[test]
fn what_arrives_whole_is_led_to_a_backend_of_this_node() {
    each_direct(|bench| {
        let (client, vip) = (bench.at(|p| p.client, 50_000), bench.at(|p| p.vip, 80));
        let (pod, remote) = (bench.at(|p| p.pod, 8080), bench.at(|p| p.remote_pod, 8080));
        let backends: Vec<_> =
            (0..20).map(|i| (bench.at(|p| p.remote_pod, 9000 + i), false)).chain([(pod, true)]).collect();
        bench.program(vec![bench.web(Cluster, &backends)]);
        for port in 50_000..50_010 {
            let client = bench.at(|p| p.client, port);
            let syn = Frame::tcp(client, vip, SYN);
            let delivered = syn.translated(client, pod).macs(POD_MAC, HOST_MAC);
            bench.tunnel_brings(&syn.bytes()).expect(REDIRECT, &delivered.bytes(), "forwarded_new");
        }
        let answer = Frame::tcp(pod, client, SYN | ACK);
        let heard = answer.translated(vip, client);
        bench.pod_sends(&answer.bytes()).expect(REDIRECT, &heard.bytes(), "forwarded_updated");

        // It left meanwhile: any other backend serves, masqueraded, and never back into the tunnel whole.
        bench.program(vec![bench.web(Cluster, &[(remote, false)])]);
        let late = Frame::tcp(bench.at(|p| p.client, 51_000), vip, SYN);
        let onward = late.translated(bench.at(|p| p.node, MASQUERADE_PORT), remote);
        bench.tunnel_brings(&late.bytes()).expect(REDIRECT, &onward.bytes(), "forwarded_new");
    });
}

/// Its address is one node's alone, and host backends are not behind the tunnel.
#[test]
fn node_ports_and_pods_and_backends_outside_the_tunnel_are_masqueraded() {
    each_direct(|bench| {
        let (client, masquerade) = (bench.at(|p| p.client, 50_000), bench.at(|p| p.node, MASQUERADE_PORT));
        let remote = bench.at(|p| p.remote_pod, 8080);
        bench.program(vec![bench.web(Cluster, &[(remote, false)])]);
        let by_port = Frame::tcp(client, bench.at(|p| p.node, 30080), SYN);
        let sent = by_port.translated(masquerade, remote);
        bench.wire_brings(&by_port.bytes()).expect(REDIRECT, &sent.bytes(), "forwarded_new");

        // Routed by the uplink, as another node's own address is.
        let host = bench.at(
            |p| if p.node.is_ipv4() { [10, 128, 0, 12].into() } else { "fd00:128::12".parse().expect("ip") },
            9090,
        );
        bench.program(vec![bench.web(Cluster, &[(host, false)])]);
        let by_vip = Frame::tcp(client, bench.at(|p| p.vip, 80), SYN);
        let sent = by_vip.translated(masquerade, host);
        bench.wire_brings(&by_vip.bytes()).expect(REDIRECT, &sent.bytes(), "forwarded_new");

        let other = bench.at(|p| p.remote_pod, 8081);
        bench.program(vec![bench.web(Cluster, &[(other, false)])]);
        let by_pod = Frame::tcp(bench.at(|p| p.pod, 40_000), bench.at(|p| p.vip, 80), SYN);
        let sent = by_pod.translated(masquerade, other);
        bench.pod_sends(&by_pod.bytes()).expect(REDIRECT, &sent.bytes(), "forwarded_new");
    });
}

#[test]
fn what_does_not_fit_the_tunnel_is_answered_with_what_does() {
    each_direct(|bench| {
        let (client, vip) = (bench.at(|p| p.client, 50_000), bench.at(|p| p.vip, 80));
        bench.program(vec![bench.web(Cluster, &[(bench.at(|p| p.remote_pod, 8080), false)])]);
        let header = if client.is_ipv4() { 20 } else { 40 };
        bench.wire_brings(&Frame::tcp(client, vip, SYN).bytes());
        let sized = |bytes: usize| {
            let payload = vec![7; bytes - header - 20];
            let body = Body::Tcp { flags: ACK, sequence: 1001, acknowledgment: 2001, payload };
            Frame { body, ..Frame::tcp(client, vip, ACK) }
        };
        let fits = sized(TUNNEL_MTU);
        let whole = fits.translated(client, vip).bytes();
        bench.wire_brings(&fits.bytes()).expect(REDIRECT, &whole, "forwarded_updated");

        let large = sized(TUNNEL_MTU + 1);
        let frame = large.bytes();
        let told = bench.plan.told_what_fits(&large, TUNNEL_MTU as u16);
        bench.wire_brings(&frame).expect(REDIRECT, &told, "answered_too_big");

        // So is what is masqueraded into the tunnel.
        let (node_port, remote) = (bench.at(|p| p.node, 30080), bench.at(|p| p.remote_pod, 8080));
        let masquerade = bench.at(|p| p.node, MASQUERADE_PORT);
        let to_port = |frame: &Frame| Frame { destination: node_port, ..frame.clone() };
        let syn = to_port(&Frame::tcp(client, vip, SYN));
        bench.wire_brings(&syn.bytes()).expect(
            REDIRECT,
            &syn.translated(masquerade, remote).bytes(),
            "forwarded_new",
        );
        let told = bench.wire_brings(&to_port(&large).bytes());
        assert_eq!((told.verdict, told.reasons()), (REDIRECT, [("answered_too_big".to_owned(), 1)].into()));
    });
}

/// An error about an answer that left from the backend's node finds its way there, and to the pod.
#[test]
fn errors_about_answers_follow_the_packets() {
    each_direct(|bench| {
        let (client, vip) = (bench.at(|p| p.client, 50_000), bench.at(|p| p.vip, 80));
        let pod = bench.at(|p| p.pod, 8080);
        bench.program(vec![bench.web(Cluster, &[(bench.at(|p| p.remote_pod, 8080), false)])]);
        bench.wire_brings(&Frame::tcp(client, vip, SYN).bytes());
        let router =
            if client.is_ipv4() { [192, 0, 2, 1].into() } else { "2001:db8:e::1".parse().expect("ip") };
        let (kind, code) = bench.plan.too_big;
        let answer = Frame::tcp(vip, client, ACK);
        let error = icmp_error((router, vip.ip()), 60, kind, code, &answer.packet());
        bench.wire_brings(&error).expect(REDIRECT, &error, "forwarded_icmp_error");

        // And on the backend's node.
        let client = bench.at(|p| p.client, 50_001);
        bench.program(vec![bench.web(Cluster, &[(pod, true)])]);
        bench.tunnel_brings(&Frame::tcp(client, vip, SYN).bytes());
        let error = icmp_error((router, vip.ip()), 60, kind, code, &Frame::tcp(vip, client, ACK).packet());
        let delivered = bench.tunnel_brings(&error);
        assert_eq!(delivered.reasons(), [("forwarded_icmp_error".to_owned(), 1)].into());
        let inner = Frame::tcp(pod, client, ACK);
        let mut expected = icmp_error((router, pod.ip()), 59, kind, code, &inner.packet());
        expected[..6].copy_from_slice(&POD_MAC);
        expected[6..12].copy_from_slice(&HOST_MAC);
        // The quoted transport checksum stays as its sender had it.
        let (quoted, sum) = (expected.len() - 4, delivered.frame.len() - 4);
        assert_eq!(delivered.frame[..34], expected[..34]);
        assert_eq!(delivered.frame[sum + 2..], expected[quoted + 2..]);
        assert_ne!(delivered.verdict, DROP);
    });
}

#[test]
fn without_a_tunnel_it_is_said_and_clients_are_masqueraded() {
    on_a_node_with(direct(), &|bench| {
        let remote = bench.at(|p| p.remote_pod, 8080);
        let vip = frontend(
            model::FrontendKind::LoadBalancer,
            model::FrontendAddress::Ip(bench.plan.vip),
            80,
            Cluster,
        );
        let web = with_backends(service("web", Protocol::Tcp, vec![vip]), &[(remote, false)]);
        let failed = bench.try_program(vec![web]);
        let reason = &failed[&Key::Node];
        assert!(reason.starts_with("set up direct server return: needs a tunnel"), "{reason}");
        let syn = Frame::tcp(bench.at(|p| p.client, 50_000), bench.at(|p| p.vip, 80), SYN);
        let sent = syn.translated(bench.at(|p| p.node, MASQUERADE_PORT), remote);
        bench.wire_brings(&syn.bytes()).expect(REDIRECT, &sent.bytes(), "forwarded_new");
    });
}
