//! Random and broken frames through all four programs: whatever comes in, each counts once, what passes is as it came, what
//! is sent on has right checksums if it came with them, and first packets go where the model says.

pub(super) mod mutate;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use dataplane_ebpf::Checksums;
use fastrand::Rng;
use model::{
    FrontendAddress, FrontendKind, Masquerade, Protocol, ServicePort, Snapshot,
    TrafficPolicy::{Cluster, Local},
    oracle::{self, Outcome, Packet},
};

use super::{Answer, Bench, DROP, NEXT, Plan, REDIRECT, hex, on_a_node, oracle::ends};
use crate::{
    model_of::{cluster_ip, frontend, service, with_backends},
    wire::{Frame, SYN, Sum, icmp_error, sums},
};

const FRAMES: u16 = 3000;
/// The frames are the same every time, except for what follows from the programs' own random choices.
const SEED: u64 = 0x7450;
/// Of first packets; none of them is among [`PORTS`], nor one to masquerade with.
const FRESH_PORTS: u16 = 21000;
const PORTS: [u16; 11] = [53, 54, 80, 81, 82, 83, 5000, 5353, 8080, 30080, 40000];

const MASQUERADE_PORTS: RangeInclusive<u16> = 6000..=20000;

/// The frames are worth something only if they get everywhere.
const REACHED: &[&str] = &[
    "forwarded_established",
    "forwarded_new",
    "forwarded_updated",
    "forwarded_icmp_error",
    "passed_protocol",
    "passed_unparsed",
    "passed_unrelated",
    "passed_time_to_live",
    "refused_tcp",
    "refused_udp",
    "dropped_source_range",
];

/// One frame at one program.
struct Try {
    program: &'static str,
    frame: Vec<u8>,
    /// The frame is a first packet, as it should be.
    first: Option<Packet>,
}

#[test]
fn no_frame_breaks_the_rules() {
    on_a_node(Checksums::Auto, MASQUERADE_PORTS, &|bench| {
        let services = services(bench);
        let snapshot = bench.snapshot(services.clone());
        bench.program(services);
        let mut rng = Rng::with_seed(SEED);
        let (mut seen, mut tally) = (vec![], BTreeMap::<String, u32>::new());
        for number in 0..FRAMES {
            let one = draw(bench, &mut rng, number, &seen);
            let interface = if one.program.ends_with("pod") { bench.pod_link } else { bench.uplink };
            let answer = bench.run(one.program, interface, &one.frame);
            if let Err(broken) = check(bench, &one, &answer, &snapshot) {
                panic!(
                    "frame {number} at {}: {broken}\n{:?} {}\nin  {}\nout {}",
                    one.program,
                    answer.reasons(),
                    answer.verdict,
                    hex(&one.frame),
                    hex(&answer.frame)
                );
            }
            for reason in answer.reasons().into_keys() {
                if reason.starts_with("forwarded_") {
                    seen.extend([answer.frame.clone(), one.frame.clone()]);
                }
                *tally.entry(reason).or_default() += 1;
            }
        }
        println!("{tally:?}");
        for reason in REACHED {
            assert!(tally.contains_key(*reason), "no frame came to {reason}: {tally:?}");
        }
    });
}

/// Frontends with any backends, with none, with none nearby, and with none for these clients.
fn services(bench: &Bench<'_>) -> Vec<ServicePort> {
    let (far, near) = ((bench.at(|p| p.remote_pod, 8080), false), (bench.at(|p| p.pod, 8080), true));
    let node = (bench.at(|p| p.node, 8080), true);
    let vip = |port, policy| {
        frontend(FrontendKind::LoadBalancer, FrontendAddress::Ip(bench.plan.vip), port, policy)
    };
    let ip = bench.plan.cluster_ip;
    let mut denied = service("denied", Protocol::Tcp, vec![vip(83, Cluster)]);
    let other = if ip.is_ipv4() { "192.0.2.0/24" } else { "2001:db8:d::/64" };
    denied.frontends[0].source_ranges = vec![other.parse().expect("range")];
    let mut dns = bench.dns(&[far, near, node]);
    dns.affinity_seconds = Some(60);
    vec![
        bench.web(Cluster, &[far, near, node]),
        dns,
        service("none", Protocol::Tcp, vec![cluster_ip(ip, 81)]),
        service("mute", Protocol::Udp, vec![cluster_ip(ip, 54)]),
        with_backends(service("near", Protocol::Tcp, vec![vip(82, Local)]), &[far]),
        with_backends(denied, &[far]),
    ]
}

fn draw(bench: &Bench<'_>, rng: &mut Rng, number: u16, seen: &[Vec<u8>]) -> Try {
    if rng.bool() {
        return first(bench, rng, number);
    }
    let programs = ["from_pod", "to_pod", "from_wire", "to_wire"];
    let program = programs[rng.usize(..programs.len())];
    let mut frame = match rng.u8(..8) {
        0 => mutate::noise(rng),
        1..7 if !seen.is_empty() => seen[rng.usize(..seen.len())].clone(),
        _ => any(bench, rng),
    };
    match rng.u8(..4) {
        0 | 1 => mutate::turn_around(&mut frame),
        2 => frame = error(bench, rng, &frame),
        _ => {}
    }
    for _ in 0..rng.u8(..4) {
        mutate::mutate(&mut frame, rng);
    }
    mutate::lengthen(&mut frame);
    Try { program, frame, first: None }
}

/// An ICMP error about a frame, or what is quoted of it.
fn error(bench: &Bench<'_>, rng: &mut Rng, frame: &[u8]) -> Vec<u8> {
    let (kind, code) = if rng.bool() { bench.plan.unreachable } else { bench.plan.too_big };
    let quoted = if rng.bool() { frame.len() } else { rng.usize(14..=frame.len()) };
    let ends = (pick(bench, rng), pick(bench, rng));
    icmp_error(ends, rng.u8(..4) * 21, kind, code, &frame[14..quoted])
}

fn first(bench: &Bench<'_>, rng: &mut Rng, number: u16) -> Try {
    let clients =
        [("from_pod", bench.plan.pod), ("from_wire", bench.plan.client), ("to_wire", bench.plan.node)];
    let (program, client) = clients[rng.usize(..clients.len())];
    let source = SocketAddr::new(client, FRESH_PORTS + number);
    let destination = loop {
        let to = target(bench, rng);
        // What a node sends to itself passes no device.
        if to.ip() != client {
            break to;
        }
    };
    let protocol = if rng.bool() { Protocol::Tcp } else { Protocol::Udp };
    let frame = match protocol {
        Protocol::Tcp => Frame::tcp(source, destination, SYN),
        _ => Frame::udp(source, destination),
    };
    Try {
        program,
        frame: frame.ttl(rng.u8(2..)).bytes(),
        first: Some(Packet { source, destination, protocol }),
    }
}

/// Well-formed, between any two addresses.
fn any(bench: &Bench<'_>, rng: &mut Rng) -> Vec<u8> {
    let (source, destination) = (target(bench, rng), target(bench, rng));
    if rng.bool() {
        Frame::tcp(source, destination, rng.u8(..)).bytes()
    } else {
        Frame::udp(source, destination).bytes()
    }
}

/// Mostly a frontend.
fn target(bench: &Bench<'_>, rng: &mut Rng) -> SocketAddr {
    let Plan { cluster_ip, vip, node, .. } = bench.plan;
    let frontends = [
        (cluster_ip, 80),
        (cluster_ip, 53),
        (cluster_ip, 81),
        (cluster_ip, 54),
        (vip, 80),
        (vip, 82),
        (vip, 83),
        (node, 30080),
    ];
    if rng.u8(..4) == 0 {
        return SocketAddr::new(pick(bench, rng), PORTS[rng.usize(..PORTS.len())]);
    }
    SocketAddr::from(frontends[rng.usize(..frontends.len())])
}

fn pick(bench: &Bench<'_>, rng: &mut Rng) -> IpAddr {
    let plan = &bench.plan;
    let all = [plan.cluster_ip, plan.vip, plan.node, plan.pod, plan.remote_pod, plan.client];
    all[rng.usize(..all.len())]
}

fn check(bench: &Bench<'_>, one: &Try, answer: &Answer, snapshot: &Snapshot) -> Result<(), String> {
    let reasons = answer.reasons();
    let Some((reason, 1)) = reasons.first_key_value().filter(|_| reasons.len() == 1) else {
        return Err("counts once".to_owned());
    };
    let rule = |holds: bool, broken: &str| if holds { Ok(()) } else { Err(broken.to_owned()) };
    rule(reason != "dropped_internal", "no frame is an internal error")?;
    match reason.split_once('_').map_or("", |(what, _)| what) {
        "passed" => {
            rule(answer.verdict == NEXT, "passes")?;
            rule(answer.frame == one.frame, "passes as it came")?;
        }
        "dropped" => rule(answer.verdict == DROP, "is dropped")?,
        // Later fragments of what is refused are dropped: the first is answered.
        "refused" if answer.verdict == DROP => rule(answer.frame == one.frame, "is dropped as it came")?,
        "refused" => rule(answer.verdict == REDIRECT, "is answered")?,
        "forwarded" => rule([NEXT, REDIRECT].contains(&answer.verdict), "is sent on")?,
        other => return Err(format!("{other} is no action")),
    }
    let (before, after) = (sums(&one.frame), sums(&answer.frame));
    rule(before.header != Sum::Right || after.header == Sum::Right, "header checksum")?;
    rule(before.transport != Sum::Right || after.transport == Sum::Right, "transport checksum")?;
    let forwarded = reason.starts_with("forwarded");
    rule(
        !forwarded || before.transport != Sum::None || after.transport == Sum::None,
        "checksum out of none",
    )?;
    // A broken packet opens a flow only to where a whole one of its addresses and ports would.
    let opened = || plain(&one.frame).filter(|_| reason == "forwarded_new");
    match one.first.or_else(opened) {
        Some(packet) => agrees(bench, one, &packet, reason, answer, snapshot),
        None => Ok(()),
    }
}

/// What a frame without options, extension headers and fragmentation says that it is.
fn plain(frame: &[u8]) -> Option<Packet> {
    let (protocol, transport) = match frame[12..14] {
        [8, 0] if frame[14] == 0x45 && frame[20] & 0x3f == 0 && frame[21] == 0 => (frame[23], 34),
        [0x86, 0xdd] => (frame[20], 54),
        _ => return None,
    };
    let protocol = Protocol::from_number(protocol).filter(|_| frame.len() >= transport + 4)?;
    let (source, destination) = ends(frame);
    Some(Packet { source, destination, protocol })
}

/// Whether a first packet went where the model says.
fn agrees(
    bench: &Bench<'_>,
    one: &Try,
    packet: &Packet,
    reason: &str,
    answer: &Answer,
    snapshot: &Snapshot,
) -> Result<(), String> {
    let expected = oracle::forward(packet, snapshot);
    let agrees = match &expected {
        Outcome::Untouched if reason == "passed_unrelated" => true,
        Outcome::Untouched => {
            let (source, destination) = ends(&answer.frame);
            // A frame that was seen may cross a flow to a frontend that it was seen in.
            let crosses = one.first.is_none() && MASQUERADE_PORTS.contains(&source.port());
            reason == "forwarded_new"
                && (source.ip(), destination) == (packet.source.ip(), packet.destination)
                && (source == packet.source || crosses)
        }
        Outcome::SourceDenied => reason == "dropped_source_range",
        Outcome::NoEndpoints | Outcome::NoLocalEndpoints => {
            reason == if packet.protocol == Protocol::Tcp { "refused_tcp" } else { "refused_udp" }
        }
        Outcome::Forwarded { choices } => {
            let (source, destination) = ends(&answer.frame);
            let itself = destination.ip() == bench.plan.node;
            let choice = choices.iter().find(|choice| choice.backend == destination);
            reason == "forwarded_new"
                // A node does not reach itself by a device, and needs no masquerading to hear its own answers.
                && !(itself && one.program == "to_wire")
                && choice.is_some_and(|choice| match choice.masquerade {
                    Masquerade::Yes if !itself => source.ip() == bench.plan.node,
                    _ => source == packet.source,
                })
        }
    };
    if agrees { Ok(()) } else { Err(format!("{packet:?}: the model says {expected:?}")) }
}
