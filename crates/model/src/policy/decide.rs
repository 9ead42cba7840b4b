//! What the table says about one packet: the reference for every plane that enforces it.

use serde::{Deserialize, Serialize};

use super::{Action, Direction, L4, Peer, PeerKey, PolicyTable, PortAction, RuleId, Tier};
use crate::{IdentityId, PodName, Reserved};

/// The other end, as its address is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerAddress {
    /// By the table of addresses.
    pub identity: IdentityId,
    /// By the longest match in [`PolicyTable::prefixes`].
    pub prefix: Option<IdentityId>,
}

/// The first packet of a flow: replies, and errors that belong to a flow, are never asked about.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    pub endpoint: &'a PodName,
    pub direction: Direction,
    pub peer: PeerAddress,
    pub l4: L4,
    /// The pod talks to itself, which it does past its own interface only through a Service.
    pub loopback: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[must_use]
pub enum Verdict {
    Allow,
    Deny,
}

/// What a verdict rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Basis {
    /// The node always reaches its own pods.
    LocalNode,
    /// No NetworkPolicy keeps a pod from itself.
    Itself,
    /// A rule of the tier.
    Rule(Tier, RuleId),
    /// No rule of any NetworkPolicy that isolates the pod; the first of them by name.
    Isolated(RuleId),
    /// No tier says anything.
    Default,
    /// The endpoint has no policy yet.
    Unknown,
}

/// Whether it passes, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Decision {
    pub verdict: Verdict,
    pub basis: Basis,
}

impl Decision {
    const fn allow(basis: Basis) -> Self {
        Self { verdict: Verdict::Allow, basis }
    }

    const fn deny(basis: Basis) -> Self {
        Self { verdict: Verdict::Deny, basis }
    }
}

impl PolicyTable {
    /// What becomes of the packet. A plane that enforces the table must come to the same verdict.
    pub fn decide(&self, question: &Question<'_>) -> Decision {
        let Some(endpoint) = self.endpoints.get(question.endpoint) else {
            return Decision::deny(Basis::Unknown);
        };
        if question.direction == Direction::Ingress && question.peer.identity == Reserved::Host.id() {
            return Decision::allow(Basis::LocalNode);
        }
        let lists = endpoint.direction(question.direction);
        for tier in Tier::ALL {
            let Some(list) = lists.list(tier) else { continue };
            let hits = question.peer.peers().filter_map(|peer| self.hit(PeerKey { list, peer }, question.l4));
            match tier {
                Tier::Admin | Tier::Baseline => match hits.min() {
                    Some(PortAction { action: Action::Allow, rule, .. }) => {
                        return Decision::allow(Basis::Rule(tier, rule));
                    }
                    Some(PortAction { action: Action::Deny, rule, .. }) => {
                        return Decision::deny(Basis::Rule(tier, rule));
                    }
                    Some(PortAction { action: Action::Pass, .. }) | None => {}
                },
                Tier::NetworkPolicy => return self.isolated(list, hits, question.loopback),
            }
        }
        Decision::allow(Basis::Default)
    }

    fn isolated(
        &self,
        list: super::ListId,
        mut hits: impl Iterator<Item = PortAction>,
        loopback: bool,
    ) -> Decision {
        let isolation = self.lists.get(&list).and_then(|list| list.isolation);
        match (hits.next(), isolation) {
            (Some(hit), _) => Decision::allow(Basis::Rule(Tier::NetworkPolicy, hit.rule)),
            (None, _) if loopback => Decision::allow(Basis::Itself),
            (None, Some(rule)) => Decision::deny(Basis::Isolated(rule)),
            (None, None) => Decision::deny(Basis::Unknown),
        }
    }

    fn hit(&self, key: PeerKey, l4: L4) -> Option<PortAction> {
        self.ports.get(self.peers.get(&key)?)?.get(l4).copied()
    }
}

impl PeerAddress {
    /// Whom rows may name for it, in the order in which they are asked.
    pub fn peers(self) -> impl Iterator<Item = Peer> {
        let pods = self.identity.is_of_cluster().then_some(Peer::Pods);
        [Some(Peer::Identity(self.identity)), self.prefix.map(Peer::Identity), pods, Some(Peer::Anyone)]
            .into_iter()
            .flatten()
    }
}
