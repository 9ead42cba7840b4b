//! What rules have counted, by what they are called, also those that were written anew since. Pure.

use std::collections::BTreeMap;

use dataplane::RuleTraffic;
use model::told::Stop;

use super::clause::{Clause, Target};
use crate::{names, parse::SavedRule};

/// Packets and bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// By comment.
    pub rules: BTreeMap<String, RuleTraffic>,
    pub stops: BTreeMap<Stop, RuleTraffic>,
}

impl Totals {
    /// Adds the counters of a chain of ours. What is none of ours in it counts nothing.
    pub(crate) fn add(&mut self, rules: &[SavedRule]) {
        for rule in rules.iter().filter(|rule| rule.packets > 0) {
            let Ok(clause) = Clause::read(&rule.text) else { continue };
            let stop = match clause.target {
                Some(Target::Drop) => Some(Stop::Policy),
                Some(Target::Goto(chain)) if chain.as_str() == names::POLICY_AUDIT => Some(Stop::Audited),
                _ => None,
            };
            let sums = [
                stop.map(|stop| self.stops.entry(stop).or_default()),
                clause.comment.map(|comment| self.rules.entry(comment).or_default()),
            ];
            for sum in sums.into_iter().flatten() {
                sum.packets += rule.packets;
                sum.bytes += rule.bytes;
            }
        }
    }
}
