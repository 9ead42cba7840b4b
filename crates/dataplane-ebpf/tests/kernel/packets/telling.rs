//! How much is told at each level, and what is told of packets that have no entry: the stack's, and messages.

use dataplane_ebpf::{EventKind, Point, Reason, Telling, event_flags};

use super::{
    Bench,
    events::{HOURLY, kinds, program, taken, telling},
};
use crate::wire::{ACK, Body, FIN, Frame, SYN, icmp_error};

const NEW: u8 = EventKind::New as u8;
const ONGOING: u8 = EventKind::Ongoing as u8;
const CLOSED: u8 = EventKind::Closed as u8;

fn data(frame: Frame) -> Frame {
    let body = Body::Tcp { flags: ACK, sequence: 1, acknowledgment: 1, payload: b"four".to_vec() };
    Frame { body, ..frame }
}

/// SYN, SYN-ACK, two bare acknowledgements, one with data; what was told of each.
fn conversation(bench: &mut Bench<'_>, events: &mut dataplane_ebpf::Events) -> Vec<Vec<u8>> {
    program(bench);
    let (pod, frontend) = (bench.at(|p| p.pod, 40000), bench.at(|p| p.cluster_ip, 80));
    let mut told = vec![];
    bench.pod_sends(&Frame::tcp(pod, frontend, SYN).bytes());
    told.push(kinds(events));
    bench.wire_brings(&Frame::tcp(bench.at(|p| p.remote_pod, 8080), pod, SYN | ACK).bytes());
    told.push(kinds(events));
    for frame in
        [Frame::tcp(pod, frontend, ACK), Frame::tcp(pod, frontend, ACK), data(Frame::tcp(pod, frontend, ACK))]
    {
        let answer = bench.pod_sends(&frame.bytes());
        assert!(
            answer.reasons().keys().all(|reason| reason.starts_with("forwarded")),
            "{:?}",
            answer.counted
        );
        told.push(kinds(events));
    }
    told
}

#[test]
fn each_level_tells_what_it_says() {
    telling(Telling::Packets, |bench, events| {
        assert_eq!(conversation(bench, events), [[NEW], [NEW], [ONGOING], [ONGOING], [ONGOING]]);
    });
    telling(Telling::Substance, |bench, events| {
        assert_eq!(conversation(bench, events), [vec![NEW], vec![NEW], vec![], vec![], vec![ONGOING]]);
    });
    telling(HOURLY, |bench, events| {
        assert_eq!(conversation(bench, events), [vec![NEW], vec![NEW], vec![], vec![], vec![]]);
    });
}

#[test]
fn what_a_pod_sends_that_the_stack_takes_is_told_of_by_its_handshake() {
    telling(HOURLY, |bench, events| {
        program(bench);
        let (pod, world) = (bench.at(|p| p.pod, 40000), bench.at(|p| p.client, 443));
        for _ in 0..2 {
            bench.pod_sends(&Frame::tcp(pod, world, SYN).bytes());
            bench.pod_sends(&Frame::tcp(pod, world, SYN).bytes());
            bench.pod_sends(&Frame::tcp(pod, world, ACK).bytes());
            bench.pod_sends(&Frame::tcp(pod, world, FIN | ACK).bytes());
            bench.pod_sends(&Frame::tcp(pod, world, FIN | ACK).bytes());
            let [begun, ended] = taken(events)[..] else { panic!("two events, however often it is sent") };
            assert_eq!((begun.kind, ended.kind), (NEW, CLOSED));
            assert_eq!((begun.reason, begun.flags), (Reason::PassedUnrelated as u32, event_flags::OPENS));
            assert_eq!((ended.flags, ended.tcp_flags), (event_flags::OPENS, FIN | ACK));
        }
        bench.pod_sends(&Frame::udp(pod, world).bytes());
        bench.pod_sends(&Frame::udp(pod, world).bytes());
        let [asked] = taken(events)[..] else { panic!("one event") };
        assert_eq!((asked.kind, asked.flags, asked.protocol), (NEW, 0, 17));
        // What concerns no pod is nobody's business.
        bench.host_sends(&Frame::tcp(bench.at(|p| p.node, 40000), world, SYN).bytes());
        assert_eq!(kinds(events), [] as [u8; 0]);
    });
}

#[test]
fn a_message_is_told_of_once_with_its_type_and_code() {
    telling(HOURLY, |bench, events| {
        program(bench);
        let (pod, world) = (bench.plan.pod, bench.plan.client);
        let (request, reply, neighbour) = if pod.is_ipv4() { (8, 0, 10) } else { (128, 129, 135) };
        for _ in 0..3 {
            bench.pod_sends(&icmp_error((pod, world), 64, request, 7, b"ping"));
        }
        let [asked] = taken(events)[..] else { panic!("one event") };
        assert_eq!((asked.kind, asked.point), (NEW, Point::FromPod as u8));
        assert_eq!((asked.source_port.get(), asked.destination_port.get()), (u16::from(request), 7));
        assert_eq!(asked.protocol, if pod.is_ipv4() { 1 } else { 58 });
        let link = bench.pod_link;
        bench.run("to_pod", link, &icmp_error((world, pod), 64, reply, 0, b"ping"));
        let [answered] = taken(events)[..] else { panic!("one event") };
        assert_eq!((answered.point, answered.source_port.get()), (Point::ToPod as u8, u16::from(reply)));
        bench.pod_sends(&icmp_error((pod, world), 255, neighbour, 0, &[0; 16]));
        bench.wire_brings(&icmp_error((world, bench.plan.node), 64, request, 0, b"ping"));
        assert_eq!(kinds(events), [] as [u8; 0], "of no pod's flow");
    });
}

#[test]
fn a_record_says_what_became_of_the_packet_in_the_end() {
    telling(HOURLY, |bench, events| {
        program(bench);
        let (pod, frontend) = (bench.at(|p| p.pod, 40000), bench.at(|p| p.cluster_ip, 80));
        let body = Body::Tcp { flags: ACK, sequence: 1, acknowledgment: 1, payload: vec![0; 1600] };
        bench.pod_sends(&Frame { body, ..Frame::tcp(pod, frontend, SYN) }.bytes());
        let [told] = taken(events)[..] else { panic!("one event") };
        assert_eq!((told.kind, told.reason), (EventKind::Refused as u8, Reason::AnsweredTooBig as u32));
        bench.program(vec![bench.dns(&[])]);
        bench.pod_sends(&Frame::udp(pod, bench.at(|p| p.cluster_ip, 53)).bytes());
        let [told] = taken(events)[..] else { panic!("one event") };
        assert_eq!((told.kind, told.reason), (EventKind::Refused as u8, Reason::RefusedUdp as u32));
    });
}
