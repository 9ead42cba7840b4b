//! Options, extension headers and fragments, to and from frontends.

use model::TrafficPolicy::Cluster;

use super::{
    DROP, HOST_MAC, NEXT, POD_MAC, REDIRECT, each, each_way,
    irregular::{
        authentication, decorations, destination_options, fragment, fragment_header, fragments, hop_by_hop,
        options, routing, with_chain, with_options,
    },
};
use crate::wire::{ACK, Body, Frame, SYN};

#[test]
fn options_and_extension_headers_are_served_like_plain_packets() {
    each_way(|bench| {
        let (pod, backend) = (bench.at(|p| p.pod, 40000), bench.at(|p| p.remote_pod, 8080));
        let frontend = bench.at(|p| p.cluster_ip, 80);
        let (asked, answered) = (bench.at(|p| p.cluster_ip, 53), bench.at(|p| p.remote_pod, 5353));
        bench.program(vec![bench.web(Cluster, &[(backend, false)]), bench.dns(&[(answered, false)])]);
        let count = decorations(&Frame::tcp(pod, frontend, SYN).bytes()).len();
        for index in 0..count {
            let pod = std::net::SocketAddr::new(pod.ip(), 40000 + index as u16);
            let wear = |frame: &Frame| decorations(&frame.bytes())[index].clone();
            let syn = Frame::tcp(pod, frontend, SYN);
            let sent = wear(&syn.translated(pod, backend));
            bench.pod_sends(&wear(&syn)).expect(REDIRECT, &sent, "forwarded_new");
            let syn_ack = Frame::tcp(backend, pod, SYN | ACK);
            let heard = wear(&syn_ack.translated(frontend, pod).macs(POD_MAC, HOST_MAC));
            bench.wire_brings(&wear(&syn_ack)).expect(REDIRECT, &heard, "forwarded_updated");
            let data = Frame::tcp(pod, frontend, ACK);
            let sent = wear(&data.translated(pod, backend));
            bench.pod_sends(&wear(&data)).expect(REDIRECT, &sent, "forwarded_updated");
            bench.pod_sends(&wear(&data)).expect(REDIRECT, &sent, "forwarded_established");
            let plain = data.translated(pod, backend).bytes();
            bench.pod_sends(&data.bytes()).expect(REDIRECT, &plain, "forwarded_established");

            let question = Frame::udp(pod, asked);
            let sent = wear(&question.translated(pod, answered));
            bench.pod_sends(&wear(&question)).expect(REDIRECT, &sent, "forwarded_new");
        }
    });
}

#[test]
fn source_routes_are_dropped() {
    each(|bench| {
        bench.program(vec![bench.web(Cluster, &[(bench.at(|p| p.remote_pod, 8080), false)])]);
        let plain = Frame::tcp(bench.at(|p| p.client, 50000), bench.at(|p| p.vip, 80), SYN).bytes();
        let routed = if bench.plan.pod.is_ipv4() {
            [131, 137].map(|kind| with_options(&plain, &[1, kind, 7, 4, 10, 0, 0, 1])).to_vec()
        } else {
            vec![with_chain(&plain, &[routing(0, 1)]), with_chain(&plain, &[hop_by_hop(), routing(0, 0)])]
        };
        for frame in routed {
            bench.wire_brings(&frame).expect(DROP, &frame, "dropped_source_route");
        }
        if !bench.plan.pod.is_ipv4() {
            let elsewhere = with_chain(&plain, &[routing(4, 1)]);
            bench.wire_brings(&elsewhere).expect(NEXT, &elsewhere, "passed_unparsed");
        }
    });
}

#[test]
fn chains_that_receivers_refuse_are_dropped() {
    each(|bench| {
        if bench.plan.pod.is_ipv4() {
            return;
        }
        bench.program(vec![bench.web(Cluster, &[(bench.at(|p| p.remote_pod, 8080), false)])]);
        let plain = Frame::tcp(bench.at(|p| p.client, 50000), bench.at(|p| p.vip, 80), SYN).bytes();
        let mut endless = (60, vec![80]);
        endless.1.resize(81 * 8 - 1, 0);
        for chain in [
            vec![destination_options(), hop_by_hop()],
            (0..7).map(|_| options(60)).collect(),
            vec![fragment_header(1, 0, false), fragment_header(2, 0, false)],
            vec![endless, authentication()],
        ] {
            let frame = with_chain(&plain, &chain);
            bench.wire_brings(&frame).expect(DROP, &frame, "dropped_extension_chain");
        }
    });
}

fn question(bench: &super::Bench<'_>, port: u16, length: u16) -> Frame {
    let mut question = Frame::udp(bench.at(|p| p.pod, port), bench.at(|p| p.cluster_ip, 53));
    question.body = Body::Udp { payload: (0..length).map(|i| i as u8).collect() };
    question
}

#[test]
fn all_fragments_of_a_datagram_go_to_one_backend_and_answers_come_back() {
    each_way(|bench| {
        let backends: Vec<_> = (0..16).map(|i| (bench.at(|p| p.remote_pod, 5353 + i), false)).collect();
        bench.program(vec![bench.dns(&backends)]);
        let (pod, frontend) = (bench.at(|p| p.pod, 40000), bench.at(|p| p.cluster_ip, 53));
        let question = question(bench, 40000, 3000);
        let parts = fragments(&question, 77, 1232);
        assert_eq!(parts.len(), 3);
        let first = bench.pod_sends(&parts[0]);
        let at = parts[0].len() - 1232 + 2;
        let backend = u16::from_be_bytes([first.frame[at], first.frame[at + 1]]);
        let backend = std::net::SocketAddr::new(bench.plan.remote_pod, backend);
        let expected = fragments(&question.translated(pod, backend), 77, 1232);
        first.expect(REDIRECT, &expected[0], "forwarded_new");
        for (part, expected) in parts.iter().zip(&expected).skip(1) {
            bench.pod_sends(part).expect(REDIRECT, expected, "forwarded_established");
        }
        let mut answer = Frame::udp(backend, pod);
        answer.body = Body::Udp { payload: vec![9; 2000] };
        let heard = answer.translated(frontend, pod).macs(POD_MAC, HOST_MAC);
        let reasons = ["forwarded_updated", "forwarded_established"];
        for ((part, heard), reason) in
            fragments(&answer, 5, 1400).iter().zip(fragments(&heard, 5, 1400)).zip(reasons)
        {
            bench.wire_brings(part).expect(REDIRECT, &heard, reason);
        }
    });
}

/// IPv6: what later fragments name is not the protocol where the first one has headers behind the fragment's.
#[test]
fn later_fragments_go_by_the_first_ones_protocol() {
    each(|bench| {
        if bench.plan.pod.is_ipv4() {
            return;
        }
        let backend = bench.at(|p| p.remote_pod, 5353);
        bench.program(vec![bench.dns(&[(backend, false)])]);
        let (question, id) = (question(bench, 40000, 64), 9);
        let cut = |frame: &Frame| {
            let frame = frame.bytes();
            let first = with_chain(&frame[..54 + 16], &[fragment_header(id, 0, true), destination_options()]);
            let mut later = frame[..54].to_vec();
            later.extend(&frame[54 + 16..]);
            later[20] = 60;
            (first, with_chain(&later, &[fragment_header(id, 24, false)]))
        };
        let (first, later) = cut(&question);
        let (first_sent, later_sent) = cut(&question.translated(bench.at(|p| p.pod, 40000), backend));
        bench.pod_sends(&first).expect(REDIRECT, &first_sent, "forwarded_new");
        bench.pod_sends(&later).expect(REDIRECT, &later_sent, "forwarded_established");
    });
}

#[test]
fn a_fragment_that_overtakes_the_first_is_left_to_the_stack() {
    each(|bench| {
        bench.program(vec![bench.dns(&[(bench.at(|p| p.remote_pod, 5353), false)])]);
        let parts = fragments(&question(bench, 40000, 3000), 78, 1232);
        bench.pod_sends(&parts[1]).expect(NEXT, &parts[1], "passed_fragment");
        assert_eq!(bench.pod_sends(&parts[0]).reasons(), [("forwarded_new".to_owned(), 1)].into());
        assert_eq!(bench.pod_sends(&parts[2]).reasons(), [("forwarded_established".to_owned(), 1)].into());
    });
}

#[test]
fn fragments_that_hide_a_header_are_dropped() {
    each(|bench| {
        bench.program(vec![bench.web(Cluster, &[(bench.at(|p| p.remote_pod, 8080), false)])]);
        let mut syn = Frame::tcp(bench.at(|p| p.client, 50000), bench.at(|p| p.vip, 80), SYN);
        syn.body = Body::Tcp { flags: SYN, sequence: 1, acknowledgment: 0, payload: vec![0; 100] };
        let frame = syn.bytes();
        // The flags are in the next fragment.
        let tiny = fragment(&frame, 1, (0, 8));
        bench.wire_brings(&tiny).expect(DROP, &tiny, "dropped_fragment");
        let first = fragment(&frame, 2, (0, 48));
        assert_eq!(bench.wire_brings(&first).reasons(), [("forwarded_new".to_owned(), 1)].into());
        for from in [8, 16] {
            let over_the_flags = fragment(&frame, 2, (from, 48));
            bench.wire_brings(&over_the_flags).expect(DROP, &over_the_flags, "dropped_fragment");
        }
        let next = fragment(&frame, 2, (48, 96));
        assert_eq!(bench.wire_brings(&next).verdict, REDIRECT);
        // Beyond the longest datagram.
        let mut long = Frame::udp(bench.at(|p| p.client, 1), bench.at(|p| p.pod, 2));
        long.body = Body::Udp { payload: vec![0; 200] };
        let mut last = fragment(&long.bytes(), 3, (8, 208));
        if bench.plan.pod.is_ipv4() {
            last[20..22].copy_from_slice(&0x1fffu16.to_be_bytes());
            super::irregular::sum_header(&mut last);
        } else {
            last[56..58].copy_from_slice(&0xfff8u16.to_be_bytes());
        }
        bench.wire_brings(&last).expect(DROP, &last, "dropped_fragment");
    });
}
