//! Worlds whose pods may send nothing: a NetworkPolicy isolates each of them in egress, and allows nothing.

use ipnet::IpNet;
use model::{
    Reserved, Snapshot,
    policy::{
        Direction, DirectionPolicy, EndpointPolicy, ListId, PolicyKind, PolicyName, RuleId, RuleList,
        RuleRef, Tier,
    },
};

use super::World;

const LIST: ListId = ListId(1);
const ISOLATES: RuleId = RuleId(1);

impl World {
    /// From now on no pod may send anything; the planes start again, and enforce it.
    pub fn close_pods(&mut self) {
        if !std::mem::replace(&mut self.closed, true) {
            self.oracle.snapshots.values_mut().for_each(close);
            self.restart(|| ());
        }
    }
}

/// Isolates the node's pods.
pub(super) fn close(snapshot: &mut Snapshot) {
    let everything = ["0.0.0.0/0", "::/0"].map(|net| (net.parse().expect("prefix"), Reserved::World.id()));
    let node = snapshot.node.addresses.iter().map(|address| (IpNet::from(*address), Reserved::Host.id()));
    snapshot.addresses = everything.into_iter().chain(node).collect();
    let direction = Direction::Egress;
    let policy =
        PolicyName { kind: PolicyKind::NetworkPolicy, namespace: "scenarios".into(), name: "closed".into() };
    let rule = RuleRef { policy, direction, rule: None, name: None, line: None };
    let egress = DirectionPolicy { network_policy: Some(LIST), ..DirectionPolicy::default() };
    let isolated = EndpointPolicy { egress, ..EndpointPolicy::default() };
    let table = &mut snapshot.policy;
    table.rules.insert(ISOLATES, rule.into());
    table.lists.insert(LIST, RuleList { direction, tier: Tier::NetworkPolicy, isolation: Some(ISOLATES) });
    table.endpoints = snapshot.endpoints.keys().map(|pod| (pod.clone(), isolated)).collect();
}
