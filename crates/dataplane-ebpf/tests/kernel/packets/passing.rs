//! What is left to the stack, untouched.

use model::TrafficPolicy::Cluster;

use super::{NEXT, REDIRECT, each};
use crate::wire::{ACK, Body, Frame, SYN, icmp_error};

#[test]
fn packets_that_concern_no_service_pass_without_a_lookup() {
    each(|bench| {
        bench.program(vec![bench.web(Cluster, &[(bench.at(|p| p.remote_pod, 8080), false)])]);
        let ssh = Frame::tcp(bench.at(|p| p.client, 50000), bench.at(|p| p.node, 22), ACK).bytes();
        let answer = bench.wire_brings(&ssh);
        answer.expect(NEXT, &ssh, "passed_unrelated");
        assert!(answer.lookups().is_empty());
        let world = Frame::tcp(bench.at(|p| p.pod, 50000), bench.at(|p| p.client, 443), SYN).bytes();
        bench.pod_sends(&world).expect(NEXT, &world, "passed_unrelated");
        let to_node = Frame::tcp(bench.at(|p| p.pod, 50000), bench.at(|p| p.node, 10250), SYN).bytes();
        bench.pod_sends(&to_node).expect(NEXT, &to_node, "passed_unrelated");
    });
}

#[test]
fn arp_echo_and_neighbour_discovery_pass() {
    each(|bench| {
        bench.program(vec![]);
        let mut arp = vec![0xff; 12];
        arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        arp.resize(42, 0);
        bench.pod_sends(&arp).expect(NEXT, &arp, "passed_protocol");
        let ends = (bench.plan.pod, bench.plan.cluster_ip);
        // Echo request; in IPv6 also neighbour solicitation.
        let kinds: &[u8] = if ends.0.is_ipv4() { &[8] } else { &[128, 135] };
        for kind in kinds {
            let message = icmp_error(ends, 64, *kind, 0, &[0; 64]);
            bench.pod_sends(&message).expect(NEXT, &message, "passed_protocol");
        }
    });
}

#[test]
fn the_last_hop_is_left_to_the_stack_to_answer() {
    each(|bench| {
        let backend = bench.at(|p| p.remote_pod, 8080);
        bench.program(vec![bench.web(Cluster, &[(backend, false)])]);
        let last = Frame::tcp(bench.at(|p| p.pod, 40000), bench.at(|p| p.cluster_ip, 80), SYN).ttl(1).bytes();
        bench.pod_sends(&last).expect(NEXT, &last, "passed_time_to_live");
    });
}

#[test]
fn what_does_not_fit_the_route_is_answered_with_what_does_or_left_to_the_stack() {
    each(|bench| {
        let (pod, backend) = (bench.at(|p| p.pod, 40000), bench.at(|p| p.remote_pod, 8080));
        let frontend = bench.plan_cluster_ip(80);
        bench.program(vec![bench.web(Cluster, &[(backend, false)])]);
        let headers = if pod.is_ipv4() { 40 } else { 60 };
        let sized = |to, bytes: usize| Frame {
            body: Body::Tcp { flags: ACK, sequence: 1, acknowledgment: 1, payload: vec![7; bytes - headers] },
            ..Frame::tcp(pod, to, ACK)
        };
        let fits = sized(frontend, 1500);
        let sent = fits.translated(pod, backend).bytes();
        bench.pod_sends(&fits.bytes()).expect(REDIRECT, &sent, "forwarded_new");
        // The stack takes the frontend for an address of this node.
        let too_big = sized(frontend, 1501);
        let told = bench.plan.told_what_fits(&too_big, 1500);
        bench.pod_sends(&too_big.bytes()).expect(REDIRECT, &told, "answered_too_big");

        let other = bench.at(|p| p.remote_pod, 9090);
        let sent = sized(other, 1500).translated(pod, other).bytes();
        bench.pod_sends(&sized(other, 1500).bytes()).expect(REDIRECT, &sent, "forwarded_new");
        let too_big = sized(other, 1501).bytes();
        bench.pod_sends(&too_big).expect(NEXT, &too_big, "passed_too_big");
    });
}
