//! Network policies of both families, as the plane drives them.

use std::{collections::BTreeMap, num::NonZeroU16};

use dataplane::{Error, Key};
use model::{Changed, Family, Snapshot, policy::RuleId};

use crate::{
    kernel::{
        Programs, Rules as _,
        ipset::{self, Ipset},
        version,
    },
    plane::cannot,
    policy::Policies,
    ruleset::Table,
};

type Kernel = Policies<Programs, Ipset>;

/// What enforces policies, once there is something to enforce.
#[derive(Debug, Default)]
pub(crate) struct Enforcement {
    families: BTreeMap<Family, Kernel>,
    /// What an agent with policies left behind was looked for.
    left: bool,
}

/// # Errors
/// What is missing.
pub(crate) fn probe() -> Result<(), Error> {
    ipset::probe().map_err(|error| {
        let help = format!("{error}\n\ninstall the package ipset, or leave out --network-policy on");
        Error::new("use", "ipset", help)
    })
}

impl Enforcement {
    /// Programs what a change may have moved, and judges flows by it.
    pub(crate) fn apply(
        &mut self,
        families: impl Iterator<Item = Family>,
        log: Option<NonZeroU16>,
        snapshot: &Snapshot,
        changed: &Changed,
    ) -> BTreeMap<Key, Error> {
        let mut new = false;
        for family in families {
            self.families.entry(family).or_insert_with(|| {
                new = true;
                Policies::new(family, Programs::new(family), Ipset { family }, log)
            });
        }
        let moved =
            !changed.policy.is_empty() || !changed.addresses.is_empty() || !changed.endpoints.is_empty();
        let mut failed = BTreeMap::new();
        if !(new || moved || changed.node) {
            return failed;
        }
        for (family, policies) in &mut self.families {
            let applied =
                policies.apply(snapshot).map_err(|error| cannot("enforce policies by", *family, error));
            let judged = applied.and_then(|_| judge(policies, *family, snapshot));
            if let Err(error) = judged {
                failed.insert(Key::Policy, error);
            }
        }
        failed
    }

    pub(crate) fn repair(&mut self, snapshot: &Snapshot) -> Result<Vec<String>, Error> {
        let mut repaired = vec![];
        for (family, policies) in &mut self.families {
            let found = policies.repair(snapshot);
            repaired.extend(found.map_err(|error| cannot("repair policies in", *family, error))?);
            judge(policies, *family, snapshot)?;
        }
        Ok(repaired)
    }

    /// Takes away what an agent that enforced policies has left, once.
    pub(crate) fn leave(&mut self) {
        if std::mem::replace(&mut self.left, true) {
            return;
        }
        for family in Family::ALL {
            let saved = Programs::new(family).save(Some(Table::Mangle));
            let there = saved.is_ok_and(|saved| Kernel::is_there(&saved));
            if let Some(problem) = there.then(|| clean_up(family)).flatten() {
                tracing::warn!(problem, "cannot remove policies of an earlier agent");
            }
        }
    }

    /// Returns what could not be removed.
    pub(crate) fn clean_up(&mut self) -> Vec<String> {
        self.families.clear();
        let programs = Family::ALL.into_iter().filter(|family| version(*family).is_ok());
        let there = programs.filter(|family| {
            let saved = Programs::new(*family).save(Some(Table::Mangle));
            saved.is_ok_and(|saved| Kernel::is_there(&saved))
        });
        there.flat_map(clean_up).collect()
    }

    pub(crate) fn counts(&self) -> Result<BTreeMap<RuleId, (u64, u64)>, Error> {
        let mut all: BTreeMap<RuleId, (u64, u64)> = BTreeMap::new();
        for (family, policies) in &self.families {
            let counts = policies.counts().map_err(|error| cannot("read counts of", *family, error))?;
            for (rule, (packets, bytes)) in counts {
                let sum = all.entry(rule).or_default();
                *sum = (sum.0 + packets, sum.1 + bytes);
            }
        }
        Ok(all)
    }
}

fn judge(policies: &mut Kernel, family: Family, snapshot: &Snapshot) -> Result<(), Error> {
    let judged = policies.judge(snapshot);
    let moved = judged.map_err(|error| Error::new("judge", format!("tracked {family:?} flows"), error))?;
    if moved > 0 {
        tracing::debug!(flows = moved, ?family, "policies decide differently about tracked flows");
    }
    Ok(())
}

fn clean_up(family: Family) -> Option<String> {
    let mut policies: Kernel = Policies::new(family, Programs::new(family), Ipset { family }, None);
    policies.clean_up().err().map(|error| error.to_string())
}
