//! Brings a delta into the kernel: own chains first, then the chains that lead to them, deletions last.

use std::collections::{BTreeMap, BTreeSet};

use model::ServicePortId;

use super::{
    Delta, FamilyRules, Programmed,
    text::{BATCH_LINES, Batch, Line, Unit, batches},
};
use crate::{
    kernel::{Refusal, Rules},
    names::ChainName,
    render::{Portal, Renderer, reachable},
    ruleset::{Jump, Table, in_writing_order},
};

type Services = BTreeMap<ServicePortId, Programmed>;

/// Services that could not be programmed; whatever they had before stays.
pub(crate) type Failed = BTreeMap<ServicePortId, Box<dyn std::error::Error + Send + Sync>>;

/// What is written besides services.
#[derive(Debug, Default)]
pub(super) struct Extra {
    /// Chains that exist once per node, with all their rules.
    pub chains: Vec<(Table, ChainName, Vec<String>)>,
    /// Shared chains to be written; `None`: those that services change.
    pub portals: Option<BTreeSet<Portal>>,
    pub jumps: Vec<Jump>,
    /// Jumps into chains that the node needs no more: table, chain, rule as the kernel has it.
    pub unwanted: Vec<(Table, ChainName, String)>,
}

impl<R: Rules> FamilyRules<R> {
    /// Writes `delta` and `extra` to a kernel whose state was observed just now: a service whose rules it refuses
    /// is to blame itself. It is left as it was and returned; the others are written.
    ///
    /// # Errors
    /// The kernel refuses what is not a service's. The kernel's state is then unknown.
    pub(super) fn write_isolating(
        &mut self,
        mut delta: Delta,
        extra: Extra,
        renderer: &Renderer<'_>,
    ) -> Result<Failed, Refusal> {
        let mut failed = Failed::new();
        self.keep_counts(&delta, &extra);
        self.in_step = false;
        loop {
            let plan = plan(&self.programmed, &delta, &extra, renderer);
            let Err((error, owner)) = run(&mut self.kernel, &plan) else { break };
            let Some(owner) = owner.cloned() else { return Err(error) };
            tracing::warn!(service = %owner, %error, "the kernel refuses a service's rules");
            // Without a change to blame, what is there already is refused.
            if let Some(Some(next)) = delta.remove(&owner) {
                self.stale.extend(next.programmed.chains);
            } else if let Some(programmed) = self.programmed.remove(&owner) {
                self.endpoints -= reachable(&programmed.service).len();
                self.stale.extend(programmed.chains);
            }
            failed.insert(owner, error.into());
        }
        self.commit(delta);
        // A service left as it was uses chains that its change would have left unused.
        let used: BTreeSet<_> = self.programmed.values().flat_map(|programmed| &programmed.chains).collect();
        self.stale.retain(|chain| !used.contains(chain));
        self.in_step = true;
        self.delete_stale();
        Ok(failed)
    }

    /// Writes `delta` to a kernel that is believed to be in step.
    ///
    /// # Errors
    /// The kernel refuses a line, be it that it was not in step. Its state is then unknown.
    pub(super) fn write(&mut self, delta: Delta, renderer: &Renderer<'_>) -> Result<(), Refusal> {
        let extra = Extra::default();
        self.keep_counts(&delta, &extra);
        self.in_step = false;
        let plan = plan(&self.programmed, &delta, &extra, renderer);
        run(&mut self.kernel, &plan).map_err(|(error, _)| error)?;
        self.commit(delta);
        self.in_step = true;
        // In a large cluster a run of its own for each change is dear: unused chains wait for the next comparison, as
        // kube-proxy's wait for its sync period.
        if self.comments {
            self.delete_stale();
        }
        Ok(())
    }

    /// Adds up the counters of the filter rules that are about to be rewritten, which resets them.
    fn keep_counts(&mut self, delta: &Delta, extra: &Extra) {
        let portals: Vec<_> = rewritten(&self.programmed, delta, extra)
            .into_iter()
            .filter(|portal| portal.table() == Table::Filter)
            .collect();
        if portals.is_empty() {
            return;
        }
        match self.kernel.save(Some(Table::Filter)) {
            Ok(saved) => {
                self.counts.add(&saved, |chain| portals.iter().any(|portal| portal.chain() == chain));
                self.kernel.keep(&self.counts.to_keep());
            }
            Err(error) => tracing::warn!(%error, "cannot read the counters of rules that are rewritten"),
        }
    }

    fn commit(&mut self, delta: Delta) {
        for (id, next) in delta {
            let old = match next {
                Some(next) => {
                    self.endpoints += reachable(&next.programmed.service).len();
                    for chain in &next.programmed.chains {
                        self.stale.remove(chain);
                    }
                    let chains = next.programmed.chains.clone();
                    let old = self.programmed.insert(id, next.programmed);
                    old.map(|old| {
                        (
                            old.service,
                            old.chains.into_iter().filter(|c| !chains.contains(c)).collect::<Vec<_>>(),
                        )
                    })
                }
                None => self.programmed.remove(&id).map(|old| (old.service, old.chains)),
            };
            if let Some((service, unused)) = old {
                self.endpoints -= reachable(&service).len();
                self.stale.extend(unused);
            }
        }
    }

    /// Deletes unused chains in a run of its own: another program's jump into one must not undo the rest.
    fn delete_stale(&mut self) {
        let stale: Vec<_> = std::mem::take(&mut self.stale).into_iter().collect();
        // They may lead to each other, so that all are empty before the first goes: at once where they are few.
        let flushes: Vec<_> = stale.iter().map(|chain| (Table::Nat, Unit::flush(chain))).collect();
        let deletions = stale.iter().map(|chain| (Table::Nat, Unit::delete(chain)));
        let plan = if 2 * stale.len() <= BATCH_LINES {
            batches(flushes.into_iter().chain(deletions).collect())
        } else {
            [batches(flushes), batches(deletions.collect())].into_iter().flatten().collect()
        };
        for batch in plan {
            if let Err(error) = self.kernel.restore(&batch.text) {
                tracing::warn!(%error, "cannot delete unused chains, leaving them for later");
                self.stale.extend(stale.iter().cloned());
                return;
            }
        }
    }
}

/// All units in the order that keeps every moment right.
fn plan<'a>(
    programmed: &'a Services,
    delta: &'a Delta,
    extra: &'a Extra,
    renderer: &Renderer<'_>,
) -> Vec<Batch<'a>> {
    let mut units: Vec<(Table, Unit<'a>)> = Vec::new();
    for (table, chain, rules) in &extra.chains {
        units.push((*table, Unit::replace(chain, rules.iter().cloned())));
    }
    for (id, next) in delta {
        let Some(next) = next else { continue };
        let Some(rules) = &next.rules else { continue };
        let chains = &next.programmed.chains;
        let lines = chains.iter().zip(rules).flat_map(|(chain, rules)| {
            rules.iter().map(move |rule| Line { owner: Some(id), text: format!("-A {chain} {rule}") })
        });
        units.push((
            Table::Nat,
            Unit { chains: chains.iter().map(ChainName::as_str).collect(), lines: lines.collect() },
        ));
    }
    for portal in rewritten(programmed, delta, extra) {
        let edited = if extra.portals.is_none() { edits(programmed, delta, portal) } else { None };
        let unit = edited.unwrap_or_else(|| portal_unit(programmed, delta, portal, renderer));
        units.push((portal.table(), unit));
    }
    let single = |text| Unit { chains: vec![], lines: vec![Line { owner: None, text }] };
    units.extend(in_writing_order(extra.jumps.iter()).map(|jump| (jump.table, single(jump.to_string()))));
    units.extend(
        extra.unwanted.iter().map(|(table, from, rule)| (*table, single(format!("-D {from} {rule}")))),
    );
    batches(units)
}

/// The shared chains to be written.
fn rewritten(programmed: &Services, delta: &Delta, extra: &Extra) -> BTreeSet<Portal> {
    let changes = |portal: &Portal| {
        delta.iter().any(|(id, next)| {
            let old = programmed.get(id).map_or("", |old| &old.portals[*portal as usize]);
            let new = next.as_ref().map_or("", |next| &next.programmed.portals[*portal as usize]);
            old != new
        })
    };
    match &extra.portals {
        Some(portals) => portals.clone(),
        None => Portal::ALL.into_iter().filter(changes).collect(),
    }
}

/// A shared chain with fewer rules than this is written anew rather than edited.
const EDITED_RULES: usize = 500;
/// Each edit makes iptables look for its place among all rules of the chain.
const EDITS: usize = 16;

/// Deletions and insertions that bring a long shared chain up to date: among 10,000 rules 0.3 s, where writing
/// the chain anew takes 1.6 s. Not in the filter table, whose counters are kept by chain.
fn edits<'a>(programmed: &'a Services, delta: &'a Delta, portal: Portal) -> Option<Unit<'a>> {
    let lines_of = |services: &Programmed| services.portals[portal as usize].lines().count();
    if portal.table() != Table::Nat
        || delta.len() > EDITS
        || programmed.values().map(lines_of).sum::<usize>() < EDITED_RULES
    {
        return None;
    }
    let chain = portal.chain();
    let old = delta.keys().filter_map(|id| Some((id, programmed.get(id)?)));
    let mut lines: Vec<_> = old
        .flat_map(|(id, old)| old.portals[portal as usize].lines().map(move |rule| (id, rule)))
        .map(|(id, rule)| Line { owner: Some(id), text: format!("-D {chain} {rule}") })
        .collect();
    // In ascending order every insertion finds its final position.
    let mut position = 1;
    for (id, services) in merged(programmed, delta) {
        if delta.contains_key(id) {
            for (at, rule) in (position..).zip(services.portals[portal as usize].lines()) {
                lines.push(Line { owner: Some(id), text: format!("-I {chain} {at} {rule}") });
            }
        }
        position += lines_of(services);
    }
    Some(Unit { chains: vec![], lines })
}

fn portal_unit<'a>(
    programmed: &'a Services,
    delta: &'a Delta,
    portal: Portal,
    renderer: &Renderer<'_>,
) -> Unit<'a> {
    let append = |owner, rule: &str| Line { owner, text: format!("-A {} {rule}", portal.chain()) };
    let mut lines: Vec<_> = merged(programmed, delta)
        .flat_map(|(id, programmed)| {
            programmed.portals[portal as usize].lines().map(move |rule| append(Some(id), rule))
        })
        .collect();
    lines.extend(renderer.portal_tail(portal).iter().map(|rule| append(None, &rule.to_string())));
    Unit { chains: vec![portal.chain()], lines }
}

/// Services as they will be, in order.
pub(super) fn merged<'a>(
    programmed: &'a Services,
    delta: &'a Delta,
) -> impl Iterator<Item = (&'a ServicePortId, &'a Programmed)> {
    let mut all: BTreeMap<&ServicePortId, &Programmed> = programmed.iter().collect();
    for (id, next) in delta {
        match next {
            Some(next) => all.insert(id, &next.programmed),
            None => all.remove(id),
        };
    }
    all.into_iter()
}

/// Runs batches in order; on a refusal says whose line it was.
fn run<'a, R: Rules>(
    kernel: &mut R,
    batches: &[Batch<'a>],
) -> Result<(), (Refusal, Option<&'a ServicePortId>)> {
    for batch in batches {
        if let Err(error) = kernel.restore(&batch.text) {
            let owner = error.line.and_then(|line| batch.owner(line));
            return Err((error, owner));
        }
    }
    Ok(())
}
