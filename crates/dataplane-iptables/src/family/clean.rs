//! Removes everything that this plane, or a kube-proxy before it, has put into a family's tables.

use super::{
    FamilyRules,
    text::{Line, Unit, batches},
};
use crate::{
    counts::Counts,
    kernel::{Refusal, Rules},
    names::{self, ChainName},
    parse::Saved,
    ruleset::Table,
};

impl<R: Rules> FamilyRules<R> {
    /// Jumps first, so that no packet meets half of it; then the contents of chains; then the chains.
    ///
    /// # Errors
    /// The kernel's refusal; what came before it is gone.
    pub(crate) fn clean_up(&mut self) -> Result<(), Refusal> {
        let saved = self.kernel.save(None)?;
        let units = [jumps(&saved), flushes(&saved), deletions(&saved)];
        for batch in units.into_iter().flat_map(batches) {
            self.kernel.restore(&batch.text)?;
        }
        self.kernel.forget();
        self.counts = Counts::default();
        self.programmed.clear();
        self.stale.clear();
        self.endpoints = 0;
        self.in_step = false;
        Ok(())
    }
}

/// Rules of chains that are not ours, but lead into ours.
fn jumps(saved: &Saved) -> Vec<(Table, Unit<'_>)> {
    let mut units = Vec::new();
    for table in Table::ALL {
        for (chain, rules) in saved.chains(table).filter(|(chain, _)| !removable(chain, saved)) {
            for rule in rules {
                let to = rule.rule().ok().and_then(|rule| rule.jumps_to().cloned());
                if to.is_some_and(|to| removable(&to, saved)) {
                    let line = Line { owner: None, text: format!("-D {chain} {}", rule.text) };
                    units.push((table, Unit { chains: vec![], lines: vec![line] }));
                }
            }
        }
    }
    units
}

fn flushes(saved: &Saved) -> Vec<(Table, Unit<'_>)> {
    own(saved).map(|(table, chain)| (table, Unit::flush(chain))).collect()
}

fn deletions(saved: &Saved) -> Vec<(Table, Unit<'_>)> {
    own(saved).map(|(table, chain)| (table, Unit::delete(chain))).collect()
}

fn own(saved: &Saved) -> impl Iterator<Item = (Table, &ChainName)> {
    Table::ALL.into_iter().flat_map(move |table| {
        saved.chains(table).map(move |(chain, _)| (table, chain)).filter(|(_, chain)| removable(chain, saved))
    })
}

/// The kubelet, where it manages iptables, has the same firewall chain.
fn removable(chain: &ChainName, saved: &Saved) -> bool {
    let kubelet = || saved.chain(Table::Mangle, names::KUBELET_CANARY).is_some();
    chain.is_own() && (chain.as_str() != names::FIREWALL || !kubelet())
}
