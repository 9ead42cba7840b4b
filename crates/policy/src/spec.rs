//! A policy as it is compiled: both kinds of object, defaults filled in, doubts resolved to the closed side. Pure data.

use ipnet::IpNet;
use model::{
    Protocol,
    label_keys::{NAMESPACE, NAMESPACE_LABELS, SOURCE},
    policy::{Action, Direction, PolicyName, SourceLine, Tier},
};

use crate::selector::{Requirement, Selector, Test};

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub name: PolicyName,
    pub tier: Tier,
    /// Lower is stronger, within a ranked tier. 0 for a NetworkPolicy.
    pub priority: i32,
    /// `None`: nobody.
    pub subject: Option<PodSelector>,
    /// `None`: does not speak about that direction. A NetworkPolicy that speaks isolates.
    pub ingress: Option<Vec<Rule>>,
    pub egress: Option<Vec<Rule>>,
}

impl Policy {
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Index in the object's list, from 0.
    pub number: usize,
    pub name: Option<String>,
    pub line: Option<SourceLine>,
    pub action: Action,
    pub peers: Peers,
    pub ports: Ports,
}

impl Rule {
    /// What it is where it cannot be known what it means: allows nobody, and denies everybody if it would deny or pass anybody.
    #[must_use]
    pub(crate) fn closed(self) -> Self {
        match self.action {
            Action::Allow => Self { peers: Peers::Of(vec![]), ..self },
            Action::Deny | Action::Pass => {
                Self { action: Action::Deny, peers: Peers::Anyone, ports: Ports::Any, ..self }
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peers {
    Anyone,
    /// Empty: nobody.
    Of(Vec<PeerMatch>),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerMatch {
    Pods(PodSelector),
    Block(Block),
}

/// Pods by namespace and labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodSelector {
    pub scope: NamespaceScope,
    pub pods: Selector,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NamespaceScope {
    Named(String),
    Selected(Selector),
}

impl PodSelector {
    pub(crate) fn is_everyone(&self) -> bool {
        matches!(&self.scope, NamespaceScope::Selected(all) if all.is_everyone()) && self.pods.is_everyone()
    }

    /// The same as one selector over an identity's labels, whose keys say which are whose.
    pub(crate) fn over_labels(&self) -> Selector {
        let keyed = |prefix: &'static str, selector: &Selector| {
            let keyed = move |r: &Requirement| Requirement {
                key: format!("{prefix}{}", r.key),
                test: r.test.clone(),
            };
            selector.0.iter().map(keyed).collect::<Vec<_>>()
        };
        let scope = match &self.scope {
            NamespaceScope::Named(name) => {
                vec![Requirement { key: NAMESPACE.into(), test: Test::In([name.clone()].into()) }]
            }
            NamespaceScope::Selected(selector) => keyed(NAMESPACE_LABELS, selector),
        };
        Selector(scope.into_iter().chain(keyed(SOURCE, &self.pods)).collect())
    }
}

/// A range of addresses with holes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// Without host bits.
    pub cidr: IpNet,
    /// Without host bits, of the same family, in order.
    pub except: Vec<IpNet>,
}

impl Block {
    /// Whether all of `prefix` is in it. Prefixes that straddle a border of it are not.
    pub fn contains(&self, prefix: &IpNet) -> bool {
        self.cidr.contains(prefix) && !self.except.iter().any(|hole| hole.contains(prefix))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// And every protocol.
    Any,
    /// Empty: none.
    Of(Vec<PortMatch>),
}

impl Ports {
    /// Whether what it means depends on the destination pod.
    pub(crate) fn has_names(&self) -> bool {
        match self {
            Self::Any => false,
            Self::Of(ports) => ports.iter().any(|port| matches!(port, PortMatch::Named { .. })),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortMatch {
    /// Inclusive.
    Range { protocol: Protocol, first: u16, last: u16 },
    /// A container port of the destination pod. Of any protocol where none is given.
    Named { protocol: Option<Protocol>, name: String },
}
