//! The datapath's own counters, read from a node's agent, and what changed between two readings.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Deserialize;

use crate::bench::{Bench, Error};

/// Where the agent tells its status.
const STATUS: &str = "/v1/status";

/// Packets (or lookups) by counter name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<String, u64>);

#[derive(Deserialize)]
struct Status {
    dataplane: dataplane::PlaneStatus,
}

impl Counters {
    /// What the kernel of a node has counted so far.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn read(bench: &Bench, node: &str) -> Result<Self, Error> {
        let answer = bench.lab.agent_get(node, STATUS)?;
        let status: Status = serde_json::from_slice(&answer)
            .map_err(|source| Error::Answer { command: format!("GET {STATUS} of {node}"), source })?;
        Ok(Self(status.dataplane.counters.into_iter().map(|c| (c.name, c.packets)).collect()))
    }

    /// How far a counter got since `before`.
    pub fn since(&self, before: &Self, name: &str) -> u64 {
        self.get(name).saturating_sub(before.get(name))
    }

    /// The counters that moved: before, after and the difference, one per line.
    pub fn moved_since(&self, before: &Self) -> String {
        let mut text = format!("{:<28} {:>8} {:>8}\n", "COUNTER", "BEFORE", "AFTER");
        for (name, after) in &self.0 {
            let (start, moved) = (before.get(name), self.since(before, name));
            if moved > 0 {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{name:<28} {start:>8} {after:>8}  +{moved}");
            }
        }
        text
    }

    fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(values: &[(&str, u64)]) -> Counters {
        Counters(values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect())
    }

    #[test]
    fn only_what_moved_is_shown() {
        let before = counters(&[("forwarded_new", 3), ("dropped_internal", 1)]);
        let after = counters(&[("forwarded_new", 4), ("dropped_internal", 1), ("slow_frontend_lookups", 2)]);
        assert_eq!(after.since(&before, "forwarded_new"), 1);
        assert_eq!(after.since(&before, "absent"), 0);
        let text = after.moved_since(&before);
        assert!(text.contains("+1") && text.contains("+2") && !text.contains("dropped_internal"), "{text}");
    }
}
