//! UDP clients that keep their source port while endpoints come, change and go.

use std::{io::Write as _, net::UdpSocket, process::Stdio};

use dataplane::Dataplane as _;
use dataplane_iptables::IptablesDataplane;
use model::{KnownEndpoint, Protocol, ServicePort, Snapshot};

use crate::{
    common::{frontend, snapshot},
    node::{ONE, TWO, WEB, apply, ask_udp, node, on_a_node, serve_udp, web},
};

const VIP: &str = "203.0.113.7:80";
const EXTERNAL: &str = "198.51.100.7:80";
const NODE_PORT: &str = "10.128.0.11:30080";
const FRONTENDS: [&str; 4] = [WEB, VIP, EXTERNAL, NODE_PORT];

/// Behind every kind of frontend.
fn dns(endpoints: &[&str]) -> ServicePort {
    let mut service = web(Protocol::Udp, endpoints);
    service.frontends.push(frontend(model::FrontendKind::LoadBalancer, "203.0.113.7", 80));
    service.frontends.push(frontend(model::FrontendKind::ExternalIp, "198.51.100.7", 80));
    service
}

fn state(service: ServicePort) -> Snapshot {
    snapshot(node(), [service])
}

fn step(plane: &mut IptablesDataplane, from: &Snapshot, to: &Snapshot) {
    let applied = plane.apply(to, &to.changed_since(from)).expect("apply");
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
}

/// One socket per frontend, each with a flow to `backend`.
fn clients(backend: &str) -> Vec<(UdpSocket, &'static str)> {
    FRONTENDS
        .map(|frontend| {
            let socket = UdpSocket::bind("10.128.0.11:0").expect("bind");
            socket.connect(frontend).expect("connect");
            assert_eq!(ask_udp(&socket), backend, "{frontend}");
            (socket, frontend)
        })
        .into()
}

fn deleted(plane: &IptablesDataplane) -> u64 {
    let counters = plane.status().counters;
    counters.iter().find(|counter| counter.name == "deleted_stale_udp_flows").expect("counter").packets
}

#[test]
fn a_udp_client_follows_the_backends() {
    on_a_node("udp", |plane| {
        serve_udp(ONE);
        serve_udp(TWO);
        let state = |endpoints: &[&str]| snapshot(node(), [web(Protocol::Udp, endpoints)]);
        apply(plane, &state(&[ONE]));
        let socket = UdpSocket::bind("10.128.0.11:0").expect("bind");
        socket.connect(WEB).expect("connect");
        let other = UdpSocket::bind("10.128.0.11:0").expect("bind");
        other.connect("10.20.0.1:8080").expect("connect");
        assert_eq!((ask_udp(&socket), ask_udp(&other)), (ONE.to_owned(), ONE.to_owned()));
        plane.apply(&state(&[TWO]), &state(&[TWO]).changed_since(&state(&[ONE]))).expect("apply");
        assert_eq!(ask_udp(&socket), TWO, "the same socket");
        let tracked = plane.connections(usize::MAX).expect("connections");
        let spared = tracked.iter().any(|c| c.destination.to_string() == ONE && c.backend.to_string() == ONE);
        assert!(spared, "a flow that is no service's stays: {tracked:?}");
    });
}

#[test]
fn a_udp_client_that_came_too_early_is_served_later() {
    on_a_node("early", |plane| {
        serve_udp(ONE);
        let state = |endpoints: &[&str]| snapshot(node(), [web(Protocol::Udp, endpoints)]);
        // Nothing is programmed: the packet leaves untranslated and leaves an entry behind.
        apply(plane, &snapshot(node(), []));
        let socket = UdpSocket::bind("10.128.0.11:0").expect("bind");
        socket.connect(WEB).expect("connect");
        socket.send(b"?").expect("send");
        apply(plane, &state(&[ONE]));
        assert_eq!(ask_udp(&socket), ONE);
    });
}

#[test]
fn every_kind_of_frontend_lets_go_of_a_backend_that_is_replaced() {
    on_a_node("udp-all", |plane| {
        serve_udp(ONE);
        serve_udp(TWO);
        let (before, after) = (state(dns(&[ONE])), state(dns(&[TWO])));
        apply(plane, &before);
        let clients = clients(ONE);
        step(plane, &before, &after);
        for (socket, frontend) in &clients {
            assert_eq!(ask_udp(socket), TWO, "{frontend}");
        }
        assert_eq!(deleted(plane), 4, "one entry per client");
    });
}

#[test]
fn a_flow_stays_with_an_endpoint_that_serves_chosen_or_not() {
    on_a_node("udp-serves", |plane| {
        serve_udp(ONE);
        serve_udp(TWO);
        let before = state(dns(&[ONE]));
        apply(plane, &before);
        let clients = clients(ONE);
        // ONE terminates: new flows go to TWO.
        let mut terminating = dns(&[TWO]);
        terminating
            .endpoints
            .insert(0, KnownEndpoint { address: ONE.parse().expect("address"), serving: true });
        let during = state(terminating.clone());
        step(plane, &before, &during);
        for (socket, frontend) in &clients {
            assert_eq!(ask_udp(socket), ONE, "{frontend}");
        }
        let new = UdpSocket::bind("10.128.0.11:0").expect("bind");
        new.connect(WEB).expect("connect");
        assert_eq!(ask_udp(&new), TWO);
        assert_eq!(deleted(plane), 0);
        terminating.endpoints[0].serving = false;
        step(plane, &during, &state(terminating));
        for (socket, frontend) in &clients {
            assert_eq!(ask_udp(socket), TWO, "{frontend}");
        }
        assert_eq!(deleted(plane), 4);
    });
}

#[test]
fn a_flow_follows_the_target_port() {
    const MOVED: &str = "10.20.0.1:9090";
    on_a_node("udp-port", |plane| {
        serve_udp(ONE);
        serve_udp(MOVED);
        let (before, after) = (state(dns(&[ONE])), state(dns(&[MOVED])));
        apply(plane, &before);
        let clients = clients(ONE);
        step(plane, &before, &after);
        for (socket, frontend) in &clients {
            assert_eq!(ask_udp(socket), MOVED, "{frontend}");
        }
    });
}

/// Refused while there was no endpoint, the client is served by the first, on the same socket.
#[test]
fn a_refused_client_is_served_by_the_first_endpoint() {
    on_a_node("udp-first", |plane| {
        serve_udp(ONE);
        let (before, after) = (state(dns(&[])), state(dns(&[ONE])));
        apply(plane, &before);
        let sockets = FRONTENDS.map(|frontend| {
            let socket = UdpSocket::bind("10.128.0.11:0").expect("bind");
            socket.connect(frontend).expect("connect");
            let _ = socket.send(b"?");
            (socket, frontend)
        });
        step(plane, &before, &after);
        for (socket, frontend) in &sockets {
            assert_eq!(ask_udp(socket), ONE, "{frontend}");
        }
    });
}

/// Entries as other flows of a busy node leave them: only the ones of the service without their endpoint go.
#[test]
fn among_many_entries_exactly_the_stale_ones_go() {
    on_a_node("udp-many", |plane| {
        let before = state(dns(&[ONE, TWO]));
        apply(plane, &before);
        let entry = |protocol: &str, client: usize, to: (&str, u16), by: (&str, u16)| {
            let source = format!("10.30.{}.{}", client / 250, client % 250 + 1);
            let state = if protocol == "tcp" { "--state ESTABLISHED" } else { "" };
            format!(
                "-I -p {protocol} -s {source} -d {} --sport 5000 --dport {} -r {} -q {source} --reply-port-src {} \
                 --reply-port-dst 5000 -t 600 -u SEEN_REPLY {state}\n",
                to.0, to.1, by.0, by.1
            )
        };
        let (web, one, two) = (("10.24.0.1", 80), ("10.20.0.1", 8080), ("10.20.0.2", 8080));
        let text: String = (0..2000)
            .flat_map(|client| {
                [
                    entry("udp", client, web, one),
                    entry("udp", client + 2000, web, two),
                    entry("tcp", client, web, two),
                    entry("udp", client, ("10.24.0.1", 81), two),
                    entry("udp", client, ("10.24.0.2", 80), ("10.20.0.3", 8080)),
                ]
            })
            .collect();
        let mut load = std::process::Command::new("conntrack")
            .args(["-R", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("conntrack");
        load.stdin.take().expect("stdin").write_all(text.as_bytes()).expect("write");
        assert!(load.wait().expect("conntrack").success());
        let tracked = plane.connections(usize::MAX).expect("connections").len();
        assert!(tracked >= 10_000, "{tracked}");
        step(plane, &before, &state(dns(&[ONE])));
        assert_eq!(deleted(plane), 2000);
        let left = plane.connections(usize::MAX).expect("connections");
        let stale = |protocol| {
            left.iter().filter(move |c| {
                c.protocol == protocol && c.destination.to_string() == WEB && c.backend.to_string() == TWO
            })
        };
        assert_eq!((stale(Protocol::Udp).count(), stale(Protocol::Tcp).count()), (0, 2000));
        assert!(left.len() >= tracked - 2000, "{} of {tracked}", left.len());
    });
}
