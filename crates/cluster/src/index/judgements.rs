//! Whether ClusterNetworkPolicies are enforced as they are written, for their status. Each is one node's to tell, so that not
//! all nodes write the same. Decides nothing about policies: what is wrong with them was found when they were read.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use model::policy::PolicyKind;
use policy::v1alpha2::ClusterNetworkPolicy;
use sha2::{Digest as _, Sha256};

use super::Index;
use crate::{
    identity::Wish,
    problem::{ObjectRef, Problem},
};

/// The condition's type. The API leaves types to implementations.
const ACCEPTED: &str = "Accepted";
/// Characters of a condition's message: the API takes 32,768, people fewer.
const MOST: usize = 1_024;

/// What is to be said of a policy, but for when it began to be so.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    pub accepted: bool,
    pub message: String,
    /// `metadata.generation` of what was judged.
    pub generation: Option<i64>,
    /// Since when it is so; `None`: only now.
    pub since: Option<Time>,
}

/// An object's status, as it was seen last.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Told {
    version: String,
    generation: Option<i64>,
    conditions: Vec<Condition>,
}

/// By the policy's name.
pub(super) type AllTold = BTreeMap<String, Told>;

impl Judgement {
    /// As the API has it.
    pub fn condition(&self, now: Time) -> Condition {
        let (status, reason) = match self.accepted {
            true => ("True", "AsWritten"),
            false => ("False", "PartsRefused"),
        };
        Condition {
            type_: ACCEPTED.into(),
            status: status.into(),
            reason: reason.into(),
            message: self.message.clone(),
            observed_generation: self.generation,
            last_transition_time: self.since.clone().unwrap_or(now),
        }
    }

    /// What is to be said, given what is said already.
    fn of(problems: &[Problem], told: &Told) -> Self {
        let accepted = problems.is_empty();
        let known = told.conditions.iter().find(|condition| condition.type_ == ACCEPTED);
        let same = known.filter(|known| (known.status == "True") == accepted);
        Self {
            accepted,
            message: message(problems),
            generation: told.generation,
            since: same.map(|same| same.last_transition_time.clone()),
        }
    }

    fn is_told(&self, told: &Told) -> bool {
        let known = told.conditions.iter().find(|condition| condition.type_ == ACCEPTED);
        known.is_some_and(|known| *known == self.condition(known.last_transition_time.clone()))
    }
}

impl Index {
    /// Takes in what a policy's status says; `None`: it is gone.
    pub(crate) fn set_told(&mut self, name: &str, object: Option<&ClusterNetworkPolicy>) {
        self.policies.stirred = true;
        let Some(object) = object else {
            self.policies.told.remove(name);
            return;
        };
        let told = Told {
            version: object.metadata.resource_version.clone().unwrap_or_default(),
            generation: object.metadata.generation,
            conditions: object.status.conditions.clone(),
        };
        self.policies.told.insert(name.to_owned(), told);
    }

    /// What is to be said by this node of `nodes`, in order of name, and is not said yet.
    pub(super) fn judgements(&self, nodes: &[&str]) -> Vec<Wish> {
        let place = nodes.iter().position(|node| *node == self.settings.node);
        let Some(place) = place.filter(|_| self.policies.enforced) else { return vec![] };
        let ours = self.policies.told.iter().filter(|(name, _)| of_name(name) % nodes.len() == place);
        let judge = |(name, told): (&String, &Told)| {
            let kind = super::policy::kind(PolicyKind::ClusterNetworkPolicy);
            let object = ObjectRef { kind, namespace: String::new(), name: name.clone() };
            let problems = self.problems.get(&object).map_or(&[][..], Vec::as_slice);
            let judgement = Judgement::of(problems, told);
            let others =
                told.conditions.iter().filter(|condition| condition.type_ != ACCEPTED).cloned().collect();
            let wish = |judgement| Wish::Judge {
                policy: name.clone(),
                version: told.version.clone(),
                others,
                judgement: Box::new(judgement),
            };
            (!judgement.is_told(told)).then(|| wish(judgement))
        };
        ours.filter_map(judge).collect()
    }
}

fn of_name(name: &str) -> usize {
    let [a, b, c, d, ..]: [u8; 32] = Sha256::digest(name).into();
    u32::from_be_bytes([a, b, c, d]) as usize
}

fn message(problems: &[Problem]) -> String {
    if problems.is_empty() {
        return "enforced as it is written".into();
    }
    let all: Vec<String> =
        problems.iter().map(|problem| format!("{}: {}", problem.field, problem.reason)).collect();
    let text = format!("closed, because a part of it cannot be enforced: {}", all.join("; "));
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Time {
        Time(text.parse().expect("a time"))
    }

    fn problem(reason: &str) -> Problem {
        let object = ObjectRef { kind: "ClusterNetworkPolicy", namespace: String::new(), name: "p".into() };
        Problem { object, field: "spec.egress[0]".into(), reason: reason.into() }
    }

    #[test]
    fn the_time_is_that_of_the_last_change_of_the_answer_not_of_its_words() {
        let (then, now) = (at("2026-11-23T10:00:00Z"), at("2026-11-23T11:00:00Z"));
        let mut told = Told { version: "1".into(), generation: Some(1), conditions: vec![] };
        let first = Judgement::of(&[problem("odd")], &told);
        assert_eq!((first.accepted, first.since.as_ref(), first.is_told(&told)), (false, None, false));
        told.conditions = vec![first.condition(then.clone())];
        assert!(Judgement::of(&[problem("odd")], &told).is_told(&told));
        let other = Judgement::of(&[problem("odder")], &told);
        assert!(!other.is_told(&told));
        assert_eq!(other.condition(now.clone()).last_transition_time, then);
        told.generation = Some(2);
        let fine = Judgement::of(&[], &told);
        assert_eq!((fine.accepted, fine.is_told(&told)), (true, false));
        let fine = fine.condition(now.clone());
        assert_eq!((fine.last_transition_time, fine.observed_generation), (now, Some(2)));
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let text = message(&[problem(&"ü".repeat(2 * MOST))]);
        assert_eq!(text.chars().count(), MOST + 3);
        assert!(text.ends_with("ü..."));
    }
}
