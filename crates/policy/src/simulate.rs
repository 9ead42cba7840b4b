//! What other policies would change: recorded connections, or all that there can be. Pure.

use std::collections::{BTreeMap, BTreeSet};

use model::{
    Family, PodName, Protocol,
    policy::{L4, Verdict},
};
use serde::Serialize;

use crate::{
    offline::{Offline, readings},
    oracle::{self, Judgement},
    read::PodReading,
    spec::{PortMatch, Ports},
    world::{Connection, Owner, Party, Undecidable, World},
};

/// A connection as it was seen, with the labels that its ends had then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    pub connection: Connection,
    /// Of the source and of the destination, where they were pods: their namespace's labels and their own.
    pub labels: [Option<[BTreeMap<String, String>; 2]>; 2],
}

impl From<Connection> for Recorded {
    fn from(connection: Connection) -> Self {
        Self { connection, labels: [None, None] }
    }
}

/// A connection that is judged otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Moved {
    pub connection: Connection,
    pub before: Judgement,
    pub after: Judgement,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Simulation {
    pub newly_denied: Vec<Moved>,
    pub newly_allowed: Vec<Moved>,
    pub unchanged: usize,
    pub undecided: Vec<(Connection, Undecidable)>,
}

impl Simulation {
    /// Whether nothing would change, as far as it can be told.
    pub fn is_quiet(&self) -> bool {
        self.newly_denied.is_empty() && self.newly_allowed.is_empty()
    }

    fn take(&mut self, connection: &Connection, before: Judgement, after: Judgement) {
        let moved = |before, after| Moved { connection: connection.clone(), before, after };
        match (before.verdict(), after.verdict()) {
            (Verdict::Allow, Verdict::Deny) => self.newly_denied.push(moved(before, after)),
            (Verdict::Deny, Verdict::Allow) => self.newly_allowed.push(moved(before, after)),
            _ => self.unchanged += 1,
        }
    }
}

/// What of the recorded connections `after` judges otherwise than `before`.
pub fn recorded(before: &World, after: &World, all: &[Recorded]) -> Simulation {
    let mut simulation = Simulation::default();
    let (mut before, mut after) = (before.clone(), after.clone());
    for recorded in all {
        let connection = &recorded.connection;
        match (judge(&mut before, recorded), judge(&mut after, recorded)) {
            (Ok(before), Ok(after)) => simulation.take(connection, before, after),
            (Err(why), _) | (_, Err(why)) => simulation.undecided.push((connection.clone(), why)),
        }
    }
    simulation
}

/// Judges a recorded connection with the labels of then; `world` is left as it was.
///
/// # Errors
/// See [`Undecidable`].
pub fn judge(world: &mut World, recorded: &Recorded) -> Result<Judgement, Undecidable> {
    let undo = as_it_was(world, recorded);
    let judged = oracle::judge(world, &recorded.connection);
    undo.restore(world);
    judged
}

/// What of everything that there can be between pods, nodes and a few addresses outside is judged otherwise.
pub fn everything(before: &World, after: &World) -> Simulation {
    let mut simulation = Simulation::default();
    let tables = [Offline::of(before), Offline::of(after)];
    for connection in everyone(&[before, after], &tables) {
        if tables[0].verdict(&connection) == tables[1].verdict(&connection) {
            simulation.unchanged += 1;
            continue;
        }
        match (oracle::judge(before, &connection), oracle::judge(after, &connection)) {
            (Ok(before), Ok(after)) => simulation.take(&connection, before, after),
            (Err(why), _) | (_, Err(why)) => simulation.undecided.push((connection, why)),
        }
    }
    simulation
}

/// How many pods that no policy tells apart are asked: two, because they may talk to each other.
const ALIKE: usize = 2;

/// Connections between ends that both worlds have, over every protocol and port that either speaks of; of pods that no policy
/// can tell apart just two.
fn everyone(worlds: &[&World; 2], tables: &[Offline; 2]) -> Vec<Connection> {
    let [before, after] = worlds;
    let mut parties: BTreeSet<Party> = BTreeSet::new();
    let mut alike = BTreeMap::new();
    for (name, pod) in before.subjects() {
        let other = after.pods.get(name).filter(|other| !other.finished && !other.host_network);
        let Some(other) = other else { continue };
        let both = pod.addresses.iter().filter(|address| other.addresses.contains(address));
        let prefixes = pod
            .addresses
            .iter()
            .map(|address| (Family::of(*address), tables.each_ref().map(|table| table.prefix(*address))));
        let kind = (
            &name.namespace,
            [pod, other].map(|pod| (&pod.labels, &pod.ports, &pod.node)),
            prefixes.collect::<Vec<_>>(),
        );
        let seen: &mut usize = alike.entry(kind).or_default();
        *seen += 1;
        if *seen <= ALIKE {
            parties.extend(both.map(|address| Party { owner: Owner::Pod(name.clone()), address: *address }));
        }
    }
    for (name, addresses) in &before.nodes {
        let both =
            |address: &&std::net::IpAddr| after.nodes.get(name).is_some_and(|all| all.contains(address));
        let first = Family::ALL.map(|f| addresses.iter().find(|ip| Family::of(**ip) == f).filter(both));
        let of = |address: &std::net::IpAddr| Party { owner: Owner::Node(name.clone()), address: *address };
        parties.extend(first.into_iter().flatten().map(of));
    }
    parties.extend(outside(worlds));
    let l4: BTreeSet<L4> = worlds.iter().flat_map(|world| ports(world)).collect();
    let mut all = vec![];
    for source in &parties {
        for destination in parties.iter().filter(|other| *other != source) {
            let pods = [source, destination].iter().any(|party| matches!(party.owner, Owner::Pod(_)));
            if pods && Family::of(source.address) == Family::of(destination.address) {
                let of = |l4: &L4| Connection {
                    source: source.clone(),
                    destination: destination.clone(),
                    l4: *l4,
                };
                all.extend(l4.iter().map(of));
            }
        }
    }
    all
}

/// An address outside of each block that policies name, and one that none names.
fn outside(worlds: &[&World; 2]) -> BTreeSet<Party> {
    let mut addresses: BTreeSet<std::net::IpAddr> =
        ["198.51.100.255", "2001:db8:ffff::ffff"].into_iter().filter_map(|text| text.parse().ok()).collect();
    for world in worlds {
        for reading in readings(world) {
            let rules = [reading.policy.ingress, reading.policy.egress].into_iter().flatten().flatten();
            for rule in rules {
                let crate::Peers::Of(peers) = rule.peers else { continue };
                for peer in peers {
                    if let crate::PeerMatch::Block(block) = peer {
                        addresses.extend(block.except.iter().map(|hole| hole.broadcast()));
                        addresses.insert(block.cidr.broadcast());
                    }
                }
            }
        }
    }
    let nobodys =
        |address: &std::net::IpAddr| worlds.iter().all(|world| world.owner(*address) == Ok(Owner::Outside));
    addresses.into_iter().filter(nobodys).map(|address| Party { owner: Owner::Outside, address }).collect()
}

/// What policies and containers of `world` speak of, a port beside each, and one without ports.
pub fn ports(world: &World) -> BTreeSet<L4> {
    let mut all: BTreeSet<L4> = [L4::Other, L4::Port(Protocol::Tcp, 80)].into();
    let containers = world.pods.values().flat_map(|pod| pod.ports.iter());
    all.extend(containers.map(|port| L4::Port(port.protocol, port.number)));
    for reading in readings(world) {
        let rules = [reading.policy.ingress, reading.policy.egress].into_iter().flatten().flatten();
        for rule in rules {
            let Ports::Of(ports) = rule.ports else { continue };
            for port in ports {
                if let PortMatch::Range { protocol, first, last } = port {
                    let edges = [first, last, last.saturating_add(1)];
                    all.extend(edges.map(|port| L4::Port(protocol, port)));
                }
            }
        }
    }
    all
}

/// What was there before a recorded connection's ends were put in.
struct Undo {
    pods: Vec<(PodName, Option<PodReading>)>,
    namespaces: Vec<(String, Option<BTreeMap<String, String>>)>,
}

impl Undo {
    fn restore(self, world: &mut World) {
        for (name, pod) in self.pods.into_iter().rev() {
            match pod {
                Some(pod) => _ = world.pods.insert(name, pod),
                None => _ = world.pods.remove(&name),
            }
        }
        for (name, labels) in self.namespaces.into_iter().rev() {
            match labels {
                Some(labels) => _ = world.namespaces.insert(name, labels),
                None => _ = world.namespaces.remove(&name),
            }
        }
    }
}

fn as_it_was(world: &mut World, recorded: &Recorded) -> Undo {
    let mut undo = Undo { pods: vec![], namespaces: vec![] };
    let ends = [&recorded.connection.source, &recorded.connection.destination];
    for (end, labels) in ends.into_iter().zip(&recorded.labels) {
        let (Owner::Pod(name), Some([of_namespace, of_pod])) = (&end.owner, labels) else { continue };
        let now = world.pods.get(name).cloned();
        let mut then = now.clone().unwrap_or_default();
        then.labels.clone_from(of_pod);
        (then.finished, then.host_network) = (false, false);
        if !then.addresses.contains(&end.address) {
            then.addresses.push(end.address);
        }
        undo.pods.push((name.clone(), now));
        world.pods.insert(name.clone(), then);
        undo.namespaces.push((name.namespace.clone(), world.namespaces.get(&name.namespace).cloned()));
        world.namespaces.insert(name.namespace.clone(), of_namespace.clone());
    }
    undo
}
