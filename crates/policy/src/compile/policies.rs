//! Policies with their selectors and blocks found, and rules numbered. Pure.
//!
//! A rule's number follows from its name, so that whoever counts by numbers, and outlives the agent, goes on counting for the same
//! rule. Where two rules would have one number, which of them has the next one depends on who came first.

use model::policy::{Action, Direction, PolicyName, RuleId, RuleRef, Tier};
use sha2::{Digest as _, Sha256};

use super::{
    intern::Interner,
    matchers::{MatcherId, Matchers},
    prefixes::{BlockId, Prefixes},
};
use crate::{
    mutation::{Bug, made},
    spec::{NamespaceScope, PeerMatch, Peers, PodSelector, Policy, Ports},
};

/// Whom a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Anyone,
    Pods,
    Selected(MatcherId),
    Block(BlockId),
}

#[derive(Debug)]
pub(super) struct CompiledRule {
    pub(super) id: RuleId,
    pub(super) number: usize,
    pub(super) action: Action,
    pub(super) sources: Vec<Source>,
    pub(super) ports: Ports,
}

#[derive(Debug)]
pub(super) struct CompiledDirection {
    /// Of a NetworkPolicy.
    pub(super) isolation: Option<RuleId>,
    pub(super) rules: Vec<CompiledRule>,
}

/// A policy that holds its selectors, blocks and numbers.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) policy: Policy,
    /// Differs from every earlier state of a policy of this name.
    pub(super) revision: u64,
    pub(super) subject: Option<MatcherId>,
    pub(super) ingress: Option<CompiledDirection>,
    pub(super) egress: Option<CompiledDirection>,
}

impl Compiled {
    pub(super) fn direction(&self, direction: Direction) -> Option<&CompiledDirection> {
        match direction {
            Direction::Ingress => self.ingress.as_ref(),
            Direction::Egress => self.egress.as_ref(),
        }
    }

    /// Whom its rules ask for.
    pub(super) fn sources(&self) -> impl Iterator<Item = Source> {
        let rules =
            [&self.ingress, &self.egress].into_iter().flatten().flat_map(|direction| &direction.rules);
        rules.flat_map(|rule| rule.sources.iter().copied())
    }
}

/// Where selectors, blocks and numbers are held.
pub(super) struct Holders<'a> {
    pub(super) matchers: &'a mut Matchers,
    pub(super) prefixes: &'a mut Prefixes,
    pub(super) rules: &'a mut Interner<RuleRef>,
}

impl Holders<'_> {
    pub(super) fn compile(&mut self, policy: Policy, revision: u64) -> Compiled {
        let subject = policy.subject.as_ref().map(|subject| self.matchers.acquire(&over_labels(subject)));
        let ingress = self.direction(&policy, Direction::Ingress);
        let egress = self.direction(&policy, Direction::Egress);
        Compiled { policy, revision, subject, ingress, egress }
    }

    pub(super) fn release(&mut self, compiled: &Compiled) {
        if let Some(subject) = compiled.subject {
            self.matchers.release(subject);
        }
        for source in compiled.sources() {
            match source {
                Source::Anyone | Source::Pods => {}
                Source::Selected(matcher) => self.matchers.release(matcher),
                Source::Block(block) => self.prefixes.release(block),
            }
        }
        for direction in [&compiled.ingress, &compiled.egress].into_iter().flatten() {
            let rules = direction.rules.iter().map(|rule| rule.id);
            for rule in rules.chain(direction.isolation) {
                self.rules.drop(rule.0);
            }
        }
    }

    fn direction(&mut self, policy: &Policy, direction: Direction) -> Option<CompiledDirection> {
        let rules = policy.rules(direction);
        let none = made(Bug::EgressAlwaysIsolated).then_some([].as_slice());
        let rules = rules.or(none.filter(|_| policy.tier == Tier::NetworkPolicy))?;
        let isolates = policy.tier == Tier::NetworkPolicy;
        let isolation = isolates.then(|| self.number(&policy.name, direction, None));
        let mut compiled = vec![];
        for rule in rules {
            if made(Bug::SecondRuleLost) && rule.number == 1 {
                continue;
            }
            compiled.push(CompiledRule {
                id: self.number(&policy.name, direction, Some(rule)),
                number: rule.number,
                action: match rule.action {
                    Action::Pass if made(Bug::PassAllows) => Action::Allow,
                    action => action,
                },
                sources: self.sources(&rule.peers),
                ports: rule.ports.clone(),
            });
        }
        Some(CompiledDirection { isolation, rules: compiled })
    }

    fn number(&mut self, policy: &PolicyName, direction: Direction, rule: Option<&crate::Rule>) -> RuleId {
        let rule = RuleRef {
            policy: policy.clone(),
            direction,
            rule: rule.map(|rule| rule.number),
            name: rule.and_then(|rule| rule.name.clone()),
            line: rule.and_then(|rule| rule.line.clone()),
        };
        let number = self.rules.number_near(wish(&rule), rule);
        self.rules.hold(number);
        RuleId(number)
    }

    fn sources(&mut self, peers: &Peers) -> Vec<Source> {
        let Peers::Of(peers) = peers else {
            return if made(Bug::EmptyListOfPeersIsNobody) { vec![] } else { vec![Source::Anyone] };
        };
        let source = |peer: &PeerMatch| match peer {
            PeerMatch::Pods(all) if all.is_everyone() => Source::Pods,
            PeerMatch::Pods(selector) => Source::Selected(self.matchers.acquire(&over_labels(selector))),
            PeerMatch::Block(block) => Source::Block(self.prefixes.acquire(block)),
        };
        peers.iter().map(source).collect()
    }
}

fn wish(rule: &RuleRef) -> u32 {
    let [a, b, c, d, ..]: [u8; 32] = Sha256::digest(rule.to_string()).into();
    u32::from_be_bytes([a, b, c, d])
}

fn over_labels(selector: &PodSelector) -> crate::Selector {
    if made(Bug::NamespacesIgnored) {
        let scope = NamespaceScope::Selected(crate::Selector::default());
        return PodSelector { scope, pods: selector.pods.clone() }.over_labels();
    }
    selector.over_labels()
}
