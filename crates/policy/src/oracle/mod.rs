//! The reference: whether a connection is allowed, answered by looking at every object, every time; and why.
//!
//! Deliberately naive, and apart from everything that is read and compiled: it has its own reading of selectors, prefixes, ports
//! and defaults. Written down on the way is what each rule was found to lack.

mod admin;
mod network_policy;
mod parts;

use model::{
    Family, PodName,
    policy::{Action, Direction, Mode, PolicyName, RuleRef, Tier, Verdict},
};
use serde::{Deserialize, Serialize};

use crate::world::{Connection, Owner, Undecidable, World};

/// What all tiers found, in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walk {
    pub direction: Direction,
    pub subject: PodName,
    /// What policies say.
    pub verdict: Verdict,
    /// Whether that is enforced.
    pub mode: Mode,
    pub ground: Ground,
    pub tiers: Vec<TierWalk>,
}

/// What the verdict rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ground {
    /// The node always reaches its own pods.
    LocalNode,
    /// No NetworkPolicy keeps a pod from itself.
    Itself,
    /// This rule; in the tier of NetworkPolicies others may allow the same.
    Rule(Tier, RuleRef),
    /// These isolate the pod, and no rule of theirs allows it.
    Isolated(Vec<PolicyName>),
    /// No tier says anything.
    Default,
}

/// What one tier found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierWalk {
    pub tier: Tier,
    pub end: TierEnd,
    /// Those that select the pod, in order of evaluation.
    pub policies: Vec<PolicyWalk>,
}

/// How a tier was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TierEnd {
    /// No policy of it selects the pod and speaks about the direction.
    Silent,
    /// There are policies, but no rule matches, and the next tier is asked.
    NoMatch,
    Passed,
    Decided,
    /// An earlier tier decided.
    NotAsked,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyWalk {
    pub policy: PolicyName,
    /// All rules of the direction.
    pub rules: Vec<RuleWalk>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleWalk {
    pub rule: RuleRef,
    pub action: Action,
    /// Why it is not for this connection; empty: it is.
    pub misses: Vec<Miss>,
}

impl RuleWalk {
    pub fn matches(&self) -> bool {
        self.misses.is_empty()
    }
}

/// A part of a rule that a connection does not meet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Miss {
    /// The other end is none of its peers: what each of them lacks.
    Peer(Vec<String>),
    /// None of its ports: what is wanted instead.
    Ports(Vec<String>),
    /// The rule cannot be understood, so it does not allow anything.
    Closed(String),
}

/// Both directions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// `None`: the source is no pod that policies are about.
    pub egress: Option<Walk>,
    pub ingress: Option<Walk>,
}

impl Judgement {
    /// Allowed where no direction denies.
    pub fn verdict(&self) -> Verdict {
        let walks = [&self.egress, &self.ingress];
        match walks.into_iter().flatten().any(|walk| walk.verdict == Verdict::Deny) {
            true => Verdict::Deny,
            false => Verdict::Allow,
        }
    }

    /// Denied, and let through all the same: whoever denies it is audited only.
    pub fn is_audited(&self) -> bool {
        let walks = [&self.egress, &self.ingress].into_iter().flatten();
        let mut denials = walks.filter(|walk| walk.verdict == Verdict::Deny).peekable();
        denials.peek().is_some() && denials.all(|walk| walk.mode == Mode::Audit)
    }
}

/// Whether `connection` is allowed.
pub fn judge(world: &World, connection: &Connection) -> Result<Judgement, Undecidable> {
    let (source, destination) = (&connection.source, &connection.destination);
    if Family::of(source.address) != Family::of(destination.address) {
        return Err(Undecidable::Families(source.address, destination.address));
    }
    let of = |owner: &Owner, direction| match owner {
        Owner::Pod(pod) => walk(world, pod, direction, connection).map(Some),
        Owner::Node(_) | Owner::Outside => Ok(None),
    };
    let egress = of(&source.owner, Direction::Egress)?;
    let ingress = of(&destination.owner, Direction::Ingress)?;
    Ok(Judgement { egress, ingress })
}

/// What the policies of `subject` say about `connection`, of which it is one end.
pub fn walk(
    world: &World,
    subject: &PodName,
    direction: Direction,
    connection: &Connection,
) -> Result<Walk, Undecidable> {
    let pod = world.pods.get(subject).ok_or_else(|| Undecidable::NoPod(subject.clone()))?;
    if !world.namespaces.contains_key(&subject.namespace) {
        return Err(Undecidable::NoNamespace(subject.namespace.clone()));
    }
    let asked = Asked { world, subject, pod, direction, connection };
    let walked = |tier| match tier {
        Tier::NetworkPolicy => network_policy::policies(&asked),
        Tier::Admin | Tier::Baseline => admin::policies(&asked, tier),
    };
    let mut tiers: Vec<_> = Tier::ALL
        .into_iter()
        .map(|tier| TierWalk { tier, end: TierEnd::NotAsked, policies: walked(tier) })
        .collect();
    let (verdict, ground) = match asked.is_from_own_node() {
        true => (Verdict::Allow, Ground::LocalNode),
        false => decide(&mut tiers, connection.source.address == connection.destination.address),
    };
    let mode = world.mode(subject);
    Ok(Walk { direction, subject: subject.clone(), verdict, mode, ground, tiers })
}

fn decide(tiers: &mut [TierWalk], loopback: bool) -> (Verdict, Ground) {
    for walk in tiers {
        if walk.policies.is_empty() {
            walk.end = TierEnd::Silent;
            continue;
        }
        let rules = walk.policies.iter().flat_map(|policy| &policy.rules);
        let Some(first) = rules.clone().find(|rule| rule.matches()) else {
            walk.end = TierEnd::NoMatch;
            if walk.tier == Tier::NetworkPolicy {
                walk.end = TierEnd::Decided;
                let names = walk.policies.iter().map(|policy| policy.policy.clone()).collect();
                return match loopback {
                    true => (Verdict::Allow, Ground::Itself),
                    false => (Verdict::Deny, Ground::Isolated(names)),
                };
            }
            continue;
        };
        let ground = Ground::Rule(walk.tier, first.rule.clone());
        walk.end = TierEnd::Decided;
        match first.action {
            Action::Allow => return (Verdict::Allow, ground),
            Action::Deny => return (Verdict::Deny, ground),
            Action::Pass => walk.end = TierEnd::Passed,
        }
    }
    (Verdict::Allow, Ground::Default)
}

/// A question that all rules are asked.
struct Asked<'a> {
    world: &'a World,
    subject: &'a PodName,
    pod: &'a crate::read::PodReading,
    direction: Direction,
    connection: &'a Connection,
}

impl Asked<'_> {
    fn is_from_own_node(&self) -> bool {
        let own = matches!(&self.connection.source.owner, Owner::Node(node) if *node == self.pod.node);
        self.direction == Direction::Ingress && own
    }

    fn other(&self) -> &crate::world::Party {
        match self.direction {
            Direction::Ingress => &self.connection.source,
            Direction::Egress => &self.connection.destination,
        }
    }

    /// The pod whose named ports count.
    fn destination_pod(&self) -> Option<&crate::read::PodReading> {
        match &self.connection.destination.owner {
            Owner::Pod(name) => self.world.pods.get(name),
            Owner::Node(_) | Owner::Outside => None,
        }
    }
}
