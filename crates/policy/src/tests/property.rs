//! Over generated clusters: the table is what the oracle says, and does not depend on the way to it.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use model::{
    PodName, PolicyTable,
    policy::{Peer, PolicyUpdate, Row},
};

use super::{generate, world::ask};
use crate::{offline::Offline, world::World};

/// The table with labels and prefixes for numbers, which alone depend on the way.
type Spelled = (BTreeMap<PodName, BTreeSet<(String, String)>>, BTreeSet<String>);

pub(super) fn spelled(offline: &Offline) -> Spelled {
    let table = offline.table();
    let peer = |peer: Peer| match peer {
        Peer::Identity(id) if id.is_local() => {
            let prefix = table.prefixes.iter().find(|(_, number)| **number == id);
            prefix.map_or("no prefix".to_owned(), |(net, _)| net.to_string())
        }
        Peer::Identity(id) => format!("{:?}", offline.labels(id)),
        Peer::Pods | Peer::Anyone => format!("{peer:?}"),
    };
    let row = |row: Row| (peer(row.peer), format!("{:?}", Row { peer: Peer::Anyone, ..row }));
    let rows = |name: &PodName| table.rows(name).into_iter().map(row).collect();
    let endpoints = table.endpoints.keys().map(|name| (name.clone(), rows(name))).collect();
    (endpoints, table.prefixes.keys().map(ToString::to_string).collect())
}

/// Nothing refers to what is not there, and nothing is there that nobody refers to.
fn is_whole(table: &PolicyTable) {
    let lists: BTreeSet<_> = table
        .endpoints
        .values()
        .flat_map(|endpoint| [endpoint.ingress, endpoint.egress])
        .flat_map(|direction| [direction.admin, direction.network_policy, direction.baseline])
        .flatten()
        .collect();
    assert_eq!(lists, table.lists.keys().copied().collect());
    assert!(table.peers.keys().all(|key| lists.contains(&key.list)));
    let ports: BTreeSet<_> = table.peers.values().copied().collect();
    assert_eq!(ports, table.ports.keys().copied().collect());
    let rules = table.ports.values().flat_map(|ports| ports.iter().map(|(_, action)| action.rule));
    let isolations = table.lists.values().filter_map(|list| list.isolation);
    assert!(rules.chain(isolations).all(|rule| table.rules.contains_key(&rule)));
    let local = table.peers.keys().filter_map(|key| match key.peer {
        Peer::Identity(id) => Some(id).filter(|id| id.is_local()),
        Peer::Pods | Peer::Anyone => None,
    });
    let prefixes: BTreeSet<_> = table.prefixes.values().copied().collect();
    assert_eq!(prefixes.len(), table.prefixes.len());
    assert!(local.into_iter().all(|id| prefixes.contains(&id)));
}

/// Ends where an agent that was told everything at once would.
pub(super) fn replay(seed: u64, steps: usize) {
    let mut rng = Rng::with_seed(seed);
    let mut world = generate::empty();
    let mut offline = Offline::default();
    let mut replica = PolicyTable::default();
    for step in 0..steps {
        for _ in 0..rng.usize(1..4) {
            generate::step(&mut rng, &mut world);
        }
        replica.advance(offline.sync(&world));
        assert_eq!(&replica, offline.table(), "seed {seed}, step {step}: updates lead elsewhere");
        is_whole(offline.table());
        let fresh = Offline::of(&world);
        assert_eq!(spelled(&offline), spelled(&fresh), "seed {seed}, step {step}");
        assert_eq!(offline.sync(&world), PolicyUpdate::default(), "seed {seed}, step {step}: the same again");
    }
}

/// The oracle and the table agree about everything that can be asked.
pub(super) fn compare(seed: u64) -> usize {
    let mut rng = Rng::with_seed(seed);
    let world = generate::world(&mut rng);
    compare_world(&world)
}

fn compare_world(world: &World) -> usize {
    let offline = Offline::of(world);
    let questions = generate::questions(world);
    questions.iter().for_each(|connection| _ = ask(world, &offline, connection));
    questions.len()
}

fn seeds(default: u64) -> std::ops::Range<u64> {
    let count = std::env::var("POLICY_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let first = std::env::var("POLICY_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    first..first + count
}

#[test]
fn the_table_is_what_the_oracle_says() {
    let mut asked = 0;
    for seed in seeds(30) {
        println!("seed {seed}");
        asked += compare(seed);
    }
    println!("{asked} questions");
}

#[test]
fn changes_in_any_order_end_in_the_same_table() {
    for seed in seeds(30) {
        println!("seed {seed}");
        replay(seed, 30);
    }
}
