//! Restore text in batches, each line knowing which service it is of.
//!
//! iptables-nft-restore compares every chain of a transaction with every other: 4,000 services in one go take
//! 11 s, in batches 1.4 s. A change of a few services is one batch, and so one transaction per table.

use std::{collections::BTreeMap, fmt::Write as _};

use model::ServicePortId;

use crate::{names::ChainName, ruleset::Table};

/// Lines after which a batch ends.
pub(super) const BATCH_LINES: usize = 1000;

/// What is written together: chains replaced, and rules put into them or elsewhere.
#[derive(Debug, Default)]
pub(super) struct Unit<'a> {
    /// Created or flushed first.
    pub chains: Vec<&'a str>,
    pub lines: Vec<Line<'a>>,
}

/// One command of a restore.
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub owner: Option<&'a ServicePortId>,
    pub text: String,
}

/// Text for one run, with the owners of its lines.
#[derive(Debug, Default)]
pub(super) struct Batch<'a> {
    pub text: String,
    /// By line number, from 1.
    owners: BTreeMap<usize, &'a ServicePortId>,
}

impl<'a> Batch<'a> {
    pub(super) fn owner(&self, line: usize) -> Option<&'a ServicePortId> {
        self.owners.get(&line).copied()
    }
}

impl<'a> Unit<'a> {
    /// Replaces `chain` by rules of nobody in particular.
    pub(super) fn replace(chain: &'a ChainName, rules: impl IntoIterator<Item = String>) -> Self {
        let append = |rule| Line { owner: None, text: format!("-A {chain} {rule}") };
        Self { chains: vec![chain.as_str()], lines: rules.into_iter().map(append).collect() }
    }

    /// Empties `chain`, creating it where it is not there.
    pub(super) fn flush(chain: &'a ChainName) -> Self {
        Self { chains: vec![chain.as_str()], lines: vec![] }
    }

    /// Deletes `chain`, which must be empty and unused.
    pub(super) fn delete(chain: &ChainName) -> Self {
        Self { chains: vec![], lines: vec![Line { owner: None, text: format!("-X {chain}") }] }
    }

    fn len(&self) -> usize {
        self.chains.len() + self.lines.len()
    }
}

/// Groups units in their order.
pub(super) fn batches<'a>(units: Vec<(Table, Unit<'a>)>) -> Vec<Batch<'a>> {
    let mut batches = Vec::new();
    let mut group: BTreeMap<Table, Vec<Unit<'a>>> = BTreeMap::new();
    let mut lines = 0;
    for (table, unit) in units {
        if lines > 0 && lines + unit.len() > BATCH_LINES {
            batches.push(batch(&group));
            group.clear();
            lines = 0;
        }
        lines += unit.len();
        group.entry(table).or_default().push(unit);
    }
    if !group.is_empty() {
        batches.push(batch(&group));
    }
    batches
}

fn batch<'a>(group: &BTreeMap<Table, Vec<Unit<'a>>>) -> Batch<'a> {
    let mut batch = Batch::default();
    let mut number = 0;
    let mut write = |batch: &mut Batch<'a>, text: &dyn std::fmt::Display, owner| {
        number += 1;
        let _ = writeln!(batch.text, "{text}");
        if let Some(owner) = owner {
            batch.owners.insert(number, owner);
        }
    };
    for (table, units) in group {
        write(&mut batch, &format_args!("*{table}"), None);
        for chain in units.iter().flat_map(|unit| &unit.chains) {
            write(&mut batch, &format_args!(":{chain} - [0:0]"), None);
        }
        for line in units.iter().flat_map(|unit| &unit.lines) {
            write(&mut batch, &line.text, line.owner);
        }
        write(&mut batch, &"COMMIT", None);
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_declares_chains_before_rules_and_ends_at_its_limit() {
        let names: Vec<_> = (0..1500).map(|n| ChainName::new(format!("C{n}"))).collect();
        let units =
            names.iter().map(|name| (Table::Nat, Unit::replace(name, ["-j RETURN".to_owned()]))).collect();
        let batches = batches(units);
        assert_eq!(batches.len(), 3);
        let lines: Vec<_> = batches[0].text.lines().collect();
        assert_eq!((lines[0], lines[1], lines[lines.len() - 1]), ("*nat", ":C0 - [0:0]", "COMMIT"));
        let first_rule = lines.iter().position(|line| line.starts_with("-A")).expect("a rule");
        assert!(lines[first_rule..].iter().all(|line| !line.starts_with(':')));
    }
}
