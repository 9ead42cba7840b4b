//! All pinned maps, and those that both families share.

use std::{collections::BTreeMap, io, path::Path};

use abi::{
    Address, COUNTERS as COUNTER_ROWS, Config, Count, Flow, Lookup, Reason, SocketCall, Tuple, V4, V6,
    flow_flags, prefilter,
};
use dataplane::{Counter, Error, MapFill};

use crate::{
    family::{Family, MapNames},
    policies, sys,
    table::Table,
};

pub(crate) const CONFIG: &str = "CONFIG";
pub(crate) const COUNTERS: &str = "COUNTERS";
pub(crate) const EVENTS: &str = "EVENTS";
pub(crate) const EVENT_COUNTS: &str = "EVENT_COUNTS";
pub(crate) const PREFILTER: &str = "PREFILTER";

/// Every map that is pinned. What is not here (scratch space) belongs to one program alone.
pub(crate) fn pinned_names() -> impl Iterator<Item = &'static str> {
    [CONFIG, COUNTERS, EVENTS, EVENT_COUNTS, PREFILTER]
        .into_iter()
        .chain(policies::NAMES)
        .chain(<V4 as MapNames>::ALL)
        .chain(<V6 as MapNames>::ALL)
}

#[derive(Debug)]
pub(crate) struct Tables {
    config: Table<u32, Config>,
    counters: std::os::fd::OwnedFd,
    prefilter: Prefilter,
    pub(crate) v4: Family<V4>,
    pub(crate) v6: Family<V6>,
}

impl Tables {
    pub(crate) fn open(directory: &Path) -> Result<Self, Error> {
        let failed =
            |name: &'static str| move |source: io::Error| Error::new("open pinned map", name, source);
        Ok(Self {
            config: Table::open(directory, CONFIG).map_err(failed(CONFIG))?,
            counters: sys::open_pinned(&directory.join(COUNTERS)).map_err(failed(COUNTERS))?,
            prefilter: Prefilter::open(directory).map_err(failed(PREFILTER))?,
            v4: Family::open(directory)?,
            v6: Family::open(directory)?,
        })
    }

    pub(crate) fn config(&self) -> Result<Config, Error> {
        let found = self.config.get(&0).map_err(|source| Error::new("read map", CONFIG, source))?;
        Ok(found.unwrap_or_default())
    }

    pub(crate) fn set_config(&self, config: &Config) -> Result<(), Error> {
        self.config.put(&0, config).map_err(|source| Error::new("write map", CONFIG, source))
    }

    /// The family tables and the function that enters bits, borrowed apart.
    pub(crate) fn parts(&mut self) -> (&mut Family<V4>, &mut Family<V6>, &mut Prefilter) {
        (&mut self.v4, &mut self.v6, &mut self.prefilter)
    }

    /// Rewrites the prefilter to just what is needed; returns how many words changed.
    pub(crate) fn rebuild_prefilter(&mut self) -> Result<usize, Error> {
        let bits: Vec<u32> = self.v4.bits().chain(self.v6.bits()).collect();
        self.prefilter.replace(&bits).map_err(|source| Error::new("write map", PREFILTER, source))
    }

    /// Every counter, summed over the CPUs.
    pub(crate) fn counters(&self) -> Result<Vec<Counter>, Error> {
        let failed = |source| Error::new("read map", COUNTERS, source);
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| failed(error))?;
        let names = Reason::ALL.iter().map(|reason| reason.name());
        let names = names.chain(Lookup::ALL.iter().map(|lookup| lookup.name()));
        let names = names.chain(SocketCall::ALL.iter().map(|call| call.name()));
        let mut counters = Vec::with_capacity(COUNTER_ROWS);
        for (row, name) in (0u32..).zip(names) {
            let mut counts = vec![Count::default(); cpus];
            sys::lookup(std::os::fd::AsFd::as_fd(&self.counters), &row, &mut counts).map_err(failed)?;
            counters.push(Counter {
                name: name.to_owned(),
                packets: counts.iter().map(|count| count.packets).sum(),
                bytes: counts.iter().map(|count| count.bytes).sum(),
            });
        }
        Ok(counters)
    }

    /// How full the tables are at `now`, in jiffies. Tables that cannot be read count as empty.
    pub(crate) fn fill(&self, now: u32) -> Vec<MapFill> {
        let ports = self.config().map_or(0, |config| config.masquerade_ports);
        let mut fill = family_fill(&self.v4, ports, now);
        fill.extend(family_fill(&self.v6, ports, now));
        fill
    }
}

/// Ports used towards the backend that the most masqueraded flows go to: the range is each backend's own.
fn used_ports<A: Address>(flows: &[(Tuple<A>, Flow<A>)], now: u32) -> u64 {
    let mut used = BTreeMap::<(A, abi::Be16, u8), u64>::new();
    for (key, flow) in flows {
        let alive = now.wrapping_sub(flow.last_seen) < flow.timeout;
        if flow.has(flow_flags::REPLY) && flow.has(flow_flags::MASQUERADED) && alive {
            *used.entry((key.source, key.source_port, key.protocol)).or_default() += 1;
        }
    }
    used.into_values().max().unwrap_or(0)
}

fn family_fill<A: MapNames>(family: &Family<A>, ports: u32, now: u32) -> Vec<MapFill> {
    fn row<K: aya::Pod + Default + Ord, V: aya::Pod + Default>(
        table: &Table<K, V>,
        entries: usize,
    ) -> MapFill {
        MapFill {
            name: table.name().to_lowercase(),
            entries: entries as u64,
            capacity: table.capacity().into(),
            bytes: table.memory(),
            refused: table.refused(),
        }
    }
    let count = |rows: std::io::Result<usize>| rows.unwrap_or_default();
    let flows = family.flows.rows().unwrap_or_default();
    let masquerade_ports = MapFill {
        name: format!("masquerade_ports_{}", if A::BITS == V4::BITS { "v4" } else { "v6" }),
        entries: used_ports(&flows, now),
        capacity: ports.into(),
        ..MapFill::default()
    };
    let affinity = count(family.affinity.rows().map(|rows| rows.len()));
    vec![
        row(&family.flows, flows.len()),
        row(family.frontends.table(), family.frontends.known().len()),
        row(family.backends.table(), family.backends.known().len()),
        row(family.members.table(), family.members.known().len()),
        row(family.ranges.table(), family.ranges.known().len()),
        row(family.lookups.table(), family.lookups.len()),
        row(&family.affinity, affinity),
        row(family.identities.table(), family.identities.len()),
        masquerade_ports,
    ]
}

/// The bit array before the frontend tables. Bits are set as needed and cleared only by a rebuild: one too many costs a hash
/// lookup, and flows of a Service that went away still find their entries.
#[derive(Debug)]
pub(crate) struct Prefilter {
    table: Table<u32, u64>,
    words: Vec<u64>,
}

impl Prefilter {
    fn open(directory: &Path) -> io::Result<Self> {
        let table: Table<u32, u64> = Table::open(directory, PREFILTER)?;
        let mut words = vec![0; prefilter::WORDS];
        for (index, word) in table.walk()? {
            words[index as usize] = word;
        }
        Ok(Self { table, words })
    }

    pub(crate) fn set(&mut self, bits: &[u32]) -> io::Result<()> {
        for bit in bits {
            let (index, mask) = (bit / 64, 1 << (bit % 64));
            let word = self.words[index as usize];
            if word & mask == 0 {
                self.table.put(&index, &(word | mask))?;
                self.words[index as usize] = word | mask;
            }
        }
        Ok(())
    }

    fn replace(&mut self, bits: &[u32]) -> io::Result<usize> {
        let mut desired = vec![0u64; prefilter::WORDS];
        for bit in bits {
            desired[(bit / 64) as usize] |= 1 << (bit % 64);
        }
        let now = self.table.walk()?;
        let mut changed = 0;
        for (index, word) in now {
            let wanted = desired[index as usize];
            if word != wanted {
                self.table.put(&index, &wanted)?;
                changed += 1;
            }
        }
        self.words = desired;
        Ok(changed)
    }
}
