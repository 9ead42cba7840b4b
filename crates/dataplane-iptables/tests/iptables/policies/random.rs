//! Tables by chance in the real kernel, with real sockets: what gets through is what [`model::PolicyTable::decide`] says, rules count
//! it, and what is read back from chains and sets says the same.

use std::collections::BTreeMap;

use dataplane::Dataplane as _;
use model::{
    Family, Protocol,
    policy::{Basis, L4, Mode, RuleId, Verdict},
};

use super::yard::{Yard, ours};
use crate::tables::{self, Packet, World};

const TABLES: u32 = 6;
const SENT: usize = 60;
const ASKED: u32 = 200;

/// One that a socket can send.
fn sendable(rng: &mut fastrand::Rng) -> Packet {
    loop {
        let family = if rng.bool() { Family::V4 } else { Family::V6 };
        let packet = tables::packet(rng, family);
        if matches!(packet.l4, L4::Port(Protocol::Tcp | Protocol::Udp, _)) {
            return packet;
        }
    }
}

#[test]
fn the_kernel_decides_as_the_table_does_and_says_so_when_asked() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut yard = Yard::new("random", false);
    for _ in 0..TABLES {
        let mut world = tables::world(&mut rng);
        world.addresses.extend(ours());
        let table = tables::table(&mut rng, &world);
        yard.enforce(table.clone(), &world.addresses);
        let enforces = table.endpoints[&tables::pod()].mode == Mode::Enforce;
        let packets: Vec<Packet> = (0..SENT).map(|_| sendable(&mut rng)).collect();
        let said = packets.iter().map(|packet| tables::decide(&table, &world.addresses, packet));
        let said: Vec<_> = said.collect();
        let wanted = said.iter().map(|said| !enforces || said.verdict == Verdict::Allow);
        let wanted: Vec<_> = packets.iter().copied().zip(wanted).collect();
        let arrived = yard.send(&wanted);
        for (((packet, wanted), said), arrived) in wanted.iter().zip(&said).zip(arrived) {
            assert_eq!(arrived, *wanted, "{packet:?} {said:?}");
        }
        let mut decided = BTreeMap::<RuleId, Decided>::new();
        for (packet, said) in packets.iter().zip(&said) {
            if let Basis::Rule(_, rule) | Basis::Isolated(rule) = said.basis {
                let decided = decided.entry(rule).or_default();
                decided.packets += 1;
                decided.may_repeat |= matches!(packet.l4, L4::Port(Protocol::Tcp, _));
            }
        }
        reads_back(&mut yard, &table, &world, (&mut rng, &decided));
    }
}

/// How many packets a rule has decided about.
#[derive(Debug, Default)]
struct Decided {
    packets: u64,
    /// A SYN is sent again by a machine that is slow.
    may_repeat: bool,
}

fn reads_back(
    yard: &mut Yard,
    table: &model::PolicyTable,
    world: &World,
    (rng, decided): (&mut fastrand::Rng, &BTreeMap<RuleId, Decided>),
) {
    let enforced = yard.on_node(|plane, _| plane.enforced(&tables::pod(), table).expect("read"));
    let enforced = enforced.expect("it enforces");
    for (rule, decided) in decided {
        let counted = enforced.counts.get(rule).map_or(0, |count| count.packets);
        let is_right = counted == decided.packets || decided.may_repeat && counted > decided.packets;
        assert!(is_right, "{rule:?} {decided:?} {counted} {enforced:#?}");
    }
    for _ in 0..ASKED {
        let family = if rng.bool() { Family::V4 } else { Family::V6 };
        let packet = tables::packet(rng, family);
        let said = tables::decide(table, &world.addresses, &packet);
        let part = enforced.deciding(packet.peer);
        assert_eq!(tables::decide(part, &world.addresses, &packet), said, "{packet:?} {part:#?}");
    }
    for peer in Family::ALL.into_iter().flat_map(tables::peers) {
        let known = yard.on_node(|plane, _| plane.identity_of(peer).expect("read"));
        assert_eq!(known, tables::owner(&world.addresses, peer), "{peer}");
    }
}
