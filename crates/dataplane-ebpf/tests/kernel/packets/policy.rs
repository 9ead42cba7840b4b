//! Who may talk to whom, at the two ends of a pod: what is denied, what passes whatever is denied, and when that changes.

mod changes;
mod enforced;
mod random;
mod table;

use std::net::{IpAddr, SocketAddr};

use dataplane::Dataplane as _;
use dataplane_ebpf::{Config, Event, Events, Record, Telling};
use ipnet::IpNet;
use model::{Changed, IdentityId, PolicyTable, Reserved, Snapshot};

use self::table::Table;
use super::{Answer, Bench, DROP, on_a_node_with, small};

const POD: u32 = 300;
const FRIEND: u32 = 301;

/// A node that enforces, and tells of every flow.
fn enforcing(test: impl Fn(&mut Bench<'_>, &mut Events) + Sync) {
    let events = Telling::Flows { every: std::time::Duration::from_secs(3600) };
    let config = Config { policy: true, events, masquerade_ports: Some(6000..=7000), ..small() };
    on_a_node_with(config, &|bench| {
        let mut events = bench.plane.events().expect("events");
        taken(&mut events);
        test(bench, &mut events);
    });
}

fn taken(events: &mut Events) -> Vec<Event> {
    let known = |record| match record {
        Record::Event(event) => event,
        other => panic!("{other:?}"),
    };
    std::iter::from_fn(|| events.take()).map(known).collect()
}

/// Everyone's identity: the pod, its friend on the other node, the node, and the world.
fn identities(bench: &Bench<'_>) -> std::collections::BTreeMap<IpNet, IdentityId> {
    let one = |ip: IpAddr, id| (IpNet::from(ip), IdentityId::from_raw(id));
    let everything = match bench.plan.pod {
        IpAddr::V4(_) => "0.0.0.0/0",
        IpAddr::V6(_) => "::/0",
    };
    [
        one(bench.plan.pod, POD),
        one(bench.plan.remote_pod, FRIEND),
        (IpNet::from(bench.plan.node), Reserved::Host.id()),
        (everything.parse().expect("prefix"), Reserved::World.id()),
    ]
    .into()
}

fn snapshot(bench: &Bench<'_>, services: Vec<model::ServicePort>, policy: PolicyTable) -> Snapshot {
    Snapshot { addresses: identities(bench), policy, ..bench.snapshot(services) }
}

/// Programs all of it, and expects that all of it is.
fn enforce(bench: &mut Bench<'_>, services: Vec<model::ServicePort>, table: &Table) {
    let snapshot = snapshot(bench, services, table.0.clone());
    let applied = bench.plane.apply(&snapshot, &Changed::all(&snapshot)).expect("apply");
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    bench.counters = super::counters(bench.plane);
}

/// What moved since `old`.
fn change(bench: &mut Bench<'_>, old: &Table, new: &Table) {
    let (old, new) = (snapshot(bench, vec![], old.0.clone()), snapshot(bench, vec![], new.0.clone()));
    let applied = bench.plane.apply(&new, &new.changed_since(&old)).expect("apply");
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    bench.counters = super::counters(bench.plane);
}

#[track_caller]
fn dropped(answer: &Answer, reason: &str) {
    assert_eq!(answer.reasons(), [(reason.to_owned(), 1)].into());
    assert_eq!(answer.verdict, DROP);
}

#[track_caller]
fn passed(answer: &Answer) {
    assert_ne!(answer.verdict, DROP, "{:?}", answer.reasons());
}

const INGRESS: &str = "dropped_policy_ingress";
const EGRESS: &str = "dropped_policy_egress";

fn ends(bench: &Bench<'_>) -> (SocketAddr, SocketAddr, SocketAddr) {
    (bench.at(|p| p.pod, 8080), bench.at(|p| p.remote_pod, 40000), bench.at(|p| p.client, 40000))
}
