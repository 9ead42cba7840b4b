//! What is told of flows: when they begin, go on and end, what is dropped and refused, by whom, and how much was lost.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use aya::programs::TestRunOptions;
use dataplane::Dataplane as _;
use dataplane_ebpf::{Config, Event, EventKind, Events, Point, Reason, Record, Telling, event_flags};
use ipnet::IpNet;
use model::{Changed, IdentityId, Snapshot, TrafficPolicy::Cluster};

use super::{Bench, ONE_PORT, on_a_node_with, small};
use crate::wire::{ACK, FIN, Frame, RST, SYN};

const POD: u32 = 300;
const BACKEND: u32 = 301;

/// So much told, and a test with the reader.
pub(super) fn telling(events: Telling, test: impl Fn(&mut Bench<'_>, &mut Events) + Sync) {
    let config = Config { events, masquerade_ports: Some(ONE_PORT), ..small() };
    on_a_node_with(config, &|bench| {
        let mut events = bench.plane.events().expect("events");
        test(bench, &mut events);
    });
}

pub(super) const HOURLY: Telling = Telling::Flows { every: Duration::from_secs(3600) };

pub(super) fn taken(events: &mut Events) -> Vec<Event> {
    let known = |record| match record {
        Record::Event(event) => event,
        other => panic!("{other:?}"),
    };
    std::iter::from_fn(|| events.take()).map(known).collect()
}

pub(super) fn kinds(events: &mut Events) -> Vec<u8> {
    taken(events).iter().map(|event| event.kind).collect()
}

/// The service with one remote backend, and who they are.
pub(super) fn program(bench: &mut Bench<'_>) {
    let backend = bench.at(|p| p.remote_pod, 8080);
    let services = vec![bench.web(Cluster, &[(backend, false)])];
    let row = |ip: IpAddr, id| (IpNet::from(ip), IdentityId::from_raw(id));
    let addresses = BTreeMap::from([row(bench.plan.pod, POD), row(bench.plan.remote_pod, BACKEND)]);
    let snapshot = Snapshot { addresses, ..bench.snapshot(services) };
    let applied = bench.plane.apply(&snapshot, &Changed::all(&snapshot)).expect("apply");
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
}

pub(super) fn address(words: [u32; 4], family: u8) -> IpAddr {
    match family {
        4 => IpAddr::from(words[0].to_ne_bytes()),
        6 => {
            let mut bytes = [0; 16];
            for (four, word) in bytes.chunks_mut(4).zip(words) {
                four.copy_from_slice(&word.to_ne_bytes());
            }
            IpAddr::from(bytes)
        }
        other => panic!("family {other}"),
    }
}

#[test]
fn a_flow_is_told_of_when_it_begins_and_when_it_ends_and_not_in_between() {
    telling(HOURLY, |bench, events| {
        program(bench);
        let (pod, frontend) = (bench.at(|p| p.pod, 40000), bench.at(|p| p.cluster_ip, 80));
        let backend = bench.at(|p| p.remote_pod, 8080);
        bench.pod_sends(&Frame::tcp(pod, frontend, SYN).bytes());
        let [begun] = taken(events)[..] else { panic!("one event") };
        assert_eq!((begun.kind, begun.point), (EventKind::New as u8, Point::FromPod as u8));
        assert_eq!((begun.reason, begun.tcp_flags, begun.protocol), (Reason::ForwardedNew as u32, SYN, 6));
        assert_eq!(begun.flags, event_flags::TRACKED | event_flags::TRANSLATED);
        assert_eq!((begun.source_identity, begun.destination_identity), (POD, BACKEND));
        assert_eq!((begun.interface, begun.packets, begun.policy), (bench.pod_link, 1, 0));
        assert!(begun.time > 0 && begun.revision > 0);
        let at = |words, port: u16| std::net::SocketAddr::new(address(words, begun.family), port);
        assert_eq!(at(begun.source, begun.source_port.get()), pod);
        assert_eq!(at(begun.destination, begun.destination_port.get()), frontend, "as it was addressed");
        assert_eq!(at(begun.new_destination, begun.new_destination_port.get()), backend);
        assert_eq!(at(begun.new_source, begun.new_source_port.get()), pod);

        bench.wire_brings(&Frame::tcp(backend, pod, SYN | ACK).bytes());
        let [answered] = taken(events)[..] else { panic!("one event") };
        assert_eq!((answered.kind, answered.point), (EventKind::New as u8, Point::FromWire as u8));
        assert_eq!((answered.tcp_flags, answered.packets), (SYN | ACK, 1));
        assert_eq!(answered.flags & event_flags::REPLY, event_flags::REPLY);
        assert_eq!(at(answered.new_source, answered.new_source_port.get()), frontend);
        for _ in 0..20 {
            bench.pod_sends(&Frame::tcp(pod, frontend, ACK).bytes());
            bench.wire_brings(&Frame::tcp(backend, pod, ACK).bytes());
        }
        assert_eq!(kinds(events), [] as [u8; 0]);
        for _ in 0..2 {
            bench.pod_sends(&Frame::tcp(pod, frontend, FIN | ACK).bytes());
        }
        let [half] = taken(events)[..] else { panic!("one event, however often it is sent") };
        assert_eq!((half.kind, half.tcp_flags, half.packets), (EventKind::Closed as u8, FIN | ACK, 22));
        bench.wire_brings(&Frame::tcp(backend, pod, FIN | ACK).bytes());
        let [ended] = taken(events)[..] else { panic!("one event") };
        assert_eq!((ended.kind, ended.point), (EventKind::Closed as u8, Point::FromWire as u8));
        assert_eq!(ended.flags & event_flags::REPLY, event_flags::REPLY);
        assert_eq!((ended.source_identity, ended.destination_identity), (BACKEND, POD));
        assert_eq!(ended.packets, 22, "this one included, of its direction");
        bench.pod_sends(&Frame::tcp(pod, frontend, RST).bytes());
        assert_eq!(kinds(events), [] as [u8; 0], "it ends once");
    });
}

#[test]
fn a_flow_that_goes_on_is_told_of_again() {
    telling(Telling::Flows { every: Duration::ZERO }, |bench, events| {
        program(bench);
        let (pod, frontend) = (bench.at(|p| p.pod, 40000), bench.at(|p| p.cluster_ip, 80));
        bench.pod_sends(&Frame::tcp(pod, frontend, SYN).bytes());
        bench.wire_brings(&Frame::tcp(bench.at(|p| p.remote_pod, 8080), pod, SYN | ACK).bytes());
        bench.pod_sends(&Frame::tcp(pod, frontend, ACK).bytes());
        taken(events);
        let (start, mut told, mut sent) = (Instant::now(), vec![], 0);
        while told.len() < 2 {
            assert!(start.elapsed() < Duration::from_secs(20), "waited in vain");
            let answer = bench.pod_sends(&Frame::tcp(pod, frontend, ACK).bytes());
            let steady = answer.reasons().contains_key("forwarded_established");
            let seen = taken(events);
            assert!(steady || seen.len() == 1, "off the fast path only to be told of");
            told.extend(seen);
            sent += 1;
        }
        assert!(told.iter().all(|event| event.kind == EventKind::Ongoing as u8), "{told:?}");
        assert!(told[0].packets < told[1].packets && sent > 2);
    });
}

#[test]
fn drops_and_refusals_are_told_of_with_their_reason_and_who_it_was() {
    telling(HOURLY, |bench, events| {
        program(bench);
        let (pod, frontend) = (bench.at(|p| p.pod, 0), bench.at(|p| p.cluster_ip, 80));
        let zero_port = Frame::tcp(pod, frontend, SYN).bytes();
        bench.pod_sends(&zero_port);
        let [dropped] = taken(events)[..] else { panic!("one event") };
        assert_eq!(dropped.kind, EventKind::Dropped as u8);
        assert_eq!((dropped.reason, dropped.flags), (Reason::DroppedZeroPort as u32, 0));
        assert_eq!(dropped.source_identity, POD);
        assert_eq!(address(dropped.destination, dropped.family), frontend.ip());

        bench.pod_sends(&zero_port[..zero_port.len() - 15]);
        let [dropped] = taken(events)[..] else { panic!("one event") };
        assert_eq!(dropped.kind, EventKind::Dropped as u8, "what is cut short");

        bench.program(vec![bench.web(Cluster, &[])]);
        bench.pod_sends(&Frame::tcp(bench.at(|p| p.pod, 40001), frontend, SYN).bytes());
        let [refused] = taken(events)[..] else { panic!("one event") };
        assert_eq!(refused.kind, EventKind::Refused as u8);
        assert_eq!((refused.reason, refused.source_identity), (Reason::RefusedTcp as u32, POD));
    });
}

#[test]
fn what_finds_no_room_is_counted_and_what_is_there_is_whole() {
    const PACKETS: u32 = 9000;
    telling(HOURLY, |bench, events| {
        program(bench);
        let total = |events: &Events| {
            let counts = events.counts().expect("counts");
            let (_, of_cpus) = &counts[EventKind::Dropped as usize];
            of_cpus.iter().fold((0, 0), |(offered, lost), one| (offered + one.offered, lost + one.lost))
        };
        let before = total(events);
        let frame = Frame::tcp(bench.at(|p| p.pod, 0), bench.at(|p| p.cluster_ip, 80), SYN).bytes();
        let options = TestRunOptions { data_in: Some(&frame), repeat: PACKETS, ..Default::default() };
        bench.plane.test_run("from_pod", options).expect("run");
        let there = taken(events);
        let (offered, lost) = total(events);
        assert_eq!(offered - before.0, u64::from(PACKETS));
        assert!(lost > before.1, "the ring is smaller");
        assert_eq!(there.len() as u64, offered - before.0 - (lost - before.1), "seen and lost are all");
        assert!(there.iter().all(|event| event.reason == Reason::DroppedZeroPort as u32));
    });
}

#[test]
fn nothing_is_told_where_nobody_asked() {
    telling(Telling::Nothing, |bench, events| {
        program(bench);
        let (pod, frontend) = (bench.at(|p| p.pod, 40000), bench.at(|p| p.cluster_ip, 80));
        bench.pod_sends(&Frame::tcp(pod, frontend, SYN).bytes());
        bench.pod_sends(&Frame::tcp(bench.at(|p| p.pod, 0), frontend, SYN).bytes());
        assert_eq!(events.take(), None);
        let counts = events.counts().expect("counts");
        assert!(counts.iter().all(|(_, cpus)| cpus.iter().all(|count| count.offered == 0)), "{counts:?}");
    });
}
