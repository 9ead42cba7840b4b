//! How many rows the tables have, each family its own.

use abi::{V4, V6};
use model::Family;

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
            policy_peers: 131_072,
            policy_ports: 65_536,
            policy_prefixes: 65_536,
        }
    }
}

/// Of its rows, a family that no pod has gets one in so many: nearly all kernel memory of a node is in these tables, and
/// what may still come of that family are Services with hand-made endpoints.
const UNUSED_FAMILY: u32 = 16;

impl Sizes {
    /// By map name, where pods have addresses of `families`.
    pub(crate) fn by_map(self, flows: u32, families: &[Family]) -> Vec<(&'static str, u32)> {
        let rows = |family, names: [(&'static str, u32); 9]| {
            let part = if families.contains(&family) { 1 } else { UNUSED_FAMILY };
            names.map(|(name, rows)| (name, rows.div_ceil(part)))
        };
        let v4 = rows(Family::V4, self.of::<V4>(flows));
        let shared = [(policies::PEERS, self.policy_peers), (policies::PORTS, self.policy_ports)];
        v4.into_iter().chain(rows(Family::V6, self.of::<V6>(flows))).chain(shared).collect()
    }

    fn of<A: MapNames>(self, flows: u32) -> [(&'static str, u32); 9] {
        [
            (A::FLOWS, flows),
            (A::FRONTENDS, self.frontends),
            (A::BACKENDS, self.backends),
            (A::MEMBERS, self.backends),
            (A::RANGES, self.ranges),
            (A::AFFINITY, self.affinity),
            (A::MAGLEV, self.lookups),
            (A::IDENTITIES, self.identities),
            (A::PREFIXES, self.policy_prefixes),
        ]
    }
}
