//! Who may talk to whom, in this plane: chains in the mangle table, sets of addresses, marks of tracked flows.
//!
//! ```text
//! Snapshot ── render ──► chains, sets ── write what differs ──► ipset restore, iptables-restore, ipset restore
//!     └────── flows ───► which tracked flows are denied now ──► their connection marks
//! ```
//! One change is one transaction of rules: members of sets come before it and go after it, so that what the old and the new
//! table allow is never stopped. Flows are judged again once the new rules are there.
//!
//! Never decides: that is [`model::PolicyTable::decide`].

pub(crate) mod back;
mod clause;
pub(crate) mod flows;
pub(crate) mod named;
mod render;
pub(crate) mod sets;
#[cfg(test)]
mod tests;
mod text;
pub(crate) mod totals;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    num::NonZeroU16,
    thread,
    time::{Duration, Instant},
};

use dataplane::MapFill;
use model::{Family, Snapshot};

use self::{
    flows::{DENIED, Judge},
    render::Rendered,
    sets::{Members, SetName},
    totals::Totals,
};
use crate::{
    kernel::{Refusal, Rules, conntrack, ipset::Sets},
    names::{self, ChainName},
    parse::Saved,
    ruleset::Table,
};

/// How long the kernel may hold sets of rules that are gone.
const LETS_GO: Duration = Duration::from_secs(2);

/// The policies of one family in one namespace.
#[derive(Debug)]
pub(crate) struct Policies<R, S> {
    family: Family,
    rules: R,
    sets: S,
    log: Option<NonZeroU16>,
    /// What the kernel has; `None`: not known, as after a start or a refusal.
    known: Option<Known>,
    /// Flows have not been judged by what is written.
    unjudged: bool,
    /// What chains had counted when they were written anew.
    before: Totals,
}

/// What was found in the kernel, or written to it.
#[derive(Debug, Default)]
struct Known {
    /// With the number of their rules.
    lists: BTreeMap<ChainName, usize>,
    /// [`names::POLICY_FIXED`]; `None`: not as anything was rendered.
    fixed: Option<BTreeMap<&'static str, Vec<String>>>,
    /// The number of their rules.
    fixed_rules: [Option<usize>; names::POLICY_FIXED.len()],
    jumps: BTreeSet<&'static str>,
    sets: BTreeMap<SetName, Members>,
    /// By rules that are there.
    used: BTreeSet<SetName>,
}

impl<R: Rules, S: Sets> Policies<R, S> {
    pub(crate) fn new(family: Family, rules: R, sets: S, log: Option<NonZeroU16>) -> Self {
        Self { family, rules, sets, log, known: None, unjudged: true, before: Totals::default() }
    }

    /// Writes what differs from what is known to be there; says whether that was anything.
    ///
    /// # Errors
    /// The kernel's refusal: no rule differs from before, or all are as they are to be and something of before is left over.
    pub(crate) fn apply(&mut self, snapshot: &Snapshot) -> Result<bool, Refusal> {
        let known = match self.known.take() {
            Some(known) => known,
            None => self.observe()?,
        };
        if snapshot.policy.endpoints.is_empty() && known.fixed.is_none() {
            // No policy is known yet: what a former agent knew is not forgotten, and without one nothing is denied.
            self.known = Some(known);
            return Ok(false);
        }
        let mut wanted = render::render(snapshot, self.family, self.log);
        if snapshot.addresses.is_empty() {
            // Nothing is known of addresses yet, which is no reason to forget whose they were.
            for (name, members) in wanted.sets.iter_mut().filter(|(name, _)| name.is_of_addresses()) {
                if let Some(old) = known.sets.get(name) {
                    members.clone_from(old);
                }
            }
        }
        let (next, changed) = self.write(known, wanted)?;
        self.known = Some(next);
        self.unjudged |= changed;
        Ok(changed)
    }

    fn write(&mut self, known: Known, wanted: Rendered) -> Result<(Known, bool), Refusal> {
        let additions = sets::additions(&known.sets, &wanted.sets, self.family);
        if !additions.is_empty() {
            self.sets.restore(&additions)?;
        }
        let step = text::Step::new(&known, &wanted);
        let rules = step.text();
        if let Some(text) = &rules {
            let saved = self.rules.save(Some(Table::Mangle))?;
            self.rules.restore(text)?;
            let emptied = step.empties().filter_map(|name| saved.chain(Table::Mangle, name));
            emptied.for_each(|rules| self.before.add(rules));
        }
        let removals = sets::removals(&known.sets, &wanted.sets);
        if !removals.is_empty() {
            self.sets.restore(&removals)?;
        }
        let changed = rules.is_some() || !additions.is_empty() || !removals.is_empty();
        let mut next = Known {
            lists: wanted.lists.iter().map(|(name, lines)| (name.clone(), lines.len())).collect(),
            fixed_rules: names::POLICY_FIXED.map(|name| wanted.fixed.get(name).map(Vec::len)),
            fixed: Some(wanted.fixed),
            jumps: text::JUMPS.iter().map(|(from, _)| *from).collect(),
            used: wanted.sets.keys().cloned().collect(),
            sets: wanted.sets,
        };
        self.destroy(known, &mut next);
        Ok((next, changed))
    }

    /// Removes sets that no rule needs. The kernel lets go of those that rules needed until now a moment later
    /// (`nf_tables_commit_release`): they go with the next change.
    fn destroy(&mut self, known: Known, next: &mut Known) {
        let idle = known.sets.into_iter().filter(|(name, _)| !next.used.contains(name));
        let (waiting, due): (BTreeMap<_, _>, BTreeMap<_, _>) =
            idle.partition(|(name, _)| known.used.contains(name));
        next.sets.extend(waiting);
        if due.is_empty() {
            return;
        }
        if let Err(error) = self.sets.restore(&sets::destruction(&due.keys().cloned().collect())) {
            tracing::debug!(%error, "cannot remove sets yet");
            next.sets.extend(due);
        }
    }

    /// What a former agent, or this one, left in the kernel.
    fn observe(&self) -> Result<Known, Refusal> {
        let saved = self.rules.save(Some(Table::Mangle))?;
        let sets = self.sets.save()?;
        let lists = text::lists(&saved).map(|(name, rules)| (name.clone(), rules.len())).collect();
        // Whatever rules may need is left for the change after this one.
        let used = sets.keys().cloned().collect();
        let fixed_rules = names::POLICY_FIXED.map(|name| saved.chain(Table::Mangle, name).map(<[_]>::len));
        let jumps = text::jumps(&saved);
        Ok(Known { lists, fixed: None, fixed_rules, jumps, sets, used })
    }

    /// Looks at what the kernel has, and writes it anew where that differs; returns what did.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(crate) fn repair(&mut self, snapshot: &Snapshot) -> Result<Vec<String>, Refusal> {
        let found = self.observe()?;
        let Some(known) = self.known.take() else {
            self.apply(snapshot)?;
            return Ok(vec![]);
        };
        let mut differences = vec![];
        if found.jumps != known.jumps {
            differences.push("jumps to policies".to_owned());
        }
        if (&found.lists, found.fixed_rules) != (&known.lists, known.fixed_rules) {
            differences.push("chains of policies".to_owned());
        }
        let other = known.used.iter().filter(|name| found.sets.get(*name) != known.sets.get(*name));
        differences.extend(other.map(|name| format!("set {name}")));
        if differences.is_empty() {
            self.known = Some(known);
        } else {
            // Other rules of the same number are none of ours either: all are written.
            let lists = found.lists.into_keys().map(|name| (name, usize::MAX)).collect();
            self.known = Some(Known { lists, ..found });
        }
        self.apply(snapshot)?;
        Ok(differences)
    }

    /// Judges tracked flows by `snapshot`, where something changed since: marks those that are denied now, and takes the mark off
    /// those that are not any more. Returns how many changed.
    ///
    /// # Errors
    /// The kernel's refusal; the rest is for the next call.
    pub(crate) fn judge(&mut self, snapshot: &Snapshot) -> io::Result<usize> {
        if !self.unjudged || snapshot.addresses.is_empty() || snapshot.policy.endpoints.is_empty() {
            return Ok(0);
        }
        let judge = Judge::new(snapshot);
        let moved = conntrack::marked(self.family, |original, reply, mark| {
            judge.denies(original, reply) != (mark & DENIED != 0)
        })?;
        let (freed, held): (Vec<_>, Vec<_>) = moved.into_iter().partition(|flow| flow.mark & DENIED != 0);
        let count = conntrack::mark(self.family, &held, DENIED, DENIED)?
            + conntrack::mark(self.family, &freed, 0, DENIED)?;
        self.unjudged = false;
        Ok(count)
    }

    /// What rules have counted since this was made, and in chains of `saved` before: packets that opened flows, or were denied.
    pub(crate) fn totals(&self, saved: &Saved) -> Totals {
        let mut totals = self.before.clone();
        let fixed = names::POLICY_FIXED.into_iter().filter_map(|name| saved.chain(Table::Mangle, name));
        fixed.chain(text::lists(saved).map(|(_, rules)| rules)).for_each(|rules| totals.add(rules));
        totals
    }

    /// The kernel's part in which policies are: rules, and the sets that they refer to.
    ///
    /// # Errors
    /// The rules, or the sets, cannot be read.
    pub(crate) fn read(&self) -> Result<(Saved, BTreeMap<SetName, Members>), Refusal> {
        let saved = self.rules.save(Some(Table::Mangle))?;
        let mut sets = self.sets.save()?;
        let used = text::sets(&saved);
        sets.retain(|name, _| used.contains(name));
        Ok((saved, sets))
    }

    /// How many rules and members of sets there are. Neither has a limit that is met before memory's.
    pub(crate) fn fill(&self) -> Vec<MapFill> {
        let Some(known) = &self.known else { return vec![] };
        let rules: usize = known.lists.values().chain(known.fixed_rules.iter().flatten()).sum();
        let members: usize = known.sets.values().map(BTreeMap::len).sum();
        let family = match self.family {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        };
        let row = |what, entries| MapFill {
            name: format!("policy {what} {family}"),
            entries: entries as u64,
            capacity: 0,
            bytes: 0,
            refused: 0,
        };
        vec![row("rules", rules), row("members", members)]
    }

    /// Removes everything, and lets every flow go.
    ///
    /// # Errors
    /// The kernel's refusal; what came before it is gone.
    pub(crate) fn clean_up(&mut self) -> Result<(), Refusal> {
        self.known = None;
        let saved = self.rules.save(Some(Table::Mangle))?;
        if let Some(text) = text::removal(&saved) {
            self.rules.restore(&text)?;
        }
        let held = conntrack::marked(self.family, |_, _, mark| mark & DENIED != 0);
        if let Err(error) = held.and_then(|held| conntrack::mark(self.family, &held, 0, DENIED)) {
            tracing::warn!(%error, "cannot take the marks off denied flows");
        }
        self.destroy_all()
    }

    /// The kernel lets go of sets a moment after their rules are gone (`nf_tables_commit_release`).
    fn destroy_all(&mut self) -> Result<(), Refusal> {
        let deadline = Instant::now() + LETS_GO;
        loop {
            let left: BTreeSet<_> = self.sets.save()?.into_keys().collect();
            if left.is_empty() {
                return Ok(());
            }
            match self.sets.restore(&sets::destruction(&left)) {
                Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
                done => return done,
            }
        }
    }

    /// Whether a former agent left something to [`Self::clean_up`].
    pub(crate) fn is_there(saved: &Saved) -> bool {
        !text::jumps(saved).is_empty() || saved.chain(Table::Mangle, names::POLICY).is_some()
    }
}
