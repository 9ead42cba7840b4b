//! What packets met instead of a backend, counted by the rules themselves.

use std::collections::BTreeMap;

use dataplane::Counter;
use model::told::Stop;

use crate::{
    kernel::account::Count,
    names,
    parse::Saved,
    rule::{ConnState, Match, Rule, Target},
    ruleset::Table,
};

/// Packets and bytes by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts(BTreeMap<Stop, (u64, u64)>);

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
        let known = |count: Count| Some((Stop::from_name(&count.name)?, (count.packets, count.bytes)));
        Self(kept.into_iter().filter_map(known).collect())
    }

    /// For an other run to resume from.
    pub(crate) fn to_keep(&self) -> Vec<Count> {
        let count = |(stop, (packets, bytes)): (&Stop, &(u64, u64))| Count {
            name: stop.name().to_owned(),
            packets: *packets,
            bytes: *bytes,
        };
        self.0.iter().map(count).collect()
    }

    pub(crate) fn into_rows(self) -> impl Iterator<Item = Counter> {
        self.0.into_iter().map(|(stop, (packets, bytes))| Counter {
            name: stop.name().to_owned(),
            packets,
            bytes,
        })
    }
}

/// Why a rule of ours stops packets; `None` for one that does not.
fn reason(chain: &str, rule: &Rule) -> Option<Stop> {
    let invalid = |m: &Match| matches!(m, Match::ConnState { states, .. } if states == &[ConnState::Invalid]);
    match (chain, rule.target.as_ref()?) {
        (names::SERVICES | names::EXTERNAL_SERVICES, Target::Reject) => Some(Stop::NoEndpoints),
        (names::SERVICES | names::EXTERNAL_SERVICES, Target::Drop) => Some(Stop::NoLocalEndpoints),
        (names::PROXY_FIREWALL, Target::Drop) => Some(Stop::SourceRange),
        (names::FORWARD, Target::Drop) if rule.matches.iter().any(invalid) => Some(Stop::Invalid),
        (names::FIREWALL, Target::Drop) => Some(Stop::MartianLoopback),
        _ => None,
    }
}
