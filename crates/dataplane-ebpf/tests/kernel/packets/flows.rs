//! How flows begin, change and end.

use model::TrafficPolicy::Cluster;

use super::{NEXT, REDIRECT, each};
use crate::wire::{ACK, FIN, Frame, RST, SYN};

#[test]
fn a_tcp_flow_outlives_its_backend_and_is_refused_with_the_last_one() {
    each(|bench| {
        let pod = bench.at(|p| p.pod, 40000);
        let (first, second) = (bench.at(|p| p.remote_pod, 8080), bench.at(|p| p.remote_pod, 8081));
        let frontend = bench.at(|p| p.cluster_ip, 80);
        bench.program(vec![bench.web(Cluster, &[(first, false)])]);
        let syn = Frame::tcp(pod, frontend, SYN);
        bench.pod_sends(&syn.bytes()).expect(REDIRECT, &syn.translated(pod, first).bytes(), "forwarded_new");
        bench.wire_brings(&Frame::tcp(first, pod, SYN | ACK).bytes());

        bench.program(vec![bench.web(Cluster, &[(second, false)])]);
        let data = Frame::tcp(pod, frontend, ACK);
        let kept = data.translated(pod, first).bytes();
        bench.pod_sends(&data.bytes()).expect(REDIRECT, &kept, "forwarded_updated");
        bench.pod_sends(&data.bytes()).expect(REDIRECT, &kept, "forwarded_established");

        bench.program(vec![bench.web(Cluster, &[])]);
        let refused = bench.pod_sends(&data.bytes());
        assert_eq!((refused.verdict, refused.reasons()), (REDIRECT, [("refused_tcp".to_owned(), 1)].into()));
    });
}

#[test]
fn a_udp_flow_moves_on_when_its_backend_leaves() {
    each(|bench| {
        let pod = bench.at(|p| p.pod, 40000);
        let (first, second) = (bench.at(|p| p.remote_pod, 5353), bench.at(|p| p.remote_pod, 5354));
        let question = Frame::udp(pod, bench.at(|p| p.cluster_ip, 53));
        bench.program(vec![bench.dns(&[(first, false)])]);
        let to_first = question.translated(pod, first).bytes();
        bench.pod_sends(&question.bytes()).expect(REDIRECT, &to_first, "forwarded_new");
        bench.program(vec![bench.dns(&[(first, false), (second, false)])]);
        bench.pod_sends(&question.bytes()).expect(REDIRECT, &to_first, "forwarded_updated");
        bench.program(vec![bench.dns(&[(second, false)])]);
        let to_second = question.translated(pod, second).bytes();
        bench.pod_sends(&question.bytes()).expect(REDIRECT, &to_second, "forwarded_new");
    });
}

#[test]
fn a_syn_on_a_closed_flow_starts_a_new_one() {
    for (last_from_client, last_from_server) in [(FIN | ACK, Some(FIN | ACK)), (RST, None)] {
        let closing: fn(&mut super::Bench<'_>, u8, Option<u8>) = |bench, client_flags, server_flags| {
            let pod = bench.at(|p| p.pod, 40000);
            let (first, second) = (bench.at(|p| p.remote_pod, 8080), bench.at(|p| p.remote_pod, 8081));
            let frontend = bench.at(|p| p.cluster_ip, 80);
            bench.program(vec![bench.web(Cluster, &[(first, false)])]);
            let out = |flags| Frame::tcp(pod, frontend, flags);
            bench.pod_sends(&out(SYN).bytes());
            bench.wire_brings(&Frame::tcp(first, pod, SYN | ACK).bytes());
            bench.pod_sends(&out(ACK).bytes());
            bench.program(vec![bench.web(Cluster, &[(second, false)])]);
            // Until both sides are done, a SYN belongs to the old flow.
            let retransmitted = out(SYN).translated(pod, first).bytes();
            bench.pod_sends(&out(SYN).bytes()).expect(REDIRECT, &retransmitted, "forwarded_updated");
            bench.pod_sends(&out(client_flags).bytes());
            if let Some(flags) = server_flags {
                bench.wire_brings(&Frame::tcp(first, pod, flags).bytes());
            }
            let again = out(SYN).translated(pod, second).bytes();
            bench.pod_sends(&out(SYN).bytes()).expect(REDIRECT, &again, "forwarded_new");
        };
        each(|bench| closing(bench, last_from_client, last_from_server));
    }
}

#[test]
fn affinity_brings_a_client_back_to_its_backend() {
    each(|bench| {
        let backends: Vec<_> = (0..32).map(|i| (bench.at(|p| p.remote_pod, 8000 + i), false)).collect();
        let mut web = bench.web(Cluster, &backends);
        web.affinity_seconds = Some(60);
        bench.program(vec![web]);
        let frontend = bench.at(|p| p.cluster_ip, 80);
        let mut chosen = std::collections::BTreeSet::new();
        for port in 40000..40008 {
            let answer = bench.pod_sends(&Frame::tcp(bench.at(|p| p.pod, port), frontend, SYN).bytes());
            assert_eq!(answer.verdict, REDIRECT);
            let transport = answer.frame.len() - 20;
            chosen.insert(answer.frame[transport + 2..transport + 4].to_vec());
        }
        assert_eq!(chosen.len(), 1, "eight flows of one client, 32 backends");
    });
}

#[test]
fn a_new_flow_costs_a_known_number_of_lookups() {
    each(|bench| {
        let backend = bench.at(|p| p.remote_pod, 8080);
        bench.program(vec![bench.web(Cluster, &[(backend, false)])]);
        let syn = Frame::tcp(bench.at(|p| p.pod, 40000), bench.at(|p| p.cluster_ip, 80), SYN);
        let answer = bench.pod_sends(&syn.bytes());
        // Besides the fast path's one in the connection table: one frontend; one backend; the client's origin, and the route.
        let expected = [
            ("slow_backend_lookups".to_owned(), 1),
            ("slow_frontend_lookups".to_owned(), 1),
            ("slow_route_lookups".to_owned(), 2),
        ];
        assert_eq!(answer.lookups(), expected.into());
    });
}

#[test]
fn a_service_that_is_gone_leaves_its_address_alone() {
    each(|bench| {
        let backend = bench.at(|p| p.remote_pod, 8080);
        bench.program(vec![bench.web(Cluster, &[(backend, false)])]);
        bench.program(vec![]);
        let syn = Frame::tcp(bench.at(|p| p.pod, 40000), bench.at(|p| p.cluster_ip, 80), SYN).bytes();
        bench.pod_sends(&syn).expect(NEXT, &syn, "passed_unrelated");
    });
}
