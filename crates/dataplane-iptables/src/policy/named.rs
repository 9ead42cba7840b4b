//! What stands for rules and lists in the kernel: comments, words in front of what is logged, names of chains. All follow from contents,
//! not from a run's numbers, so that a restarted agent writes what is there, and what is there can be read. Pure.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use model::{
    policy::{RuleId, RuleRef, Tier},
    told::Stop,
};

use crate::names::{self, ChainName};

/// The most that a rule's comment holds (`XT_MAX_COMMENT_LEN` without its end).
const COMMENT: usize = 255;

/// What a rule is called in comments. One that is too long ends with its [`digest`].
pub(crate) fn comment(rule: &RuleRef) -> String {
    let text = rule.to_string().replace(|c: char| c.is_control(), " ");
    if text.len() <= COMMENT {
        return text;
    }
    let digest = digest(rule);
    let end = text.floor_char_boundary(COMMENT - digest.len() - 1);
    format!("{} {digest}", &text[..end])
}

/// 16 characters for a rule.
fn digest(rule: &RuleRef) -> String {
    names::hash(&rule.to_string())
}

/// What is in front of a logged packet, at most 63 bytes (`struct xt_nflog_info`).
pub(crate) fn prefix(stop: Stop, rule: Option<&RuleRef>) -> String {
    match rule {
        Some(rule) => format!("{} {}", stop.name(), digest(rule)),
        None => stop.name().to_owned(),
    }
}

/// The reason and the rule's digest in front of a logged packet; `None`: it is none of ours.
pub(crate) fn read_prefix(prefix: &str) -> Option<(Stop, Option<&str>)> {
    match prefix.split_once(' ') {
        Some((stop, digest)) => Some((Stop::from_name(stop)?, Some(digest))),
        None => Some((Stop::from_name(prefix)?, None)),
    }
}

const fn letter(tier: Tier) -> char {
    match tier {
        Tier::Admin => 'A',
        Tier::NetworkPolicy => 'N',
        Tier::Baseline => 'B',
    }
}

/// The chain of what a tier says.
pub(crate) fn chain(tier: Tier, lines: &[String]) -> ChainName {
    ChainName::new(format!("{}{}-{}", names::POLICY_LIST, letter(tier), names::hash(&lines.join("\n"))))
}

/// The tier of a chain; `None`: it is none that says something of policies.
pub(crate) fn tier(chain: &str) -> Option<Tier> {
    let rest = chain.strip_prefix(names::POLICY_LIST)?;
    Tier::ALL.into_iter().find(|tier| rest.starts_with(letter(*tier)))
}

/// The numbers of rules by what they are called in the kernel; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct RuleNames(Arc<RwLock<Numbers>>);

#[derive(Debug, Default)]
struct Numbers {
    comments: BTreeMap<String, RuleId>,
    digests: BTreeMap<String, RuleId>,
    known: BTreeMap<RuleId, Arc<RuleRef>>,
}

impl RuleNames {
    /// Takes in what is known of rules now: `None` is gone.
    pub(crate) fn learn<'a>(&self, rules: impl Iterator<Item = (RuleId, Option<&'a Arc<RuleRef>>)>) {
        let mut numbers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Numbers { comments, digests, known } = &mut *numbers;
        for (id, rule) in rules {
            // A rule that is made anew has another number and the same name, whichever is told of first.
            if let Some(old) = known.remove(&id) {
                for (names, name) in [(&mut *comments, comment(&old)), (&mut *digests, digest(&old))] {
                    if names.get(&name) == Some(&id) {
                        names.remove(&name);
                    }
                }
            }
            if let Some(rule) = rule {
                comments.insert(comment(rule), id);
                digests.insert(digest(rule), id);
                known.insert(id, Arc::clone(rule));
            }
        }
    }

    /// By [`comment`].
    pub(crate) fn commented(&self, comment: &str) -> Option<RuleId> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).comments.get(comment).copied()
    }

    /// By [`digest`].
    pub(crate) fn digested(&self, digest: &str) -> Option<RuleId> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).digests.get(digest).copied()
    }
}

#[cfg(test)]
mod tests {
    use model::policy::{Direction, PolicyKind, PolicyName};

    use super::*;

    fn rule(name: &str, index: Option<usize>) -> Arc<RuleRef> {
        let policy = PolicyName { kind: PolicyKind::NetworkPolicy, namespace: "d".into(), name: name.into() };
        RuleRef { policy, direction: Direction::Ingress, rule: index, name: None, line: None }.into()
    }

    #[test]
    fn long_names_stay_apart_and_fit() {
        let long = "x".repeat(253);
        let (first, second) = (rule(&long, Some(0)), rule(&long, Some(1)));
        assert_ne!(comment(&first), comment(&second));
        assert!(comment(&first).len() <= COMMENT && prefix(Stop::Audited, Some(&first)).len() < 64);
        assert_eq!(comment(&rule("p", None)), "NetworkPolicy d/p isolates ingress");
    }

    #[test]
    fn a_rule_made_anew_keeps_its_name_whichever_is_told_of_first() {
        let names = RuleNames::default();
        let (old, new) = (RuleId(1), RuleId(2));
        let is = |id| Some(id) == names.commented("NetworkPolicy d/p ingress[0]");
        names.learn([(old, Some(&rule("p", Some(0))))].into_iter());
        assert!(is(old));
        names.learn([(old, None), (new, Some(&rule("p", Some(0))))].into_iter());
        assert!(is(new));
        names.learn([(RuleId(3), Some(&rule("p", Some(0)))), (new, None)].into_iter());
        assert!(is(RuleId(3)));
        let rule = rule("p", Some(0));
        let prefix = prefix(Stop::Policy, Some(&rule));
        let (stop, digest) = read_prefix(&prefix).expect("ours");
        assert_eq!((stop, digest.and_then(|digest| names.digested(digest))), (Stop::Policy, Some(RuleId(3))));
        assert_eq!(read_prefix("somebody else's"), None);
    }
}
