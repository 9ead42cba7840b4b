//! The lookup tables of backend sets in the kernel: which rows of [`crate::maglev`] tables differ, and their coming and going.
//!
//! Keeps digests, not tables: 10,000 sets are 160,000 rows. A table is built only where its backends changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
};

use abi::{MaglevChunk, MaglevKey, SetId, maglev::CHUNK};

use crate::{
    maglev::{self, TableSize},
    table::Table,
};

#[derive(Debug)]
pub(crate) struct Lookups {
    table: Table<MaglevKey, MaglevChunk>,
    known: BTreeMap<SetId, Known>,
}

/// What is known of one set's rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    /// Digest of the names that the rows were built of; `None`: the rows are another's, or were tampered with.
    names: Option<u64>,
    /// Digest of each row; `None`: not there.
    rows: Vec<Option<u64>>,
}

impl Lookups {
    pub(crate) fn open(directory: &Path, name: &'static str) -> io::Result<Self> {
        let mut this = Self { table: Table::open(directory, name)?, known: BTreeMap::new() };
        this.known = this.read()?;
        Ok(this)
    }

    pub(crate) fn table(&self) -> &Table<MaglevKey, MaglevChunk> {
        &self.table
    }

    /// Rows in the kernel.
    pub(crate) fn len(&self) -> usize {
        self.known.values().flat_map(|known| &known.rows).flatten().count()
    }

    pub(crate) fn sets(&self) -> impl Iterator<Item = SetId> {
        self.known.keys().copied()
    }

    /// Writes what differs of the table of a set whose slots are backends of these names.
    pub(crate) fn put(&mut self, set: SetId, names: &[u64], size: TableSize) -> io::Result<()> {
        let digest = digest(names.iter().copied().chain([u64::from(size.get())]));
        let known = self.known.entry(set).or_default();
        if known.names == Some(digest) {
            return Ok(());
        }
        known.names = None;
        let entries = maglev::table(names, size);
        let chunks = entries.len().div_ceil(CHUNK);
        if known.rows.len() < chunks {
            known.rows.resize(chunks, None);
        }
        let mut changed = vec![];
        for (index, part) in entries.chunks(CHUNK).enumerate() {
            let mut chunk = MaglevChunk::default();
            chunk.0[..part.len()].copy_from_slice(part);
            if known.rows[index] != Some(digest_of(&chunk)) {
                changed.push((key(set, index), chunk));
            }
        }
        let (written, result) = match self.table.put_all(&changed) {
            Ok(()) => (changed.len(), Ok(())),
            Err((written, error)) => (written, Err(error)),
        };
        for (key, chunk) in &changed[..written] {
            known.rows[key.chunk as usize] = Some(digest_of(chunk));
        }
        result?;
        for index in chunks..known.rows.len() {
            self.table.delete(&key(set, index))?;
        }
        known.rows.truncate(chunks);
        known.names = Some(digest);
        Ok(())
    }

    pub(crate) fn delete(&mut self, set: SetId) -> io::Result<()> {
        let Some(known) = self.known.get_mut(&set) else { return Ok(()) };
        known.names = None;
        for (index, row) in known.rows.iter_mut().enumerate().filter(|(_, row)| row.is_some()) {
            self.table.delete(&key(set, index))?;
            *row = None;
        }
        self.known.remove(&set);
        Ok(())
    }

    /// Rereads the kernel; returns how many rows were missing, changed or foreign.
    pub(crate) fn refresh(&mut self) -> io::Result<usize> {
        let (mut now, none) = (self.read()?, Known::default());
        let sets: BTreeSet<SetId> = self.known.keys().chain(now.keys()).copied().collect();
        let mut drifted = 0;
        for set in sets {
            let (old, new) = (self.known.get(&set).unwrap_or(&none), now.entry(set).or_default());
            let longest = old.rows.len().max(new.rows.len());
            let row = |rows: &[Option<u64>], index: usize| rows.get(index).copied().flatten();
            let differ =
                (0..longest).filter(|index| row(&old.rows, *index) != row(&new.rows, *index)).count();
            if differ == 0 {
                new.names = old.names;
            }
            drifted += differ;
        }
        self.known = now;
        Ok(drifted)
    }

    fn read(&self) -> io::Result<BTreeMap<SetId, Known>> {
        let mut found = BTreeMap::<SetId, Known>::new();
        self.table.visit(|key, chunk| {
            let rows = &mut found.entry(key.set).or_default().rows;
            let index = key.chunk as usize;
            // A foreign row may have any number: one too high is never looked at, and is not worth a place.
            if index < TableSize::MAX as usize / CHUNK + 1 {
                rows.resize(rows.len().max(index + 1), None);
                rows[index] = Some(digest_of(&chunk));
            }
        })?;
        Ok(found)
    }
}

fn key(set: SetId, index: usize) -> MaglevKey {
    MaglevKey { set, chunk: index as u32 }
}

fn digest_of(chunk: &MaglevChunk) -> u64 {
    digest(chunk.0.chunks(4).map(|four| four.iter().fold(0, |word, slot| word << 16 | u64::from(*slot))))
}

fn digest(words: impl Iterator<Item = u64>) -> u64 {
    words.fold(0x7450, abi::maglev::mix)
}
