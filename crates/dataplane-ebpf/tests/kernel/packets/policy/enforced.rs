//! Allowed, denied, and what no policy is asked about.

use dataplane::Dataplane as _;
use dataplane_ebpf::{EventKind, Point, Reason, asked_flags, event_flags, matched};
use model::{
    TrafficPolicy::Cluster,
    policy::{Action, Direction::Egress as Out, Direction::Ingress as In, L4Match, Peer, RuleId, Tier},
};

use super::{
    super::{NEXT, REDIRECT},
    EGRESS, FRIEND, INGRESS, POD, dropped, ends, enforce, enforcing, passed,
    table::{Table, allow, friend, rule, tcp},
    taken,
};
use crate::wire::{ACK, Frame, RST, SYN, icmp_error};

#[test]
fn an_isolated_pod_gets_what_a_rule_allows_by_every_way_to_it() {
    enforcing(|bench, events| {
        let (pod, remote, client) = ends(bench);
        let table = Table::open().isolated(In, 7, &[(friend(), &[(tcp(8080), allow(5))])]);
        enforce(bench, vec![], &table);
        let other = bench.at(|p| p.pod, 8081);
        passed(&bench.wire_brings(&Frame::tcp(remote, pod, SYN).bytes()));
        let [told] = taken(events)[..] else { panic!("one event") };
        assert_eq!((told.kind, told.ingress_rule, told.egress_rule), (EventKind::New as u8, 5, 0));
        assert_eq!(told.policy, asked_flags::INGRESS);
        assert_eq!(u16::from(told.ingress_match), matched::ROW | matched::PEER | matched::PORTS);
        dropped(&bench.wire_brings(&Frame::tcp(remote, other, SYN).bytes()), INGRESS);
        let [told] = taken(events)[..] else { panic!("one event") };
        assert_eq!(
            (told.kind, told.ingress_rule, told.point),
            (EventKind::Dropped as u8, 7, Point::FromWire as u8)
        );
        assert_eq!(
            (told.policy, told.ingress_match),
            (asked_flags::INGRESS | asked_flags::INGRESS_DENIED, 0)
        );
        assert_eq!(told.reason, Reason::DroppedPolicyIngress as u32);
        assert_eq!((told.source_identity, told.destination_identity, told.tcp_flags), (FRIEND, POD, SYN));
        dropped(&bench.wire_brings(&Frame::tcp(client, pod, SYN).bytes()), INGRESS);
        // The stack's way leads past the same question.
        dropped(&bench.stack_brings(&Frame::tcp(client, pod, SYN).bytes()), INGRESS);
        dropped(&bench.stack_brings(&Frame::udp(remote, pod).bytes()), INGRESS);
        let again = Frame::tcp(bench.at(|p| p.remote_pod, 40001), pod, SYN);
        assert_eq!(bench.stack_brings(&again.bytes()).verdict, NEXT);
        let counts = [5, 7].map(|rule| bench.plane.rule_count(RuleId(rule)).expect("count").0);
        // The tables are both families'.
        let times = if pod.is_ipv4() { 1 } else { 2 };
        assert_eq!(counts, [2 * times, 4 * times]);
        let read = bench.plane.enforced(&super::table::pod(), &table.0).expect("read").expect("it enforces");
        assert_eq!([5, 7].map(|rule| read.counts[&RuleId(rule)].packets), counts);
        let nobody = model::PodName { namespace: "test".into(), name: "nobody".into() };
        let nothing = bench.plane.enforced(&nobody, &table.0).expect("read").expect("it enforces");
        assert!(nothing.table.endpoints.is_empty(), "{nothing:?}");
        // What it sends is its own business.
        assert_eq!(bench.pod_sends(&Frame::tcp(bench.at(|p| p.pod, 555), client, SYN).bytes()).verdict, NEXT);
    });
}

#[test]
fn v1_a_service_is_judged_by_its_backend_and_the_backends_port() {
    enforcing(|bench, events| {
        let (_, remote, _) = ends(bench);
        let (from, frontend) = (bench.at(|p| p.pod, 40000), bench.at(|p| p.cluster_ip, 80));
        let services = || vec![bench.web(Cluster, &[(bench.at(|p| p.remote_pod, 8080), false)])];
        let services = [services(), services()];
        let [first, second] = services;
        let table = Table::open().isolated(Out, 7, &[(friend(), &[(tcp(80), allow(5))])]);
        enforce(bench, first, &table);
        dropped(&bench.pod_sends(&Frame::tcp(from, frontend, SYN).bytes()), EGRESS);
        let [told] = taken(events)[..] else { panic!("one event") };
        assert_eq!((told.source_identity, told.destination_identity, told.egress_rule), (POD, FRIEND, 7));
        assert_eq!(told.new_destination_port.get(), 8080, "the backend's");
        assert_eq!(told.flags & event_flags::TRANSLATED, event_flags::TRANSLATED);
        let table = Table::open().isolated(Out, 7, &[(friend(), &[(tcp(8080), allow(5))])]);
        enforce(bench, second, &table);
        let answer = bench.pod_sends(&Frame::tcp(from, frontend, SYN).bytes());
        assert_eq!(answer.verdict, REDIRECT);
        let [told] = taken(events)[..] else { panic!("one event") };
        assert_eq!((told.egress_rule, told.policy), (5, asked_flags::EGRESS));
        // As a socket sends it that was given its backend.
        let direct = bench.at(|p| p.remote_pod, 8080);
        passed(&bench.pod_sends(&Frame::tcp(bench.at(|p| p.pod, 40001), direct, SYN).bytes()));
        dropped(&bench.pod_sends(&Frame::tcp(bench.at(|p| p.pod, 40002), remote, SYN).bytes()), EGRESS);
    });
}

#[test]
fn c1_answers_pass_and_nothing_else_that_looks_like_one() {
    enforcing(|bench, _| {
        let (pod, remote, client) = ends(bench);
        let nothing = Table::open().isolated(In, 7, &[]);
        enforce(bench, vec![], &nothing);
        for (from, by_wire) in [(remote, true), (client, false), (client, true)] {
            let pod = std::net::SocketAddr::new(pod.ip(), pod.port() + u16::from(by_wire));
            dropped(&bench.stack_brings(&Frame::tcp(from, pod, ACK).bytes()), INGRESS);
            passed(&bench.pod_sends(&Frame::tcp(pod, from, SYN).bytes()));
            let answer = |bench: &mut super::Bench<'_>, frame: &Frame| match by_wire {
                true => bench.wire_brings(&frame.bytes()),
                false => bench.stack_brings(&frame.bytes()),
            };
            dropped(&answer(bench, &Frame::tcp(from, pod, SYN)), INGRESS);
            passed(&answer(bench, &Frame::tcp(from, pod, SYN | ACK)));
            passed(&bench.pod_sends(&Frame::tcp(pod, from, ACK).bytes()));
            passed(&answer(bench, &Frame::tcp(from, pod, ACK)));
            for _ in 0..2 {
                let sent = bench.pod_sends(&Frame::tcp(pod, from, ACK).bytes());
                assert_eq!(sent.reasons(), [("forwarded_established".to_owned(), 1)].into());
                assert_eq!(sent.lookups(), [].into());
                let got = answer(bench, &Frame::tcp(from, pod, ACK));
                assert_eq!(got.reasons(), [("forwarded_established".to_owned(), 1)].into());
            }
            passed(&answer(bench, &Frame::tcp(from, pod, RST)));
        }
        let (asks, resolver) = (bench.at(|p| p.pod, 5353), bench.at(|p| p.client, 53));
        dropped(&bench.stack_brings(&Frame::udp(resolver, asks).bytes()), INGRESS);
        passed(&bench.pod_sends(&Frame::udp(asks, resolver).bytes()));
        passed(&bench.stack_brings(&Frame::udp(resolver, asks).bytes()));
    });
}

#[test]
fn c6_errors_about_a_known_flow_pass_and_others_are_judged() {
    enforcing(|bench, _| {
        let plan = bench.plan;
        let closed = Table::open().isolated(In, 7, &[]).isolated(
            Out,
            8,
            &[(
                Peer::Anyone,
                &[(L4Match::Ports(model::Protocol::Udp, model::policy::PortPrefix::one(53)), allow(5))],
            )],
        );
        enforce(bench, vec![], &closed);
        let (asks, resolver) = (bench.at(|p| p.pod, 5353), bench.at(|p| p.client, 53));
        let question = Frame::udp(asks, resolver);
        let (kind, code) = plan.unreachable;
        let error = icmp_error((plan.node, plan.pod), 64, kind, code, &question.packet());
        dropped(&bench.stack_brings(&error), INGRESS);
        passed(&bench.pod_sends(&question.bytes()));
        passed(&bench.stack_brings(&error));
        let other = Frame::udp(bench.at(|p| p.pod, 5354), resolver);
        let error = icmp_error((plan.node, plan.pod), 64, kind, code, &other.packet());
        dropped(&bench.stack_brings(&error), INGRESS);

        let (request, reply) = if plan.pod.is_ipv4() { (8, 0) } else { (128, 129) };
        dropped(&bench.pod_sends(&icmp_error((plan.pod, plan.client), 64, request, 0, &[])), EGRESS);
        dropped(&bench.stack_brings(&icmp_error((plan.client, plan.pod), 64, request, 0, &[])), INGRESS);
        passed(&bench.stack_brings(&icmp_error((plan.client, plan.pod), 64, reply, 0, &[])));
        passed(&bench.pod_sends(&icmp_error((plan.pod, plan.client), 64, reply, 0, &[])));
        if plan.pod.is_ipv6() {
            for kind in [133, 135, 136, 143] {
                passed(&bench.pod_sends(&icmp_error((plan.pod, plan.client), 255, kind, 0, &[])));
            }
        }
    });
}

#[test]
fn h1_h2_the_node_reaches_its_pods_and_nobody_behind_its_address_does() {
    enforcing(|bench, _| {
        let (pod, _, client) = ends(bench);
        let node = bench.at(|p| p.node, 40000);
        let closed = Table::open().isolated(In, 7, &[]).isolated(Out, 8, &[]);
        enforce(bench, vec![], &closed);
        // Whatever address it has: a bridge's, perhaps.
        for from in [node, client] {
            assert_eq!(bench.host_sends_to_pod(&Frame::tcp(from, pod, SYN).bytes()).verdict, NEXT);
            passed(&bench.pod_sends(&Frame::tcp(pod, from, SYN | ACK).bytes()));
            passed(&bench.host_sends_to_pod(&Frame::tcp(from, pod, ACK).bytes()));
            passed(&bench.pod_sends(&Frame::tcp(pod, from, ACK).bytes()));
        }
        dropped(&bench.pod_sends(&Frame::tcp(pod, bench.at(|p| p.node, 80), SYN).bytes()), EGRESS);
        let masqueraded = bench.at(|p| p.node, 50000);
        dropped(&bench.stack_brings(&Frame::tcp(masqueraded, pod, SYN).bytes()), INGRESS);
    });
}

#[test]
fn h2_an_outsider_that_the_node_masquerades_is_not_the_node() {
    enforcing(|bench, _| {
        let (pod, _, client) = ends(bench);
        let service = bench.web(Cluster, &[(pod, true)]);
        enforce(bench, vec![service.clone()], &Table::open().isolated(In, 7, &[]));
        let vip = bench.at(|p| p.vip, 80);
        dropped(&bench.wire_brings(&Frame::tcp(client, vip, SYN).bytes()), INGRESS);
        // The node itself, by the same frontend.
        let answer = bench.host_sends(&Frame::tcp(bench.at(|p| p.node, 41000), vip, SYN).bytes());
        passed(&answer);
        assert!(answer.reasons().contains_key("forwarded_new"), "{:?}", answer.reasons());
        // An ipBlock of the node's address sees whoever has it.
        let id = model::IdentityId::local(3);
        let table = Table::open().prefix(&ipnet::IpNet::from(bench.plan.node), id).isolated(
            In,
            7,
            &[(Peer::Identity(id), &[(L4Match::Any, allow(5))])],
        );
        enforce(bench, vec![service], &table);
        passed(&bench.wire_brings(&Frame::tcp(client, vip, SYN).bytes()));
    });
}

#[test]
fn v2_a_pod_reaches_itself_through_a_service() {
    enforcing(|bench, events| {
        let (pod, ..) = ends(bench);
        let service = bench.web(Cluster, &[(pod, true)]);
        let closed = Table::open().isolated(In, 7, &[]).isolated(Out, 8, &[]);
        enforce(bench, vec![service.clone()], &closed);
        let (from, frontend) = (bench.at(|p| p.pod, 40000), bench.at(|p| p.cluster_ip, 80));
        passed(&bench.pod_sends(&Frame::tcp(from, frontend, SYN).bytes()));
        let [told] = taken(events)[..] else { panic!("one event") };
        assert_eq!(
            (told.policy, told.egress_rule, told.ingress_rule),
            (asked_flags::EGRESS | asked_flags::INGRESS, 0, 0)
        );
        // Not past the tier above.
        let admin =
            closed.ranked(In, Tier::Admin, &[(Peer::Pods, &[(L4Match::Any, rule(3, Action::Deny, 9))])]);
        enforce(bench, vec![service], &admin);
        dropped(&bench.pod_sends(&Frame::tcp(bench.at(|p| p.pod, 40001), frontend, SYN).bytes()), INGRESS);
        let [told] = taken(events)[..] else { panic!("one event") };
        let asked = asked_flags::EGRESS | asked_flags::INGRESS | asked_flags::INGRESS_DENIED;
        assert_eq!((told.policy, told.egress_rule, told.ingress_rule), (asked, 0, 9), "each end has its own");
        assert_eq!(u16::from(told.ingress_match), matched::ROW | matched::PEER);
    });
}
