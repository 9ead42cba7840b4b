//! What policies said of a packet: Hubble's policy verdicts, one for each end that was asked, before the flow that they are about.
//! Of the same record: nothing more is told by the kernel for them. Never of an answer that passes: it was not asked about.

use std::{collections::HashMap, sync::Arc};

use abi::{EventKind, asked_flags, matched};
use model::policy::{Direction, RuleRef};
use uuid::Uuid;

use super::Parts;
use crate::{
    directory::Directory,
    event::{Flow, Label, PolicyMatch, Rules, Seen},
    proto::flow::{Policy, TrafficDirection, Verdict},
};

/// Sets of rules that are shared among flows; a node that had more makes them anew.
const MAX_SHARED: usize = 1024;

/// What decided at an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct End {
    direction: Direction,
    denied: bool,
    rule: u32,
}

/// What was decided at each end that was asked, under which revision.
type Key = ([Option<End>; 2], u32);

/// Rules as flows report them, each set once.
#[derive(Debug, Default)]
pub(super) struct SharedRules(HashMap<Key, Arc<Rules>>);

impl SharedRules {
    /// The rules behind a record; `None` where none decided, or none that is known.
    pub(super) fn of(&mut self, record: &abi::Event, directory: &Directory) -> Option<Arc<Rules>> {
        self.get((ends(record), record.revision), directory)
    }

    /// The rule of that number, which denied something under no revision.
    pub(super) fn denied(&mut self, number: u32, directory: &Directory) -> Option<Arc<Rules>> {
        let direction = directory.rule(number)?.direction;
        self.get(([Some(End { direction, denied: true, rule: number }), None], 0), directory)
    }

    fn get(&mut self, key: Key, directory: &Directory) -> Option<Arc<Rules>> {
        if let Some(known) = self.0.get(&key) {
            return Some(Arc::clone(known));
        }
        let mut rules = Rules::default();
        for end in key.0.into_iter().flatten() {
            let Some(rule) = directory.rule(end.rule) else { continue };
            let place = match (end.direction, end.denied) {
                (Direction::Ingress, false) => &mut rules.ingress_allowed,
                (Direction::Ingress, true) => &mut rules.ingress_denied,
                (Direction::Egress, false) => &mut rules.egress_allowed,
                (Direction::Egress, true) => &mut rules.egress_denied,
            };
            place.push(policy(rule, key.1));
        }
        if rules == Rules::default() {
            return None;
        }
        if self.0.len() >= MAX_SHARED {
            self.0.clear();
        }
        let rules = Arc::new(rules);
        self.0.insert(key, Arc::clone(&rules));
        Some(rules)
    }
}

/// The verdicts of a record that `flow` was made of. `uuid` is asked once for each.
pub(super) fn verdicts(
    (record, parts): (&abi::Event, Parts),
    flow: &Flow,
    (shared, directory): (&mut SharedRules, &Directory),
    mut uuid: impl FnMut() -> Uuid,
) -> Vec<Flow> {
    let begins = parts.kind == EventKind::New && record.flags & abi::event_flags::REPLY == 0;
    let told = ends(record).into_iter().flatten().filter(|end| begins || end.denied);
    told.map(|end| {
        let (verdict, is_reply) = match (end.denied, parts.verdict) {
            (false, _) => (Verdict::Forwarded, Some(false)),
            (true, Verdict::Dropped) => (Verdict::Dropped, None),
            (true, _) => (Verdict::Audit, Some(false)),
        };
        let (direction, narrow) = match end.direction {
            Direction::Ingress => (TrafficDirection::Ingress, record.ingress_match),
            Direction::Egress => (TrafficDirection::Egress, record.egress_match),
        };
        Flow {
            uuid: uuid(),
            verdict,
            is_reply,
            direction,
            seen: Seen::PolicyVerdict(policy_match(narrow.into())),
            rules: shared.get(([Some(end), None], record.revision), directory),
            ..flow.clone()
        }
    })
    .collect()
}

fn ends(record: &abi::Event) -> [Option<End>; 2] {
    let end = |direction, (asked, denies): (u8, u8), rule| {
        let denied = record.policy & denies != 0;
        (record.policy & asked != 0).then_some(End { direction, denied, rule })
    };
    [
        end(Direction::Egress, (asked_flags::EGRESS, asked_flags::EGRESS_DENIED), record.egress_rule),
        end(Direction::Ingress, (asked_flags::INGRESS, asked_flags::INGRESS_DENIED), record.ingress_rule),
    ]
}

fn policy_match(narrow: u16) -> PolicyMatch {
    let has = |bit| narrow & bit != 0;
    match (has(matched::PEER), has(matched::PROTOCOL), has(matched::PORTS)) {
        _ if !has(matched::ROW) => PolicyMatch::None,
        (true, false, false) => PolicyMatch::L3Only,
        (true, true, false) => PolicyMatch::L3Proto,
        (true, _, true) => PolicyMatch::L3L4,
        (false, false, false) => PolicyMatch::All,
        (false, true, false) => PolicyMatch::ProtoOnly,
        (false, _, true) => PolicyMatch::L4Only,
    }
}

/// The policy by name; which of its rules it was is told by labels, for which Hubble's message has no field of its own.
fn policy(rule: &RuleRef, revision: u32) -> Policy {
    let direction = match rule.direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    let label =
        |key: &str, value: String| Label { source: "twinplane".into(), key: key.into(), value }.to_string();
    let which = match rule.rule {
        Some(number) => label("rule", format!("{direction}[{number}]")),
        None => label("isolates", direction.into()),
    };
    let name = rule.name.iter().map(|name| label("rule-name", name.clone()));
    Policy {
        name: rule.policy.name.clone(),
        namespace: rule.policy.namespace.clone(),
        labels: std::iter::once(which).chain(name).collect(),
        revision: revision.into(),
        kind: rule.policy.kind.to_string(),
    }
}

#[cfg(test)]
mod tests;
