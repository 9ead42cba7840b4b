//! Who may talk to whom at one pod, as a kernel has it: what a plane reads back for the CLI. Never decides.

use std::{collections::BTreeMap, net::IpAddr};

use model::{Family, PolicyTable, policy::RuleId};
use serde::{Deserialize, Serialize};

/// What is enforced at one endpoint, read from the kernel now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enforced {
    /// That endpoint alone with all that it leads to; without the endpoint where the kernel has no row for it. Lists, rules and
    /// prefixes have the kernel's numbers; a rule that the wanted table does not know has no name.
    pub table: PolicyTable,
    /// Where each family has rules of its own: its part of `table`, which is what decides.
    pub families: BTreeMap<Family, PolicyTable>,
    /// By rule, isolation included: what it decided about.
    pub counts: BTreeMap<RuleId, RuleTraffic>,
}

impl Enforced {
    /// The table that decides about packets from or to `peer`.
    pub fn deciding(&self, peer: IpAddr) -> &PolicyTable {
        self.families.get(&Family::of(peer)).unwrap_or(&self.table)
    }
}

/// What a rule decided about: first packets of flows, first packets after a change, and drops; since it was programmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleTraffic {
    pub packets: u64,
    pub bytes: u64,
}
