//! What was compared, counted per executor. Pure.

use std::collections::BTreeMap;

use model::Divergence;
use serde::Serialize;

use crate::compare::{Seen, Verdict};

/// One executor's share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    pub states: u64,
    /// Of those, reached from another state.
    pub transitions: u64,
    /// Compared, equal or divergent.
    pub probes: u64,
    pub forwarded: u64,
    pub refused: u64,
    pub dropped: u64,
    pub untouched: u64,
    /// Accepted differences, by name.
    pub divergences: BTreeMap<&'static str, Divergent>,
    /// Not compared, by reason.
    pub left_out: BTreeMap<&'static str, u64>,
}

/// How often a divergence was met.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Divergent {
    pub probes: u64,
    pub reason: &'static str,
}

impl Tally {
    /// Counts what is no difference; hands on what is.
    ///
    /// # Errors
    /// The difference.
    pub fn count(&mut self, verdict: Verdict) -> Result<(), crate::compare::Difference> {
        match verdict {
            Verdict::Different(difference) => return Err(difference),
            Verdict::Divergent(Divergence { name, reason, .. }) => {
                let known = self.divergences.entry(name).or_insert(Divergent { probes: 0, reason });
                known.probes += 1;
            }
            Verdict::Equal(Seen::To(_)) => self.forwarded += 1,
            Verdict::Equal(Seen::Refused) => self.refused += 1,
            Verdict::Equal(Seen::Dropped) => self.dropped += 1,
            Verdict::Equal(Seen::Untouched | Seen::Other(_)) => self.untouched += 1,
        }
        self.probes += 1;
        Ok(())
    }

    pub fn leave_out(&mut self, reason: &'static str) {
        *self.left_out.entry(reason).or_default() += 1;
    }
}
