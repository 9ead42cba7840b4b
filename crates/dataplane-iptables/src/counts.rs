//! What packets met instead of a backend, counted by the rules themselves.

use std::collections::BTreeMap;

use dataplane::Counter;

use crate::{
    kernel::account::Count,
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

    /// Takes over what an earlier run kept.
    pub(crate) fn resume(kept: Vec<Count>) -> Self {
        let known = |count: Count| {
            let name = REASONS.into_iter().find(|reason| *reason == count.name)?;
            Some((name, (count.packets, count.bytes)))
        };
        Self(kept.into_iter().filter_map(known).collect())
    }

    /// For an other run to resume from.
    pub(crate) fn to_keep(&self) -> Vec<Count> {
        let count = |(name, (packets, bytes)): (&&str, &(u64, u64))| Count {
            name: (*name).to_owned(),
            packets: *packets,
            bytes: *bytes,
        };
        self.0.iter().map(count).collect()
    }

    pub(crate) fn into_rows(self) -> impl Iterator<Item = Counter> {
        self.0.into_iter().map(|(name, (packets, bytes))| Counter { name: name.to_owned(), packets, bytes })
    }
}

/// Every reason there is.
const REASONS: [&str; 5] = [REJECTED, NO_LOCAL, SOURCE_RANGE, INVALID, MARTIAN];
const REJECTED: &str = "rejected_no_endpoints";
const NO_LOCAL: &str = "dropped_no_local_endpoints";
const SOURCE_RANGE: &str = "dropped_source_range";
const INVALID: &str = "dropped_invalid";
const MARTIAN: &str = "dropped_martian_loopback";

/// Why a rule of ours stops packets; `None` for one that does not.
fn reason(chain: &str, rule: &Rule) -> Option<&'static str> {
    let invalid = |m: &Match| matches!(m, Match::ConnState { states, .. } if states == &[ConnState::Invalid]);
    match (chain, rule.target.as_ref()?) {
        (names::SERVICES | names::EXTERNAL_SERVICES, Target::Reject) => Some(REJECTED),
        (names::SERVICES | names::EXTERNAL_SERVICES, Target::Drop) => Some(NO_LOCAL),
        (names::PROXY_FIREWALL, Target::Drop) => Some(SOURCE_RANGE),
        (names::FORWARD, Target::Drop) if rule.matches.iter().any(invalid) => Some(INVALID),
        (names::FIREWALL, Target::Drop) => Some(MARTIAN),
        _ => None,
    }
}
