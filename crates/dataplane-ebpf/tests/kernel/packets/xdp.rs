//! What XDP turns around in the driver, and what it leaves to the tc program behind it.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use aya::programs::TestRunOptions;
use dataplane_ebpf::{EventKind, Telling};
use model::TrafficPolicy::Cluster;

use super::{
    Answer, Bench, MASQUERADE_PORT, counters, each,
    events::{taken, telling},
    hex,
    random::mutate::{mutate, noise},
};
use crate::wire::{ACK, Body, FIN, Frame, Mac, RST, SYN, leave_partial};

const PASS: i32 = 2;
const TRANSMIT: i32 = 3;
/// The node with the backend, as the neighbour table has it.
const UPLINK: Mac = [2, 0x80, 0, 0, 0, 0x11];
const OTHER_NODE: Mac = [2, 0x80, 0, 0, 0, 0x12];

impl Bench<'_> {
    fn driver_receives(&mut self, frame: &[u8]) -> Answer {
        // `struct xdp_md`: the end of the data, and the interface.
        let mut context = [0u8; 24];
        context[4..8].copy_from_slice(&(frame.len() as u32).to_ne_bytes());
        context[12..16].copy_from_slice(&self.uplink.to_ne_bytes());
        let (mut out, mut context_out) = (vec![0u8; 4096], [0u8; 24]);
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ctx_out: Some(&mut context_out),
            ..TestRunOptions::default()
        };
        let run = self.plane.test_run("xdp_from_wire", options).expect("run");
        out.truncate(run.data_size_out as usize);
        let after = counters(self.plane);
        let moved = after.iter().map(|(name, count)| (name.clone(), count - self.counters[name]));
        let counted = moved.filter(|(_, count)| *count > 0).collect();
        self.counters = after;
        Answer { verdict: run.return_value as i32, frame: out, counted }
    }

    /// Comes out as it went in, uncounted.
    #[track_caller]
    fn expect_passed(&mut self, frame: &[u8]) {
        self.driver_receives(frame).expect_passed(frame);
    }

    fn learn_gateway(&self) {
        let gateway = if self.plan.node.is_ipv4() { "10.128.0.1" } else { "fd00:128::1" };
        let status = std::process::Command::new("ip")
            .args([
                "neigh",
                "replace",
                gateway,
                "lladdr",
                "02:80:00:00:00:01",
                "dev",
                "wire0",
                "nud",
                "permanent",
            ])
            .status();
        assert!(status.expect("ip starts").success());
    }

    /// A client's connection to the VIP with a backend on another node, masqueraded, through its handshake.
    fn established(&mut self) -> Connection {
        let connection = Connection {
            client: self.at(|p| p.client, 40000),
            vip: self.at(|p| p.vip, 80),
            node: self.at(|p| p.node, MASQUERADE_PORT),
            backend: self.at(|p| p.remote_pod, 8080),
        };
        let Connection { client, vip, node, backend } = connection;
        self.program(vec![self.web(Cluster, &[(backend, false)])]);
        self.wire_brings(&Frame::tcp(client, vip, SYN).bytes());
        self.wire_brings(&Frame::tcp(backend, node, SYN | ACK).bytes());
        self.wire_brings(&Frame::tcp(client, vip, ACK).bytes());
        self.wire_brings(&Frame::tcp(backend, node, ACK).bytes());
        connection
    }
}

impl Answer {
    #[track_caller]
    fn expect_passed(&self, frame: &[u8]) {
        assert_eq!(self.verdict, PASS);
        assert_eq!(self.frame, frame);
        assert!(self.counted.is_empty(), "{:?}", self.counted);
    }
}

#[derive(Clone, Copy)]
struct Connection {
    client: SocketAddr,
    vip: SocketAddr,
    node: SocketAddr,
    backend: SocketAddr,
}

#[test]
fn an_established_flow_is_turned_around() {
    each(|bench| {
        let Connection { client, vip, node, backend } = bench.established();
        let data = Frame::tcp(client, vip, ACK);
        let sent = data.translated(node, backend).macs(OTHER_NODE, UPLINK).bytes();
        for _ in 0..2 {
            let answer = bench.driver_receives(&data.bytes());
            answer.expect(TRANSMIT, &sent, "forwarded_xdp");
            assert!(answer.lookups().is_empty());
        }
    });
}

#[test]
fn a_reply_waits_until_its_neighbour_is_known() {
    each(|bench| {
        let Connection { client, vip, node, backend } = bench.established();
        let reply = Frame::tcp(backend, node, ACK);
        bench.expect_passed(&reply.bytes());
        bench.learn_gateway();
        let sent = reply.translated(vip, client).macs([2, 0x80, 0, 0, 0, 1], UPLINK).bytes();
        bench.driver_receives(&reply.bytes()).expect(TRANSMIT, &sent, "forwarded_xdp");
    });
}

#[test]
fn everything_else_is_left_to_tc() {
    each(|bench| {
        let Connection { client, vip, node, backend } = bench.established();
        let data = Frame::tcp(client, vip, ACK);
        for flags in [SYN, SYN | ACK, FIN | ACK, RST] {
            bench.expect_passed(&Frame::tcp(client, vip, flags).bytes());
        }
        let stranger = bench.at(|p| p.client, 40001);
        bench.expect_passed(&Frame::tcp(stranger, vip, ACK).bytes());
        bench.expect_passed(&Frame::tcp(client, bench.at(|p| p.remote_pod, 80), ACK).bytes());
        bench.expect_passed(&data.clone().ttl(1).bytes());
        let whole = data.bytes();
        for length in [14, 20, 33, whole.len() - 1] {
            bench.expect_passed(&whole[..length]);
        }
        // It says that it is longer than it is.
        let mut cut = data.clone();
        cut.body = Body::Tcp { flags: ACK, sequence: 1000, acknowledgment: 2000, payload: vec![1; 64] };
        let mut cut = cut.bytes();
        cut.truncate(cut.len() - 1);
        bench.expect_passed(&cut);
        // A checksum that the sender left to be completed: the pseudo header's sum.
        let mut partial = whole.clone();
        leave_partial(&mut partial);
        bench.expect_passed(&partial);
        // Something changed: the tc program looks first.
        bench.program(vec![bench.web(Cluster, &[(backend, false)])]);
        bench.expect_passed(&whole);
        bench.wire_brings(&whole);
        let sent = data.translated(node, backend).macs(OTHER_NODE, UPLINK).bytes();
        bench.driver_receives(&whole).expect(TRANSMIT, &sent, "forwarded_xdp");
    });
}

#[test]
fn a_flow_to_a_pod_of_this_node_is_left_to_tc() {
    each(|bench| {
        let (client, vip) = (bench.at(|p| p.client, 40000), bench.at(|p| p.vip, 80));
        let pod = bench.at(|p| p.pod, 8080);
        bench.program(vec![bench.web(Cluster, &[(pod, true)])]);
        for flags in [SYN, ACK, ACK] {
            bench.wire_brings(&Frame::tcp(client, vip, flags).bytes());
        }
        bench.expect_passed(&Frame::tcp(client, vip, ACK).bytes());
    });
}

/// Broken frames are the tc program's to count: the driver sends back just what it would have sent.
#[test]
fn of_random_frames_only_what_tc_forwards_is_turned_around() {
    each(|bench| {
        let Connection { client, vip, node, backend } = bench.established();
        bench.learn_gateway();
        let whole = [Frame::tcp(client, vip, ACK).bytes(), Frame::tcp(backend, node, ACK).bytes()];
        let mut rng = fastrand::Rng::with_seed(0x7450);
        let mut changed = 0;
        for _ in 0..2000 {
            let mut frame = if rng.u8(..8) == 0 { noise(&mut rng) } else { whole[rng.usize(..2)].clone() };
            for _ in 0..rng.u8(..3) {
                mutate(&mut frame, &mut rng);
            }
            let answer = bench.driver_receives(&frame);
            if answer.verdict == PASS {
                answer.expect_passed(&frame);
                continue;
            }
            changed += u32::from(!whole.contains(&frame));
            assert_eq!(answer.verdict, TRANSMIT);
            assert_eq!(answer.reasons(), [("forwarded_xdp".to_owned(), 1)].into(), "{}", hex(&frame));
            let tc = bench.wire_brings(&frame);
            assert_eq!(tc.reasons(), [("forwarded_established".to_owned(), 1)].into(), "{}", hex(&frame));
            // The stack writes the link addresses later.
            assert_eq!(hex(&answer.frame[14..]), hex(&tc.frame[14..]), "{}", hex(&frame));
        }
        assert!(changed > 50, "{changed}");
    });
}

/// The driver tells of nothing: what is due is not steady, and goes to the program behind it.
#[test]
fn a_flow_that_is_due_is_told_of_by_the_tc_program_with_all_its_packets() {
    telling(Telling::Flows { every: Duration::ZERO }, |bench, events| {
        let Connection { client, vip, .. } = bench.established();
        taken(events);
        let data = Frame::tcp(client, vip, ACK).bytes();
        let (start, mut turned) = (Instant::now(), 0);
        loop {
            assert!(start.elapsed() < Duration::from_secs(20), "waited in vain");
            if bench.driver_receives(&data).verdict == TRANSMIT {
                turned += 1;
                assert_eq!(taken(events), []);
            } else if turned > 0 {
                break;
            } else {
                bench.wire_brings(&data);
                taken(events);
            }
        }
        bench.wire_brings(&data);
        let [told] = taken(events)[..] else { panic!("one event") };
        assert_eq!(told.kind, EventKind::Ongoing as u8);
        assert!(told.packets > turned, "{} packets, {turned} by the driver", told.packets);
    });
}
