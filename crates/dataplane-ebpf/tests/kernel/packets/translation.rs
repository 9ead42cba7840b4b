//! What is rewritten, and where it goes.

use model::TrafficPolicy::{Cluster, Local};

use super::{DROP, HOST_MAC, MASQUERADE_PORT, NEXT, POD_MAC, REDIRECT, each_way};
use crate::wire::{ACK, Body, Frame, RST, SYN};

#[test]
fn a_pod_reaches_a_remote_backend_by_its_cluster_ip_and_hears_from_the_frontend() {
    each_way(|bench| {
        let (pod, backend) = (bench.at(|p| p.pod, 40000), bench.at(|p| p.remote_pod, 8080));
        let frontend = bench.at(|p| p.cluster_ip, 80);
        bench.program(vec![bench.web(Cluster, &[(backend, false)])]);

        let syn = Frame::tcp(pod, frontend, SYN);
        bench.pod_sends(&syn.bytes()).expect(
            REDIRECT,
            &syn.translated(pod, backend).bytes(),
            "forwarded_new",
        );
        let syn_ack = Frame::tcp(backend, pod, SYN | ACK);
        let heard = syn_ack.translated(frontend, pod).macs(POD_MAC, HOST_MAC);
        bench.wire_brings(&syn_ack.bytes()).expect(REDIRECT, &heard.bytes(), "forwarded_updated");
        let ack = Frame::tcp(pod, frontend, ACK);
        let sent = ack.translated(pod, backend).bytes();
        bench.pod_sends(&ack.bytes()).expect(REDIRECT, &sent, "forwarded_updated");

        let established = bench.pod_sends(&ack.bytes());
        established.expect(REDIRECT, &sent, "forwarded_established");
        assert!(established.lookups().is_empty(), "one lookup, and that on the fast path");
        let reply = Frame::tcp(backend, pod, ACK);
        let answer = bench.wire_brings(&reply.bytes());
        answer.expect(
            REDIRECT,
            &reply.translated(frontend, pod).macs(POD_MAC, HOST_MAC).bytes(),
            "forwarded_established",
        );
        assert!(answer.lookups().is_empty());
    });
}

#[test]
fn an_outside_client_under_local_policy_keeps_its_address() {
    each_way(|bench| {
        let (client, pod) = (bench.at(|p| p.client, 50000), bench.at(|p| p.pod, 8080));
        let vip = bench.at(|p| p.vip, 80);
        bench.program(vec![bench.web(Local, &[(pod, true), (bench.at(|p| p.remote_pod, 8080), false)])]);
        let syn = Frame::tcp(client, vip, SYN);
        let delivered = syn.translated(client, pod).macs(POD_MAC, HOST_MAC);
        bench.wire_brings(&syn.bytes()).expect(REDIRECT, &delivered.bytes(), "forwarded_new");
        let answer = Frame::tcp(pod, client, SYN | ACK);
        bench.pod_sends(&answer.bytes()).expect(
            REDIRECT,
            &answer.translated(vip, client).bytes(),
            "forwarded_updated",
        );
    });
}

#[test]
fn an_outside_client_of_a_node_port_is_masqueraded_until_ports_run_out() {
    each_way(|bench| {
        let (client, backend) = (bench.at(|p| p.client, 50000), bench.at(|p| p.remote_pod, 8080));
        let (node_port, masquerade) = (bench.at(|p| p.node, 30080), bench.at(|p| p.node, MASQUERADE_PORT));
        bench.program(vec![bench.web(Cluster, &[(backend, false)])]);
        let syn = Frame::tcp(client, node_port, SYN);
        bench.wire_brings(&syn.bytes()).expect(
            REDIRECT,
            &syn.translated(masquerade, backend).bytes(),
            "forwarded_new",
        );
        let answer = Frame::tcp(backend, masquerade, SYN | ACK);
        bench.wire_brings(&answer.bytes()).expect(
            REDIRECT,
            &answer.translated(node_port, client).bytes(),
            "forwarded_updated",
        );
        let other = Frame::tcp(bench.at(|p| p.client, 50001), node_port, SYN).bytes();
        bench.wire_brings(&other).expect(DROP, &other, "dropped_no_port");
    });
}

#[test]
fn a_pod_that_reaches_itself_sees_the_node() {
    each_way(|bench| {
        let (pod, itself) = (bench.at(|p| p.pod, 40000), bench.at(|p| p.pod, 8080));
        let (frontend, node) = (bench.at(|p| p.cluster_ip, 80), bench.at(|p| p.node, MASQUERADE_PORT));
        bench.program(vec![bench.web(Cluster, &[(itself, true)])]);
        let syn = Frame::tcp(pod, frontend, SYN);
        let delivered = syn.translated(node, itself).macs(POD_MAC, HOST_MAC);
        bench.pod_sends(&syn.bytes()).expect(REDIRECT, &delivered.bytes(), "forwarded_new");
        let answer = Frame::tcp(itself, node, SYN | ACK);
        let heard = answer.translated(frontend, pod).macs(POD_MAC, HOST_MAC);
        bench.pod_sends(&answer.bytes()).expect(REDIRECT, &heard.bytes(), "forwarded_updated");
    });
}

#[test]
fn udp_is_translated_with_and_without_a_checksum() {
    each_way(|bench| {
        let (pod, backend) = (bench.at(|p| p.pod, 40000), bench.at(|p| p.remote_pod, 5353));
        let frontend = bench.at(|p| p.cluster_ip, 53);
        bench.program(vec![bench.dns(&[(backend, false)])]);
        let question = Frame::udp(pod, frontend);
        let sent = question.translated(pod, backend);
        bench.pod_sends(&question.bytes()).expect(REDIRECT, &sent.bytes(), "forwarded_new");
        bench.pod_sends(&question.bytes()).expect(REDIRECT, &sent.bytes(), "forwarded_established");
        let answer = Frame::udp(backend, pod);
        let heard = answer.translated(frontend, pod).macs(POD_MAC, HOST_MAC);
        bench.wire_brings(&answer.bytes()).expect(REDIRECT, &heard.bytes(), "forwarded_updated");
        bench.wire_brings(&answer.bytes()).expect(REDIRECT, &heard.bytes(), "forwarded_established");

        let field = question.bytes().len() - b"question".len() - 2;
        let without = |frame: &Frame| {
            let mut bytes = frame.bytes();
            bytes[field..field + 2].fill(0);
            bytes
        };
        bench.pod_sends(&without(&question)).expect(REDIRECT, &without(&sent), "forwarded_established");
    });
}

#[test]
fn a_payload_of_odd_length_keeps_its_checksum() {
    each_way(|bench| {
        let (pod, backend) = (bench.at(|p| p.pod, 40000), bench.at(|p| p.remote_pod, 8080));
        bench.program(vec![bench.web(Cluster, &[(backend, false)])]);
        let mut data = Frame::tcp(pod, bench.at(|p| p.cluster_ip, 80), ACK);
        let payload = (0..=254).collect();
        data.body = Body::Tcp { flags: ACK, sequence: 7, acknowledgment: 9, payload };
        bench.pod_sends(&data.bytes()).expect(
            REDIRECT,
            &data.translated(pod, backend).bytes(),
            "forwarded_new",
        );
    });
}

#[test]
fn pods_reach_each_other_directly_by_one_lookup() {
    each_way(|bench| {
        let (pod, remote) = (bench.at(|p| p.pod, 40000), bench.at(|p| p.remote_pod, 9000));
        bench.program(vec![]);
        let out = Frame::tcp(pod, remote, SYN);
        bench.pod_sends(&out.bytes()).expect(REDIRECT, &out.translated(pod, remote).bytes(), "forwarded_new");
        let back = Frame::tcp(remote, pod, SYN | ACK);
        let heard = back.translated(remote, pod).macs(POD_MAC, HOST_MAC);
        bench.wire_brings(&back.bytes()).expect(REDIRECT, &heard.bytes(), "forwarded_new");
        let data = Frame::tcp(pod, remote, ACK);
        bench.pod_sends(&data.bytes()).expect(
            REDIRECT,
            &data.translated(pod, remote).bytes(),
            "forwarded_updated",
        );
        let answer = bench.pod_sends(&data.bytes());
        answer.expect(REDIRECT, &data.translated(pod, remote).bytes(), "forwarded_established");
        assert!(answer.lookups().is_empty());
    });
}

#[test]
fn a_direct_flow_that_crosses_one_to_a_frontend_gets_a_port_of_its_own() {
    each_way(|bench| {
        let (pod, backend) = (bench.at(|p| p.pod, 40000), bench.at(|p| p.remote_pod, 8080));
        let (frontend, moved) = (bench.at(|p| p.cluster_ip, 80), bench.at(|p| p.pod, MASQUERADE_PORT));
        bench.program(vec![bench.web(Cluster, &[(backend, false)])]);
        let through = Frame::tcp(pod, frontend, SYN);
        let direct = |flags| Frame::tcp(pod, backend, flags);
        let answer = |to, flags| Frame::tcp(backend, to, flags);
        let heard = |frame: &Frame, from| frame.translated(from, pod).macs(POD_MAC, HOST_MAC).bytes();
        let sent = through.translated(pod, backend).bytes();
        bench.pod_sends(&through.bytes()).expect(REDIRECT, &sent, "forwarded_new");

        let sent = direct(SYN).translated(moved, backend).bytes();
        bench.pod_sends(&direct(SYN).bytes()).expect(REDIRECT, &sent, "forwarded_new");
        let to_moved = answer(moved, SYN | ACK);
        bench.wire_brings(&to_moved.bytes()).expect(
            REDIRECT,
            &heard(&to_moved, backend),
            "forwarded_updated",
        );
        let to_pod = answer(pod, SYN | ACK);
        bench.wire_brings(&to_pod.bytes()).expect(REDIRECT, &heard(&to_pod, frontend), "forwarded_updated");
        // Also after whatever was programmed since.
        bench.program(vec![]);
        let sent = direct(ACK).translated(moved, backend).bytes();
        bench.pod_sends(&direct(ACK).bytes()).expect(REDIRECT, &sent, "forwarded_updated");

        // Nobody is in the way of the next one.
        for (frame, reason) in
            [(direct(RST), "forwarded_updated"), (Frame::tcp(pod, frontend, RST), "forwarded_updated")]
        {
            assert_eq!(bench.pod_sends(&frame.bytes()).reasons(), [(reason.to_owned(), 1)].into());
        }
        let sent = direct(SYN).translated(pod, backend).bytes();
        bench.pod_sends(&direct(SYN).bytes()).expect(REDIRECT, &sent, "forwarded_new");
        let to_pod = answer(pod, SYN | ACK);
        bench.wire_brings(&to_pod.bytes()).expect(REDIRECT, &heard(&to_pod, backend), "forwarded_new");
    });
}

#[test]
fn a_pod_answers_outsiders_by_one_lookup_and_calls_them_through_the_stack() {
    each_way(|bench| {
        let (pod, client) = (bench.at(|p| p.pod, 8080), bench.at(|p| p.client, 40000));
        bench.program(vec![]);
        let call = Frame::tcp(pod, client, SYN);
        bench.pod_sends(&call.bytes()).expect(NEXT, &call.bytes(), "passed_unrelated");

        let heard = Frame::tcp(client, pod, SYN);
        let delivered = heard.translated(client, pod).macs(POD_MAC, HOST_MAC);
        bench.wire_brings(&heard.bytes()).expect(REDIRECT, &delivered.bytes(), "forwarded_new");
        let answer = Frame::tcp(pod, client, SYN | ACK);
        let sent = answer.translated(pod, client);
        bench.pod_sends(&answer.bytes()).expect(REDIRECT, &sent.bytes(), "forwarded_new");
        let data = Frame::tcp(pod, client, ACK);
        let sent = data.translated(pod, client);
        bench.pod_sends(&data.bytes()).expect(REDIRECT, &sent.bytes(), "forwarded_updated");
        let again = bench.pod_sends(&data.bytes());
        again.expect(REDIRECT, &sent.bytes(), "forwarded_established");
        assert!(again.lookups().is_empty());
    });
}
