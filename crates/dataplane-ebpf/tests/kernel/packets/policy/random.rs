//! Random tables and packets: the kernel comes to the verdict of [`model::PolicyTable::decide`], by the same rule.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use dataplane::Dataplane as _;
use dataplane_ebpf::matched;
use ipnet::IpNet;
use model::{
    Changed, IdentityId, PolicyTable, Protocol, Reserved,
    policy::{
        Action, Basis, Direction, L4, L4Match, Peer, PeerAddress, PeerKey, PortAction, PortPrefix, Question,
        Tier, Verdict,
    },
};

use super::{
    super::{Bench, counters},
    DROP, enforcing, snapshot,
    table::{Table, pod, rule},
    taken,
};
use crate::wire::{Frame, SYN, icmp_error};

const TABLES: u32 = 40;
const PACKETS: u32 = 60;

/// Few numbers, so that they meet.
fn port(rng: &mut fastrand::Rng) -> u16 {
    *rng.choice(&[79, 80, 81, 443, 1023, 1024, 8080, 32_768, 65_535]).expect("one")
}

fn l4_match(rng: &mut fastrand::Rng) -> L4Match {
    let protocol = *rng.choice(&[Protocol::Tcp, Protocol::Udp, Protocol::Sctp]).expect("one");
    match rng.u8(..5) {
        0 => L4Match::Any,
        1 => L4Match::Ports(protocol, PortPrefix::ALL),
        2 => L4Match::Ports(protocol, PortPrefix::new(port(rng), rng.u8(1..=15)).expect("a length")),
        _ => L4Match::Ports(protocol, PortPrefix::one(port(rng))),
    }
}

fn action(rng: &mut fastrand::Rng, tier: Tier, number: &mut u32) -> PortAction {
    *number += 1;
    match tier {
        Tier::NetworkPolicy => rule(0, Action::Allow, *number),
        Tier::Admin | Tier::Baseline => {
            let action = *rng.choice(&[Action::Allow, Action::Deny, Action::Pass]).expect("one");
            rule(rng.u32(0..4), action, *number)
        }
    }
}

/// Whose addresses are and which prefixes are named, of the family of `plan`.
struct World {
    addresses: BTreeMap<IpNet, IdentityId>,
    prefixes: BTreeMap<IpNet, IdentityId>,
    peers: Vec<IpAddr>,
}

fn world(rng: &mut fastrand::Rng, bench: &Bench<'_>) -> World {
    let (texts, lengths): (&[&str], [u8; 5]) = match bench.plan.pod {
        IpAddr::V4(_) => (
            &["10.20.1.7", "10.20.1.8", "10.20.1.200", "198.51.100.10", "198.51.100.77", "192.0.2.1"],
            [0, 8, 24, 25, 32],
        ),
        IpAddr::V6(_) => (
            &["fd00:20:0:1::7", "fd00:20:0:1::8", "fd00:20:0:1::c8", "2001:db8:c::10", "2001:db8:c::4d"],
            [0, 16, 64, 121, 128],
        ),
    };
    let peers: Vec<IpAddr> = texts.iter().map(|text| text.parse().expect("address")).collect();
    let mut addresses = super::identities(bench);
    for peer in &peers {
        if rng.bool() {
            addresses.insert(IpNet::from(*peer), IdentityId::from_raw(rng.u32(300..304)));
        }
    }
    let net = |rng: &mut fastrand::Rng| {
        let address = *rng.choice(&peers).expect("one");
        IpNet::new(address, *rng.choice(&lengths).expect("one")).expect("a length").trunc()
    };
    let count = rng.u32(0..5);
    let prefixes = (0..count).map(|offset| (net(rng), IdentityId::local(offset))).collect();
    World { addresses, prefixes, peers }
}

fn table(rng: &mut fastrand::Rng, world: &World) -> Table {
    let mut table = Table::open();
    table.0.prefixes.clone_from(&world.prefixes);
    let mut number = 10;
    let mut peers = vec![Peer::Pods, Peer::Anyone];
    peers.extend((300..304).map(|id| Peer::Identity(IdentityId::from_raw(id))));
    peers.extend(world.prefixes.values().map(|id| Peer::Identity(*id)));
    for direction in Direction::ALL {
        for tier in Tier::ALL {
            if rng.u8(..3) == 0 {
                continue;
            }
            let mut rows = vec![];
            for peer in &peers {
                if rng.u8(..3) == 0 {
                    let count = rng.usize(1..4);
                    let said: Vec<_> =
                        (0..count).map(|_| (l4_match(rng), action(rng, tier, &mut number))).collect();
                    rows.push((*peer, said));
                }
            }
            let rows: Vec<_> = rows.iter().map(|(peer, said)| (*peer, said.as_slice())).collect();
            let isolation = (tier == Tier::NetworkPolicy).then_some(1 + direction as u32);
            table.list(direction, tier, isolation, &rows);
        }
    }
    table
}

fn longest(table: &BTreeMap<IpNet, IdentityId>, address: IpAddr) -> Option<IdentityId> {
    let holding = table.iter().filter(|(net, _)| net.contains(&address));
    holding.max_by_key(|(net, _)| net.prefix_len()).map(|(_, id)| *id)
}

/// One packet, what the table says of it, and what became of it.
fn check(
    bench: &mut Bench<'_>,
    events: &mut dataplane_ebpf::Events,
    (rng, world, policy): (&mut fastrand::Rng, &World, &PolicyTable),
    source_port: u16,
) {
    let peer_ip = *rng.choice(&world.peers).expect("one");
    let direction = *rng.choice(&Direction::ALL).expect("one");
    let from_host = direction == Direction::Ingress && rng.u8(..8) == 0;
    let l4 = match rng.u8(..8) {
        0 => L4::Other,
        number => {
            L4::Port([Protocol::Tcp, Protocol::Udp, Protocol::Sctp][usize::from(number % 3)], port(rng))
        }
    };
    let (from, to) = match direction {
        Direction::Ingress => (peer_ip, bench.plan.pod),
        Direction::Egress => (bench.plan.pod, peer_ip),
    };
    let echo = if from.is_ipv4() { 8 } else { 128 };
    let at = |port| (SocketAddr::new(from, source_port), SocketAddr::new(to, port));
    let frame = match l4 {
        L4::Other => icmp_error((from, to), 64, echo, 0, &[]),
        L4::Port(Protocol::Tcp, port) => Frame::tcp(at(port).0, at(port).1, SYN).bytes(),
        L4::Port(Protocol::Udp, port) => Frame::udp(at(port).0, at(port).1).bytes(),
        L4::Port(Protocol::Sctp, port) => Frame::sctp(at(port).0, at(port).1, 1).bytes(),
    };
    let identity = match from_host {
        true => Reserved::Host.id(),
        false => longest(&world.addresses, peer_ip).unwrap_or_default(),
    };
    let peer = PeerAddress { identity, prefix: longest(&world.prefixes, peer_ip) };
    let endpoint = pod();
    let said = policy.decide(&Question { endpoint: &endpoint, direction, peer, l4, loopback: false });
    let answer = match (direction, from_host) {
        (Direction::Egress, _) => bench.pod_sends(&frame),
        (Direction::Ingress, true) => bench.host_sends_to_pod(&frame),
        (Direction::Ingress, false) if l4 == L4::Other || rng.bool() => bench.stack_brings(&frame),
        (Direction::Ingress, false) => bench.wire_brings(&frame),
    };
    let context = format!("{direction:?} {peer:?} {l4} {said:?} {:?}", answer.reasons());
    assert_eq!(said.verdict == Verdict::Deny, answer.verdict == DROP, "{context}");
    let rule = match said.basis {
        Basis::Rule(_, rule) | Basis::Isolated(rule) => rule.0,
        Basis::LocalNode | Basis::Itself | Basis::Default | Basis::Unknown => 0,
    };
    for event in taken(events) {
        let (told, other, narrow) = match direction {
            Direction::Egress => (event.egress_rule, event.ingress_rule, event.egress_match),
            Direction::Ingress => (event.ingress_rule, event.egress_rule, event.ingress_match),
        };
        assert_eq!((told, other), (rule, 0), "{context}");
        assert_eq!(u16::from(narrow), narrowness(policy, (direction, peer, l4), said.basis), "{context}");
    }
}

#[test]
fn the_kernel_decides_as_the_table_does() {
    enforcing(|bench, events| {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut old = model::Snapshot::default();
        for round in 0..TABLES {
            let world = world(&mut rng, bench);
            let table = table(&mut rng, &world);
            let mut new = snapshot(bench, vec![], table.0.clone());
            new.addresses.clone_from(&world.addresses);
            // Numbers keep their meaning.
            // The tables are both families', and what the other one had is still there.
            renumber(&mut new.policy, if bench.plan.pod.is_ipv4() { round } else { TABLES + round });
            let changed =
                if old == model::Snapshot::default() { Changed::all(&new) } else { new.changed_since(&old) };
            let applied = bench.plane.apply(&new, &changed).expect("apply");
            assert!(applied.failed.is_empty(), "{:?}", applied.failed);
            reads_back(bench, &new.policy);
            bench.counters = counters(bench.plane);
            for packet in 0..PACKETS {
                let source_port = (1025 + round * PACKETS + packet) as u16;
                check(bench, events, (&mut rng, &world, &new.policy), source_port);
            }
            old = new;
        }
    });
}

/// What is read from the kernel is the table, of this endpoint and this family.
fn reads_back(bench: &Bench<'_>, wanted: &PolicyTable) {
    let enforced = bench.plane.enforced(&pod(), wanted).expect("read").expect("it enforces");
    let said = |table: &PolicyTable| -> BTreeMap<_, _> {
        table.peers.iter().map(|(key, ports)| (*key, table.ports[ports].clone())).collect()
    };
    assert_eq!(said(&enforced.table), said(wanted));
    assert_eq!((&enforced.table.endpoints, &enforced.table.lists), (&wanted.endpoints, &wanted.lists));
    let of_family = |table: &PolicyTable| -> BTreeMap<IpNet, IdentityId> {
        let nets = table.prefixes.iter().filter(|(net, _)| net.addr().is_ipv4() == bench.plan.pod.is_ipv4());
        nets.map(|(net, id)| (*net, *id)).collect()
    };
    assert_eq!(of_family(&enforced.table), of_family(wanted));
    let named = |rule: &model::policy::RuleId| enforced.table.rules.get(rule) == wanted.rules.get(rule);
    assert!(enforced.counts.keys().all(named), "{:?}", enforced.table.rules);
}

/// Gives lists numbers of their own for each round: they are never given again.
fn renumber(policy: &mut PolicyTable, round: u32) {
    use model::policy::ListId;
    let list = |id: ListId| ListId(id.0 + 10 * round);
    policy.lists = std::mem::take(&mut policy.lists).into_iter().map(|(id, of)| (list(id), of)).collect();
    policy.peers = std::mem::take(&mut policy.peers)
        .into_iter()
        .map(|(key, id)| (PeerKey { list: list(key.list), ..key }, id))
        .collect();
    for endpoint in policy.endpoints.values_mut() {
        for lists in [&mut endpoint.ingress, &mut endpoint.egress] {
            for id in [&mut lists.admin, &mut lists.network_policy, &mut lists.baseline] {
                *id = id.map(list);
            }
        }
    }
}

/// Of the row that decided, as the kernel tells it.
fn narrowness(
    policy: &PolicyTable,
    (direction, peer, l4): (Direction, PeerAddress, L4),
    basis: Basis,
) -> u16 {
    let Basis::Rule(tier, rule) = basis else { return 0 };
    let list = policy.endpoints[&pod()].direction(direction).list(tier).expect("the list that decided");
    let longest = |peer| {
        let ports = policy.ports.get(policy.peers.get(&PeerKey { list, peer })?)?;
        let (ports, said) =
            ports.iter().filter(|(ports, _)| ports.matches(l4)).max_by_key(|(ports, _)| **ports)?;
        (said.rule == rule).then_some((peer, *ports))
    };
    let of_peer = |peer| if peer == Peer::Anyone { 0 } else { matched::PEER };
    let of_ports = |ports| match ports {
        L4Match::Any => 0,
        L4Match::Ports(_, PortPrefix::ALL) => matched::PROTOCOL,
        L4Match::Ports(..) => matched::PORTS,
    };
    let (peer, ports) = peer.peers().find_map(longest).expect("a row");
    matched::ROW | of_peer(peer) | of_ports(ports)
}
