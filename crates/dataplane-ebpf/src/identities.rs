//! Whose each address is, in one family's longest-prefix table: kept by what moved, compared as a whole after a start.
//!
//! Never forgets a row before the first snapshot that knows any: whoever was known before a restart stays known meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    path::Path,
};

use ipnet::IpNet;
use model::{IdentityId, Snapshot};

use crate::{
    family::MapNames,
    table::{Mirrored, Prefix, Reading, Table},
};

#[derive(Debug)]
pub(crate) struct Identities<A> {
    rows: Mirrored<Prefix<A>, u32>,
    /// Rows of a former agent were compared with a snapshot that knows identities.
    adopted: bool,
}

fn key<A: MapNames>(prefix: &IpNet) -> Option<Prefix<A>> {
    Some(Prefix { length: prefix.prefix_len().into(), data: A::from_ip(prefix.network())? })
}

impl<A: MapNames> Identities<A> {
    /// Opens the pinned table, with what a former agent left in it.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        Ok(Self { rows: Mirrored::open(directory, A::IDENTITIES, Reading::Walk)?, adopted: false })
    }

    pub(crate) fn table(&self) -> &Table<Prefix<A>, u32> {
        self.rows.table()
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.known().len()
    }

    /// Programs what `moved` names of this family; returns what the kernel did not take. What is added or changes hands
    /// comes first, so that no address is ever without its identity on the way to another one.
    pub(crate) fn apply(
        &mut self,
        snapshot: &Snapshot,
        moved: &BTreeSet<IpNet>,
    ) -> BTreeMap<IpNet, io::Error> {
        let (mut wanted, mut gone) = (BTreeMap::new(), vec![]);
        for prefix in moved {
            let Some(key) = key::<A>(prefix) else { continue };
            match snapshot.addresses.get(prefix) {
                Some(identity) => _ = wanted.insert(key, identity.get()),
                None => gone.push(key),
            }
        }
        let put = self.rows.put(&wanted).err();
        let deleted = self.rows.delete(&gone).err();
        let refusal = |error: &io::Error| match error.raw_os_error() {
            // `trie_update_elem`
            Some(libc::ENOSPC) => io::Error::other("the table is full"),
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::other(error.to_string()),
        };
        let mut failed = BTreeMap::new();
        for prefix in moved.iter().filter(|_| put.is_some() || deleted.is_some()) {
            let Some(key) = key::<A>(prefix) else { continue };
            let held = self.rows.known().get(&key);
            if held != wanted.get(&key)
                && let Some(error) = put.as_ref().or(deleted.as_ref())
            {
                failed.insert(*prefix, refusal(error));
            }
        }
        failed
    }

    /// Removes what a former agent left and `snapshot` does not have, once; `again` as after a start.
    pub(crate) fn adopt(&mut self, snapshot: &Snapshot, again: bool) -> io::Result<()> {
        if snapshot.addresses.is_empty() || (self.adopted && !again) {
            return Ok(());
        }
        let wanted: BTreeSet<Prefix<A>> = snapshot.addresses.keys().filter_map(key).collect();
        let stale: Vec<_> = self.rows.known().keys().filter(|key| !wanted.contains(key)).copied().collect();
        self.rows.delete(&stale)?;
        self.adopted = true;
        Ok(())
    }

    /// Rereads the kernel; returns how many rows were missing, changed or foreign.
    pub(crate) fn refresh(&mut self) -> io::Result<usize> {
        self.rows.refresh()
    }

    /// As the kernel has it; `None` where no prefix holds the address.
    pub(crate) fn of(&self, address: IpAddr) -> io::Result<Option<IdentityId>> {
        let Some(data) = A::from_ip(address) else { return Ok(None) };
        // A lookup from user space finds the longest prefix as well (`trie_lookup_elem`).
        let found = self.rows.table().get(&Prefix { length: A::BITS, data })?;
        Ok(found.map(IdentityId::from_raw))
    }
}
