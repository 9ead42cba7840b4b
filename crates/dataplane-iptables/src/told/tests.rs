use std::net::IpAddr;

use model::{
    policy::RuleId,
    told::{Moment, Side, Stop, Stopped, Tracked, Traffic, Transport, Tuple},
};

use super::{
    Numbers,
    stopped::{self, Logged},
    tracked,
};
use crate::kernel::netlink::{Message, attribute, messages};

/// The datagrams of one name, in the order in which they came.
fn captured(name: &str) -> Vec<Vec<u8>> {
    let lines = include_str!("captured.txt").lines().filter_map(|line| line.split_once(' '));
    let byte =
        |hex: &[u8]| u8::from_str_radix(std::str::from_utf8(hex).expect("ASCII"), 16).expect("hexadecimal");
    let bytes = |hex: &str| hex.as_bytes().chunks(2).map(byte).collect::<Vec<_>>();
    let found: Vec<_> = lines.filter(|(of, _)| *of == name).map(|(_, hex)| bytes(hex)).collect();
    assert!(!found.is_empty(), "{name}");
    found
}

fn tracked_of(name: &str) -> Vec<Tracked> {
    let datagrams = captured(name);
    datagrams.iter().flat_map(|bytes| messages(bytes)).filter_map(tracked::read).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

#[test]
fn the_states_of_a_tcp_flow_are_its_moments() {
    for (name, addresses, ports, traffic) in [
        (
            "tcp4",
            ["10.128.0.11", "10.24.0.1", "10.20.0.1"],
            [38_170, 10_036],
            Traffic { packets: 8, bytes: 446 },
        ),
        (
            "tcp6",
            ["fd00:128::11", "fd00:24::1", "fd00:20::1"],
            [52_460, 38_626],
            Traffic { packets: 8, bytes: 609 },
        ),
    ] {
        let told = tracked_of(name);
        let moments: Vec<_> = told.iter().map(|tracked| tracked.moment).collect();
        assert_eq!(
            moments,
            [
                Moment::Began { syn: true },
                Moment::Answered,
                Moment::Closing { from: Some(Side::Server) },
                Moment::Closed,
                Moment::Ended { refused: false },
            ]
        );
        let [client, web, backend] = addresses.map(ip);
        let [client_port, seen_port] = ports;
        for tracked in &told {
            let original = Transport::Tcp { source: client_port, destination: 80 };
            assert_eq!(tracked.original, Tuple { source: client, destination: web, transport: original });
            let reply = Transport::Tcp { source: 8080, destination: seen_port };
            assert_eq!(tracked.reply, Tuple { source: backend, destination: backend, transport: reply });
            let ended = tracked.moment == Moment::Ended { refused: false };
            assert_eq!(tracked.traffic, ended.then_some(traffic), "{tracked:?}");
        }
    }
}

#[test]
fn a_udp_flow_is_answered_once() {
    let moments: Vec<_> = tracked_of("udp6").into_iter().map(|tracked| tracked.moment).collect();
    assert_eq!(moments, [Moment::Began { syn: false }, Moment::Answered, Moment::Ended { refused: false }]);
}

fn logged(name: &str) -> Logged {
    let datagrams = captured(name);
    stopped::read(messages(&datagrams[0]).next().expect("a message"), |_| None)
}

#[test]
fn a_logged_packet_says_who_sent_it_where_and_why_it_was_stopped() {
    let tcp = |source| Transport::Tcp { source, destination: 80 };
    let v4 = Tuple { source: ip("10.128.0.11"), destination: ip("203.0.113.7"), transport: tcp(41_314) };
    let stopped =
        Stopped { why: Stop::SourceRange, rule: None, tuple: Some(v4), tcp_flags: 2, device: Some(3) };
    assert_eq!(logged("range4"), Logged { sequence: Some(3), stopped: Some(stopped) });
    let refused = logged("refused6").stopped.expect("of ours");
    assert_eq!((refused.why, refused.tcp_flags, refused.device), (Stop::NoEndpoints, 2, Some(3)));
    let tuple = refused.tuple.expect("headers");
    assert_eq!((tuple.source, tuple.destination), (ip("fd00:128::11"), ip("fd00:24::1")));
}

/// A logged packet of `bytes` with the prefix of a rule.
fn with(prefix: &str, bytes: &[u8]) -> Logged {
    let attributes = [attribute(10, &[prefix.as_bytes(), &[0]].concat()), attribute(9, bytes)].concat();
    let number = |digest: &str| (digest == "ABC").then_some(RuleId(7));
    stopped::read(Message { kind: stopped::PACKET, flags: 0, attributes: &attributes }, number)
}

#[test]
fn a_policys_rule_is_told_of_where_it_is_known() {
    let told = |prefix| with(prefix, &[]).stopped.map(|stopped| (stopped.why, stopped.rule));
    assert_eq!(told("dropped_policy ABC"), Some((Stop::Policy, Some(RuleId(7)))));
    assert_eq!(told("audited_policy XYZ"), Some((Stop::Audited, None)));
    assert_eq!(told("dropped_policy"), Some((Stop::Policy, None)));
    assert_eq!(told("dropped"), None);
}

#[test]
fn what_cannot_be_read_is_left_out() {
    let datagram = &captured("range4")[0];
    let packet = &datagram[datagram.len() - 60..];
    let tuple = |bytes: &[u8]| with("dropped_invalid", bytes).stopped.expect("of ours").tuple;
    assert!(matches!(tuple(packet).expect("headers").transport, Transport::Tcp { .. }));
    assert_eq!(tuple(&packet[..30]).expect("addresses").transport, Transport::Other(6));
    assert_eq!((tuple(&packet[..19]), tuple(&[])), (None, None));
    let mut later_fragment = packet.to_vec();
    later_fragment[6..8].copy_from_slice(&[0, 100]);
    assert_eq!(tuple(&later_fragment).expect("addresses").transport, Transport::Other(6));
    let mut sctp = packet.to_vec();
    sctp[9] = 132;
    assert!(matches!(tuple(&sctp).expect("headers").transport, Transport::Sctp { destination: 80, .. }));
    assert_eq!(with("somebody else", packet).stopped, None);
}

#[test]
fn no_garbage_is_taken_for_a_flow() {
    for name in ["tcp4", "tcp6", "udp6", "range4", "refused6"] {
        for datagram in captured(name) {
            for length in 0..datagram.len() {
                for message in messages(&datagram[..length]) {
                    assert_eq!(tracked::read(message), None, "cut to {length}");
                }
            }
            for at in 0..datagram.len() {
                let mut broken = datagram.clone();
                broken[at] ^= 0xff;
                for message in messages(&broken) {
                    let _ = (tracked::read(message), stopped::read(message, |_| None));
                }
            }
        }
    }
}

#[test]
fn gaps_are_counted_across_the_end_of_the_numbers() {
    let missing = |numbers: &[u32]| {
        let mut all = Numbers::default();
        numbers.iter().for_each(|number| all.note(*number));
        all.missing
    };
    assert_eq!(missing(&[0, 1, 2]), 0);
    assert_eq!(missing(&[2, 3, 7]), 5);
    assert_eq!(missing(&[0, 2, 1, 2]), 1, "a number from before is no gap");
    let mut far = Numbers { next: u32::MAX - 1, missing: 0 };
    [u32::MAX, 2].into_iter().for_each(|number| far.note(number));
    assert_eq!(far.missing, 3);
}
