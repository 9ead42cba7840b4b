//! What processes of the node send to frontends that the node itself serves.

use std::net::SocketAddr;

use dataplane_ebpf::Checksums;
use model::TrafficPolicy::Cluster;

use super::{Bench, REDIRECT, each_way, on_a_node};
use crate::wire::{ACK, Body, Frame, RST, SYN, icmp_error};

/// The node as a backend, under three ports.
fn itself(bench: &Bench<'_>) -> Vec<(SocketAddr, bool)> {
    (8080..8083).map(|port| (bench.at(|p| p.node, port), true)).collect()
}

#[test]
fn a_process_is_given_another_backend_than_its_own_node() {
    on_a_node(Checksums::Auto, 5000..=5999, &|bench| {
        let other = bench.at(|p| p.remote_pod, 8080);
        let backends = [itself(bench), vec![(other, false)]].concat();
        bench.program(vec![bench.web(Cluster, &backends), bench.dns(&backends)]);
        for port in 40000..40008 {
            let process = bench.at(|p| p.node, port);
            for frame in [
                Frame::tcp(process, bench.at(|p| p.cluster_ip, 80), SYN),
                Frame::udp(process, bench.at(|p| p.cluster_ip, 53)),
            ] {
                let answer = bench.host_sends(&frame.bytes());
                let at = if other.is_ipv4() { 34 } else { 54 };
                let masqueraded = u16::from_be_bytes([answer.frame[at], answer.frame[at + 1]]);
                assert!((5000..=5999).contains(&masqueraded), "port {masqueraded}");
                let source = bench.at(|p| p.node, masqueraded);
                let sent = Frame { source, destination: other, ..frame };
                answer.expect(REDIRECT, &sent.bytes(), "forwarded_new");
            }
        }
    });
}

#[test]
fn a_process_is_refused_where_its_own_node_is_all_there_is() {
    each_way(|bench| {
        let backends = itself(bench);
        bench.program(vec![bench.web(Cluster, &backends), bench.dns(&backends)]);
        let process = bench.at(|p| p.node, 40000);
        let syn = Frame::tcp(process, bench.at(|p| p.cluster_ip, 80), SYN);
        let body = Body::Tcp { flags: RST | ACK, sequence: 0, acknowledgment: 1001, payload: vec![] };
        let reset = Frame { source: syn.destination, destination: process, body, ..syn.clone() };
        let reset = reset.macs(syn.from, syn.to).bytes();
        bench.host_sends(&syn.bytes()).expect(REDIRECT, &reset, "refused_tcp");

        let question = Frame::udp(process, bench.at(|p| p.cluster_ip, 53));
        let (kind, code) = bench.plan.unreachable;
        let quoted = &question.packet()[..if process.is_ipv4() { 28 } else { 48 }];
        let mut expected = icmp_error((bench.plan.cluster_ip, bench.plan.node), 64, kind, code, quoted);
        expected[..6].copy_from_slice(&question.from);
        expected[6..12].copy_from_slice(&question.to);
        bench.host_sends(&question.bytes()).expect(REDIRECT, &expected, "refused_udp");

        // Anyone else reaches the node.
        let outsider = Frame::tcp(bench.at(|p| p.client, 40000), bench.at(|p| p.cluster_ip, 80), SYN);
        let answer = bench.wire_brings(&outsider.bytes());
        assert_eq!(answer.reasons(), [("forwarded_new".to_owned(), 1)].into());
    });
}
