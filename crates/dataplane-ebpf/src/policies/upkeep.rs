//! The tables of policies after the writing: what drifted, and how full they are.

use std::io;

use abi::{V4, V6};
use dataplane::{Error, MapFill};

use super::{LISTS, PEERS, POLICIES, PORTS, Policies};
use crate::{
    family::MapNames,
    table::{Mirrored, Table},
};

impl Policies {
    /// Rereads every table; says in words what was not as this agent left it.
    pub(crate) fn refresh(&mut self) -> Result<Vec<String>, Error> {
        let failed = |name: &'static str| move |source: io::Error| Error::new("read map", name, source);
        let counts = [
            (POLICIES, self.endpoints.refresh().map_err(failed(POLICIES))?),
            (LISTS, self.lists.refresh().map_err(failed(LISTS))?),
            (PEERS, self.peers.refresh().map_err(failed(PEERS))?),
            (PORTS, self.ports.refresh().map_err(failed(PORTS))?),
            (V4::PREFIXES, self.v4.refresh().map_err(failed(V4::PREFIXES))?),
            (V6::PREFIXES, self.v6.refresh().map_err(failed(V6::PREFIXES))?),
        ];
        self.count_numbers();
        self.adopted = false;
        let words = |(name, count)| format!("repaired {count} drifted rows in {name}");
        Ok(counts.into_iter().filter(|(_, count)| *count > 0).map(words).collect())
    }

    pub(crate) fn fill(&self) -> Vec<MapFill> {
        fn row<K: aya::Pod + Default + Ord, V: aya::Pod + Default + PartialEq>(
            mirrored: &Mirrored<K, V>,
        ) -> MapFill {
            let table: &Table<K, V> = mirrored.table();
            MapFill {
                name: table.name().to_lowercase(),
                entries: mirrored.known().len() as u64,
                capacity: table.capacity().into(),
                bytes: table.memory(),
                refused: table.refused(),
            }
        }
        vec![
            row(&self.endpoints),
            row(&self.lists),
            row(&self.peers),
            row(&self.ports),
            row(&self.v4),
            row(&self.v6),
            self.rules.fill(),
        ]
    }
}
