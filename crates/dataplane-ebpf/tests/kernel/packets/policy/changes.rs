//! When what is allowed changes: at once, for flows that are open too, and for nobody else.

use std::net::SocketAddr;

use dataplane::{Dataplane as _, Key};
use dataplane_ebpf::{Config, EbpfDataplane, EventKind, Sizes, asked_flags, event_flags};
use model::{
    Changed, IdentityId,
    policy::{Action, Direction::Egress as Out, Direction::Ingress as In, L4Match, Peer, RuleId, Tier},
};

use super::{
    super::{NEXT, ONE_PORT, counters, on_a_node_with, small},
    EGRESS, INGRESS, change, dropped, ends, enforce, enforcing, identities, passed, snapshot,
    table::{Table, allow, friend, pod, rule, tcp},
    taken,
};
use crate::{
    space::PinFolder,
    wire::{ACK, Frame, SYN},
};

#[test]
fn c3_a_changed_policy_reaches_open_flows_and_spares_the_others() {
    enforcing(|bench, events| {
        let (pod, remote, _) = ends(bench);
        let other = bench.at(|p| p.pod, 9090);
        let both =
            Table::open().isolated(In, 7, &[(friend(), &[(tcp(8080), allow(5)), (tcp(9090), allow(6))])]);
        let one = Table::open().isolated(In, 7, &[(friend(), &[(tcp(9090), allow(6))])]);
        enforce(bench, vec![], &both);
        for pod in [pod, other] {
            passed(&bench.wire_brings(&Frame::tcp(remote, pod, SYN).bytes()));
            passed(&bench.pod_sends(&Frame::tcp(pod, remote, SYN | ACK).bytes()));
            passed(&bench.wire_brings(&Frame::tcp(remote, pod, ACK).bytes()));
        }
        change(bench, &both, &one);
        taken(events);
        for _ in 0..3 {
            dropped(&bench.wire_brings(&Frame::tcp(remote, pod, ACK).bytes()), INGRESS);
        }
        let told = taken(events);
        assert!(told.len() == 3 && told.iter().all(|event| event.kind == EventKind::Dropped as u8));
        // What it answers does not pass either.
        dropped(&bench.pod_sends(&Frame::tcp(pod, remote, ACK).bytes()), INGRESS);
        passed(&bench.pod_sends(&Frame::tcp(other, remote, ACK).bytes()));
        passed(&bench.wire_brings(&Frame::tcp(remote, other, ACK).bytes()));
        let steady = bench.wire_brings(&Frame::tcp(remote, other, ACK).bytes());
        assert_eq!(steady.reasons(), [("forwarded_established".to_owned(), 1)].into());
        change(bench, &one, &both);
        passed(&bench.wire_brings(&Frame::tcp(remote, pod, ACK).bytes()));
        passed(&bench.pod_sends(&Frame::tcp(pod, remote, ACK).bytes()));
        let steady = bench.wire_brings(&Frame::tcp(remote, pod, ACK).bytes());
        assert_eq!(steady.reasons(), [("forwarded_established".to_owned(), 1)].into());
        assert_eq!(steady.lookups(), [].into(), "one lookup for an open flow, with policies or without");
    });
}

#[test]
fn what_was_decided_about_two_ends_is_counted_told_of_and_forgotten_with_the_revision() {
    enforcing(|bench, events| {
        let (pod, remote, _) = ends(bench);
        let denied = Table::open().isolated(In, 7, &[(friend(), &[(tcp(9090), allow(6))])]);
        let allowed = Table::open().isolated(In, 7, &[(friend(), &[(tcp(8080), allow(5))])]);
        enforce(bench, vec![], &denied);
        let before = bench.plane.rule_count(RuleId(7)).expect("count").0;
        let mut told = vec![];
        for (port, asks) in [(40000, true), (40000, false), (40001, false)] {
            let from = SocketAddr::new(remote.ip(), port);
            let answer = bench.wire_brings(&Frame::tcp(from, pod, SYN).bytes());
            dropped(&answer, INGRESS);
            assert_eq!(answer.lookups().contains_key("slow_policy_lookups"), asks, "{port}");
            let [event] = taken(events)[..] else { panic!("one event") };
            told.push((
                event.ingress_rule,
                event.source_identity,
                event.destination_identity,
                event.new_destination,
            ));
        }
        assert!(told.iter().all(|event| *event == told[0]) && told[0].0 == 7, "{told:?}");
        assert_eq!(bench.plane.rule_count(RuleId(7)).expect("count").0, before + 3);
        // Neither another port nor another sender is meant.
        passed(&bench.wire_brings(&Frame::tcp(remote, bench.at(|p| p.pod, 9090), SYN).bytes()));
        change(bench, &denied, &allowed);
        taken(events);
        let allowed_before = bench.plane.rule_count(RuleId(5)).expect("count").0;
        for (port, asks) in [(40000, true), (40001, false)] {
            let from = SocketAddr::new(remote.ip(), port);
            let answer = bench.wire_brings(&Frame::tcp(from, pod, SYN).bytes());
            passed(&answer);
            assert_eq!(answer.lookups().contains_key("slow_policy_lookups"), asks, "{port}");
            let [event] = taken(events)[..] else { panic!("one event") };
            assert_eq!((event.kind, event.ingress_rule), (EventKind::New as u8, 5));
        }
        assert_eq!(bench.plane.rule_count(RuleId(5)).expect("count").0, allowed_before + 2);
        dropped(&bench.wire_brings(&Frame::tcp(bench.at(|p| p.client, 40000), pod, SYN).bytes()), INGRESS);
        change(bench, &allowed, &denied);
        dropped(&bench.wire_brings(&Frame::tcp(remote, pod, ACK).bytes()), INGRESS);
        let from = SocketAddr::new(remote.ip(), 40002);
        dropped(&bench.wire_brings(&Frame::tcp(from, pod, SYN).bytes()), INGRESS);
    });
}

#[test]
fn c3_l5_another_identity_reaches_open_flows() {
    enforcing(|bench, _| {
        let (pod, remote, _) = ends(bench);
        let table = Table::open().isolated(In, 7, &[(friend(), &[(L4Match::Any, allow(5))])]);
        enforce(bench, vec![], &table);
        passed(&bench.wire_brings(&Frame::tcp(remote, pod, SYN).bytes()));
        let old = snapshot(bench, vec![], table.0.clone());
        let mut new = old.clone();
        let address = ipnet::IpNet::from(bench.plan.remote_pod);
        new.addresses.insert(address, IdentityId::from_raw(999));
        assert!(new.changed_since(&old).is_addresses_only());
        bench.plane.apply(&new, &new.changed_since(&old)).expect("apply");
        bench.counters = counters(bench.plane);
        dropped(&bench.wire_brings(&Frame::tcp(remote, pod, ACK).bytes()), INGRESS);
        assert!(identities(bench).contains_key(&address));
    });
}

#[test]
fn l1_a_pod_of_which_nothing_is_known_gets_and_sends_nothing() {
    enforcing(|bench, _| {
        let (to, remote, client) = ends(bench);
        enforce(bench, vec![], &Table::open());
        passed(&bench.wire_brings(&Frame::tcp(remote, to, SYN).bytes()));
        let mut gone = Table::open();
        gone.0.endpoints.remove(&pod());
        change(bench, &Table::open(), &gone);
        dropped(&bench.wire_brings(&Frame::tcp(remote, to, ACK).bytes()), INGRESS);
        dropped(&bench.pod_sends(&Frame::tcp(to, client, SYN).bytes()), EGRESS);
        let node = bench.at(|p| p.node, 40000);
        assert_eq!(bench.host_sends_to_pod(&Frame::tcp(node, to, SYN).bytes()).verdict, NEXT);
        change(bench, &gone, &Table::open());
        passed(&bench.pod_sends(&Frame::tcp(to, client, SYN).bytes()));
    });
}

#[test]
fn an_audited_pod_is_told_of_and_nothing_else() {
    enforcing(|bench, events| {
        let (pod, remote, _) = ends(bench);
        enforce(bench, vec![], &Table::open().isolated(In, 7, &[]).audited());
        passed(&bench.wire_brings(&Frame::tcp(remote, pod, SYN).bytes()));
        let [told] = taken(events)[..] else { panic!("one event") };
        assert_eq!((told.kind, told.ingress_rule), (EventKind::New as u8, 7));
        assert_eq!(told.policy, asked_flags::INGRESS | asked_flags::INGRESS_DENIED);
        assert_eq!(told.flags & event_flags::AUDITED, event_flags::AUDITED);
        // An open flow that a new policy would stop is told of by its next packet, and once.
        let open = Table::open().audited();
        change(bench, &Table::open().isolated(In, 7, &[]).audited(), &open);
        passed(&bench.wire_brings(&Frame::tcp(remote, pod, ACK).bytes()));
        assert_eq!(taken(events), []);
        change(bench, &open, &Table::open().isolated(In, 8, &[]).audited());
        for _ in 0..3 {
            passed(&bench.wire_brings(&Frame::tcp(remote, pod, ACK).bytes()));
        }
        let [told] = taken(events)[..] else { panic!("one event") };
        assert_eq!((told.kind, told.ingress_rule), (EventKind::Ongoing as u8, 8));
        assert_eq!(told.policy, asked_flags::INGRESS | asked_flags::INGRESS_DENIED);
    });
}

#[test]
fn policies_that_are_off_ask_nobody_and_track_nothing() {
    on_a_node_with(Config { masquerade_ports: Some(ONE_PORT), ..small() }, &|bench| {
        let (pod, remote, client) = ends(bench);
        enforce(bench, vec![], &Table::open().isolated(In, 7, &[]).isolated(Out, 8, &[]));
        passed(&bench.wire_brings(&Frame::tcp(remote, pod, SYN).bytes()));
        let sent = bench.pod_sends(&Frame::tcp(pod, client, SYN).bytes());
        assert_eq!(sent.reasons(), [("passed_unrelated".to_owned(), 1)].into());
    });
}

#[test]
fn l10_a_full_table_allows_nothing_new_keeps_what_is_there_and_says_so() {
    let sizes = Sizes { policy_peers: 3, ..Sizes::default() };
    let config = Config { policy: true, sizes, masquerade_ports: Some(ONE_PORT), ..small() };
    on_a_node_with(config, &|bench| {
        let (to, remote, client) = ends(bench);
        let id = |number: u32| Peer::Identity(IdentityId::from_raw(1000 + number));
        let any: &[_] = &[(L4Match::Any, allow(5))];
        let small = Table::open().isolated(In, 7, &[(friend(), any), (id(0), any)]);
        enforce(bench, vec![], &small);
        passed(&bench.wire_brings(&Frame::tcp(remote, to, SYN).bytes()));
        let large = small.clone().isolated(In, 7, &[(id(1), any), (id(2), any), (Peer::Anyone, any)]);
        let (old, new) = (snapshot(bench, vec![], small.0.clone()), snapshot(bench, vec![], large.0.clone()));
        let applied = bench.plane.apply(&new, &new.changed_since(&old)).expect("apply");
        bench.counters = counters(bench.plane);
        let error = &applied.failed[&Key::Policy];
        assert_eq!(format!("{error}: {}", error.source), "program policies in PEERS: the table is full");
        let fill = bench.plane.maps().into_iter().find(|map| map.name == "peers").expect("status");
        assert_eq!((fill.entries, fill.capacity), (3, 3));
        assert!(fill.refused > 0);
        passed(&bench.wire_brings(&Frame::tcp(remote, to, ACK).bytes()));
        dropped(&bench.wire_brings(&Frame::tcp(client, to, SYN).bytes()), INGRESS);
        // A list that may deny is used whole or not at all.
        let deny: &[_] = &[(L4Match::Any, rule(1, Action::Deny, 9))];
        let ranked = small.clone().ranked(In, Tier::Admin, &[(id(1), deny), (id(2), deny), (friend(), deny)]);
        let old = new;
        let new = snapshot(bench, vec![], ranked.0.clone());
        let applied = bench.plane.apply(&new, &new.changed_since(&old)).expect("apply");
        assert!(applied.failed.contains_key(&Key::Endpoint(pod())), "{:?}", applied.failed);
        bench.counters = counters(bench.plane);
        passed(&bench.wire_brings(&Frame::tcp(remote, to, ACK).bytes()));
        // Room again: what failed is tried again.
        let old = new;
        let mut new = snapshot(bench, vec![], small.0.clone());
        new.policy.peers.retain(|key, _| key.peer == friend());
        let mut changed = new.changed_since(&old);
        changed.policy.again = true;
        let applied = bench.plane.apply(&new, &changed).expect("apply");
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    });
}

#[test]
fn l9_a_restarted_agent_enforces_from_the_first_packet_on_and_gives_no_number_twice() {
    let pins = PinFolder::new();
    let config = Config { policy: true, masquerade_ports: Some(ONE_PORT), ..small() };
    on_a_node_with(config.clone(), &|bench| {
        let (to, remote, client) = ends(bench);
        let config = Config { bpffs: pins.path().to_owned(), uplinks: vec![], ..config.clone() };
        let id = IdentityId::local(3);
        let cidr = ipnet::IpNet::from(bench.plan.client);
        let many: &[_] = &[(tcp(8080), allow(5)), (tcp(8443), allow(6))];
        let table =
            Table::open().prefix(&cidr, id).isolated(In, 7, &[(friend(), many), (Peer::Identity(id), many)]);
        let wanted = snapshot(bench, vec![], table.0.clone());
        let mut first = EbpfDataplane::open(config.clone()).expect("open");
        first.apply(&wanted, &Changed::all(&wanted)).expect("apply");
        drop(first);
        let mut second = EbpfDataplane::open(config).expect("open again");
        let numbers = second.first_numbers();
        let last = table.0.ports.keys().last().expect("ports").0;
        assert_eq!((numbers.list.0, numbers.ports.0, numbers.prefix), (3, last + 1, 4));
        assert_eq!(numbers.prefixes, [(cidr, id)].into());
        let mut enforced = super::Bench {
            plan: bench.plan,
            uplink: bench.uplink,
            pod_link: bench.pod_link,
            tunnel: None,
            counters: counters(&second),
            plane: &mut second,
        };
        passed(&enforced.wire_brings(&Frame::tcp(remote, to, SYN).bytes()));
        passed(&enforced.wire_brings(&Frame::tcp(client, to, SYN).bytes()));
        dropped(&enforced.wire_brings(&Frame::udp(remote, to).bytes()), INGRESS);
        // Nobody's policy is known yet: it stays as it was.
        let empty = snapshot(&enforced, vec![], model::PolicyTable::default());
        enforced.plane.apply(&empty, &Changed::all(&empty)).expect("apply");
        enforced.counters = counters(enforced.plane);
        dropped(&enforced.wire_brings(&Frame::udp(remote, to).bytes()), INGRESS);
        passed(&enforced.wire_brings(&Frame::tcp(remote, to, ACK).bytes()));
        enforce(&mut enforced, vec![], &Table::open());
        passed(&enforced.wire_brings(&Frame::udp(remote, to).bytes()));
        let fill = enforced.plane.maps();
        let entries = |name: &str| fill.iter().find(|map| map.name == name).map(|map| map.entries);
        assert_eq!((entries("peers"), entries("ports"), entries("lists")), (Some(0), Some(0), Some(0)));
        second.clean_up().expect("clean up");
    });
}
