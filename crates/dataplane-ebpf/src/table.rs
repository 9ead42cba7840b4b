//! A pinned map as a typed table.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    marker::PhantomData,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::Pod;

use crate::sys;

/// Rows read at once: above the longest chain of a hash bucket, or the kernel answers ENOSPC.
const CHUNK: usize = 4096;
/// Below this, single calls are as fast.
const WORTH_A_BATCH: usize = 32;

/// Rows `K` → `V` of a map; the sizes were compared with the kernel's.
pub(crate) struct Table<K, V> {
    name: &'static str,
    map: OwnedFd,
    capacity: u32,
    refused: AtomicU64,
    rows: PhantomData<(K, V)>,
}

/// A prefix of `data`, as `BPF_MAP_TYPE_LPM_TRIE` wants its keys.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Prefix<K> {
    /// Bits of `data` that count.
    pub(crate) length: u32,
    pub(crate) data: K,
}

// SAFETY: `repr(C)`; every `K` used is made of 32-bit words, so that there is no padding.
unsafe impl<K: Pod> Pod for Prefix<K> {}

impl<K: Pod + Default + Ord, V: Pod + Default> Table<K, V> {
    /// # Errors
    /// The map is not pinned under `name` in `directory`, or its rows have other sizes.
    pub(crate) fn open(directory: &Path, name: &'static str) -> io::Result<Self> {
        let map = sys::open_pinned(&directory.join(name))?;
        let info = sys::map_info(map.as_fd())?;
        if (info.key_size, info.value_size) != (size_of::<K>() as u32, size_of::<V>() as u32) {
            return Err(io::Error::other(format!(
                "rows of {} and {} bytes, not {} and {}",
                info.key_size,
                info.value_size,
                size_of::<K>(),
                size_of::<V>()
            )));
        }
        let refused = AtomicU64::new(0);
        Ok(Self { name, map, capacity: info.max_entries, refused, rows: PhantomData })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// How many writes the kernel refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub(crate) fn get(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = [V::default()];
        Ok(sys::lookup(self.map.as_fd(), key, &mut value)?.then(|| value[0]))
    }

    pub(crate) fn put(&self, key: &K, value: &V) -> io::Result<()> {
        let result = sys::update(self.map.as_fd(), key, value);
        if result.is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    /// A missing row is no error.
    pub(crate) fn delete(&self, key: &K) -> io::Result<()> {
        sys::delete(self.map.as_fd(), key).map(drop)
    }

    /// Writes rows in order; on refusal, tells how many were written.
    pub(crate) fn put_all(&self, rows: &[(K, V)]) -> Result<(), (usize, io::Error)> {
        let mut written = 0;
        if rows.len() >= WORTH_A_BATCH {
            let (keys, values): (Vec<K>, Vec<V>) = rows.iter().copied().unzip();
            written = sys::update_batch(self.map.as_fd(), &keys, &values).0;
        }
        // What a batch did not take is tried singly: the kernel may be too old for batches, or refuse one row.
        for (key, value) in &rows[written..] {
            self.put(key, value).map_err(|error| (written, error))?;
            written += 1;
        }
        Ok(())
    }

    /// Every row of a hash table, in whatever order. Rows that come and go meanwhile may or may not be there.
    pub(crate) fn rows(&self) -> io::Result<Vec<(K, V)>> {
        let mut rows = vec![];
        self.visit(|key, value| rows.push((key, value)))?;
        Ok(rows)
    }

    /// [`Self::rows`], one at a time.
    pub(crate) fn visit(&self, mut row: impl FnMut(K, V)) -> io::Result<()> {
        let (mut keys, mut values) = (vec![K::default(); CHUNK], vec![V::default(); CHUNK]);
        let mut cursor = None;
        loop {
            let (count, more) = sys::lookup_batch(self.map.as_fd(), &mut cursor, &mut keys, &mut values)?;
            for (key, value) in keys.iter().zip(&values).take(count) {
                row(*key, *value);
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// [`Self::rows`], for maps without batches.
    pub(crate) fn walk(&self) -> io::Result<Vec<(K, V)>> {
        let (mut rows, mut key, mut next) = (vec![], None, K::default());
        while sys::next_key(self.map.as_fd(), key.as_ref(), &mut next)? {
            if let Some(value) = self.get(&next)? {
                rows.push((next, value));
            }
            key = Some(next);
        }
        Ok(rows)
    }

    /// Bytes of kernel memory, where the kernel tells.
    pub(crate) fn memory(&self) -> u64 {
        let info = fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", self.map.as_raw_fd()));
        let line = |text: &str| text.strip_prefix("memlock:")?.trim().parse().ok();
        info.ok().and_then(|text| text.lines().find_map(line)).unwrap_or(0)
    }
}

impl<K, V> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table({})", self.name)
    }
}

/// Which of the tables can be read by batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    Batch,
    Walk,
}

/// A table together with what user space knows it to hold.
#[derive(Debug)]
pub(crate) struct Mirrored<K, V> {
    table: Table<K, V>,
    reading: Reading,
    known: BTreeMap<K, V>,
}

impl<K: Pod + Default + Ord, V: Pod + Default + PartialEq> Mirrored<K, V> {
    pub(crate) fn open(directory: &Path, name: &'static str, reading: Reading) -> io::Result<Self> {
        let mut this = Self { table: Table::open(directory, name)?, reading, known: BTreeMap::new() };
        this.known = this.read()?.into_iter().collect();
        Ok(this)
    }

    pub(crate) fn table(&self) -> &Table<K, V> {
        &self.table
    }

    pub(crate) fn known(&self) -> &BTreeMap<K, V> {
        &self.known
    }

    /// What the kernel holds now.
    pub(crate) fn read(&self) -> io::Result<Vec<(K, V)>> {
        match self.reading {
            Reading::Batch => self.table.rows(),
            Reading::Walk => self.table.walk(),
        }
    }

    /// Writes the rows that differ: those first that replace another, for which a full table has room.
    pub(crate) fn put(&mut self, rows: &BTreeMap<K, V>) -> io::Result<()> {
        let differing = rows.iter().map(|(key, value)| (*key, *value));
        let differing = differing.filter(|(key, value)| self.known.get(key) != Some(value));
        let mut changed: Vec<(K, V)> = differing.collect();
        changed.sort_by_key(|(key, _)| !self.known.contains_key(key));
        let (written, result) = match self.table.put_all(&changed) {
            Ok(()) => (changed.len(), Ok(())),
            Err((written, error)) => (written, Err(error)),
        };
        self.known.extend(changed.into_iter().take(written));
        result
    }

    pub(crate) fn delete<'a>(&mut self, keys: impl IntoIterator<Item = &'a K>) -> io::Result<()>
    where
        K: 'a,
    {
        for key in keys {
            if self.known.contains_key(key) {
                self.table.delete(key)?;
                self.known.remove(key);
            }
        }
        Ok(())
    }

    /// Rereads the kernel; returns how many rows were missing, changed or foreign, all of which the next [`Self::put`] and
    /// [`Self::delete`] see.
    pub(crate) fn refresh(&mut self) -> io::Result<usize> {
        let now: BTreeMap<K, V> = self.read()?.into_iter().collect();
        let drifted = self.known.iter().filter(|(key, value)| now.get(key) != Some(value)).count()
            + now.keys().filter(|key| !self.known.contains_key(key)).count();
        self.known = now;
        Ok(drifted)
    }
}
