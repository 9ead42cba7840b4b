//! Source ports of masqueraded flows: how they are found, and what happens when they run out.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use dataplane::Dataplane as _;
use dataplane_ebpf::Config;
use model::TrafficPolicy::Cluster;

use super::{Answer, Bench, DROP, REDIRECT, on_a_node_with, small};
use crate::wire::{ACK, FIN, Frame, RST, SYN};

fn ports(first: u16, count: u16) -> Config {
    Config { masquerade_ports: Some(first..=first + count - 1), ..small() }
}

fn source_port(frame: &[u8]) -> u16 {
    let transport = frame.len() - 20;
    u16::from_be_bytes([frame[transport], frame[transport + 1]])
}

/// The flows from one client, by its port: the ports that they were given.
struct Flows {
    backend: SocketAddr,
    given: BTreeMap<u16, u16>,
}

impl Flows {
    fn new(bench: &mut Bench<'_>) -> Self {
        let backend = bench.at(|p| p.remote_pod, 8080);
        bench.program(vec![bench.web(Cluster, &[(backend, false)])]);
        Self { backend, given: BTreeMap::new() }
    }

    fn send(bench: &mut Bench<'_>, port: u16, flags: u8) -> Answer {
        bench.wire_brings(&Frame::tcp(bench.at(|p| p.client, port), bench.at(|p| p.vip, 80), flags).bytes())
    }

    /// The backend's answer to the flow.
    fn answer(&self, bench: &mut Bench<'_>, port: u16, flags: u8) -> Answer {
        let to = bench.at(|p| p.node, self.given[&port]);
        bench.wire_brings(&Frame::tcp(self.backend, to, flags).bytes())
    }

    /// A handshake; false where the SYN is dropped.
    fn open(&mut self, bench: &mut Bench<'_>, port: u16) -> bool {
        let answer = Self::send(bench, port, SYN);
        if answer.verdict == DROP {
            assert_eq!(answer.reasons(), [("dropped_no_port".to_owned(), 1)].into());
            return false;
        }
        self.given.insert(port, source_port(&answer.frame));
        assert_eq!(self.answer(bench, port, SYN | ACK).verdict, REDIRECT);
        assert_eq!(Self::send(bench, port, ACK).verdict, REDIRECT);
        true
    }

    /// Tries as a client does, whose every retransmission is another chance.
    fn open_patiently(&mut self, bench: &mut Bench<'_>, port: u16) -> bool {
        (0..6).any(|_| self.open(bench, port))
    }

    fn close(&self, bench: &mut Bench<'_>, port: u16) {
        Self::send(bench, port, FIN | ACK);
        self.answer(bench, port, FIN | ACK);
    }

    #[track_caller]
    fn all_go_on(&self, bench: &mut Bench<'_>) {
        for (port, given) in &self.given {
            let answer = Self::send(bench, *port, ACK);
            assert_eq!((answer.verdict, source_port(&answer.frame)), (REDIRECT, *given), "flow from {port}");
            let heard = self.answer(bench, *port, ACK);
            let to = bench.at(|p| p.client, *port);
            let expected = Frame::tcp(self.backend, bench.at(|p| p.node, *given), ACK)
                .translated(bench.at(|p| p.vip, 80), to);
            assert_eq!(heard.frame, expected.bytes(), "answer to {port}");
        }
    }
}

#[test]
fn one_clients_flows_never_meet() {
    on_a_node_with(ports(5000, 256), &|bench| {
        let mut flows = Flows::new(bench);
        let mut collisions = 0;
        for port in 40_000..40_256 {
            let answer = Flows::send(bench, port, SYN);
            collisions += answer.counted.get("slow_port_collisions").copied().unwrap_or(0);
            flows.given.insert(port, source_port(&answer.frame));
        }
        assert_eq!(collisions, 0, "the first choice was free every time");
        assert_eq!(flows.given.values().collect::<BTreeSet<_>>().len(), 256);
        assert!(flows.given.values().all(|port| (5000..5256).contains(port)));
    });
}

/// A tiny range: what is open goes on, what is new fails and is counted, and what closes makes room.
#[test]
fn a_range_that_is_used_up_fails_new_flows_only() {
    on_a_node_with(ports(5000, 12), &|bench| {
        let mut flows = Flows::new(bench);
        for port in 40_000..40_012 {
            assert!(flows.open_patiently(bench, port), "flow from {port}");
        }
        assert_eq!(flows.given.values().collect::<BTreeSet<_>>().len(), 12, "all different, none left");
        for port in 50_000..50_004 {
            let answer = Flows::send(bench, port, SYN);
            assert_eq!(
                (answer.verdict, answer.reasons()),
                (DROP, [("dropped_no_port".to_owned(), 1)].into())
            );
            assert_eq!(answer.counted.get("slow_port_collisions"), Some(&16), "bounded");
        }
        flows.all_go_on(bench);

        for port in 40_000..40_004 {
            flows.close(bench, port);
            flows.given.remove(&port);
        }
        let before = bench.counters["slow_port_reuses"];
        for port in 50_000..50_004 {
            assert!(flows.open_patiently(bench, port), "flow from {port} after four were closed");
        }
        assert!(bench.counters["slow_port_reuses"] > before);
        flows.all_go_on(bench);
        assert!(!flows.open(bench, 50_004), "full again");
    });
}

/// A straggler of the flow whose port was taken over must not end up in the new one.
#[test]
fn what_is_left_of_a_closed_flow_does_not_enter_the_one_that_has_its_port() {
    on_a_node_with(ports(5000, 1), &|bench| {
        let mut flows = Flows::new(bench);
        assert!(flows.open(bench, 40_000));
        Flows::send(bench, 40_000, RST);
        assert!(flows.open(bench, 41_000), "the only port, of a flow that is closed");
        flows.given.remove(&40_000);
        let straggler = Flows::send(bench, 40_000, ACK);
        assert_eq!(
            (straggler.verdict, straggler.reasons()),
            (DROP, [("dropped_no_port".to_owned(), 1)].into())
        );
        flows.all_go_on(bench);
    });
}

#[test]
fn status_tells_how_far_the_ports_are_used_towards_the_busiest_backend() {
    on_a_node_with(ports(5000, 100), &|bench| {
        let mut flows = Flows::new(bench);
        for port in 40_000..40_025 {
            assert!(flows.open(bench, port));
        }
        let family = if bench.plan.node.is_ipv4() { "v4" } else { "v6" };
        let maps = bench.plane.status().maps;
        let row = maps.iter().find(|map| map.name == format!("masquerade_ports_{family}")).expect("a row");
        assert_eq!((row.entries, row.capacity), (25, 100));
    });
}
