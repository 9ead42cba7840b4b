//! Why a connection is allowed or not, in words: which tier and rule decided, and what the nearest rules lack. Pure.

use std::fmt;

use model::{
    PolicyTable,
    policy::{Action, Basis, Decision, Direction, Mode, Tier, Verdict},
};
use serde::{Deserialize, Serialize};

use crate::{
    oracle::{self, Ground, Judgement, Miss, RuleWalk, TierEnd, Walk},
    world::{Connection, Owner, Party, Undecidable, World},
};

/// How many rules that almost match are told of.
const NEAREST: usize = 3;

/// The answer to "why".
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub connection: Connection,
    pub judgement: Judgement,
}

/// Why.
pub fn explain(world: &World, connection: &Connection) -> Result<Explanation, Undecidable> {
    let judgement = oracle::judge(world, connection)?;
    Ok(Explanation { connection: connection.clone(), judgement })
}

/// Whether what enforces says the same as the objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Agreement {
    Same,
    /// Another verdict, or the same for a reason that does not hold.
    Differs {
        enforced: Decision,
    },
}

/// Compares a decision by `table` (the live one, say) with what follows from the objects.
pub fn agreement(walk: &Walk, table: &PolicyTable, enforced: Decision) -> Agreement {
    let reason = match (enforced.basis, &walk.ground) {
        (Basis::LocalNode, Ground::LocalNode)
        | (Basis::Default, Ground::Default)
        | (Basis::Itself, Ground::Itself) => true,
        (Basis::Isolated(rule), Ground::Isolated(policies)) => {
            table.rules.get(&rule).is_some_and(|rule| policies.first() == Some(&rule.policy))
        }
        (Basis::Rule(tier, rule), Ground::Rule(of, first)) => {
            let rule = table.rules.get(&rule).map(|rule| &**rule);
            let tiers = walk.tiers.iter().filter(|walk| walk.tier == tier);
            let all = tiers.flat_map(|tier| &tier.policies).flat_map(|policy| &policy.rules);
            let allows = all.filter(|rule| rule.matches()).any(|walk| Some(&walk.rule) == rule);
            tier == *of && allows && (tier == Tier::NetworkPolicy || rule == Some(first))
        }
        _ => false,
    };
    match reason && enforced.verdict == walk.verdict {
        true => Agreement::Same,
        false => Agreement::Differs { enforced },
    }
}

impl Walk {
    /// For a deny: rules that would allow, those first that lack least, ports before peers.
    pub fn nearest(&self) -> Vec<&RuleWalk> {
        let decisive = |tier: &&oracle::TierWalk| tier.end != TierEnd::NotAsked;
        let policies = self.tiers.iter().filter(decisive).flat_map(|tier| &tier.policies);
        let allowing = policies.flat_map(|policy| &policy.rules);
        let mut near: Vec<_> =
            allowing.filter(|rule| rule.action == Action::Allow && !rule.matches()).collect();
        near.sort_by_key(|rule| rule.distance());
        near.truncate(NEAREST);
        near
    }
}

impl RuleWalk {
    /// The least first: the wrong port, the wrong peer, both, a rule that cannot be understood.
    fn distance(&self) -> usize {
        let weigh = |miss: &Miss| match miss {
            Miss::Ports(_) => 1,
            Miss::Peer(_) => 2,
            Miss::Closed(_) => 4,
        };
        self.misses.iter().map(weigh).sum()
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Connection { source, destination, l4 } = &self.connection;
        let verdict = match self.judgement.is_audited() {
            true => AUDITED,
            false => said(self.judgement.verdict()),
        };
        writeln!(f, "{source} -> {destination} {l4}: {verdict}")?;
        for (name, walk) in [("egress", &self.judgement.egress), ("ingress", &self.judgement.ingress)] {
            match walk {
                Some(walk) => write!(f, "{walk}")?,
                None => writeln!(f, "{name}: no pod at that end, no policy")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (direction, preposition) = match self.direction {
            Direction::Ingress => ("ingress", "to"),
            Direction::Egress => ("egress", "from"),
        };
        let verdict = match (self.verdict, self.mode) {
            (Verdict::Deny, Mode::Audit) => AUDITED,
            (verdict, _) => said(verdict),
        };
        writeln!(f, "{direction} {preposition} {}: {verdict}: {}", self.subject, self.ground)?;
        for tier in &self.tiers {
            let end = match tier.end {
                TierEnd::Silent => "no policy",
                TierEnd::NoMatch => "no rule matches",
                TierEnd::Passed => "passed on",
                TierEnd::Decided => "decides",
                TierEnd::NotAsked => "not asked",
            };
            writeln!(f, "  {:?}: {end}", tier.tier)?;
        }
        if self.verdict == Verdict::Deny {
            for rule in self.nearest() {
                writeln!(f, "  nearest: {}", rule.rule)?;
                rule.misses.iter().try_for_each(|miss| writeln!(f, "    {miss}"))?;
            }
        }
        Ok(())
    }
}

const AUDITED: &str = "audited (denied, and let through)";

/// A verdict in words.
pub const fn said(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allowed",
        Verdict::Deny => "denied",
    }
}

impl fmt::Display for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LocalNode => f.write_str("a node always reaches its own pods"),
            Self::Itself => f.write_str("a pod always reaches itself"),
            Self::Rule(tier, rule) => write!(f, "{tier:?} tier: {rule}"),
            Self::Isolated(policies) => {
                let names: Vec<_> = policies.iter().map(ToString::to_string).collect();
                write!(f, "isolated by {}, and none of their rules allows it", names.join(", "))
            }
            Self::Default => f.write_str("no policy says anything"),
        }
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(why) => write!(f, "peer: {}", why.join(" | ")),
            Self::Ports(why) => write!(f, "port: {}", why.join(" | ")),
            Self::Closed(why) => write!(f, "rule is closed: {why}"),
        }
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.owner {
            Owner::Pod(pod) => write!(f, "{pod} ({})", self.address),
            Owner::Node(node) => write!(f, "node {node} ({})", self.address),
            Owner::Outside => self.address.fmt(f),
        }
    }
}
