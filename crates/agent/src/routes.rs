//! Routes to the other nodes' pods, by their nodes or through a tunnel, and the one that stops packets to pods of this
//! node that do not exist.
//!
//! [`wanted`] and [`plan`] are pure; [`Routes`] keeps the kernel in step with them. Only routes with the
//! agent's own protocol number are ever changed or removed.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error as _,
};

use dataplane::{ObjectState, ObjectStatus};
use ipnet::IpNet;
use model::{Family, Generation, NodeConfig, Peer};

use crate::{
    netlink::{Netlink, Via},
    tunnel,
};

/// What the routing table should hold, and what cannot be routed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) routes: BTreeMap<IpNet, Route>,
    pub(crate) problems: Vec<ObjectStatus>,
}

/// A route with the node it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) via: Via,
    pub(crate) node: String,
}

/// One step; steps are done in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Remove(IpNet, Via),
    Add(IpNet, Via),
}

/// Every peer's pod prefixes by way of its first address of the same family, or of its tunnel's address where this node
/// has a `tunnel` (an interface index); and this node's own as unreachable: more specific routes lead to the pods that
/// exist, and a packet to one that does not must not wander off by the default route.
pub(crate) fn wanted<'a>(
    node: &NodeConfig,
    peers: impl Iterator<Item = &'a Peer>,
    tunnel: Option<u32>,
) -> Wanted {
    let mut wanted = Wanted::default();
    for cidr in &node.pod_cidrs {
        wanted.routes.insert(*cidr, Route { via: Via::Unreachable, node: node.name.clone() });
    }
    for peer in peers {
        for cidr in &peer.pod_cidrs {
            let family = Family::of(cidr.addr());
            let via = match tunnel {
                Some(index) => Some(Via::OnLink(tunnel::address_in(*cidr), index)),
                None => peer
                    .addresses
                    .iter()
                    .find(|address| Family::of(**address) == family)
                    .map(|address| Via::Gateway(*address)),
            };
            match (wanted.routes.get(cidr).map(|route| route.node.clone()), via) {
                (Some(other), _) => {
                    wanted.problem(peer, "spec.podCIDRs", format!("{cidr} already belongs to node {other}"))
                }
                (None, None) => {
                    wanted.problem(peer, "status.addresses", format!("no InternalIP to route {cidr} to"))
                }
                (None, Some(via)) => {
                    wanted.routes.insert(*cidr, Route { via, node: peer.name.clone() });
                }
            }
        }
    }
    wanted
}

impl Wanted {
    fn problem(&mut self, peer: &Peer, field: &str, reason: String) {
        self.problems.push(failed(&peer.name, Some(field), reason, ObjectState::Refused));
    }
}

/// The steps from `observed` to `wanted`. Routes of single pods are none of this module's business.
pub(crate) fn plan(wanted: &BTreeMap<IpNet, Route>, observed: &[(IpNet, Via)]) -> Vec<Operation> {
    let mut present = BTreeSet::new();
    let mut operations = vec![];
    for (cidr, via) in observed.iter().filter(|(_, via)| !matches!(via, Via::Link(_))) {
        if wanted.get(cidr).is_some_and(|route| route.via == *via) {
            present.insert(*cidr);
        } else {
            operations.push(Operation::Remove(*cidr, *via));
        }
    }
    let missing = wanted.iter().filter(|(cidr, _)| !present.contains(*cidr));
    operations.extend(missing.map(|(cidr, route)| Operation::Add(*cidr, route.via)));
    operations
}

/// The executor.
#[derive(Debug)]
pub(crate) struct Routes {
    netlink: Netlink,
}

impl Routes {
    pub(crate) fn new(netlink: Netlink) -> Self {
        Self { netlink }
    }

    /// Brings the kernel to `wanted`; returns what it could not do, per node.
    pub(crate) async fn sync(&self, wanted: &Wanted) -> Vec<ObjectStatus> {
        let mut problems = wanted.problems.clone();
        let observed = match self.netlink.own_routes().await {
            Ok(observed) => observed,
            Err(error) => {
                problems.push(failed("(this node)", None, with_cause(&error), ObjectState::Failed));
                return problems;
            }
        };
        for operation in plan(&wanted.routes, &observed) {
            let (cidr, done) = match operation {
                Operation::Remove(cidr, via) => (cidr, self.netlink.delete_route(cidr, via).await),
                Operation::Add(cidr, via) => (cidr, self.netlink.add_route(cidr, via).await),
            };
            match done {
                Ok(()) => tracing::info!(?operation, "route changed"),
                Err(error) => {
                    let node = wanted.routes.get(&cidr).map_or("(this node)", |route| &route.node);
                    problems.push(failed(node, None, with_cause(&error), ObjectState::Failed));
                }
            }
        }
        problems
    }
}

pub(crate) fn failed(node: &str, field: Option<&str>, reason: String, state: ObjectState) -> ObjectStatus {
    ObjectStatus {
        kind: "Node".into(),
        name: node.to_owned(),
        state,
        field: field.map(str::to_owned),
        reason: Some(reason),
        generation: Generation::default(),
    }
}

pub(crate) fn with_cause(error: &crate::netlink::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> IpNet {
        text.parse().expect("prefix")
    }

    fn gateway(text: &str) -> Via {
        Via::Gateway(text.parse().expect("address"))
    }

    fn peer(name: &str, addresses: &[&str], cidrs: &[&str]) -> Peer {
        Peer {
            name: name.into(),
            addresses: addresses.iter().map(|a| a.parse().expect("address")).collect(),
            pod_cidrs: cidrs.iter().map(|c| cidr(c)).collect(),
        }
    }

    fn own() -> NodeConfig {
        NodeConfig { name: "a".into(), pod_cidrs: vec![cidr("10.20.0.0/24")], ..NodeConfig::default() }
    }

    #[test]
    fn every_prefix_goes_by_an_address_of_its_own_family() {
        let b = peer("b", &["10.128.0.12", "fd00::12"], &["10.20.1.0/24", "fd20:1::/64"]);
        let wanted = wanted(&own(), [&b].into_iter(), None);
        let routes: Vec<_> = wanted.routes.iter().map(|(cidr, route)| (*cidr, route.via)).collect();
        assert_eq!(
            routes,
            [
                (cidr("10.20.0.0/24"), Via::Unreachable),
                (cidr("10.20.1.0/24"), gateway("10.128.0.12")),
                (cidr("fd20:1::/64"), gateway("fd00::12")),
            ]
        );
        assert_eq!(wanted.problems, []);
    }

    #[test]
    fn a_tunnel_takes_every_prefix_and_needs_no_address_of_its_family() {
        let b = peer("b", &["10.128.0.12"], &["10.20.1.0/24", "fd20:1::/64"]);
        let wanted = wanted(&own(), [&b].into_iter(), Some(9));
        let onlink = |text: &str| Via::OnLink(text.parse().expect("address"), 9);
        assert_eq!(wanted.routes[&cidr("10.20.1.0/24")].via, onlink("10.20.1.0"));
        assert_eq!(wanted.routes[&cidr("fd20:1::/64")].via, onlink("fd20:1::"));
        assert_eq!(wanted.problems, []);
        let native = [(cidr("10.20.1.0/24"), gateway("10.128.0.12"))];
        assert_eq!(
            plan(&wanted.routes, &native)[..2],
            [
                Operation::Remove(cidr("10.20.1.0/24"), gateway("10.128.0.12")),
                Operation::Add(cidr("10.20.0.0/24"), Via::Unreachable)
            ],
            "a native route makes room for the tunnel's"
        );
    }

    #[test]
    fn what_cannot_be_routed_is_named_and_the_rest_is_routed() {
        let b = peer("b", &["10.128.0.12"], &["10.20.1.0/24", "fd20:1::/64"]);
        let c = peer("c", &["10.128.0.13"], &["10.20.1.0/24", "10.20.0.0/24", "10.20.2.0/24"]);
        let wanted = wanted(&own(), [&b, &c].into_iter(), None);
        assert_eq!(wanted.routes[&cidr("10.20.1.0/24")].node, "b");
        assert_eq!(wanted.routes[&cidr("10.20.0.0/24")].node, "a");
        assert_eq!(wanted.routes[&cidr("10.20.2.0/24")].node, "c");
        let problems: Vec<_> = wanted.problems.iter().map(|p| p.reason.clone().unwrap_or_default()).collect();
        assert_eq!(
            problems,
            [
                "no InternalIP to route fd20:1::/64 to",
                "10.20.1.0/24 already belongs to node b",
                "10.20.0.0/24 already belongs to node a"
            ]
        );
    }

    #[test]
    fn the_plan_changes_only_what_differs_and_never_a_pods_route() {
        let b = peer("b", &["10.128.0.12"], &["10.20.1.0/24"]);
        let wanted = wanted(&own(), [&b].into_iter(), None);
        let observed = [
            (cidr("10.20.0.0/24"), Via::Unreachable),
            (cidr("10.20.0.2/32"), Via::Link(7)),
            (cidr("10.20.1.0/24"), gateway("10.128.0.99")),
            (cidr("10.20.9.0/24"), gateway("10.128.0.19")),
        ];
        assert_eq!(
            plan(&wanted.routes, &observed),
            [
                Operation::Remove(cidr("10.20.1.0/24"), gateway("10.128.0.99")),
                Operation::Remove(cidr("10.20.9.0/24"), gateway("10.128.0.19")),
                Operation::Add(cidr("10.20.1.0/24"), gateway("10.128.0.12")),
            ]
        );
        let settled: Vec<_> = wanted.routes.iter().map(|(cidr, route)| (*cidr, route.via)).collect();
        assert_eq!(plan(&wanted.routes, &settled), []);
    }
}
