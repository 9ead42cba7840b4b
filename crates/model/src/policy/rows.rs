//! The table spelled out, for people and for comparing.

use super::{Action, Direction, L4Match, Peer, PeerKey, PolicyTable, Rank, RuleRef, Tier};
use crate::{IdentityId, PodName};

/// One thing that is allowed, denied or passed on for an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    pub direction: Direction,
    pub tier: Tier,
    pub peer: Peer,
    pub l4: L4Match,
    pub action: Action,
    pub rank: Rank,
    pub rule: Option<RuleRef>,
}

impl PolicyTable {
    /// Everything that rules say of an endpoint, in order of evaluation.
    pub fn rows(&self, endpoint: &PodName) -> Vec<Row> {
        let Some(policy) = self.endpoints.get(endpoint) else { return vec![] };
        let mut rows = vec![];
        for direction in Direction::ALL {
            for tier in Tier::ALL {
                let Some(list) = policy.direction(direction).list(tier) else { continue };
                let first = PeerKey { list, peer: Peer::Identity(IdentityId::default()) };
                for (key, ports) in self.peers.range(first..=PeerKey { list, peer: Peer::Anyone }) {
                    let said = self.ports.get(ports).into_iter().flat_map(|ports| ports.iter());
                    rows.extend(said.map(|(l4, said)| Row {
                        direction,
                        tier,
                        peer: key.peer,
                        l4: *l4,
                        action: said.action,
                        rank: said.rank,
                        rule: self.rules.get(&said.rule).map(|rule| (**rule).clone()),
                    }));
                }
            }
        }
        rows
    }
}
