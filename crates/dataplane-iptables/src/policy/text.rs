//! The text for `iptables-restore --noflush` that leads from what is known to what is wanted. Pure.

use std::{collections::BTreeSet, fmt::Write as _};

use super::{Known, Rendered, sets::SetName};
use crate::{
    names::{self, ChainName},
    parse::{Saved, SavedRule},
    ruleset::Table,
};

/// From where packets come: what the node sends itself is stopped only where the flow is denied.
pub(super) const JUMPS: [(&str, &str); 3] =
    [("FORWARD", names::POLICY), ("INPUT", names::POLICY), ("OUTPUT", names::POLICY_HELD)];

/// What of the wanted differs from what is known.
pub(super) struct Step<'a> {
    /// With their lines: they are written from nothing.
    written: Vec<(&'a str, &'a [String])>,
    stale: Vec<&'a str>,
    /// Jumps that are missing.
    jumps: Vec<(&'static str, &'static str)>,
}

impl<'a> Step<'a> {
    pub(super) fn new(known: &'a Known, wanted: &'a Rendered) -> Self {
        let differing =
            |(name, lines): &(&ChainName, &Vec<String>)| known.lists.get(*name) != Some(&lines.len());
        let lists = wanted.lists.iter().filter(differing).map(|(name, lines)| (name.as_str(), &**lines));
        let same = known.fixed.as_ref() == Some(&wanted.fixed);
        let fixed = wanted.fixed.iter().filter(|_| !same).map(|(name, lines)| (*name, &**lines));
        let stale = known.lists.keys().filter(|name| !wanted.lists.contains_key(*name));
        let missing = JUMPS.into_iter().filter(|(from, _)| !known.jumps.contains(from));
        Self {
            written: lists.chain(fixed).collect(),
            stale: stale.map(ChainName::as_str).collect(),
            jumps: missing.collect(),
        }
    }

    /// The chains whose counters it resets, if they are there.
    pub(super) fn empties(&self) -> impl Iterator<Item = &'a str> {
        self.written.iter().map(|(name, _)| *name).chain(self.stale.iter().copied())
    }

    /// One transaction; `None`: nothing differs.
    pub(super) fn text(&self) -> Option<String> {
        if self.written.is_empty() && self.stale.is_empty() && self.jumps.is_empty() {
            return None;
        }
        let mut text = "*mangle\n".to_owned();
        // Declaring a chain empties it.
        for name in self.empties() {
            let _infallible = writeln!(text, ":{name} - [0:0]");
        }
        for (name, lines) in &self.written {
            for line in *lines {
                let _infallible = writeln!(text, "-A {name} {line}");
            }
        }
        for (from, to) in &self.jumps {
            let _infallible = writeln!(text, "-I {from} 1 -j {to}");
        }
        for name in &self.stale {
            let _infallible = writeln!(text, "-X {name}");
        }
        text.push_str("COMMIT\n");
        Some(text)
    }
}

/// What takes all of it away; `None`: there is nothing.
pub(super) fn removal(saved: &Saved) -> Option<String> {
    let fixed = names::POLICY_FIXED.into_iter().filter(|name| saved.chain(Table::Mangle, name).is_some());
    let chains: Vec<_> = fixed.chain(lists(saved).map(|(name, _)| name.as_str())).collect();
    if chains.is_empty() {
        return None;
    }
    let mut text = "*mangle\n".to_owned();
    for name in &chains {
        let _infallible = writeln!(text, ":{name} - [0:0]");
    }
    let there = jumps(saved);
    for (from, to) in JUMPS.iter().filter(|(from, _)| there.contains(from)) {
        let _infallible = writeln!(text, "-D {from} -j {to}");
    }
    for name in &chains {
        let _infallible = writeln!(text, "-X {name}");
    }
    text.push_str("COMMIT\n");
    Some(text)
}

/// The kernel's own chains that lead to ours.
pub(super) fn jumps(saved: &Saved) -> BTreeSet<&'static str> {
    let leads = |(from, to): &&(&'static str, &str)| {
        let rules = saved.chain(Table::Mangle, from).unwrap_or_default();
        rules.iter().any(|rule| rule.text == format!("-j {to}"))
    };
    JUMPS.iter().filter(leads).map(|(from, _)| *from).collect()
}

/// The chains that are named by their contents.
pub(super) fn lists(saved: &Saved) -> impl Iterator<Item = (&ChainName, &[SavedRule])> {
    saved.chains(Table::Mangle).filter(|(name, _)| name.as_str().starts_with(names::POLICY_LIST))
}

/// The sets that rules of policies refer to.
pub(super) fn sets(saved: &Saved) -> BTreeSet<SetName> {
    let rules = lists(saved).flat_map(|(_, rules)| rules);
    let names = rules.filter_map(|rule| rule.text.split_once("--match-set ")?.1.split(' ').next());
    names.map(SetName::read).collect()
}
