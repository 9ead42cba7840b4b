//! What connect(2) gives, and what it shows.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use dataplane_ebpf::Refusals;
use model::{Protocol, TrafficPolicy};

use super::node::{Form, Node, PATIENCE, balanced, connect, datagram_socket, echo, serve_tcp};
use crate::model_of::address;

#[test]
fn a_connection_goes_to_a_backend_and_shows_the_frontend() {
    let mut node = Node::new();
    for form in Form::ALL {
        node.program(&[balanced(form, Protocol::Tcp, &[5, 6])]);
        let frontend = form.written(form.cluster_ip());
        let before = node.counter("socket_translated");
        let ask = || -> BTreeSet<(SocketAddr, std::net::IpAddr)> {
            (0..24)
                .map(|_| {
                    let (mut stream, answer) = connect(frontend).expect("connect");
                    assert_eq!(stream.peer_addr().expect("peer"), frontend, "{form:?}");
                    echo(&mut stream).expect("echo");
                    (answer.backend, answer.client)
                })
                .collect()
        };
        let both = |client| BTreeSet::from([(form.backend(5), client), (form.backend(6), client)]);
        assert_eq!(node.on_host(ask), both(form.node_address()), "{form:?}");
        assert_eq!(node.in_pod(ask), both(form.pod_address()), "{form:?}");
        assert_eq!(node.counter("socket_translated") - before, 48, "{form:?}");
    }
    node.clean_up();
}

#[test]
fn a_connected_datagram_socket_has_one_backend_and_shows_the_frontend() {
    let mut node = Node::new();
    for form in Form::ALL {
        node.program(&[balanced(form, Protocol::Udp, &[5, 6])]);
        let frontend = form.written(form.cluster_ip());
        let ask = || {
            let socket = datagram_socket(form);
            socket.connect(frontend).expect("connect");
            assert_eq!(socket.peer_addr().expect("peer"), frontend, "{form:?}");
            let mut answers = BTreeSet::new();
            for _ in 0..8 {
                socket.send(b"?").expect("send");
                let mut buffer = [0; 512];
                let (length, source) = socket.recv_from(&mut buffer).expect("answer");
                assert_eq!(source, frontend, "{form:?}");
                answers.insert(buffer[..length].to_vec());
            }
            answers.len()
        };
        assert_eq!((node.on_host(ask), node.in_pod(ask)), (1, 1), "{form:?}");
    }
    node.clean_up();
}

/// One that connects elsewhere afterwards shows where it is.
#[test]
fn a_socket_that_connects_again_forgets_the_frontend() {
    let mut node = Node::new();
    node.program(&[balanced(Form::V4, Protocol::Udp, &[5])]);
    node.on_host(|| {
        let socket = datagram_socket(Form::V4);
        socket.connect(Form::V4.cluster_ip()).expect("connect");
        socket.connect(Form::V4.backend(5)).expect("connect");
        assert_eq!(socket.peer_addr().expect("peer"), Form::V4.backend(5));
    });
    node.clean_up();
}

#[test]
fn without_a_backend_the_call_itself_is_refused() {
    let mut node = Node::new();
    for form in Form::ALL {
        node.program(&[balanced(form, Protocol::Tcp, &[])]);
        let frontend = form.written(form.cluster_ip());
        let refused = || {
            let start = Instant::now();
            let error = TcpStream::connect_timeout(&frontend, PATIENCE).expect_err("nobody serves");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{form:?}: {error}");
            assert!(start.elapsed() < Duration::from_millis(50), "{form:?}: {:?}", start.elapsed());
        };
        node.on_host(refused);
        node.in_pod(refused);
        node.program(&[balanced(form, Protocol::Udp, &[])]);
        let refused = || {
            let socket = datagram_socket(form);
            let errors = [socket.send_to(b"?", frontend).map(drop), socket.connect(frontend)];
            for error in errors.map(|result| result.expect_err("nobody serves")) {
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{form:?}: {error}");
            }
        };
        node.on_host(refused);
        node.in_pod(refused);
    }
    assert_eq!(node.counter("socket_refused"), 3 * 2 * 3);
    node.clean_up();
}

/// As on kernels before 5.18: there are no packets here that could be refused, so that the route decides.
#[test]
fn where_a_call_cannot_fail_by_choice_its_packets_are_refused() {
    let mut node = Node::new();
    node.refusals = Refusals::ByPackets;
    node.open();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        node.program(&[balanced(Form::V4, protocol, &[])]);
        let error = node.on_host(|| match protocol {
            Protocol::Udp => datagram_socket(Form::V4).connect(Form::V4.cluster_ip()),
            _ => TcpStream::connect_timeout(&Form::V4.cluster_ip(), PATIENCE).map(drop),
        });
        assert_eq!(error.expect_err("no route").kind(), ErrorKind::NetworkUnreachable);
    }
    assert_eq!((node.counter("socket_left_to_packets"), node.counter("socket_refused")), (2, 0));
    node.program(&[balanced(Form::V4, Protocol::Tcp, &[5])]);
    assert!(node.on_host(|| connect(Form::V4.cluster_ip()).is_ok()));
    node.clean_up();
}

/// A pod that is to be masqueraded must be seen as the node, which only its packets can do.
#[test]
fn pods_that_are_masqueraded_are_left_to_their_packets_and_the_host_is_not() {
    let mut node = Node::new();
    for form in [Form::V4, Form::V6] {
        let frontends = [form.vip(), SocketAddr::new(form.node_address(), 30080)];
        let mut service = balanced(form, Protocol::Tcp, &[5]);
        node.program(&[service.clone()]);
        for frontend in frontends {
            let answer = node.on_host(|| connect(frontend).expect("connect").1);
            assert_eq!((answer.backend, answer.client), (form.backend(5), form.node_address()));
            let left = node.counter("socket_left_to_packets");
            let answer = node.in_pod(|| connect(frontend).map(|(_, answer)| answer));
            assert_eq!(node.counter("socket_left_to_packets"), left + 1, "{frontend}: {answer:?}");
        }
        // Local policy masquerades no pod.
        for frontend in &mut service.frontends {
            frontend.policy = TrafficPolicy::Local;
        }
        node.program(&[service]);
        for frontend in frontends {
            let left = node.counter("socket_left_to_packets");
            let answer = node.in_pod(|| connect(frontend).expect("connect").1);
            assert_eq!((answer.backend, answer.client), (form.backend(5), form.pod_address()));
            assert_eq!(node.counter("socket_left_to_packets"), left);
        }
    }
    node.clean_up();
}

#[test]
fn a_process_of_the_node_is_given_the_node_itself() {
    let mut node = Node::new();
    for form in [Form::V4, Form::V6] {
        let itself = SocketAddr::new(form.node_address(), 9090);
        serve_tcp(&node.host, itself);
        let mut service = balanced(form, Protocol::Tcp, &[5]);
        service.cluster[0].address = itself;
        node.program(&[service]);
        for frontend in [form.cluster_ip(), form.vip()] {
            let answer = node.on_host(|| connect(frontend).expect("connect").1);
            assert_eq!((answer.backend, answer.client), (itself, form.node_address()));
        }
    }
    node.clean_up();
}

#[test]
fn source_ranges_hold_for_the_host_and_are_left_to_packets_for_pods() {
    let mut node = Node::new();
    for (form, own, other) in
        [(Form::V4, "10.128.0.0/24", "192.0.2.0/24"), (Form::V6, "fd00:128::/32", "2001:db8::/32")]
    {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let guarded = |range: &str| {
                let mut service = balanced(form, protocol, &[5]);
                service.frontends[1].source_ranges = vec![range.parse().expect("prefix")];
                service.frontends[1].policy = TrafficPolicy::Local;
                service
            };
            let open = || match protocol {
                Protocol::Udp => UdpSocket::bind(form.unspecified())?.connect(form.vip()),
                _ => TcpStream::connect_timeout(&form.vip(), PATIENCE).map(drop),
            };
            node.program(&[guarded(own)]);
            node.on_host(open).expect("the node is in the range");
            let left = node.counter("socket_left_to_packets");
            let _ = node.in_pod(open);
            assert_eq!(node.counter("socket_left_to_packets"), left + 1);
            node.program(&[guarded(other)]);
            let start = Instant::now();
            let error = node.on_host(open).expect_err("the node is not in the range");
            let denied = if protocol == Protocol::Udp { libc::EPERM } else { libc::ETIMEDOUT };
            assert_eq!(error.raw_os_error(), Some(denied), "{error}");
            assert!(start.elapsed() < Duration::from_secs(1), "at once: {:?}", start.elapsed());
        }
    }
    assert_eq!(node.counter("socket_denied"), 4);
    node.clean_up();
}

#[test]
fn affinity_is_per_network_namespace() {
    let mut node = Node::new();
    for form in Form::ALL {
        let mut service = balanced(form, Protocol::Tcp, &[5, 6]);
        service.affinity_seconds = Some(600);
        let frontend = form.written(form.cluster_ip());
        let mut seen = BTreeSet::new();
        // Host and pod agree in half of all rounds, by chance: never to differ in 20 has a chance of 10^-6.
        for round in 0.. {
            // Programming a Service anew forgets nothing; another name is another memory.
            service.id.port = format!("p{round}");
            node.program(&[service.clone()]);
            let ask = || connect(frontend).expect("connect").1.backend;
            let [host, pod] = [node.on_host(ask), node.in_pod(ask)];
            for _ in 0..15 {
                assert_eq!([node.on_host(ask), node.in_pod(ask)], [host, pod], "{form:?}");
            }
            seen.insert(host == pod);
            if seen.contains(&false) {
                break;
            }
            assert!(round < 20, "host and pod always get the same backend");
        }
    }
    node.clean_up();
}

/// What is attached to one cgroup is no other's.
#[test]
fn processes_of_other_cgroups_are_not_touched() {
    let mut node = Node::new();
    node.program(&[balanced(Form::V4, Protocol::Tcp, &[5])]);
    let outside =
        node.host.run(|| TcpStream::connect_timeout(&Form::V4.cluster_ip(), PATIENCE)).expect("enter");
    let error = outside.expect_err("no route leads there");
    assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "{error}");
    assert_eq!(node.counter("socket_translated"), 0);
    assert!(node.on_host(|| connect(Form::V4.cluster_ip()).is_ok()));
    // Nor is what names no frontend.
    let direct = node.on_host(|| connect(Form::V4.backend(6)).expect("connect"));
    assert_eq!(direct.0.peer_addr().expect("peer"), SocketAddr::new(address("10.20.0.6"), 8080));
    assert_eq!(node.counter("socket_translated"), 1);
    node.clean_up();
}
