//! What each rule decided about: rows come and go with the rules, the kernel only counts in them.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use abi::RuleCount;
use dataplane::MapFill;
use model::policy::RuleId;

use super::RULES;
use crate::sys;

#[derive(Debug)]
pub(crate) struct Rules {
    map: OwnedFd,
    capacity: u32,
    cpus: usize,
    known: BTreeSet<u32>,
    refused: u64,
}

impl Rules {
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let map = sys::open_pinned(&directory.join(RULES))?;
        let capacity = sys::map_info(map.as_fd())?.max_entries;
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        let (mut known, mut last, mut next) = (BTreeSet::new(), None, 0u32);
        while sys::next_key(map.as_fd(), last.as_ref(), &mut next)? {
            known.insert(next);
            last = Some(next);
        }
        Ok(Self { map, capacity, cpus, known, refused: 0 })
    }

    /// Enters rules that are not there yet. One without a row works, and is not counted.
    pub(super) fn add<'a>(&mut self, rules: impl Iterator<Item = &'a RuleId>) -> io::Result<()> {
        let zero = vec![RuleCount::default(); self.cpus];
        let mut result = Ok(());
        for RuleId(rule) in rules {
            if self.known.contains(rule) {
                continue;
            }
            match sys::update_each(self.map.as_fd(), rule, &zero) {
                Ok(()) => _ = self.known.insert(*rule),
                Err(error) => {
                    self.refused += 1;
                    result = Err(error);
                }
            }
        }
        result
    }

    pub(super) fn remove<'a>(&mut self, rules: impl Iterator<Item = &'a RuleId>) -> io::Result<()> {
        for RuleId(rule) in rules {
            if self.known.remove(rule) {
                sys::delete(self.map.as_fd(), rule)?;
            }
        }
        Ok(())
    }

    pub(super) fn retain(&mut self, keep: impl Fn(RuleId) -> bool) -> io::Result<()> {
        let gone: Vec<RuleId> =
            self.known.iter().map(|rule| RuleId(*rule)).filter(|rule| !keep(*rule)).collect();
        self.remove(gone.iter())
    }

    /// Packets and bytes that a rule decided about, over all CPUs; zero for one that is not there.
    pub(crate) fn count(&self, rule: RuleId) -> io::Result<RuleCount> {
        let mut counts = vec![RuleCount::default(); self.cpus];
        sys::lookup(self.map.as_fd(), &rule.0, &mut counts)?;
        Ok(counts.iter().fold(RuleCount::default(), |sum, count| RuleCount {
            packets: sum.packets + count.packets,
            bytes: sum.bytes + count.bytes,
        }))
    }

    pub(super) fn fill(&self) -> MapFill {
        MapFill {
            name: RULES.to_lowercase(),
            entries: self.known.len() as u64,
            capacity: self.capacity.into(),
            bytes: 0,
            refused: self.refused,
        }
    }
}
