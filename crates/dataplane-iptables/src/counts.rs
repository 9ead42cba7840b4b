//! What packets met instead of a backend, counted by the rules themselves.

use std::collections::BTreeMap;

use dataplane::Counter;

use crate::{
    names,
    parse::Saved,
    rule::{ConnState, Match, Rule, Target},
    ruleset::Table,
};

/// Packets and bytes by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts(BTreeMap<&'static str, (u64, u64)>);

impl Counts {
    /// Adds the counters of the filter rules in the chains that `wanted` accepts.
    pub(crate) fn add(&mut self, saved: &Saved, wanted: impl Fn(&str) -> bool) {
        for (chain, rules) in saved.chains(Table::Filter).filter(|(chain, _)| wanted(chain.as_str())) {
            for saved in rules {
                if let Some(reason) = saved.rule().ok().and_then(|rule| reason(chain.as_str(), &rule)) {
                    let (packets, bytes) = self.0.entry(reason).or_default();
                    *packets += saved.packets;
                    *bytes += saved.bytes;
                }
            }
        }
    }

    pub(crate) fn into_rows(self) -> impl Iterator<Item = Counter> {
        self.0.into_iter().map(|(name, (packets, bytes))| Counter { name: name.to_owned(), packets, bytes })
    }
}

/// Why a rule of ours stops packets; `None` for one that does not.
fn reason(chain: &str, rule: &Rule) -> Option<&'static str> {
    let invalid = |m: &Match| matches!(m, Match::ConnState { states, .. } if states == &[ConnState::Invalid]);
    match (chain, rule.target.as_ref()?) {
        (names::SERVICES | names::EXTERNAL_SERVICES, Target::Reject) => Some("rejected_no_endpoints"),
        (names::SERVICES | names::EXTERNAL_SERVICES, Target::Drop) => Some("dropped_no_local_endpoints"),
        (names::PROXY_FIREWALL, Target::Drop) => Some("dropped_source_range"),
        (names::FORWARD, Target::Drop) if rule.matches.iter().any(invalid) => Some("dropped_invalid"),
        (names::FIREWALL, Target::Drop) => Some("dropped_martian_loopback"),
        _ => None,
    }
}
