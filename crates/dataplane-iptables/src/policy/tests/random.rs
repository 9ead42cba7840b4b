//! Tables by chance: chains and sets, walked, come to the verdict of [`model::PolicyTable::decide`] by the same rule, and so does
//! what is read back from them.

use std::net::IpAddr;

use model::{
    Snapshot,
    policy::{Basis, Decision, L4, Mode, Verdict},
    told::Stop,
};

use super::{
    super::back::{Kernel, Reader},
    tables::{self, World},
    walk::{Packet, Walked, Walker},
    *,
};
use crate::parse::Saved;

const TABLES: u32 = 150;
const PACKETS: u32 = 80;
const OWN: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(10, 20, 0, 2)),
    IpAddr::V6(std::net::Ipv6Addr::new(0xfd00, 0x20, 0, 0, 0, 0, 0, 2)),
];

fn state(table: &PolicyTable, world: &World) -> Snapshot {
    let mut snapshot = super::snapshot();
    snapshot.addresses.clone_from(&world.addresses);
    snapshot.policy.clone_from(table);
    snapshot
}

/// As the kernel would have it.
fn saved(rendered: &Rendered) -> Saved {
    let mut text = "*mangle\n:FORWARD ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n".to_owned();
    let lists = rendered.lists.iter().map(|(name, lines)| (name.as_str(), lines));
    for (name, lines) in lists.chain(rendered.fixed.iter().map(|(name, lines)| (*name, lines))) {
        text.push_str(&format!(":{name} - [0:0]\n"));
        text.extend(lines.iter().map(|line| format!("[3:180] -A {name} {line}\n")));
    }
    text.extend(text::JUMPS.iter().map(|(from, to)| format!("-A {from} -j {to}\n")));
    Saved::parse(&(text + "COMMIT\n"))
}

fn rule(decision: Decision) -> Option<RuleId> {
    match decision.basis {
        Basis::Rule(_, rule) | Basis::Isolated(rule) => Some(rule),
        Basis::LocalNode | Basis::Itself | Basis::Default | Basis::Unknown => None,
    }
}

fn sent(packet: &tables::Packet) -> Packet<'static> {
    let own = OWN[usize::from(packet.peer.is_ipv6())];
    let (input, output, source, destination) = match packet.direction {
        Direction::Ingress => ("uplink", "tpweb", packet.peer, own),
        Direction::Egress => ("tpweb", "uplink", own, packet.peer),
    };
    Packet { input, output, source, destination, l4: packet.l4, state: "NEW", is_reply: false, mark: 0 }
}

/// A walk ends as `said`.
fn agrees(walked: &Walked, said: Decision, mode: Mode, table: &PolicyTable) -> bool {
    let denied = said.verdict == Verdict::Deny;
    let named = rule(said).and_then(|rule| table.rules.get(&rule));
    let stop = if mode == Mode::Audit { Stop::Audited } else { Stop::Policy };
    let log = denied.then(|| named::prefix(stop, named.map(|rule| &**rule)));
    walked.dropped == (denied && mode == Mode::Enforce)
        && walked.audited == (denied && mode == Mode::Audit)
        && walked.rule == named.map(|rule| named::comment(rule))
        && walked.logged == log.into_iter().collect::<Vec<_>>()
}

#[test]
fn chains_decide_as_the_table_does_and_can_be_read_back() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut denied = 0;
    for _ in 0..TABLES {
        let world = tables::world(&mut rng);
        let table = tables::table(&mut rng, &world);
        let mode = table.endpoints[&pod()].mode;
        let snapshot = state(&table, &world);
        let rule_names = RuleNames::default();
        rule_names.learn(table.rules.iter().map(|(id, rule)| (*id, Some(rule))));
        for family in Family::ALL {
            let rendered = render::render(&snapshot, family, NonZeroU16::new(7));
            let saved = saved(&rendered);
            let kernel = Kernel { saved: &saved, sets: &rendered.sets };
            let back = Reader::new(&rule_names, &table).table(&kernel, &pod(), "tpweb").expect("ours");
            let walker = Walker::new(&saved, &rendered.sets);
            for _ in 0..PACKETS {
                let packet = tables::packet(&mut rng, family);
                let said = tables::decide(&table, &world.addresses, &packet);
                denied += u32::from(said.verdict == Verdict::Deny);
                let walked = walker.walk(&sent(&packet));
                assert!(
                    agrees(&walked, said, mode, &table),
                    "{packet:?} {said:?} {mode:?} {walked:?}\n{saved:#?}"
                );
                let read = tables::decide(&back, &world.addresses, &packet);
                assert_eq!(read, said, "{packet:?} {back:#?}\n{saved:#?}");
            }
            itself(&walker, &table, &world, family);
            held(&walker, &table, &world, (&mut rng, family));
        }
    }
    assert!(denied > TABLES * PACKETS / 10, "{denied}");
}

/// What the pod sends to itself by way of a Service is asked about both ways, with its own address.
fn itself(walker: &Walker<'_>, table: &PolicyTable, world: &World, family: Family) {
    let own = OWN[usize::from(family == Family::V6)];
    let identity = tables::owner(&world.addresses, own).unwrap_or_default();
    let peer = model::policy::PeerAddress { identity, prefix: tables::owner(&table.prefixes, own) };
    let endpoint = pod();
    for port in tables::PORTS {
        let l4 = L4::Port(Protocol::Tcp, port);
        let denied = Direction::ALL.iter().any(|direction| {
            let direction = *direction;
            let question =
                model::policy::Question { endpoint: &endpoint, direction, peer, l4, loopback: true };
            table.decide(&question).verdict == Verdict::Deny
        });
        let mode = table.endpoints[&endpoint].mode;
        let packet = Packet {
            input: "tpweb",
            output: "tpweb",
            source: own,
            destination: own,
            l4,
            state: "NEW",
            is_reply: false,
            mark: 0,
        };
        let walked = walker.walk(&packet);
        assert_eq!(walked.dropped, denied && mode == Mode::Enforce, "{packet:?} {walked:?}");
    }
}

/// Open flows pass unasked, unless they are marked: then answers and errors are stopped, and what the client sends as it is denied.
fn held(walker: &Walker<'_>, table: &PolicyTable, world: &World, by: (&mut fastrand::Rng, Family)) {
    let packet = tables::packet(by.0, by.1);
    let open = Packet { state: "ESTABLISHED", ..sent(&packet) };
    assert_eq!(walker.walk(&open), Walked::default());
    let marked = Packet { mark: flows::DENIED, ..open };
    let said = tables::decide(table, &world.addresses, &packet);
    let mode = table.endpoints[&pod()].mode;
    assert!(agrees(&walker.walk(&marked), said, mode, table), "{packet:?}");
    for stopped in [Packet { is_reply: true, ..marked }, Packet { state: "RELATED", ..marked }] {
        let walked = walker.walk(&stopped);
        assert!(walked.dropped && walked.logged == ["dropped_policy"], "{walked:?}");
    }
}
