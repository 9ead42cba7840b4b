//! ICMP errors about translated packets.

use model::TrafficPolicy::{Cluster, Local};

use super::{HOST_MAC, MASQUERADE_PORT, NEXT, POD_MAC, REDIRECT, each_way, irregular::decorations};
use crate::wire::{ACK, Frame, SYN, icmp_error};

/// Addressed to the pod's own MAC, as everything that is delivered past the stack.
fn delivered(mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&POD_MAC);
    frame[6..12].copy_from_slice(&HOST_MAC);
    frame
}

#[test]
fn the_senders_own_packet_is_quoted_back_to_it() {
    each_way(|bench| {
        let (pod, backend) = (bench.at(|p| p.pod, 40000), bench.at(|p| p.remote_pod, 8080));
        let frontend = bench.at(|p| p.cluster_ip, 80);
        bench.program(vec![bench.web(Cluster, &[(backend, false)])]);
        let syn = Frame::tcp(pod, frontend, SYN);
        bench.pod_sends(&syn.bytes());

        // From the backend itself, or from a router: it comes from the frontend.
        for from in [bench.plan.remote_pod, bench.plan.client] {
            let seen_from = bench.plan.cluster_ip;
            for (kind, code) in [bench.plan.unreachable, bench.plan.too_big] {
                let quoted = quote(&syn.translated(pod, backend), None);
                let error = icmp_error((from, pod.ip()), 60, kind, code, &quoted);
                let original = quote(&syn.translated(pod, frontend), Some(&quoted));
                let expected = icmp_error((seen_from, pod.ip()), 59, kind, code, &original);
                bench.wire_brings(&error).expect(REDIRECT, &delivered(expected), "forwarded_icmp_error");
            }
        }
    });
}

/// The frame goes on, the packet does not: what is behind its end is padding and outside its checksum.
#[test]
fn an_error_that_ends_before_the_quoted_ports_passes() {
    each_way(|bench| {
        let (pod, backend) = (bench.at(|p| p.pod, 40000), bench.at(|p| p.remote_pod, 8080));
        bench.program(vec![bench.web(Cluster, &[(backend, false)])]);
        let syn = Frame::tcp(pod, bench.at(|p| p.cluster_ip, 80), SYN);
        bench.pod_sends(&syn.bytes());

        let (kind, code) = bench.plan.unreachable;
        let quoted = quote(&syn.translated(pod, backend), None);
        let whole = if pod.is_ipv4() { 28 } else { 48 };
        let error = icmp_error((backend.ip(), pod.ip()), 60, kind, code, &quoted[..whole]);
        assert_eq!(bench.wire_brings(&error).reasons(), [("forwarded_icmp_error".to_owned(), 1)].into());
        let mut cut = icmp_error((backend.ip(), pod.ip()), 60, kind, code, &quoted[..whole - 4]);
        cut.extend([0; 4]);
        bench.wire_brings(&cut).expect(NEXT, &cut, "passed_unparsed");
    });
}

/// What is quoted may have options or extension headers, and so may the error.
#[test]
fn headers_before_the_quoted_ports_do_not_matter() {
    each_way(|bench| {
        let (pod, backend) = (bench.at(|p| p.pod, 40000), bench.at(|p| p.remote_pod, 8080));
        let frontend = bench.at(|p| p.cluster_ip, 80);
        bench.program(vec![bench.web(Cluster, &[(backend, false)])]);
        let syn = Frame::tcp(pod, frontend, SYN);
        bench.pod_sends(&syn.bytes());
        let (kind, code) = bench.plan.too_big;
        let router = bench.plan.client;
        let quotes = |frame: &Frame| {
            decorations(&frame.bytes()).into_iter().map(|odd| odd[14..odd.len() - 12].to_vec())
        };
        let restored = quotes(&syn.translated(pod, frontend));
        for (quoted, original) in quotes(&syn.translated(pod, backend)).zip(restored) {
            let error = icmp_error((router, pod.ip()), 60, kind, code, &quoted);
            let expected = icmp_error((frontend.ip(), pod.ip()), 59, kind, code, &original);
            let odd = decorations(&error).into_iter().zip(decorations(&delivered(expected.clone())));
            for (error, expected) in odd.chain([(error.clone(), delivered(expected.clone()))]) {
                bench.wire_brings(&error).expect(REDIRECT, &expected, "forwarded_icmp_error");
            }
        }
    });
}

#[test]
fn an_error_about_a_reply_reaches_the_backend() {
    each_way(|bench| {
        let (client, pod) = (bench.at(|p| p.client, 50000), bench.at(|p| p.pod, 8080));
        let vip = bench.at(|p| p.vip, 80);
        bench.program(vec![bench.web(Local, &[(pod, true)])]);
        bench.wire_brings(&Frame::tcp(client, vip, SYN).bytes());
        let reply = Frame::tcp(pod, client, ACK);
        bench.pod_sends(&reply.bytes());
        let (kind, code) = bench.plan.too_big;
        let quoted = quote(&reply.translated(vip, client), None);
        let router = bench.plan.remote_pod;
        let error = icmp_error((router, vip.ip()), 60, kind, code, &quoted);
        let original = quote(&reply.translated(pod, client), Some(&quoted));
        let expected = icmp_error((router, pod.ip()), 59, kind, code, &original);
        bench.wire_brings(&error).expect(REDIRECT, &delivered(expected), "forwarded_icmp_error");
    });
}

#[test]
fn an_error_about_a_masqueraded_packet_goes_on_to_its_client() {
    each_way(|bench| {
        let (client, backend) = (bench.at(|p| p.client, 50000), bench.at(|p| p.remote_pod, 8080));
        let (node_port, node) = (bench.at(|p| p.node, 30080), bench.at(|p| p.node, MASQUERADE_PORT));
        bench.program(vec![bench.web(Cluster, &[(backend, false)])]);
        let syn = Frame::tcp(client, node_port, SYN);
        bench.wire_brings(&syn.bytes());
        // Also from a router that is on the way to the client, too, and knows its own address.
        let router = bench.plan.vip;
        for (from, (kind, code)) in [(backend.ip(), bench.plan.unreachable), (router, bench.plan.too_big)] {
            let quoted = quote(&syn.translated(node, backend), None);
            let error = icmp_error((from, node.ip()), 60, kind, code, &quoted);
            let original = quote(&syn.translated(client, node_port), Some(&quoted));
            let expected = icmp_error((node_port.ip(), client.ip()), 59, kind, code, &original);
            bench.wire_brings(&error).expect(REDIRECT, &expected, "forwarded_icmp_error");
        }
    });
}

#[test]
fn errors_about_unknown_flows_pass() {
    each_way(|bench| {
        bench.program(vec![bench.web(Cluster, &[])]);
        let (kind, code) = bench.plan.unreachable;
        let stranger = Frame::tcp(bench.at(|p| p.pod, 1), bench.at(|p| p.client, 2), SYN);
        let error = icmp_error((bench.plan.client, bench.plan.pod), 60, kind, code, &quote(&stranger, None));
        bench.wire_brings(&error).expect(NEXT, &error, "passed_unrelated");
    });
}

/// Network header and eight bytes. The quoted transport checksum, where eight bytes reach it, is as it was in transit.
fn quote(frame: &Frame, in_transit: Option<&[u8]>) -> Vec<u8> {
    let packet = frame.packet();
    let end = packet.len() - 20 + 8;
    let mut quoted = packet[..end].to_vec();
    if let Some(in_transit) = in_transit {
        assert_eq!(quoted[end - 4..], in_transit[end - 4..], "the sequence number is untouched");
        quoted.truncate(end);
    }
    quoted
}
