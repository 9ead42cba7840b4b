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
fn what_does_not_fit_the_route_is_left_to_the_stack_to_answer() {
    each(|bench| {
        let (pod, backend) = (bench.at(|p| p.pod, 40000), bench.at(|p| p.remote_pod, 8080));
        bench.program(vec![bench.web(Cluster, &[(backend, false)])]);
        let frame = |payload: usize| {
            let mut frame = Frame::tcp(pod, bench.plan_cluster_ip(80), ACK);
            frame.body = Body::Tcp { flags: ACK, sequence: 1, acknowledgment: 1, payload: vec![7; payload] };
            frame
        };
        let headers = if pod.is_ipv4() { 40 } else { 60 };
        let fits = frame(1500 - headers);
        let too_big = frame(1501 - headers).bytes();
        bench.pod_sends(&fits.bytes()).expect(
            REDIRECT,
            &fits.translated(pod, backend).bytes(),
            "forwarded_new",
        );
        bench.pod_sends(&too_big).expect(NEXT, &too_big, "passed_too_big");
    });
}

#[test]
fn ipv4_fragments_follow_their_first_and_strangers_pass() {
    each(|bench| {
        if !bench.plan.pod.is_ipv4() {
            return;
        }
        let (pod, backend) = (bench.at(|p| p.pod, 40000), bench.at(|p| p.remote_pod, 5353));
        bench.program(vec![bench.dns(&[(backend, false)])]);
        let question = Frame::udp(pod, bench.at(|p| p.cluster_ip, 53));
        let (mut first, mut first_sent) = (question.bytes(), question.translated(pod, backend).bytes());
        fragment(&mut first, 77, 0x2000);
        fragment(&mut first_sent, 77, 0x2000);
        bench.pod_sends(&first).expect(REDIRECT, &first_sent, "forwarded_new");
        let (mut later, mut later_sent) = (first.clone(), first_sent.clone());
        // Behind the network header is data that looks like nothing.
        later[34..].fill(0xee);
        later_sent[34..].fill(0xee);
        fragment(&mut later, 77, 2);
        fragment(&mut later_sent, 77, 2);
        bench.pod_sends(&later).expect(REDIRECT, &later_sent, "forwarded_established");
        fragment(&mut later, 78, 2);
        bench.pod_sends(&later).expect(NEXT, &later, "passed_fragment");
    });
}

/// Makes an IPv4 frame a fragment.
fn fragment(frame: &mut [u8], identification: u16, flags_and_offset: u16) {
    frame[18..20].copy_from_slice(&identification.to_be_bytes());
    frame[20..22].copy_from_slice(&flags_and_offset.to_be_bytes());
    frame[24..26].fill(0);
    let sum: u32 = frame[14..34].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    frame[24..26].copy_from_slice(&(!(folded as u16)).to_be_bytes());
}
