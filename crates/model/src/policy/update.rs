//! The step from one table to the next: the keys that moved, with their new values.
//!
//! A plane writes what is new before what refers to it, and removes in the opposite order:
//! rules, ports, lists, peers, prefixes, endpoints. So a prefix is longest only once its rows are there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::IpNet;

use super::{EndpointPolicy, ListId, PeerKey, PolicyTable, PortMap, PortsId, RuleId, RuleList, RuleRef};
use crate::{
    IdentityId, PodName,
    snapshot::differing,
    update::{present, step},
};

/// What moved since the previous update. `None` as a value removes the key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyUpdate {
    pub endpoints: BTreeMap<PodName, Option<EndpointPolicy>>,
    pub lists: BTreeMap<ListId, Option<RuleList>>,
    pub peers: BTreeMap<PeerKey, Option<PortsId>>,
    pub ports: BTreeMap<PortsId, Option<Arc<PortMap>>>,
    pub rules: BTreeMap<RuleId, Option<Arc<RuleRef>>>,
    pub prefixes: BTreeMap<IpNet, Option<IdentityId>>,
}

/// The keys of a [`PolicyTable`] that differ from the one programmed before; the table says whether one is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyChanged {
    pub endpoints: BTreeSet<PodName>,
    pub lists: BTreeSet<ListId>,
    pub peers: BTreeSet<PeerKey>,
    pub ports: BTreeSet<PortsId>,
    pub rules: BTreeSet<RuleId>,
    pub prefixes: BTreeSet<IpNet>,
    /// What could not be programmed is to be tried again: the plane remembers what that was.
    pub again: bool,
}

impl PolicyUpdate {
    /// The update that leads from an empty table to `table`.
    pub fn all(table: &PolicyTable) -> Self {
        Self {
            endpoints: present(&table.endpoints),
            lists: present(&table.lists),
            peers: present(&table.peers),
            ports: present(&table.ports),
            rules: present(&table.rules),
            prefixes: present(&table.prefixes),
        }
    }

    /// Whether nothing moved.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what moved later. Where both name a key, `later` holds its value.
    pub fn merge(&mut self, later: Self) {
        self.endpoints.extend(later.endpoints);
        self.lists.extend(later.lists);
        self.peers.extend(later.peers);
        self.ports.extend(later.ports);
        self.rules.extend(later.rules);
        self.prefixes.extend(later.prefixes);
    }
}

impl PolicyChanged {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what `other` names.
    pub fn merge(&mut self, other: Self) {
        self.endpoints.extend(other.endpoints);
        self.lists.extend(other.lists);
        self.peers.extend(other.peers);
        self.ports.extend(other.ports);
        self.rules.extend(other.rules);
        self.prefixes.extend(other.prefixes);
        self.again |= other.again;
    }
}

impl PolicyTable {
    /// What moved from `old` to `self`.
    pub fn changed_since(&self, old: &Self) -> PolicyChanged {
        PolicyChanged {
            endpoints: differing(&old.endpoints, &self.endpoints),
            lists: differing(&old.lists, &self.lists),
            peers: differing(&old.peers, &self.peers),
            ports: differing(&old.ports, &self.ports),
            rules: differing(&old.rules, &self.rules),
            prefixes: differing(&old.prefixes, &self.prefixes),
            again: false,
        }
    }

    /// Takes the step that `update` describes, and tells the keys whose value differs from before.
    pub fn advance(&mut self, update: PolicyUpdate) -> PolicyChanged {
        PolicyChanged {
            endpoints: step(&mut self.endpoints, update.endpoints).collect(),
            lists: step(&mut self.lists, update.lists).collect(),
            peers: step(&mut self.peers, update.peers).collect(),
            ports: step(&mut self.ports, update.ports).collect(),
            rules: step(&mut self.rules, update.rules).collect(),
            prefixes: step(&mut self.prefixes, update.prefixes).collect(),
            again: false,
        }
    }
}
