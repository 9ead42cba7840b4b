//! Whose an address is, as the kernel answers it: longest prefix, both families, deltas, restarts, drift.

use std::{collections::BTreeMap, net::IpAddr};

use aya::programs::TestRunOptions;
use dataplane::{Dataplane as _, Key};
use dataplane_ebpf::{Config, EbpfDataplane, Sizes};
use fastrand::Rng;
use ipnet::IpNet;
use model::{Changed, IdentityId, Reserved, Snapshot};

use crate::{
    lifecycle::{config, on_a_node, open},
    model_of::{node, snapshot},
};

fn with(rows: &[(&str, u32)]) -> Snapshot {
    let row = |(prefix, id): &(&str, u32)| (prefix.parse().expect("prefix"), IdentityId::from_raw(*id));
    Snapshot { addresses: rows.iter().map(row).collect(), ..desired() }
}

fn desired() -> Snapshot {
    snapshot(node("node-a", &["10.128.0.11"]), vec![], vec![])
}

/// Applies `snapshot`, of which `old` is there already.
fn step(plane: &mut EbpfDataplane, old: &Snapshot, snapshot: &Snapshot) {
    let applied = plane.apply(snapshot, &snapshot.changed_since(old)).expect("apply");
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
}

/// What a program finds for the source of a packet, having checked that user space finds the same.
fn identity(plane: &mut EbpfDataplane, source: IpAddr) -> u32 {
    let mut frame = vec![0; 14];
    match source {
        IpAddr::V4(source) => {
            frame[12..14].copy_from_slice(&[0x08, 0x00]);
            frame.extend([0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0]);
            frame.extend(source.octets());
            frame.extend([10, 0, 0, 1]);
        }
        IpAddr::V6(source) => {
            frame[12..14].copy_from_slice(&[0x86, 0xdd]);
            frame.extend([0x60, 0, 0, 0, 0, 0, 59, 64]);
            frame.extend(source.octets());
            frame.extend([0xfd; 16]);
        }
    }
    frame.resize(64, 0);
    let options = TestRunOptions { data_in: Some(&frame), ..Default::default() };
    let found = plane.test_run("identify", options).expect("run").return_value;
    let told = plane.identity_of(source).expect("lookup").map_or(0, IdentityId::get);
    assert_eq!(told, found, "{source}: as user space reads it");
    found
}

fn of(plane: &mut EbpfDataplane, source: &str) -> u32 {
    identity(plane, source.parse().expect("address"))
}

#[test]
fn the_longest_prefix_says_whose_an_address_is_in_both_families() {
    on_a_node(|_, pins| {
        let mut plane = open(config(pins));
        assert_eq!(of(&mut plane, "10.20.0.7"), 0, "nothing is known yet");
        let all = with(&[
            ("0.0.0.0/0", 2),
            ("10.20.0.0/16", 3),
            ("10.20.0.7/32", 27_793),
            ("10.128.0.12/32", 6),
            ("::/0", 2),
            ("fd20::/48", 3),
            ("fd20::7/128", 27_793),
        ]);
        step(&mut plane, &Snapshot::default(), &all);
        for (source, id) in [
            ("198.51.100.7", 2),
            ("10.20.0.8", 3),
            ("10.20.0.7", 27_793),
            ("10.128.0.12", 6),
            ("2001:db8::1", 2),
            ("fd20::8", 3),
            ("fd20::7", 27_793),
        ] {
            assert_eq!(of(&mut plane, source), id, "{source}");
        }
        plane.clean_up().expect("clean up");
    });
}

#[test]
fn only_what_moved_is_written_and_who_goes_is_nobody_of_the_world() {
    on_a_node(|_, pins| {
        let mut plane = open(config(pins));
        let first = with(&[("10.20.0.0/16", 3), ("10.20.0.7/32", 300)]);
        step(&mut plane, &Snapshot::default(), &first);
        let second = with(&[("10.20.0.0/16", 3), ("10.20.0.7/32", 301), ("10.20.0.8/32", 300)]);
        let changed = second.changed_since(&first);
        assert_eq!(changed.addresses.len(), 2);
        assert!(changed.is_addresses_only());
        step(&mut plane, &first, &second);
        assert_eq!((of(&mut plane, "10.20.0.7"), of(&mut plane, "10.20.0.8")), (301, 300));
        let third = with(&[("10.20.0.0/16", 3), ("10.20.0.8/32", 300)]);
        step(&mut plane, &second, &third);
        assert_eq!(of(&mut plane, "10.20.0.7"), Reserved::Unmanaged.id().get(), "never the world");
        plane.clean_up().expect("clean up");
    });
}

#[test]
fn a_restarted_agent_forgets_nobody_before_it_knows_who_is_gone() {
    on_a_node(|_, pins| {
        let mut plane = open(config(pins));
        let before = with(&[("0.0.0.0/0", 2), ("10.20.0.7/32", 300), ("10.20.0.8/32", 301)]);
        step(&mut plane, &Snapshot::default(), &before);
        drop(plane);
        let mut plane = open(config(pins));
        assert_eq!(of(&mut plane, "10.20.0.7"), 300, "the kernel has it while no agent runs");
        // Services are known first.
        let early = desired();
        plane.apply(&early, &Changed::all(&early)).expect("apply");
        plane.repair(&early).expect("repair");
        assert_eq!(of(&mut plane, "10.20.0.8"), 301, "not known yet is not gone");
        let after = with(&[("0.0.0.0/0", 2), ("10.20.0.7/32", 300)]);
        step(&mut plane, &early, &after);
        assert_eq!((of(&mut plane, "10.20.0.7"), of(&mut plane, "10.20.0.8")), (300, 2));
        plane.clean_up().expect("clean up");
    });
}

#[test]
fn drift_is_repaired_and_said() {
    on_a_node(|_, pins| {
        let mut plane = open(config(pins));
        let first = with(&[("10.20.0.7/32", 300), ("fd20::7/128", 300)]);
        step(&mut plane, &Snapshot::default(), &first);
        // A second plane over the same maps stands for whoever tampers.
        let mut other = open(config(pins));
        let tampered = with(&[("10.20.0.7/32", 400), ("10.20.0.9/32", 400), ("fd20::7/128", 300)]);
        step(&mut other, &Snapshot::default(), &tampered);
        drop(other);
        let repaired = plane.repair(&first).expect("repair");
        assert_eq!(repaired, ["repaired 2 drifted rows in IDENTITIES_V4"]);
        assert_eq!((of(&mut plane, "10.20.0.7"), of(&mut plane, "10.20.0.9")), (300, 0));
        plane.clean_up().expect("clean up");
    });
}

#[test]
fn what_finds_no_room_is_named_and_the_rest_stays() {
    on_a_node(|_, pins| {
        let sizes = Sizes { identities: 3, ..Sizes::default() };
        let mut plane = open(Config { sizes, ..config(pins) });
        let first = with(&[("0.0.0.0/0", 2), ("10.20.0.7/32", 300)]);
        step(&mut plane, &Snapshot::default(), &first);
        let full =
            with(&[("0.0.0.0/0", 2), ("10.20.0.7/32", 301), ("10.20.0.8/32", 302), ("10.20.0.9/32", 303)]);
        let applied = plane.apply(&full, &full.changed_since(&first)).expect("apply");
        let failed: Vec<_> = applied.failed.keys().collect();
        assert_eq!(failed, [&Key::Address("10.20.0.9/32".parse().expect("prefix"))]);
        let error = applied.failed.values().next().expect("one");
        assert_eq!(error.with_causes(), "program identity of 10.20.0.9/32: the table is full");
        assert_eq!((of(&mut plane, "10.20.0.7"), of(&mut plane, "10.20.0.8")), (301, 302));
        plane.clean_up().expect("clean up");
    });
}

/// Prefixes that nest, so that the longest one matters.
fn random_prefix(rng: &mut Rng) -> IpNet {
    let bits = rng.u32(0..256);
    let prefix = match rng.bool() {
        true => IpNet::new(IpAddr::from([10, 20, (bits >> 4) as u8 & 3, bits as u8]), rng.u8(8..=32)),
        false => {
            let address = [0xfd20, 0, 0, (bits >> 6) as u16, 0, 0, 0, bits as u16 & 63];
            IpNet::new(IpAddr::from(address), rng.u8(16..=128))
        }
    };
    prefix.expect("in range").trunc()
}

#[test]
fn random_tables_answer_as_a_search_of_the_list_does() {
    const ROUNDS: usize = 30;
    on_a_node(|_, pins| {
        let mut rng = Rng::with_seed(0x7450);
        let mut plane = open(config(pins));
        let mut before = Snapshot::default();
        let mut told = desired();
        for round in 0..ROUNDS {
            for _ in 0..rng.usize(1..20) {
                let prefix = random_prefix(&mut rng);
                match rng.u8(0..4) {
                    0 => _ = told.addresses.remove(&prefix),
                    _ => _ = told.addresses.insert(prefix, IdentityId::from_raw(rng.u32(1..70_000))),
                }
            }
            step(&mut plane, &before, &told);
            before = told.clone();
            for _ in 0..40 {
                let source = random_prefix(&mut rng).addr();
                assert_eq!(
                    identity(&mut plane, source),
                    searched(&told.addresses, source),
                    "{round}: {source}"
                );
            }
        }
        plane.clean_up().expect("clean up");
    });
}

fn searched(rows: &BTreeMap<IpNet, IdentityId>, address: IpAddr) -> u32 {
    let fitting = rows.iter().filter(|(prefix, _)| prefix.contains(&address));
    fitting.max_by_key(|(prefix, _)| prefix.prefix_len()).map_or(0, |(_, id)| id.get())
}
