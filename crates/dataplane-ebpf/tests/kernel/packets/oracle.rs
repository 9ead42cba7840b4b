//! The programs against the reference model: every frontend kind, policy, origin and backend set.

use std::net::{IpAddr, SocketAddr};

use model::{
    Masquerade, Protocol,
    TrafficPolicy::{Cluster, Local},
    oracle::{self, Outcome, Packet},
};

use super::{Answer, Bench, each};
use crate::wire::{Frame, SYN};

#[test]
fn every_kind_of_client_gets_what_the_model_says() {
    each(|bench| {
        let (near, far) = ((bench.at(|p| p.pod, 8080), true), (bench.at(|p| p.remote_pod, 8080), false));
        let sets: [&[(SocketAddr, bool)]; 4] = [&[], &[near], &[far], &[near, far]];
        let mut port = 40000;
        for backends in sets {
            for policy in [Cluster, Local] {
                let web = bench.web(policy, backends);
                let snapshot = bench.snapshot(vec![web.clone()]);
                for frontend in &web.frontends {
                    let ip = match frontend.address {
                        model::FrontendAddress::Ip(ip) => ip,
                        model::FrontendAddress::Node => bench.plan.node,
                    };
                    for client in [bench.plan.pod, bench.plan.client] {
                        // Programmed anew: masquerading has one port only, and it may be in use.
                        port += 1;
                        bench.program(vec![]);
                        bench.program(vec![web.clone()]);
                        let source = SocketAddr::new(client, port);
                        let destination = SocketAddr::new(ip, frontend.port.get());
                        let packet = Packet { source, destination, protocol: Protocol::Tcp };
                        let frame = Frame::tcp(source, destination, SYN).bytes();
                        let from_pod = client == bench.plan.pod;
                        let answer =
                            if from_pod { bench.pod_sends(&frame) } else { bench.wire_brings(&frame) };
                        let expected = oracle::forward(&packet, &snapshot);
                        check(bench, &packet, &expected, &answer);
                        forget(bench, &packet, &answer);
                    }
                }
            }
        }
    });
}

fn check(bench: &Bench<'_>, packet: &Packet, expected: &Outcome, answer: &Answer) {
    let reason = answer.reasons().into_keys().collect::<Vec<_>>().join(",");
    let context = format!("{packet:?} {expected:?} {reason}");
    match expected {
        Outcome::Forwarded { choices } => {
            assert_eq!(reason, "forwarded_new", "{context}");
            let (source, destination) = ends(&answer.frame);
            let choice = choices.iter().find(|choice| choice.backend == destination).expect(&context);
            let seen =
                if choice.masquerade == Masquerade::Yes { bench.plan.node } else { packet.source.ip() };
            assert_eq!(source.ip(), seen, "{context}");
        }
        Outcome::NoEndpoints | Outcome::NoLocalEndpoints => assert_eq!(reason, "refused_tcp", "{context}"),
        Outcome::SourceDenied => assert_eq!(reason, "dropped_source_range", "{context}"),
        Outcome::Untouched => panic!("not a frontend: {context}"),
    }
}

/// Ends the flow, so that the one masquerading port is free for the next.
fn forget(bench: &mut Bench<'_>, packet: &Packet, answer: &Answer) {
    if !answer.counted.contains_key("forwarded_new") {
        return;
    }
    bench.program(vec![]);
    let mut gone = bench.web(Cluster, &[]);
    gone.frontends.retain(|frontend| frontend.port.get() == packet.destination.port());
    bench.program(vec![gone]);
    let frame = Frame::tcp(packet.source, packet.destination, crate::wire::ACK).bytes();
    let refused = if packet.source.ip() == bench.plan.pod {
        bench.pod_sends(&frame)
    } else {
        bench.wire_brings(&frame)
    };
    assert_eq!(refused.reasons(), [("refused_tcp".to_owned(), 1)].into());
}

/// Source and destination of a TCP frame without options.
pub(super) fn ends(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    let (addresses, length) = if frame[12..14] == [8, 0] { (26, 4) } else { (22, 16) };
    let transport = addresses + 2 * length;
    let ip = |at: usize| match <[u8; 4]>::try_from(&frame[at..at + length]) {
        Ok(octets) => IpAddr::from(octets),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).expect("sixteen bytes")),
    };
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    (
        SocketAddr::new(ip(addresses), port(transport)),
        SocketAddr::new(ip(addresses + length), port(transport + 2)),
    )
}
