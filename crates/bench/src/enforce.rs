//! How long the iptables plane takes to program policies: one for each of many pods from nothing, then one change among them.
//! Both families are written. Interfaces need not be there for rules that name them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Instant,
};

use anyhow::Context as _;
use dataplane_iptables::{Config, IptablesDataplane};
use ipnet::IpNet;
use model::{
    Changed, Endpoint, IdentityId, L7Visibility, MacAddress, PodName, PolicyTable, Protocol, Snapshot,
    policy::{
        Action, Direction, DirectionPolicy, EndpointPolicy, L4Match, ListId, Peer, PeerKey, PolicyKind,
        PolicyName, PortAction, PortMap, PortPrefix, PortsId, Rank, RuleId, RuleList, RuleRef, Tier,
    },
};
use scenarios::{places::Node, topology::Topology};

use crate::{
    plane,
    rows::{Report, median},
};

/// Each has a policy of its own.
const PODS: [u32; 2] = [100, 1_000];
/// That rules name, each with two pods elsewhere.
const IDENTITIES: u32 = 200;
/// Changes that are timed one by one.
const CHANGES: u32 = 5;

/// Milliseconds.
struct Times {
    from_nothing: f64,
    policy: f64,
    member: f64,
}

pub(crate) fn measure(report: &mut Report) -> anyhow::Result<()> {
    let [few, many] = PODS;
    let (control, times) = (time(few)?, time(many)?);
    for (id, what, value, control) in [
        ("program", "from nothing", times.from_nothing, control.from_nothing),
        ("change", "one policy's port changed", times.policy, control.policy),
        ("member", "one pod more elsewhere, of a known identity", times.member, control.member),
    ] {
        let what = format!("{many} policies, each of a pod of the node, both families, iptables: {what}");
        report.add((format!("policy-{id}-1k-iptables"), what), (value, "ms"), (control, "with 100"));
    }
    Ok(())
}

fn time(pods: u32) -> anyhow::Result<Times> {
    let topology = Topology::new();
    let node = topology.node(Node::A);
    let open = || IptablesDataplane::open(Config { policy: true, ..Config::default() });
    let mut opened = node.run(open)?.context("open the iptables plane")?;
    let mut snapshot = plane::bare_snapshot(&topology, Node::A);
    let others = snapshot.endpoints.keys().map(|pod| (pod.clone(), EndpointPolicy::default()));
    snapshot.policy.endpoints = others.collect();
    plane::apply(&mut opened, node, &snapshot, &Changed::all(&snapshot))?;
    let mut timed = |next: &Snapshot, before: &Snapshot| -> anyhow::Result<f64> {
        let changed = next.changed_since(before);
        let start = Instant::now();
        plane::apply(&mut opened, node, next, &changed)?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    let empty = snapshot.clone();
    (0..IDENTITIES * 2).for_each(|index| know(&mut snapshot, index));
    (0..pods).for_each(|index| protect(&mut snapshot, index));
    let from_nothing = timed(&snapshot, &empty)?;
    let (mut policies, mut members) = (vec![], vec![]);
    for change in 0..CHANGES {
        let before = snapshot.clone();
        set_port(&mut snapshot.policy, pods / CHANGES * change, 9090);
        policies.push(timed(&snapshot, &before)?);
        let before = snapshot.clone();
        know(&mut snapshot, IDENTITIES * 2 + change);
        members.push(timed(&snapshot, &before)?);
    }
    node.run(|| dataplane::Dataplane::clean_up(&mut opened))??;
    Ok(Times { from_nothing, policy: median(policies), member: median(members) })
}

/// A pod elsewhere.
fn know(snapshot: &mut Snapshot, index: u32) {
    let [.., high, low] = index.to_be_bytes();
    let addresses = [
        IpAddr::from(Ipv4Addr::new(10, 30, high, low)),
        Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, index as u16).into(),
    ];
    let id = IdentityId::of_cluster(index % IDENTITIES);
    snapshot.addresses.extend(addresses.map(|address| (IpNet::from(address), id)));
}

/// A pod of the node, that gets port 8080 from one identity.
fn protect(snapshot: &mut Snapshot, index: u32) {
    let pod = PodName { namespace: "bench".into(), name: format!("p{index}") };
    let endpoint = Endpoint {
        pod: pod.clone(),
        addresses: vec![],
        interface: format!("tpb{index}"),
        ifindex: 10_000 + index,
        mac: MacAddress::default(),
        host_mac: MacAddress::default(),
        netns: None,
        l7: L7Visibility::default(),
    };
    snapshot.endpoints.insert(pod.clone(), Arc::new(endpoint));
    let table = &mut snapshot.policy;
    let (list, isolation) = (ListId(index + 1), RuleId(2 * index + 1));
    let direction = Direction::Ingress;
    let policy =
        PolicyName { kind: PolicyKind::NetworkPolicy, namespace: "bench".into(), name: pod.name.clone() };
    for (id, rule) in [(isolation, None), (RuleId(2 * index + 2), Some(0))] {
        let rule = RuleRef { policy: policy.clone(), direction, rule, name: None, line: None };
        table.rules.insert(id, rule.into());
    }
    table.lists.insert(list, RuleList { direction, tier: Tier::NetworkPolicy, isolation: Some(isolation) });
    let peer = Peer::Identity(IdentityId::of_cluster(index % IDENTITIES));
    table.peers.insert(PeerKey { list, peer }, PortsId(index + 1));
    let ingress = DirectionPolicy { network_policy: Some(list), ..DirectionPolicy::default() };
    table.endpoints.insert(pod, EndpointPolicy { ingress, ..EndpointPolicy::default() });
    set_port(table, index, 8080);
}

fn set_port(table: &mut PolicyTable, index: u32, port: u16) {
    let said = PortAction { rank: Rank(0), action: Action::Allow, rule: RuleId(2 * index + 2) };
    let ports = PortMap::new([(L4Match::Ports(Protocol::Tcp, PortPrefix::one(port)), said)]);
    table.ports.insert(PortsId(index + 1), ports.into());
}
