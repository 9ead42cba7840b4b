//! Who is refused at once, who is dropped, and what the answer says.

use model::{
    Protocol, ServicePort,
    TrafficPolicy::{Cluster, Local},
};

use super::{Bench, DROP, REDIRECT, each_way};
use crate::wire::{ACK, Body, FIN, Frame, RST, SYN, icmp_error};

/// What answers `refused`: everything turned around, a fresh TTL.
fn reset(refused: &Frame, flags: u8, sequence: u32, acknowledgment: u32) -> Vec<u8> {
    let body = Body::Tcp { flags, sequence, acknowledgment, payload: vec![] };
    Frame { source: refused.destination, destination: refused.source, ttl: 64, body, ..refused.clone() }
        .macs(refused.from, refused.to)
        .bytes()
}

#[test]
fn tcp_without_a_backend_is_reset() {
    each_way(|bench| {
        bench.program(vec![bench.web(Cluster, &[])]);
        let (pod, frontend) = (bench.at(|p| p.pod, 40000), bench.at(|p| p.cluster_ip, 80));
        let syn = Frame::tcp(pod, frontend, SYN).ttl(7);
        bench.pod_sends(&syn.bytes()).expect(REDIRECT, &reset(&syn, RST | ACK, 0, 1001), "refused_tcp");
        let ack = Frame::tcp(pod, frontend, ACK);
        bench.pod_sends(&ack.bytes()).expect(REDIRECT, &reset(&ack, RST, 2000, 0), "refused_tcp");
        let fin = Frame::tcp(pod, frontend, FIN);
        bench.pod_sends(&fin.bytes()).expect(REDIRECT, &reset(&fin, RST | ACK, 0, 1001), "refused_tcp");
        let rst = Frame::tcp(pod, frontend, RST).bytes();
        bench.pod_sends(&rst).expect(DROP, &rst, "dropped_reset");
    });
}

#[test]
fn a_segment_with_data_is_reset_without_sending_the_data_back() {
    each_way(|bench| {
        bench.program(vec![bench.web(Cluster, &[])]);
        for (flags, payload) in [(ACK, 999), (SYN, 3)] {
            let mut data = Frame::tcp(bench.at(|p| p.client, 50000), bench.at(|p| p.vip, 80), flags);
            data.body = Body::Tcp { flags, sequence: 500, acknowledgment: 600, payload: vec![9; payload] };
            let mut expected = if flags == ACK {
                reset(&data, RST, 600, 0)
            } else {
                reset(&data, RST | ACK, 0, 500 + 1 + payload as u32)
            };
            // A composed reset has no window.
            let window = expected.len() - 6;
            zero_window(&mut expected, window);
            bench.wire_brings(&data.bytes()).expect(REDIRECT, &expected, "refused_tcp");
        }
    });
}

/// Clears the window and moves the checksum behind it.
fn zero_window(frame: &mut [u8], at: usize) {
    let word = |frame: &[u8], at: usize| u32::from(frame[at]) << 8 | u32::from(frame[at + 1]);
    let sum = (!word(frame, at + 2) & 0xffff) + (!word(frame, at) & 0xffff);
    let folded = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[at..at + 2].fill(0);
    frame[at + 2..at + 4].copy_from_slice(&folded.to_be_bytes());
}

#[test]
fn udp_without_a_backend_is_unreachable() {
    each_way(|bench| {
        bench.program(vec![bench.dns(&[])]);
        let question = Frame::udp(bench.at(|p| p.pod, 40000), bench.at(|p| p.cluster_ip, 53));
        let (kind, code) = bench.plan.unreachable;
        let headers = if bench.plan.pod.is_ipv4() { 28 } else { 48 };
        let quoted = &question.packet()[..headers];
        let mut expected = icmp_error((bench.plan.cluster_ip, bench.plan.pod), 64, kind, code, quoted);
        expected[..6].copy_from_slice(&question.from);
        expected[6..12].copy_from_slice(&question.to);
        bench.pod_sends(&question.bytes()).expect(REDIRECT, &expected, "refused_udp");
        let small = Frame { body: Body::Udp { payload: vec![] }, ..question };
        assert_eq!(bench.pod_sends(&small.bytes()).verdict, REDIRECT);
    });
}

#[test]
fn local_policy_without_a_local_backend_refuses_outsiders_and_serves_pods() {
    each_way(|bench| {
        let backend = bench.at(|p| p.remote_pod, 8080);
        bench.program(vec![bench.web(Local, &[(backend, false)])]);
        let (client, pod) = (bench.at(|p| p.client, 50000), bench.at(|p| p.pod, 40000));
        for frontend in [bench.at(|p| p.vip, 80), bench.at(|p| p.node, 30080)] {
            let outsider = Frame::tcp(client, frontend, SYN);
            let expected = reset(&outsider, RST | ACK, 0, 1001);
            bench.wire_brings(&outsider.bytes()).expect(REDIRECT, &expected, "refused_tcp");
        }
        let insider = Frame::tcp(pod, bench.at(|p| p.vip, 80), SYN);
        let sent = insider.translated(pod, backend).bytes();
        bench.pod_sends(&insider.bytes()).expect(REDIRECT, &sent, "forwarded_new");
    });
}

/// The load balancer's frontend serves the client's prefix, or another one.
fn restricted(bench: &Bench<'_>, to_client: bool, backends: bool) -> ServicePort {
    let all = [(bench.at(|p| p.remote_pod, 8080), false)];
    let mut web = bench.web(Cluster, if backends { &all } else { &[] });
    let client = if bench.plan.client.is_ipv4() { "198.51.100.0/24" } else { "2001:db8:c::/64" };
    let other = if bench.plan.client.is_ipv4() { "192.0.2.0/24" } else { "2001:db8:d::/64" };
    web.frontends[1].source_ranges = vec![if to_client { client } else { other }.parse().expect("range")];
    assert_eq!(web.id.protocol, Protocol::Tcp);
    web
}

#[test]
fn source_ranges_drop_strangers_at_the_load_balancer_only() {
    each_way(|bench| {
        let (client, vip) = (bench.at(|p| p.client, 50000), bench.at(|p| p.vip, 80));
        let syn = Frame::tcp(client, vip, SYN).bytes();
        bench.program(vec![restricted(bench, false, true)]);
        bench.wire_brings(&syn).expect(DROP, &syn, "dropped_source_range");
        let node_port = Frame::tcp(client, bench.at(|p| p.node, 30080), SYN).bytes();
        assert_eq!(bench.wire_brings(&node_port).reasons(), [("forwarded_new".to_owned(), 1)].into());
        bench.program(vec![restricted(bench, false, false)]);
        assert_eq!(
            bench.wire_brings(&syn).reasons(),
            [("refused_tcp".to_owned(), 1)].into(),
            "nobody is served"
        );
    });
    each_way(|bench| {
        bench.program(vec![restricted(bench, true, true)]);
        let syn = Frame::tcp(bench.at(|p| p.client, 50000), bench.at(|p| p.vip, 80), SYN).bytes();
        assert_eq!(bench.wire_brings(&syn).reasons(), [("forwarded_new".to_owned(), 1)].into());
    });
}
