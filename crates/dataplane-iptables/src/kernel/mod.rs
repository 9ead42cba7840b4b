//! The thin edge to the kernel: iptables programs, netfilter's netlink, sysctls. Decides nothing.
//!
//! Everything here acts on the network namespace of the calling thread.

pub(crate) mod account;
pub(crate) mod conntrack;
pub(crate) mod ipset;
pub(crate) mod listen;
pub(crate) mod netlink;
mod program;
pub(crate) mod sysctl;

pub(crate) use program::{Programs, version};

use crate::{parse::Saved, ruleset::Table};

/// Reads and changes the rules of one address family. The caller passes the real one or a fake.
pub(crate) trait Rules {
    /// The rules as they are: of one table, or of all.
    fn save(&self, table: Option<Table>) -> Result<Saved, Refusal>;

    /// Executes restore text without flushing what it does not name; a table's part is taken whole or not at all.
    fn restore(&mut self, text: &str) -> Result<(), Refusal>;

    /// What [`Self::keep`] was told, in this run or an earlier one.
    fn kept(&self) -> Vec<account::Count>;

    /// Remembers counts beyond the life of this process, as far as the kernel can; replaces those of equal name.
    fn keep(&mut self, counts: &[account::Count]);

    /// Forgets everything that [`Self::keep`] was told.
    fn forget(&mut self);
}

/// Rules could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[error("{program}: {problem}")]
pub(crate) struct Refusal {
    pub program: String,
    pub problem: String,
    /// The line of the restore text that was refused, from 1, where the program says so.
    pub line: Option<usize>,
}
