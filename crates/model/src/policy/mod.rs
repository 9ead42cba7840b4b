//! Who may talk to whom, compiled: what every plane and the tests read. Pure data.
//!
//! ```text
//!  endpoint ─▶ EndpointPolicy ─▶ direction ─▶ tier ─▶ ListId
//!  address  ─▶ identity, and prefix where a policy names one (longest prefix of `prefixes`)
//!  (ListId, Peer) ─▶ PortsId ─▶ longest match of protocol and port ─▶ action, rank, rule
//! ```
//!
//! A decision ([`PolicyTable::decide`]) asks each tier that has a list for at most four peers: the identity, the prefix, all
//! pods, anyone. In the tier of NetworkPolicies the first hit allows, and no hit denies; in the others the lowest rank decides.
//!
//! Invariant: numbers are not given again while a process lives, and what a [`PortsId`] or a [`RuleId`] stands for never
//! changes. Lists of the ranked tiers never change either, so that an endpoint goes from one state to the next by one write.
//!
//! Never knows selectors or Kubernetes objects.

mod decide;
mod ports;
mod rows;
mod update;

use std::{collections::BTreeMap, fmt, sync::Arc};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use decide::{Basis, Decision, PeerAddress, Question, Verdict};
pub use ports::{InvalidPrefixLength, L4, L4Match, PortAction, PortMap, PortPrefix};
pub use rows::Row;
pub use update::{PolicyChanged, PolicyUpdate};

use crate::{IdentityId, PodName};

/// Which way, seen from the pod that a policy is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the pod.
    Ingress,
    /// From the pod, after service translation.
    Egress,
}

impl Direction {
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];
}

/// In order of evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// ClusterNetworkPolicy of tier Admin. Ranked.
    Admin,
    /// NetworkPolicy: final wherever a list is there.
    NetworkPolicy,
    /// ClusterNetworkPolicy of tier Baseline. Ranked.
    Baseline,
}

impl Tier {
    pub const ALL: [Self; 3] = [Self::Admin, Self::NetworkPolicy, Self::Baseline];
}

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Action {
    Allow,
    Deny,
    /// Leaves the tier; ranked tiers only.
    Pass,
}

/// A list of rules that endpoints share: what one tier says in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ListId(pub u32);

/// Protocols and ports with their actions, shared by rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PortsId(pub u32);

/// A rule, or a policy's isolation. From 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RuleId(pub u32);

/// Precedence among the rules of a ranked tier: the lowest decides. 0 everywhere in [`Tier::NetworkPolicy`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rank(pub u32);

/// The other end, as a row names it. The order is that in which they are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Peer {
    /// Whoever has this identity; or, where it [is local](IdentityId::is_local), whatever address has this as its longest
    /// prefix in [`PolicyTable::prefixes`].
    Identity(IdentityId),
    /// Every pod of the cluster that has an identity of the cluster.
    Pods,
    Anyone,
}

/// Where the row of a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerKey {
    pub list: ListId,
    pub peer: Peer,
}

/// What is there besides its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleList {
    pub direction: Direction,
    pub tier: Tier,
    /// In [`Tier::NetworkPolicy`]: the policy that isolates (the first by name), which is what denies when no row allows.
    pub isolation: Option<RuleId>,
}

/// The lists of one direction. Without any, everything is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectionPolicy {
    pub admin: Option<ListId>,
    /// There: isolated in this direction.
    pub network_policy: Option<ListId>,
    pub baseline: Option<ListId>,
}

impl DirectionPolicy {
    pub const fn list(&self, tier: Tier) -> Option<ListId> {
        match tier {
            Tier::Admin => self.admin,
            Tier::NetworkPolicy => self.network_policy,
            Tier::Baseline => self.baseline,
        }
    }
}

/// Whether denied packets are dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Mode {
    #[default]
    Enforce,
    /// Told of, and let through.
    Audit,
}

/// What is asked for an endpoint. An endpoint that has none is one of which nothing is known: it gets and sends nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointPolicy {
    pub ingress: DirectionPolicy,
    pub egress: DirectionPolicy,
    pub mode: Mode,
}

impl EndpointPolicy {
    pub const fn direction(&self, direction: Direction) -> &DirectionPolicy {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// Kinds of policy objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PolicyKind {
    NetworkPolicy,
    ClusterNetworkPolicy,
}

/// A policy object by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PolicyName {
    pub kind: PolicyKind,
    /// Empty for a ClusterNetworkPolicy.
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
        })
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// A line of a file that a policy was read from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SourceLine {
    pub file: String,
    /// From 1.
    pub line: u64,
}

/// What decided, as people find it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RuleRef {
    pub policy: PolicyName,
    pub direction: Direction,
    /// Index in `spec.ingress` or `spec.egress`, from 0. `None`: that the policy isolates.
    pub rule: Option<usize>,
    /// Where the rule has one (ClusterNetworkPolicy).
    pub name: Option<String>,
    /// Of the rule, where it was read from a file.
    pub line: Option<SourceLine>,
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        };
        match self.rule {
            Some(rule) => write!(f, "{} {direction}[{rule}]", self.policy)?,
            None => write!(f, "{} isolates {direction}", self.policy)?,
        }
        if let Some(name) = &self.name {
            write!(f, " {name:?}")?;
        }
        match &self.line {
            Some(at) => write!(f, " ({}:{})", at.file, at.line),
            None => Ok(()),
        }
    }
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyTable {
    /// Of this node.
    pub endpoints: BTreeMap<PodName, EndpointPolicy>,
    pub lists: BTreeMap<ListId, RuleList>,
    pub peers: BTreeMap<PeerKey, PortsId>,
    pub ports: BTreeMap<PortsId, Arc<PortMap>>,
    pub rules: BTreeMap<RuleId, Arc<RuleRef>>,
    /// Prefixes that rules name (and holes in them), with identities local to this node. What a longer prefix shares with a
    /// shorter one that contains it is in the rows of both.
    pub prefixes: BTreeMap<IpNet, IdentityId>,
}
