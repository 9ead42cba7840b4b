//! The text for `iptables-restore --noflush` that leads from what is known to what is wanted. Pure.

use std::{collections::BTreeSet, fmt::Write as _};

use super::{Known, Rendered, render::Line};
use crate::{
    names::{self, ChainName},
    parse::{Saved, SavedRule},
    ruleset::Table,
};

/// From where packets come: what the node sends itself is stopped only where the flow is denied.
pub(super) const JUMPS: [(&str, &str); 3] =
    [("FORWARD", names::POLICY), ("INPUT", names::POLICY), ("OUTPUT", names::POLICY_HELD)];

/// One transaction; `None`: nothing differs.
pub(super) fn transaction(known: &Known, wanted: &Rendered) -> Option<String> {
    let differing = |(name, lines): &(&ChainName, &Vec<Line>)| known.lists.get(*name) != Some(&lines.len());
    let new: Vec<_> = wanted.lists.iter().filter(differing).collect();
    let stale: Vec<_> = known.lists.keys().filter(|name| !wanted.lists.contains_key(*name)).collect();
    let same =
        known.fixed.as_ref().is_some_and(|(entry, held)| (entry, held) == (&wanted.entry, &wanted.held));
    let missing: Vec<_> = JUMPS.iter().filter(|(from, _)| !known.jumps.contains(from)).collect();
    if new.is_empty() && stale.is_empty() && same && missing.is_empty() {
        return None;
    }
    let mut text = "*mangle\n".to_owned();
    // Declaring a chain empties it.
    let fixed = [(names::POLICY_HELD, &wanted.held), (names::POLICY, &wanted.entry)];
    let fixed: Vec<_> = if same { vec![] } else { fixed.to_vec() };
    let names = new.iter().map(|(name, _)| name.as_str()).chain(stale.iter().map(|name| name.as_str()));
    for name in names.chain(fixed.iter().map(|(name, _)| *name)) {
        let _infallible = writeln!(text, ":{name} - [0:0]");
    }
    let chains = new.iter().map(|(name, lines)| (name.as_str(), *lines)).chain(fixed.iter().copied());
    for (name, lines) in chains {
        for line in lines {
            let _infallible = writeln!(text, "-A {name} {}", line.text);
        }
    }
    for (from, to) in missing {
        let _infallible = writeln!(text, "-I {from} 1 -j {to}");
    }
    for name in stale {
        let _infallible = writeln!(text, "-X {name}");
    }
    text.push_str("COMMIT\n");
    Some(text)
}

/// What takes all of it away; `None`: there is nothing.
pub(super) fn removal(saved: &Saved) -> Option<String> {
    let fixed = [names::POLICY, names::POLICY_HELD];
    let fixed = fixed.into_iter().filter(|name| saved.chain(Table::Mangle, name).is_some());
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
