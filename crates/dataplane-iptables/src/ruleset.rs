//! A whole set of rules as a value: tables, chains, jumps from the kernel's own chains; its restore text.

use std::{collections::BTreeMap, fmt};

use crate::{
    names::ChainName,
    parse::{self, ParseError, Saved, SavedRule},
    rule::Rule,
};

/// A table, in the order `iptables-save` prints them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    Mangle,
    Filter,
    Nat,
}

impl Table {
    pub const ALL: [Self; 3] = [Self::Mangle, Self::Filter, Self::Nat];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mangle => "mangle",
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.as_str() == name)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A rule that leads from one of the kernel's own chains into one of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jump {
    pub table: Table,
    /// `INPUT`, `PREROUTING`, …
    pub from: ChainName,
    pub rule: Rule,
    pub place: Place,
}

/// Where a jump comes to stand among the rules of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    First,
    Last,
}

impl fmt::Display for Jump {
    /// The command that puts it in its place.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let command = match self.place {
            Place::First => "-I",
            Place::Last => "-A",
        };
        write!(f, "{command} {} {}", self.from, self.rule)
    }
}

/// Own chains with all their rules, and the jumps into them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    pub chains: BTreeMap<Table, BTreeMap<ChainName, Vec<Rule>>>,
    /// In the order they are to stand in their chains, among themselves.
    pub jumps: Vec<Jump>,
}

impl RuleSet {
    pub fn insert(&mut self, table: Table, chain: impl Into<ChainName>, rules: Vec<Rule>) {
        self.chains.entry(table).or_default().entry(chain.into()).or_default().extend(rules);
    }

    /// A rule that continues in a chain that its table does not have, as the kernel would refuse it.
    pub fn dangling(&self) -> Option<(Table, &ChainName)> {
        let chains = self
            .chains
            .iter()
            .flat_map(|(table, chains)| chains.values().flatten().map(move |rule| (*table, rule)));
        let jumps = self.jumps.iter().map(|jump| (jump.table, &jump.rule));
        chains.chain(jumps).find_map(|(table, rule)| {
            let chain = rule.jumps_to()?;
            let known = self.chains.get(&table).is_some_and(|chains| chains.contains_key(chain));
            (!known).then_some((table, chain))
        })
    }

    /// As the kernel has it once it is written to empty tables.
    pub fn saved(&self) -> Saved {
        let mut saved = Saved::default();
        let rule = |rule: &Rule| SavedRule { text: rule.to_string(), packets: 0, bytes: 0 };
        for (table, chains) in &self.chains {
            let own = chains.iter().map(|(chain, rules)| (chain.clone(), rules.iter().map(rule).collect()));
            saved.tables.entry(*table).or_default().extend(own);
        }
        for jump in &self.jumps {
            let chains = saved.tables.entry(jump.table).or_default();
            chains.entry(jump.from.clone()).or_default().push(rule(&jump.rule));
        }
        saved
    }

    /// # Errors
    /// A rule that this plane would never write.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut set = Self::default();
        for (table, chains) in Saved::parse(text).tables {
            for (chain, rules) in chains.into_iter().filter(|(chain, _)| chain.is_own()) {
                let rules = rules.iter().map(SavedRule::rule).collect::<Result<_, _>>()?;
                set.insert(table, chain, rules);
            }
        }
        set.jumps = jumps(text)?;
        Ok(set)
    }
}

/// Where jumps are inserted at the head, the last line stands first; those at the end follow.
fn jumps(text: &str) -> Result<Vec<Jump>, ParseError> {
    let (mut first, mut last) = (Vec::new(), Vec::new());
    let mut table = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = Table::from_name(name);
        }
        let (Some(table), Some((command, rest))) = (table, line.split_once(' ')) else { continue };
        let Some((from, rule)) = rest.split_once(' ').map(|(from, rule)| (ChainName::from(from), rule))
        else {
            continue;
        };
        let jump = |from, place| Ok(Jump { table, from, rule: parse::rule(rule)?, place });
        match command {
            "-I" => first.push(jump(from, Place::First)?),
            "-A" if !from.is_own() => last.push(jump(from, Place::Last)?),
            _ => {}
        }
    }
    first.reverse();
    first.extend(last);
    first.sort_by_key(|jump| jump.table);
    Ok(first)
}

/// Jumps so that each ends in its place: every one at the head pushes the others back.
pub(crate) fn in_writing_order<'a>(
    jumps: impl DoubleEndedIterator<Item = &'a Jump> + Clone,
) -> impl Iterator<Item = &'a Jump> {
    let first = jumps.clone().rev().filter(|jump| jump.place == Place::First);
    first.chain(jumps.filter(|jump| jump.place == Place::Last))
}

impl fmt::Display for RuleSet {
    /// For `iptables-restore --noflush`: replaces own chains, touches no other.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for table in Table::ALL {
            let empty = BTreeMap::new();
            let chains = self.chains.get(&table).unwrap_or(&empty);
            let jumps: Vec<_> = self.jumps.iter().filter(|jump| jump.table == table).collect();
            if chains.is_empty() && jumps.is_empty() {
                continue;
            }
            writeln!(f, "*{table}")?;
            for chain in chains.keys() {
                writeln!(f, ":{chain} - [0:0]")?;
            }
            for (chain, rule) in
                chains.iter().flat_map(|(chain, rules)| rules.iter().map(move |r| (chain, r)))
            {
                writeln!(f, "-A {chain} {rule}")?;
            }
            for jump in in_writing_order(jumps.into_iter()) {
                writeln!(f, "{jump}")?;
            }
            writeln!(f, "COMMIT")?;
        }
        Ok(())
    }
}
