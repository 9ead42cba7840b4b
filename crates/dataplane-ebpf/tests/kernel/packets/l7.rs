//! What pods say is read only where they opted in, at one hook each, cut to size; packets go on as they would anyway.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use dataplane::Dataplane as _;
use dataplane_ebpf::{Config, EventKind, Events, L7_BYTES, L7Event, Point, Record, Telling, event_flags};
use model::{Changed, L7Visibility, ServicePort, TrafficPolicy::Cluster};

use super::{Answer, Bench, NEXT, ONE_PORT, events::HOURLY, on_a_node_with, small};
use crate::wire::{ACK, Body, FIN, Frame, SYN};

const NOTHING: L7Visibility = L7Visibility { dns: false, http: false };
const DNS: L7Visibility = L7Visibility { dns: true, http: false };
const HTTP: L7Visibility = L7Visibility { dns: false, http: true };
const REQUEST: &[u8] = b"GET /cart?user=7 HTTP/1.1\r\nHost: shop\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const QUESTION: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03web\0\0\x01\0\x01";

fn reading(test: impl Fn(&mut Bench<'_>, &mut Events) + Sync) {
    let config = Config { events: HOURLY, masquerade_ports: Some(ONE_PORT), ..small() };
    on_a_node_with(config, &|bench| {
        let mut events = bench.plane.events().expect("events");
        test(bench, &mut events);
    });
}

/// Programs the bench's state, its pod being open to this extent.
fn open(bench: &mut Bench<'_>, l7: L7Visibility, services: Vec<ServicePort>) {
    let mut snapshot = bench.snapshot(services);
    for endpoint in snapshot.endpoints.values_mut() {
        Arc::make_mut(endpoint).l7 = l7;
    }
    let applied = bench.plane.apply(&snapshot, &Changed::all(&snapshot)).expect("apply");
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
}

/// What was read since the last call.
fn read(events: &mut Events) -> Vec<(L7Event, Vec<u8>)> {
    std::iter::from_fn(|| events.take())
        .filter_map(|record| match record {
            Record::L7(event, payload) => Some((event, payload)),
            Record::Event(_) => None,
            Record::Unknown { version } => panic!("version {version}"),
        })
        .collect()
}

fn tcp(source: SocketAddr, destination: SocketAddr, flags: u8, payload: &[u8]) -> Frame {
    let body = Body::Tcp { flags, sequence: 1000, acknowledgment: 2000, payload: payload.to_vec() };
    Frame { body, ..Frame::tcp(source, destination, flags) }
}

fn udp(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Frame {
    Frame { body: Body::Udp { payload: payload.to_vec() }, ..Frame::udp(source, destination) }
}

/// A connection of the pod to the frontend, past its handshake; the backend's address.
fn connect(bench: &mut Bench<'_>, port: u16) -> (SocketAddr, SocketAddr, SocketAddr) {
    let (pod, frontend) = (bench.at(|p| p.pod, port), bench.at(|p| p.cluster_ip, 80));
    let backend = bench.at(|p| p.remote_pod, 8080);
    bench.pod_sends(&Frame::tcp(pod, frontend, SYN).bytes());
    bench.wire_brings(&Frame::tcp(backend, pod, SYN | ACK).bytes());
    bench.pod_sends(&Frame::tcp(pod, frontend, ACK).bytes());
    (pod, frontend, backend)
}

fn web(bench: &Bench<'_>) -> Vec<ServicePort> {
    vec![bench.web(Cluster, &[(bench.at(|p| p.remote_pod, 8080), false)])]
}

#[test]
fn start_lines_are_read_both_ways_and_the_packets_go_on_the_same() {
    reading(|bench, events| {
        let mut answers: Vec<Vec<Answer>> = vec![];
        for (port, l7) in [(40000, NOTHING), (40001, HTTP), (40002, DNS)] {
            let services = web(bench);
            open(bench, l7, services);
            let (pod, frontend, backend) = connect(bench, port);
            assert_eq!(read(events), [], "a handshake says nothing");
            let there = bench.pod_sends(&tcp(pod, frontend, ACK, REQUEST).bytes());
            let asked = read(events);
            let back = bench.wire_brings(&tcp(backend, pod, ACK, RESPONSE).bytes());
            let answered = read(events);
            let rest = bench.pod_sends(&tcp(pod, frontend, ACK, b"not a start line at all").bytes());
            assert_eq!(read(events), []);
            answers.push(vec![there, back, rest]);
            if l7 != HTTP {
                assert_eq!((asked, answered), (vec![], vec![]), "{l7:?}");
                continue;
            }
            let ([(asked, request)], [(answered, response)]) = (&asked[..], &answered[..]) else {
                panic!("{asked:?} {answered:?}");
            };
            assert_eq!((&request[..], &response[..]), (REQUEST, RESPONSE));
            assert_eq!((asked.sequence, asked.acknowledgment), (1000, 2000));
            assert_eq!((asked.length, answered.length), (REQUEST.len() as u32, RESPONSE.len() as u32));
            let (asked, answered) = (asked.event, answered.event);
            assert_eq!((asked.kind, asked.point), (EventKind::L7 as u8, Point::FromPod as u8));
            assert_eq!(answered.point, Point::FromWire as u8);
            assert_eq!((asked.destination_port.get(), asked.new_destination_port.get()), (80, 8080));
            assert_eq!((answered.source_port.get(), answered.new_source_port.get()), (8080, 80));
            assert_eq!(asked.flags, event_flags::TRACKED | event_flags::TRANSLATED);
            assert_eq!(answered.flags & event_flags::REPLY, event_flags::REPLY);
            assert!(asked.time > 0 && asked.time <= answered.time);
        }
        let [closed, opened, other] = &answers[..] else { panic!("three runs") };
        for (closed, opened) in closed.iter().zip(opened) {
            assert_eq!(opened.verdict, closed.verdict);
            assert_eq!(opened.reasons(), closed.reasons(), "counted the same");
            assert_eq!(opened.frame[..34], closed.frame[..34], "the same but for the port");
            assert_eq!(closed.lookups(), BTreeMap::new(), "on the fast path");
            assert!(!opened.lookups().is_empty(), "off it");
        }
        assert!(other.iter().all(|answer| answer.lookups().is_empty()), "opted in to something else");
    });
}

/// Annotations come and go while connections live on.
#[test]
fn an_open_connection_follows_its_pod() {
    reading(|bench, events| {
        let services = web(bench);
        open(bench, NOTHING, services.clone());
        let (pod, frontend, backend) = connect(bench, 40000);
        for (l7, expected) in [(HTTP, 2), (NOTHING, 0), (HTTP, 2), (DNS, 0)] {
            open(bench, l7, services.clone());
            // The first packet finds out, the second has it from the entry.
            for _ in 0..2 {
                bench.pod_sends(&tcp(pod, frontend, ACK, REQUEST).bytes());
                bench.wire_brings(&tcp(backend, pod, ACK, RESPONSE).bytes());
                assert_eq!(read(events).len(), expected, "{l7:?}");
            }
        }
        open(bench, HTTP, services);
        bench.pod_sends(&tcp(pod, frontend, FIN | ACK, REQUEST).bytes());
        assert_eq!(read(events).len(), 1, "with the last packet, too");
    });
}

#[test]
fn no_more_than_so_much_is_copied_and_losses_are_counted() {
    reading(|bench, events| {
        let services = web(bench);
        open(bench, HTTP, services);
        let (pod, frontend, _) = connect(bench, 40000);
        let mut long = REQUEST.to_vec();
        for length in [REQUEST.len(), L7_BYTES - 1, L7_BYTES, L7_BYTES + 1, 1400] {
            long.resize(length, b'x');
            bench.pod_sends(&tcp(pod, frontend, ACK, &long).bytes());
            let [(event, payload)] = &read(events)[..] else { panic!("one record") };
            assert_eq!(event.length as usize, length);
            assert_eq!(payload[..], long[..length.min(L7_BYTES)]);
        }
        let frame = tcp(pod, frontend, ACK, &long).bytes();
        let offered = |events: &Events| {
            let counts = events.counts().expect("counts");
            let (kind, of_cpus) = &counts[EventKind::L7 as usize];
            assert_eq!(*kind, EventKind::L7);
            of_cpus.iter().fold((0, 0), |(offered, lost), one| (offered + one.offered, lost + one.lost))
        };
        let before = offered(events);
        for _ in 0..2000 {
            bench.pod_sends(&frame);
        }
        let after = offered(events);
        assert_eq!(after.0 - before.0, 2000);
        assert!(after.1 > before.1, "the ring is smaller");
        assert_eq!(read(events).len() as u64, 2000 - (after.1 - before.1), "seen and lost are all");
    });
}

/// A request that the way does not take is answered with what fits, and never got there.
#[test]
fn what_is_not_sent_on_is_not_told() {
    reading(|bench, events| {
        let services = web(bench);
        open(bench, HTTP, services);
        let (pod, frontend, _) = connect(bench, 40000);
        let mut long = REQUEST.to_vec();
        long.resize(1600, b'x');
        let answer = bench.pod_sends(&tcp(pod, frontend, ACK, &long).bytes());
        assert_eq!(answer.reasons(), [("answered_too_big".to_owned(), 1)].into());
        assert_eq!(read(events), []);
    });
}

#[test]
fn dns_is_read_at_its_port_by_either_protocol_and_only_whole_by_tcp() {
    reading(|bench, events| {
        let (resolver, served) = (bench.at(|p| p.remote_pod, 53), bench.at(|p| p.remote_pod, 5353));
        let dns = bench.dns(&[(served, false)]);
        open(bench, DNS, vec![dns]);
        let (pod, frontend) = (bench.at(|p| p.pod, 40000), bench.at(|p| p.cluster_ip, 53));
        for _ in 0..2 {
            bench.pod_sends(&udp(pod, frontend, QUESTION).bytes());
            bench.wire_brings(&udp(served, pod, QUESTION).bytes());
            let [(asked, question), (answered, answer)] = &read(events)[..] else { panic!("two records") };
            assert_eq!((&question[..], &answer[..]), (QUESTION, QUESTION));
            assert_eq!((asked.event.protocol, asked.sequence), (17, 0));
            assert_eq!(answered.event.flags & event_flags::REPLY, event_flags::REPLY);
        }
        bench.pod_sends(&udp(pod, frontend, &QUESTION[..11]).bytes());
        assert_eq!(read(events), [], "too short for anything");
        bench.pod_sends(&udp(pod, bench.at(|p| p.remote_pod, 54), QUESTION).bytes());
        assert_eq!(read(events), [], "another port");

        let mut segment = (QUESTION.len() as u16).to_be_bytes().to_vec();
        segment.extend(QUESTION);
        for (payload, expected) in [(&segment[..], 1), (&segment[..segment.len() - 1], 0), (REQUEST, 0)] {
            bench.pod_sends(&tcp(pod, resolver, SYN, b"").bytes());
            bench.pod_sends(&tcp(pod, resolver, ACK, payload).bytes());
            assert_eq!(read(events).len(), expected, "{payload:?}");
        }
    });
}

/// What a pod and the stack exchange has no entry: what leaves for the world or for its own node, and what comes from there.
#[test]
fn what_no_flow_tells_of_is_read_at_the_pod() {
    reading(|bench, events| {
        let (pod, world) = (bench.at(|p| p.pod, 40000), bench.at(|p| p.client, 53));
        let request = udp(pod, world, QUESTION).bytes();
        let answer = udp(world, pod, QUESTION).bytes();
        for (l7, expected) in [(NOTHING, 0), (HTTP, 0), (DNS, 1), (NOTHING, 0)] {
            open(bench, l7, vec![]);
            let sent = bench.pod_sends(&request);
            sent.expect(NEXT, &request, "passed_unrelated");
            let asked = read(events);
            let got = bench.run("to_pod", bench.pod_link, &answer);
            got.expect(NEXT, &answer, "passed_unrelated");
            let answered = read(events);
            assert_eq!((asked.len(), answered.len()), (expected, expected), "{l7:?}");
            for (event, _) in asked.iter().chain(&answered) {
                assert_eq!(event.event.flags, 0, "no entry");
            }
        }
    });
}

#[test]
fn without_events_nothing_is_read() {
    let config = Config { events: Telling::Nothing, masquerade_ports: Some(ONE_PORT), ..small() };
    on_a_node_with(config, &|bench| {
        let mut events = bench.plane.events().expect("events");
        let services = web(bench);
        open(bench, HTTP, services);
        let (pod, frontend, _) = connect(bench, 40000);
        let answer = bench.pod_sends(&tcp(pod, frontend, ACK, REQUEST).bytes());
        assert_eq!((events.take(), answer.lookups()), (None, BTreeMap::new()));
    });
}
