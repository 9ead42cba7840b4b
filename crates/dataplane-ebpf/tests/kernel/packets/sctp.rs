//! SCTP: the checksum follows the ports, and associations have states.

use model::{FrontendAddress, FrontendKind, Protocol, ServicePort, TrafficPolicy::Cluster};

use super::{
    Bench, DROP, HOST_MAC, MASQUERADE_PORT, POD_MAC, REDIRECT, each, each_way,
    irregular::{decorations, fragments},
};
use crate::{
    model_of::{cluster_ip, frontend, service, with_backends},
    wire::{Body, Frame, icmp_error},
};

const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;

fn signalling(bench: &Bench<'_>, port: u16, backends: &[(std::net::SocketAddr, bool)]) -> ServicePort {
    let frontends = vec![
        cluster_ip(bench.plan.cluster_ip, port),
        frontend(FrontendKind::NodePort, FrontendAddress::Node, 30036, Cluster),
    ];
    with_backends(service("signalling", Protocol::Sctp, frontends), backends)
}

#[test]
fn an_association_is_translated_and_goes_through_its_states() {
    each_way(|bench| {
        let (pod, backend) = (bench.at(|p| p.pod, 40000), bench.at(|p| p.remote_pod, 38412));
        let frontend = bench.at(|p| p.cluster_ip, 36412);
        bench.program(vec![signalling(bench, 36412, &[(backend, false)])]);
        let steps = [
            (INIT, INIT_ACK, ["forwarded_new", "forwarded_updated"]),
            (COOKIE_ECHO, COOKIE_ACK, ["forwarded_updated", "forwarded_established"]),
            (DATA, DATA, ["forwarded_established"; 2]),
            (SHUTDOWN, SHUTDOWN_ACK, ["forwarded_updated"; 2]),
        ];
        for (ask, answer, reasons) in steps {
            let sent = Frame::sctp(pod, frontend, ask);
            bench.pod_sends(&sent.bytes()).expect(
                REDIRECT,
                &sent.translated(pod, backend).bytes(),
                reasons[0],
            );
            let back = Frame::sctp(backend, pod, answer);
            let heard = back.translated(frontend, pod).macs(POD_MAC, HOST_MAC);
            bench.wire_brings(&back.bytes()).expect(REDIRECT, &heard.bytes(), reasons[1]);
        }
        // Shut down: another association may begin.
        let again = Frame::sctp(pod, frontend, INIT);
        let sent = again.translated(pod, backend).bytes();
        bench.pod_sends(&again.bytes()).expect(REDIRECT, &sent, "forwarded_new");
        let abort = Frame::sctp(pod, frontend, ABORT);
        let sent = abort.translated(pod, backend).bytes();
        bench.pod_sends(&abort.bytes()).expect(REDIRECT, &sent, "forwarded_updated");
        let sent = again.translated(pod, backend).bytes();
        bench.pod_sends(&again.bytes()).expect(REDIRECT, &sent, "forwarded_new");
    });
}

/// The checksum's change depends on the length: every bit of it, and lengths that are no multiple of anything.
#[test]
fn the_checksum_is_right_at_every_length() {
    each(|bench| {
        let (client, backend) = (bench.at(|p| p.client, 40000), bench.at(|p| p.remote_pod, 38412));
        bench.program(vec![signalling(bench, 36412, &[(backend, false)])]);
        let (node, masquerade) = (bench.at(|p| p.node, 30036), bench.at(|p| p.node, MASQUERADE_PORT));
        for length in [0, 1, 2, 3, 5, 13, 100, 255, 256, 511, 777, 1024, 1291, 1400] {
            let mut packet = Frame::sctp(client, node, DATA);
            packet.body = Body::Sctp { chunk: DATA, payload: (0..length).map(|i| (i * 7) as u8).collect() };
            let answer = bench.wire_brings(&packet.bytes());
            let sent = packet.translated(masquerade, backend).bytes();
            assert_eq!((answer.verdict, &answer.frame), (REDIRECT, &sent), "{length} bytes");
        }
    });
}

/// Without a change of ports there is nothing to do, not even for a fragment.
#[test]
fn fragments_are_translated_where_no_port_changes() {
    each(|bench| {
        let (pod, frontend) = (bench.at(|p| p.pod, 40000), bench.at(|p| p.cluster_ip, 36412));
        let mut packet = Frame::sctp(pod, frontend, DATA);
        packet.body = Body::Sctp { chunk: DATA, payload: vec![5; 600] };
        let same = bench.at(|p| p.remote_pod, 36412);
        bench.program(vec![signalling(bench, 36412, &[(same, false)])]);
        let reasons = ["forwarded_new", "forwarded_updated"];
        let expected = fragments(&packet.translated(pod, same), 3, 400);
        for ((part, sent), reason) in fragments(&packet, 3, 400).iter().zip(expected).zip(reasons) {
            bench.pod_sends(part).expect(REDIRECT, &sent, reason);
        }
        let (other, pod) = (bench.at(|p| p.remote_pod, 38412), bench.at(|p| p.pod, 40001));
        bench.program(vec![signalling(bench, 36412, &[(other, false)])]);
        packet.source = pod;
        let parts = fragments(&packet, 4, 400);
        bench.pod_sends(&parts[0]).expect(DROP, &parts[0], "dropped_fragment");
    });
}

#[test]
fn headers_before_it_do_not_matter() {
    each(|bench| {
        let (pod, backend) = (bench.at(|p| p.pod, 40000), bench.at(|p| p.remote_pod, 38412));
        bench.program(vec![signalling(bench, 36412, &[(backend, false)])]);
        let init = Frame::sctp(pod, bench.at(|p| p.cluster_ip, 36412), INIT);
        let sent = decorations(&init.translated(pod, backend).bytes());
        for (odd, sent) in decorations(&init.bytes()).iter().zip(sent) {
            let answer = bench.pod_sends(odd);
            assert_eq!((answer.verdict, answer.frame), (REDIRECT, sent));
        }
    });
}

#[test]
fn without_a_backend_it_is_unreachable_and_an_abort_is_not_answered() {
    each_way(|bench| {
        bench.program(vec![signalling(bench, 36412, &[])]);
        let init = Frame::sctp(bench.at(|p| p.pod, 40000), bench.at(|p| p.cluster_ip, 36412), INIT);
        let (kind, code) = bench.plan.unreachable;
        let quoted = &init.packet()[..if bench.plan.pod.is_ipv4() { 28 } else { 48 }];
        let mut expected = icmp_error((bench.plan.cluster_ip, bench.plan.pod), 64, kind, code, quoted);
        expected[..6].copy_from_slice(&init.from);
        expected[6..12].copy_from_slice(&init.to);
        bench.pod_sends(&init.bytes()).expect(REDIRECT, &expected, "refused_sctp");
        let abort = Frame { body: Body::Sctp { chunk: ABORT, payload: vec![] }, ..init }.bytes();
        bench.pod_sends(&abort).expect(DROP, &abort, "dropped_reset");
    });
}

#[test]
fn errors_about_it_come_back_through_the_frontend() {
    each_way(|bench| {
        let (pod, backend) = (bench.at(|p| p.pod, 40000), bench.at(|p| p.remote_pod, 38412));
        let frontend = bench.at(|p| p.cluster_ip, 36412);
        bench.program(vec![signalling(bench, 36412, &[(backend, false)])]);
        let init = Frame::sctp(pod, frontend, INIT);
        bench.pod_sends(&init.bytes());
        let (kind, code) = bench.plan.too_big;
        let headers = if pod.is_ipv4() { 28 } else { 48 };
        let quote = |frame: &Frame| frame.packet()[..headers].to_vec();
        let router = bench.plan.client;
        let error = icmp_error((router, pod.ip()), 60, kind, code, &quote(&init.translated(pod, backend)));
        let original = quote(&init.translated(pod, frontend));
        let mut expected = icmp_error((frontend.ip(), pod.ip()), 59, kind, code, &original);
        expected[..6].copy_from_slice(&POD_MAC);
        expected[6..12].copy_from_slice(&HOST_MAC);
        bench.wire_brings(&error).expect(REDIRECT, &expected, "forwarded_icmp_error");
    });
}
