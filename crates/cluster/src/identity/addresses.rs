//! Which identity each address has, where several would give it one. Pure.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    mem,
};

use ipnet::IpNet;
use k8s_openapi::jiff::Timestamp;
use model::{IdentityId, PodName};

/// Who says whose an address is; the first of those that speak of one prefix is believed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Claimant {
    /// This node's own addresses.
    Host,
    /// The endpoints of the API server's Service.
    ApiServer,
    Nodes,
    /// A pod that is attached to this node, which its agent knows best.
    Local(PodName),
    /// What another node's agent published: the youngest, where an address was given out again.
    Remote(Reverse<Option<Timestamp>>, PodName),
    /// What is not said otherwise: pods without an identity, and the world.
    Rest,
}

/// The table, and who claims what.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    claims: BTreeMap<IpNet, Vec<(Claimant, IdentityId)>>,
    claimed: BTreeMap<Claimant, BTreeSet<IpNet>>,
    /// Prefixes whose identity differs from what was taken last, with what it was then.
    moved: BTreeMap<IpNet, Option<IdentityId>>,
}

impl Addresses {
    /// From now on `claimant` claims just `wanted`.
    pub(super) fn set(&mut self, claimant: &Claimant, wanted: &BTreeMap<IpNet, IdentityId>) {
        let before = self.claimed.remove(claimant).unwrap_or_default();
        for prefix in before.iter().filter(|prefix| !wanted.contains_key(prefix)) {
            self.claim(*prefix, claimant, None);
        }
        for (prefix, identity) in wanted {
            self.claim(*prefix, claimant, Some(*identity));
        }
        if !wanted.is_empty() {
            self.claimed.insert(claimant.clone(), wanted.keys().copied().collect());
        }
    }

    /// What moved since the last call: `None` takes a prefix out of the table.
    pub(super) fn take_moved(&mut self) -> BTreeMap<IpNet, Option<IdentityId>> {
        let moved = mem::take(&mut self.moved);
        let now = moved.into_iter().map(|(prefix, before)| (prefix, before, self.get(&prefix)));
        now.filter(|(_, before, now)| before != now).map(|(prefix, _, now)| (prefix, now)).collect()
    }

    /// Who is believed about `prefix`.
    pub(super) fn get(&self, prefix: &IpNet) -> Option<IdentityId> {
        self.claims.get(prefix).and_then(|claims| claims.first()).map(|(_, identity)| *identity)
    }

    fn claim(&mut self, prefix: IpNet, claimant: &Claimant, identity: Option<IdentityId>) {
        let before = self.get(&prefix);
        let claims = self.claims.entry(prefix).or_default();
        claims.retain(|(other, _)| other != claimant);
        if let Some(identity) = identity {
            let at = claims.partition_point(|(other, _)| other < claimant);
            claims.insert(at, (claimant.clone(), identity));
            claims.shrink_to_fit();
        }
        if claims.is_empty() {
            self.claims.remove(&prefix);
        }
        self.moved.entry(prefix).or_insert(before);
    }
}

#[cfg(test)]
mod tests {
    use model::Reserved;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("prefix")
    }

    fn id(number: u32) -> IdentityId {
        IdentityId::from_raw(number)
    }

    fn remote(name: &str, second: i64) -> Claimant {
        let created = Timestamp::from_second(second).expect("time");
        Claimant::Remote(Reverse(Some(created)), PodName { namespace: "d".into(), name: name.into() })
    }

    fn wanted(rows: &[(&str, IdentityId)]) -> BTreeMap<IpNet, IdentityId> {
        rows.iter().map(|(prefix, identity)| (net(prefix), *identity)).collect()
    }

    #[test]
    fn a_pod_costs_the_rows_of_its_addresses() {
        let mut table = Addresses::default();
        for number in 0..100 {
            let address = format!("10.20.0.{number}/32");
            table.set(&remote(&format!("p{number}"), 1), &wanted(&[(&address, id(300))]));
        }
        assert_eq!(table.take_moved().len(), 100);
        table.set(&remote("one-more", 2), &wanted(&[("10.20.1.1/32", id(300))]));
        assert_eq!(table.take_moved(), [(net("10.20.1.1/32"), Some(id(300)))].into());
        table.set(&remote("one-more", 2), &wanted(&[("10.20.1.1/32", id(300))]));
        assert!(table.take_moved().is_empty(), "the same again");
    }

    #[test]
    fn an_address_that_was_given_out_again_is_the_younger_pods() {
        let mut table = Addresses::default();
        let (old, new) = (remote("old", 1), remote("new", 2));
        let row = |number| wanted(&[("10.20.0.7/32", id(number))]);
        for order in [[(&old, 300), (&new, 301)], [(&new, 301), (&old, 300)]] {
            for (claimant, number) in order {
                table.set(claimant, &row(number));
            }
            assert_eq!(table.get(&net("10.20.0.7/32")), Some(id(301)));
            table.set(&old, &BTreeMap::new());
            assert_eq!(
                table.get(&net("10.20.0.7/32")),
                Some(id(301)),
                "the end of the older changes nothing"
            );
            table.set(&new, &BTreeMap::new());
        }
        table.take_moved();
        assert!(table.claims.is_empty() && table.claimed.is_empty());
    }

    #[test]
    fn nodes_come_before_pods_and_the_node_itself_before_all() {
        let mut table = Addresses::default();
        let one = |reserved: Reserved| wanted(&[("10.128.0.11/32", reserved.id())]);
        let pod = Claimant::Local(PodName { namespace: "d".into(), name: "p".into() });
        table.set(&pod, &wanted(&[("10.128.0.11/32", id(400))]));
        for (claimant, reserved) in [
            (Claimant::Nodes, Reserved::RemoteNode),
            (Claimant::ApiServer, Reserved::KubeApiserver),
            (Claimant::Host, Reserved::Host),
        ] {
            table.set(&claimant, &one(reserved));
            assert_eq!(table.get(&net("10.128.0.11/32")), Some(reserved.id()));
        }
    }

    #[test]
    fn what_came_and_went_is_no_move() {
        let mut table = Addresses::default();
        table.set(&remote("a", 1), &wanted(&[("fd20::1/128", id(300))]));
        table.set(&remote("a", 1), &BTreeMap::new());
        assert!(table.take_moved().is_empty());
    }
}
