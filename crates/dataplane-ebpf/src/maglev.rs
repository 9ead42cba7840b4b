//! Lookup tables after Maglev (Eisenbud et al., NSDI 2016, section 3.4): which backend a hash leads to, so that every node
//! gives the same answer, every backend has the same share, and a change moves little else. Pure.
//!
//! Never decides who is a backend; never talks to the kernel: [`crate::lookups`] does.

use abi::{Address, Backend, maglev::mix};

/// Entries of a lookup table: a prime, so that every backend's walk through it meets each entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableSize(u32);

/// Not a size for a lookup table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid lookup table size {0}: want a prime from {min} to {max}, such as 251, 1021, 4093 or 16381", min = TableSize::MIN, max = TableSize::MAX)]
pub struct InvalidTableSize(pub u32);

impl TableSize {
    /// Below, shares of a few dozen backends differ by more than a tenth.
    pub const MIN: u32 = 251;
    /// 2 KiB per row of 1,024 entries: 256 KiB per backend set.
    pub const MAX: u32 = 131_071;

    /// # Errors
    /// Not a prime, or out of range.
    pub fn new(size: u32) -> Result<Self, InvalidTableSize> {
        let prime =
            (2..).take_while(|factor| factor * factor <= size).all(|factor| !size.is_multiple_of(factor));
        if prime && (Self::MIN..=Self::MAX).contains(&size) {
            Ok(Self(size))
        } else {
            Err(InvalidTableSize(size))
        }
    }

    pub fn get(self) -> u32 {
        self.0
    }
}

impl Default for TableSize {
    fn default() -> Self {
        Self(1021)
    }
}

impl std::fmt::Display for TableSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for TableSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let size = text.parse().map_err(|error| format!("invalid lookup table size {text:?}: {error}"))?;
        Self::new(size).map_err(|error| error.to_string())
    }
}

/// What stands for a backend in a table, on every node: its address and port.
pub(crate) fn name<A: Address>(backend: &Backend<A>) -> u64 {
    mix(backend.address.fold(0), u64::from(backend.port.get()))
}

/// For each entry, the position of its backend in `names`, which are all different and at most [`u16::MAX`].
///
/// Takes `size * ln(size)` steps at most, whatever the number of backends.
pub(crate) fn table(names: &[u64], size: TableSize) -> Vec<u16> {
    const FREE: u16 = u16::MAX;
    let size = size.get();
    let mut entries = vec![FREE; if names.is_empty() { 0 } else { size as usize }];
    // Where each backend's walk is, and how far it steps.
    let mut walks: Vec<(u32, u32)> = names
        .iter()
        .map(|name| {
            let (start, step) = (mix(*name, 1) >> 32, mix(*name, 2) >> 32);
            ((start % u64::from(size)) as u32, (step % u64::from(size - 1)) as u32 + 1)
        })
        .collect();
    let mut left = entries.len();
    while left > 0 {
        for (backend, (place, step)) in walks.iter_mut().enumerate().take(left) {
            let taken = loop {
                let entry = &mut entries[*place as usize];
                *place = (*place + *step) % size;
                if *entry == FREE {
                    break entry;
                }
            };
            *taken = backend as u16;
        }
        left -= walks.len().min(left);
    }
    entries
}

#[cfg(test)]
mod tests;
