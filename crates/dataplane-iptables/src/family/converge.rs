//! Compares all that the kernel has with all that it should have, and writes the difference.

use std::collections::{BTreeMap, BTreeSet};

use model::Snapshot;

use super::{
    Delta, Failed, FamilyRules, Next,
    write::{Extra, merged},
};
use crate::{
    kernel::{Refusal, Rules},
    names::ChainName,
    parse::{self, Saved, SavedRule},
    render::{LARGE_CLUSTER_ENDPOINTS, Portal, Renderer, endpoints},
    rule::Rule,
    ruleset::{RuleSet, Table},
};

impl<R: Rules> FamilyRules<R> {
    /// Makes the kernel hold exactly the rules of `snapshot`; returns what could not be programmed, and what
    /// differed, in words.
    ///
    /// # Errors
    /// Nothing could be read or programmed.
    pub(crate) fn converge(&mut self, snapshot: &Snapshot) -> Result<(Failed, Vec<String>), Refusal> {
        let saved = self.kernel.save(None)?;
        self.comments = endpoints(snapshot, self.family) <= LARGE_CLUSTER_ENDPOINTS;
        let renderer = self.renderer(snapshot);
        let mut differences = Vec::new();
        let (delta, mut failed) = self.service_delta(snapshot, &renderer, &saved, &mut differences);
        let base = renderer.base();
        let mut extra = base_delta(&base, &saved, &mut differences);
        extra.portals = Some(self.drifted_portals(&delta, &renderer, &saved, &mut differences));
        self.note_stale(&delta, &base, &saved, &mut differences);
        failed.extend(self.write_isolating(delta, extra, &renderer)?);
        Ok((failed, differences))
    }

    /// Every service of the snapshot; those whose chains the kernel has already are not written again.
    fn service_delta(
        &self,
        snapshot: &Snapshot,
        renderer: &Renderer<'_>,
        saved: &Saved,
        differences: &mut Vec<String>,
    ) -> (Delta, Failed) {
        let mut delta = Delta::new();
        let mut failed = Failed::new();
        for (id, service) in snapshot.services.iter().filter(|(id, _)| id.family == self.family) {
            match renderer.service(service) {
                Ok(rules) => {
                    let mut next = Next::new(service, &rules);
                    let drifted = drifted_chains(&next, saved);
                    if drifted.is_empty() {
                        next.rules = None;
                    }
                    differences
                        .extend(drifted.iter().map(|chain| format!("rewrote {chain} of {id} in table nat")));
                    delta.insert(id.clone(), Some(next));
                }
                Err(refused) => {
                    failed.insert(id.clone(), refused.into());
                }
            }
        }
        for id in self.programmed.keys().filter(|id| !snapshot.services.contains_key(*id)) {
            delta.insert(id.clone(), None);
        }
        (delta, failed)
    }

    fn drifted_portals(
        &self,
        delta: &Delta,
        renderer: &Renderer<'_>,
        saved: &Saved,
        differences: &mut Vec<String>,
    ) -> BTreeSet<Portal> {
        let drifted = |portal: &Portal| {
            let tail: Vec<_> = renderer.portal_tail(*portal).iter().map(ToString::to_string).collect();
            let services = merged(&self.programmed, delta);
            let lines = services.flat_map(|(_, programmed)| programmed.portals[*portal as usize].lines());
            !holds(saved.chain(portal.table(), portal.chain()), lines.chain(tail.iter().map(String::as_str)))
        };
        let portals: BTreeSet<_> = renderer.portals().filter(drifted).collect();
        differences.extend(
            portals.iter().map(|portal| format!("rewrote {} in table {}", portal.chain(), portal.table())),
        );
        portals
    }

    /// Chains of services that are no more, from an earlier run or another proxy, and those that the node needs no
    /// more.
    fn note_stale(&mut self, delta: &Delta, base: &RuleSet, saved: &Saved, differences: &mut Vec<String>) {
        let services = merged(&self.programmed, delta).flat_map(|(_, programmed)| &programmed.chains);
        let node = base.chains.get(&Table::Nat).into_iter().flat_map(|chains| chains.keys());
        let used: BTreeSet<&ChainName> = services.chain(node).collect();
        let chains = saved.chains(Table::Nat).map(|(name, _)| name);
        let stale: Vec<_> =
            chains.filter(|name| name.is_temporary() && !used.contains(name)).cloned().collect();
        // Those that wait for their deletion have not drifted.
        let drifted = stale.iter().filter(|chain| !self.stale.contains(*chain));
        differences.extend(drifted.map(|chain| format!("deleted unused {chain} in table nat")));
        self.stale.extend(stale);
    }
}

/// A service's own chains that are missing or different.
fn drifted_chains(next: &Next, saved: &Saved) -> Vec<ChainName> {
    let rules = next.rules.iter().flatten();
    let chains = next.programmed.chains.iter().zip(rules);
    let drifted = chains.filter(|(chain, rules)| {
        !holds(saved.chain(Table::Nat, chain.as_str()), rules.iter().map(String::as_str))
    });
    drifted.map(|(chain, _)| chain.clone()).collect()
}

/// Node-wide chains and jumps that are missing or different; shared chains are left to the caller.
fn base_delta(base: &RuleSet, saved: &Saved, differences: &mut Vec<String>) -> Extra {
    let mut extra = Extra::default();
    for (table, chains) in &base.chains {
        for (chain, rules) in chains.iter().filter(|(chain, _)| !is_portal(*table, chain)) {
            let rules: Vec<_> = rules.iter().map(ToString::to_string).collect();
            if !holds(saved.chain(*table, chain.as_str()), rules.iter().map(String::as_str)) {
                differences.push(format!("rewrote {chain} in table {table}"));
                extra.chains.push((*table, chain.clone(), rules));
            }
        }
    }
    let mut present: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for jump in &base.jumps {
        let found = present.entry((jump.table, &jump.from)).or_insert_with(|| {
            let rules = saved.chain(jump.table, jump.from.as_str()).unwrap_or_default();
            rules.iter().filter_map(|rule| rule.rule().ok()).collect()
        });
        if !found.contains(&jump.rule) {
            let to = jump.rule.jumps_to().map_or("", ChainName::as_str);
            differences.push(format!("added the jump from {} to {to} in table {}", jump.from, jump.table));
            extra.jumps.push(jump.clone());
        }
    }
    extra.unwanted = unwanted_jumps(base, saved);
    differences.extend(
        extra.unwanted.iter().map(|(table, from, rule)| format!("deleted {rule} of {from} in table {table}")),
    );
    extra
}

/// Jumps into chains of ours that the node does not need now.
fn unwanted_jumps(base: &RuleSet, saved: &Saved) -> Vec<(Table, ChainName, String)> {
    let mut unwanted = Vec::new();
    for table in Table::ALL {
        let wanted = |chain: &ChainName| base.chains.get(&table).is_some_and(|own| own.contains_key(chain));
        for (from, rules) in saved.chains(table).filter(|(from, _)| !from.is_own()) {
            let dead = rules.iter().filter(|rule| {
                let rule = rule.rule().ok();
                rule.as_ref().and_then(Rule::jumps_to).is_some_and(|to| to.is_added() && !wanted(to))
            });
            unwanted.extend(dead.map(|rule| (table, from.clone(), rule.text.clone())));
        }
    }
    unwanted
}

fn is_portal(table: Table, chain: &ChainName) -> bool {
    Portal::ALL.iter().any(|portal| portal.table() == table && portal.chain() == chain.as_str())
}

/// Whether the kernel's chain exists and has exactly these rules, however it spells them.
fn holds<'a>(saved: Option<&[SavedRule]>, rules: impl Iterator<Item = &'a str>) -> bool {
    let Some(saved) = saved else { return false };
    let mut saved = saved.iter();
    for rule in rules {
        match saved.next() {
            Some(found) if found.text == rule || same(&found.text, rule) => {}
            _ => return false,
        }
    }
    saved.next().is_none()
}

fn same(saved: &str, rendered: &str) -> bool {
    matches!((parse::rule(saved), parse::rule(rendered)), (Ok(a), Ok(b)) if a == b)
}
