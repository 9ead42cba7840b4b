//! Delivery to a pod that a policy isolates, and a drop by it, with few and with many entries in its list.
//!
//! An entry is a peer by identity with a TCP port, as a rule that names pods and one port compiles to. The peer that is asked for is
//! one among them; who is dropped is none of them, and has its address and identity in the same table.

use std::{net::SocketAddr, sync::Arc};

use anyhow::ensure;
use dataplane_ebpf::{Config, Telling};
use ipnet::IpNet;
use model::{
    Endpoint,
    Family::V4,
    IdentityId, PodName, PolicyTable, Protocol, Snapshot,
    policy::{
        Action, Direction, EndpointPolicy, L4Match, ListId, Peer, PeerKey, PolicyKind, PolicyName,
        PortAction, PortMap, PortPrefix, PortsId, Rank, RuleId, RuleList, RuleRef, Tier,
    },
};
use scenarios::{
    places::{Node, Pod, cluster_cidr},
    topology::Topology,
};

use super::{
    Bench, REDIRECT, TOLD,
    cases::{Case, DROP, Room, Vary},
};
use crate::{
    Effort, machine, plane,
    rows::{Report, median},
    wire::{ACK, Frame, SYN},
};

/// Entries of the isolated pod's list.
const ENTRIES: [u32; 2] = [10, 16_000];
const PORT: u16 = 8080;
const LIST: ListId = ListId(1);

/// Offsets of identities: of the first peer that is allowed, and of one that is not.
const FRIEND: u32 = 0;
const STRANGER: u32 = 65_000;

pub(crate) fn measure(effort: Effort, report: &mut Report) -> anyhow::Result<()> {
    let topology = Topology::new();
    let [few, many] = ENTRIES;
    let mut benches = [
        open(&topology, few, Telling::Nothing)?,
        open(&topology, many, Telling::Nothing)?,
        open(&topology, few, TOLD)?,
        open(&topology, many, TOLD)?,
    ];
    let cases = cases();
    topology.node(Node::A).run(|| {
        machine::pin(machine::cpus() - 1)?;
        for bench in &mut benches {
            establish(bench)?;
        }
        for room in [None, Some(Room::Free)] {
            for round in 0..effort.packet_rounds {
                for bench in &mut benches {
                    bench.round(&cases, room, round as u32, effort.packets)?;
                }
            }
        }
        anyhow::Ok(())
    })??;
    tell(&cases, &benches, report);
    Ok(())
}

fn open(topology: &Topology, entries: u32, told: Telling) -> anyhow::Result<Bench> {
    let tag = format!("policy-{entries}-{}", u8::from(told != Telling::Nothing));
    let config = Config { policy: true, events: told, ..Config::default() };
    Bench::open_with(topology, &tag, config, |snapshot| {
        fill(snapshot, entries);
        entries
    })
}

/// The peer that is allowed, the pod, and the peer that is not.
fn ends() -> [SocketAddr; 3] {
    let at = |pod: Pod, port| SocketAddr::new(pod.address(V4), port);
    [at(Pod::B1, 40_000), at(Pod::A1, PORT), at(Pod::B2, 40_000)]
}

fn cases() -> Vec<Case> {
    let [friend, pod, stranger] = ends();
    let case = |id, what, frame, answer| Case {
        id,
        what,
        program: "from_wire",
        device: plane::UPLINK,
        frame,
        new: None,
        vary: Vary::Port,
        answer,
        lands: pod,
    };
    let known = Frame::tcp(friend, pod, ACK);
    vec![
        case("deliver-policy-est", "delivery to an isolated pod, established", known, REDIRECT),
        Case {
            new: Some(Room::Free),
            ..case(
                "deliver-policy-new",
                "the same, new flow, table with room",
                Frame::tcp(friend, pod, SYN),
                REDIRECT,
            )
        },
        Case {
            new: Some(Room::Free),
            vary: Vary::Ends,
            ..case(
                "deliver-policy-first",
                "the same, the first flow between two ends",
                Frame::tcp(friend, pod, SYN),
                REDIRECT,
            )
        },
        case("policy-drop", "denied by policy", Frame::tcp(stranger, pod, SYN), DROP),
    ]
}

/// A handshake with the peer that is allowed. Fails where the plane does not enforce.
fn establish(bench: &mut Bench) -> anyhow::Result<()> {
    let [friend, pod, stranger] = ends();
    bench.pass("from_wire", plane::UPLINK, &Frame::tcp(friend, pod, SYN))?;
    bench.pass("from_pod", "tpa1", &Frame::tcp(pod, friend, SYN | ACK))?;
    bench.pass("from_wire", plane::UPLINK, &Frame::tcp(friend, pod, ACK))?;
    bench.template(&Frame::tcp(stranger, pod, SYN), None)?;
    let (answer, _) = bench.run("from_wire", plane::UPLINK, 1)?;
    ensure!(answer == DROP, "who is not in the list is not dropped: from_wire answers {answer}");
    Ok(())
}

/// Everybody's identities, and a list of `entries` for the first pod.
fn fill(snapshot: &mut Snapshot, entries: u32) {
    // New flows come from other addresses of the pods' range: they are the friend's, too.
    snapshot.addresses.insert(cluster_cidr(V4), IdentityId::of_cluster(FRIEND));
    snapshot.addresses.insert(IpNet::from(Pod::B2.address(V4)), IdentityId::of_cluster(STRANGER));
    let is_first = |endpoint: &&Arc<Endpoint>| endpoint.addresses.contains(&Pod::A1.address(V4));
    let first = snapshot.endpoints.values().find(is_first).expect("a pod of this node");
    snapshot.policy = table(snapshot.endpoints.keys(), &first.pod, entries);
}

/// `isolated` gets what `entries` peers send to the port; the others get everything.
fn table<'a>(pods: impl Iterator<Item = &'a PodName>, isolated: &PodName, entries: u32) -> PolicyTable {
    let mut table = PolicyTable::default();
    table.endpoints.extend(pods.map(|pod| (pod.clone(), EndpointPolicy::default())));
    table.endpoints.entry(isolated.clone()).or_default().ingress.network_policy = Some(LIST);
    let (isolates, allows) = (RuleId(1), RuleId(2));
    let policy = PolicyName {
        kind: PolicyKind::NetworkPolicy,
        namespace: isolated.namespace.clone(),
        name: "bench".into(),
    };
    for (id, rule) in [(isolates, None), (allows, Some(0))] {
        let direction = Direction::Ingress;
        let rule = RuleRef { policy: policy.clone(), direction, rule, name: None, line: None };
        table.rules.insert(id, Arc::new(rule));
    }
    let list =
        RuleList { direction: Direction::Ingress, tier: Tier::NetworkPolicy, isolation: Some(isolates) };
    table.lists.insert(LIST, list);
    let action = PortAction { rank: Rank(0), action: Action::Allow, rule: allows };
    let match_of = L4Match::Ports(Protocol::Tcp, PortPrefix::one(PORT));
    table.ports.insert(PortsId(1), Arc::new(PortMap::new([(match_of, action)])));
    let peer = |offset| PeerKey { list: LIST, peer: Peer::Identity(IdentityId::of_cluster(FRIEND + offset)) };
    table.peers.extend((0..entries).map(|offset| (peer(offset), PortsId(1))));
    table
}

/// Rows without a size are of many entries. A drop is told of, as by default; delivery is measured with nothing told, and with.
fn tell(cases: &[Case], benches: &[Bench; 4], report: &mut Report) {
    let net = |bench: &Bench, index: usize| median(bench.net[index].clone());
    let empty = |bench: &Bench| median(bench.empty.iter().map(|round| round[0]).collect());
    let [few, many, few_told, many_told] = benches;
    for (index, case) in cases.iter().enumerate() {
        let [few, many] = if case.answer == DROP { [few_told, many_told] } else { [few, many] };
        for (bench, suffix) in [(many, ""), (few, "-10")] {
            let what = format!("{}, {} entries", case.what, bench.size);
            report.add(
                (format!("{}{suffix}", case.id), what),
                (net(bench, index), "ns"),
                (empty(bench), "empty program"),
            );
        }
    }
    for (index, case) in cases.iter().enumerate() {
        report.add(
            (format!("{}-events", case.id), format!("{}, flows told of", case.what)),
            (net(many_told, index), "ns"),
            (net(many, index), "nothing told"),
        );
    }
    if let Some(index) = cases.iter().position(|case| case.id == "deliver-policy-first") {
        let what = "first flow to an isolated pod, 16,000 entries over 10";
        let ratio = net(many, index) / net(few, index);
        report.add(("growth-policy-10-16k", what), (ratio, "ratio"), (1.0, "flat"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_as_many_entries_as_asked_for_and_no_strangers() {
        let pod = PodName { namespace: "bench".into(), name: "isolated".into() };
        for entries in ENTRIES {
            let rows = table([pod.clone()].iter(), &pod, entries).rows(&pod);
            assert_eq!(rows.len(), entries as usize);
            let stranger = Peer::Identity(IdentityId::of_cluster(STRANGER));
            assert!(rows.iter().all(|row| row.peer != stranger && row.action == Action::Allow));
        }
    }
}
