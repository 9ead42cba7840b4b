//! How many rows the tables have, each family its own.

use abi::{V4, V6};

use crate::{family::MapNames, policies};

/// Rows per table and family. A table of another size than before starts empty, and is programmed anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Frontends: addresses and ports that Services are reached at.
    pub frontends: u32,
    /// Backends, once per set that lists them.
    pub backends: u32,
    /// Prefixes of source ranges.
    pub ranges: u32,
    /// Clients that are remembered for affinity; the oldest go first.
    pub affinity: u32,
    /// Parts of lookup tables, [`abi::maglev::CHUNK`] entries each.
    pub lookups: u32,
    /// Addresses and prefixes whose identity is known. Memory is taken by the row.
    pub identities: u32,
    /// Whom policies name in lists of rules, both families together. Memory is taken by the row, here and below.
    pub policy_peers: u32,
    /// Ports of rules that name several, both families together.
    pub policy_ports: u32,
    /// Prefixes that policies name.
    pub policy_prefixes: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            frontends: 65_536,
            backends: 131_072,
            ranges: 16_384,
            affinity: 16_384,
            lookups: 262_144,
            identities: 524_288,
            policy_peers: 524_288,
            policy_ports: 65_536,
            policy_prefixes: 65_536,
        }
    }
}

impl Sizes {
    /// By map name.
    pub(crate) fn by_map(self, flows: u32) -> Vec<(&'static str, u32)> {
        fn family<A: MapNames>(sizes: Sizes, flows: u32) -> [(&'static str, u32); 9] {
            [
                (A::FLOWS, flows),
                (A::FRONTENDS, sizes.frontends),
                (A::BACKENDS, sizes.backends),
                (A::MEMBERS, sizes.backends),
                (A::RANGES, sizes.ranges),
                (A::AFFINITY, sizes.affinity),
                (A::MAGLEV, sizes.lookups),
                (A::IDENTITIES, sizes.identities),
                (A::PREFIXES, sizes.policy_prefixes),
            ]
        }
        let shared = [(policies::PEERS, self.policy_peers), (policies::PORTS, self.policy_ports)];
        family::<V4>(self, flows).into_iter().chain(family::<V6>(self, flows)).chain(shared).collect()
    }
}
