//! The tables of one address family, and what is written into them in which order.

mod difference;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
};

use abi::{
    Address, AffinityKey, AffinityValue, Backend, BackendKey, BackendSet, Endpoint, Flow, Frontend,
    FrontendKey, MemberKey, Origin, RangeKey, SetId, Tuple,
};
use aya::Pod;
use dataplane::Error;
use model::{NodeConfig, ServicePortId, Snapshot};

use self::difference::{gone, gone_keys, merge};
use crate::{
    identities::Identities,
    lookups::Lookups,
    maglev,
    rows::{self, Options, Rows},
    table::{Mirrored, Prefix, Reading, Table},
};

/// Map names of a family. The kernel programs declare the same ones.
pub(crate) trait MapNames: Address + Pod {
    const FLOWS: &str;
    const FRONTENDS: &str;
    const BACKENDS: &str;
    const MEMBERS: &str;
    const RANGES: &str;
    const AFFINITY: &str;
    const ENDPOINTS: &str;
    const ORIGINS: &str;
    const IDENTITIES: &str;
    const PREFIXES: &str;
    const FRAGMENTS: &str;
    const MAGLEV: &str;
    const SOCKETS: &str;
    const DATAGRAMS: &str;
    const ALL: [&str; 14] = [
        Self::FLOWS,
        Self::FRONTENDS,
        Self::BACKENDS,
        Self::MEMBERS,
        Self::RANGES,
        Self::AFFINITY,
        Self::ENDPOINTS,
        Self::ORIGINS,
        Self::IDENTITIES,
        Self::PREFIXES,
        Self::FRAGMENTS,
        Self::MAGLEV,
        Self::SOCKETS,
        Self::DATAGRAMS,
    ];
}

macro_rules! map_names {
    ($address:ty, $suffix:literal) => {
        impl MapNames for $address {
            const FLOWS: &str = concat!("FLOWS_", $suffix);
            const FRONTENDS: &str = concat!("FRONTENDS_", $suffix);
            const BACKENDS: &str = concat!("BACKENDS_", $suffix);
            const MEMBERS: &str = concat!("MEMBERS_", $suffix);
            const RANGES: &str = concat!("RANGES_", $suffix);
            const AFFINITY: &str = concat!("AFFINITY_", $suffix);
            const ENDPOINTS: &str = concat!("ENDPOINTS_", $suffix);
            const ORIGINS: &str = concat!("ORIGINS_", $suffix);
            const IDENTITIES: &str = concat!("IDENTITIES_", $suffix);
            const PREFIXES: &str = concat!("PREFIXES_", $suffix);
            const FRAGMENTS: &str = concat!("FRAGMENTS_", $suffix);
            const MAGLEV: &str = concat!("MAGLEV_", $suffix);
            const SOCKETS: &str = concat!("SOCKETS_", $suffix);
            const DATAGRAMS: &str = concat!("DATAGRAMS_", $suffix);
        }
    };
}
map_names!(abi::V4, "V4");
map_names!(abi::V6, "V6");

/// One family's tables.
#[derive(Debug)]
pub(crate) struct Family<A: MapNames> {
    pub(crate) flows: Table<Tuple<A>, Flow<A>>,
    pub(crate) frontends: Mirrored<FrontendKey<A>, Frontend>,
    pub(crate) backends: Mirrored<BackendKey, Backend<A>>,
    pub(crate) members: Mirrored<MemberKey<A>, u32>,
    pub(crate) ranges: Mirrored<Prefix<RangeKey<A>>, u32>,
    pub(crate) lookups: Lookups,
    pub(crate) affinity: Table<AffinityKey<A>, AffinityValue<A>>,
    endpoints: Mirrored<A, Endpoint>,
    origins: Mirrored<Prefix<A>, u32>,
    pub(crate) identities: Identities<A>,
    /// What each Service port has in the tables.
    owned: BTreeMap<ServicePortId, Rows<A>>,
    owners: BTreeMap<FrontendKey<A>, ServicePortId>,
}

/// Why one Service port failed.
#[derive(Debug, thiserror::Error)]
enum ServiceError {
    #[error(transparent)]
    Unsupported(#[from] rows::Unsupported),
    #[error("frontend {0} belongs to {1} already")]
    Taken(String, ServicePortId),
    #[error("table {table} is full")]
    Full { table: &'static str },
    #[error("table {table} refused a row")]
    Table {
        table: &'static str,
        #[source]
        source: io::Error,
    },
}

/// The rows that a Service port is to have; none where the snapshot does not have it.
fn desired<A: MapNames>(
    id: &ServicePortId,
    snapshot: &Snapshot,
    options: &Options,
) -> Result<Rows<A>, rows::Unsupported> {
    let service = snapshot.services.get(id);
    let rows = service.map(|service| rows::rows::<A>(service, &snapshot.node, options)).transpose()?;
    Ok(rows.unwrap_or_default())
}

fn refused(table: &'static str) -> impl Fn(io::Error) -> ServiceError {
    move |source| match source.raw_os_error() {
        // `htab_map_update_elem`, `trie_update_elem`
        Some(libc::E2BIG | libc::ENOSPC) => ServiceError::Full { table },
        _ => ServiceError::Table { table, source },
    }
}

impl<A: MapNames> Family<A> {
    /// Opens the pinned tables, with what a former agent left in them.
    pub(crate) fn open(directory: &Path) -> Result<Self, Error> {
        let failed =
            |table: &'static str| move |source: io::Error| Error::new("open pinned map", table, source);
        Ok(Self {
            flows: Table::open(directory, A::FLOWS).map_err(failed(A::FLOWS))?,
            frontends: Mirrored::open(directory, A::FRONTENDS, Reading::Batch)
                .map_err(failed(A::FRONTENDS))?,
            backends: Mirrored::open(directory, A::BACKENDS, Reading::Batch).map_err(failed(A::BACKENDS))?,
            members: Mirrored::open(directory, A::MEMBERS, Reading::Batch).map_err(failed(A::MEMBERS))?,
            ranges: Mirrored::open(directory, A::RANGES, Reading::Walk).map_err(failed(A::RANGES))?,
            affinity: Table::open(directory, A::AFFINITY).map_err(failed(A::AFFINITY))?,
            lookups: Lookups::open(directory, A::MAGLEV).map_err(failed(A::MAGLEV))?,
            endpoints: Mirrored::open(directory, A::ENDPOINTS, Reading::Batch)
                .map_err(failed(A::ENDPOINTS))?,
            origins: Mirrored::open(directory, A::ORIGINS, Reading::Walk).map_err(failed(A::ORIGINS))?,
            identities: Identities::open(directory).map_err(failed(A::IDENTITIES))?,
            owned: BTreeMap::new(),
            owners: BTreeMap::new(),
        })
    }

    /// Programs one Service port, or removes it where `snapshot` has none. Backends before the frontends that lead to them, and away only
    /// after them. `set_bits` enters the prefilter's bits before the frontends.
    /// Where a table has no room, what fits is programmed: no frontend ever leads to a row that is not there.
    pub(crate) fn apply_service(
        &mut self,
        id: &ServicePortId,
        snapshot: &Snapshot,
        options: &Options,
        set_bits: &mut dyn FnMut(&[u32]) -> io::Result<()>,
    ) -> Result<(), Error> {
        let old = self.owned.remove(id).unwrap_or_default();
        let desired = match desired(id, snapshot, options) {
            Ok(desired) => desired,
            Err(error) => {
                let failure = Error::new("program service", id.to_string(), ServiceError::from(error));
                self.retire(id, &old, &Rows::default())
                    .map_err(|e| Error::new("remove service", id.to_string(), e))?;
                return Err(failure);
            }
        };
        if let Err(error) = self.take_over(id, &desired, snapshot, options) {
            // Both sets of rows may be there now: the next attempt, or the service's end, clears them.
            let merged = merge(old, desired, |key| self.owners.get(key).is_none_or(|owner| owner == id));
            self.owned.insert(id.clone(), merged);
            return Err(Error::new("program service", id.to_string(), error));
        }
        let mut entered = self.enter(&desired, set_bits);
        self.own(id, &desired);
        let retired = self.retire(id, &old, &desired);
        if entered.is_err() && !old.backends.is_empty() {
            // What just went may have made room.
            entered = self.enter(&desired, set_bits);
            self.own(id, &desired);
        }
        if !desired.frontends.is_empty() || !desired.backends.is_empty() {
            self.owned.insert(id.clone(), desired);
        }
        entered.map_err(|error| Error::new("program service", id.to_string(), error))?;
        retired.map_err(|error| Error::new("remove rows of service", id.to_string(), error))
    }

    fn own(&mut self, id: &ServicePortId, desired: &Rows<A>) {
        let entered = desired.frontends.keys().filter(|key| self.frontends.known().contains_key(key));
        self.owners.extend(entered.map(|key| (*key, id.clone())));
    }

    /// Takes the frontends that others own and no longer want, so that two Services may swap theirs: a row that changes
    /// hands is overwritten, never absent.
    fn take_over(
        &mut self,
        id: &ServicePortId,
        wanted: &Rows<A>,
        snapshot: &Snapshot,
        options: &Options,
    ) -> Result<(), ServiceError> {
        for key in wanted.frontends.keys() {
            let Some(owner) = self.owners.get(key).filter(|owner| *owner != id).cloned() else { continue };
            if desired::<A>(&owner, snapshot, options).is_ok_and(|rows| rows.frontends.contains_key(key)) {
                let frontend = format!("{}:{}", key.address.to_ip(), key.port.get());
                return Err(ServiceError::Taken(frontend, owner));
            }
            if let Some(rows) = self.owned.get_mut(&owner) {
                rows.frontends.remove(key);
            }
            self.owners.insert(*key, id.clone());
        }
        Ok(())
    }

    /// Enters all that there is room for, and returns the first refusal.
    fn enter(
        &mut self,
        desired: &Rows<A>,
        set_bits: &mut dyn FnMut(&[u32]) -> io::Result<()>,
    ) -> Result<(), ServiceError> {
        let mut refusals = vec![];
        refusals.extend(self.members.put(&desired.members).map_err(refused(A::MEMBERS)).err());
        refusals.extend(self.backends.put(&desired.backends).map_err(refused(A::BACKENDS)).err());
        for (set, size) in &desired.tables {
            let slots = BackendKey { set: *set, slot: 0 }..=BackendKey { set: *set, slot: u32::MAX };
            let names: Vec<u64> =
                desired.backends.range(slots).map(|(_, backend)| maglev::name(backend)).collect();
            refusals.extend(self.lookups.put(*set, &names, *size).map_err(refused(A::MAGLEV)).err());
        }
        refusals.extend(self.ranges.put(&desired.ranges).map_err(refused(A::RANGES)).err());
        refusals.extend(set_bits(&desired.bits).map_err(refused(crate::tables::PREFILTER)).err());
        let frontends = if refusals.is_empty() { None } else { Some(self.held(desired)) };
        let frontends = frontends.as_ref().unwrap_or(&desired.frontends);
        refusals.extend(self.frontends.put(frontends).map_err(refused(A::FRONTENDS)).err());
        refusals.into_iter().next().map_or(Ok(()), Err)
    }

    /// The frontends, each with as many of its backends as found room.
    fn held(&self, desired: &Rows<A>) -> BTreeMap<FrontendKey<A>, Frontend> {
        let known = self.backends.known();
        let cut = |set: BackendSet| {
            let held =
                (0..set.len).take_while(|slot| known.contains_key(&BackendKey { set: set.set, slot: *slot }));
            BackendSet { len: held.count() as u32, ..set }
        };
        let row = |(key, row): (&FrontendKey<A>, &Frontend)| {
            let (inside, outside, tunnel) = (cut(row.inside), cut(row.outside), cut(row.tunnel));
            (*key, Frontend { inside, outside, tunnel, ..*row })
        };
        desired.frontends.iter().map(row).collect()
    }

    fn retire(&mut self, id: &ServicePortId, old: &Rows<A>, desired: &Rows<A>) -> Result<(), ServiceError> {
        let gone: Vec<_> = gone(&old.frontends, &desired.frontends).collect();
        for key in &gone {
            if self.owners.get(key) == Some(id) {
                self.owners.remove(key);
            }
        }
        self.frontends.delete(gone.iter()).map_err(refused(A::FRONTENDS))?;
        for set in gone_keys(&old.tables, &desired.tables) {
            self.lookups.delete(set).map_err(refused(A::MAGLEV))?;
        }
        self.backends.delete(&gone_keys(&old.backends, &desired.backends)).map_err(refused(A::BACKENDS))?;
        self.members.delete(&gone_keys(&old.members, &desired.members)).map_err(refused(A::MEMBERS))?;
        self.ranges.delete(&gone_keys(&old.ranges, &desired.ranges)).map_err(refused(A::RANGES))
    }

    /// Programs who is who. Idempotent.
    pub(crate) fn apply_node(&mut self, node: &NodeConfig) -> Result<(), Error> {
        let pods = node.cluster_cidrs.iter().filter_map(|cidr| {
            let data = A::from_ip(cidr.network())?;
            Some((Prefix { length: cidr.prefix_len().into(), data }, Origin::Pod as u32))
        });
        let own = node
            .addresses
            .iter()
            .filter_map(|ip| Some((Prefix { length: A::BITS, data: A::from_ip(*ip)? }, Origin::Node as u32)));
        let desired: BTreeMap<_, _> = pods.chain(own).collect();
        let failed = |source: io::Error| Error::new("program node", A::ORIGINS, source);
        self.origins.put(&desired).map_err(failed)?;
        let stale = gone_keys(self.origins.known(), &desired);
        self.origins.delete(&stale).map_err(failed)
    }

    /// Programs the addresses of a local pod.
    pub(crate) fn put_endpoint(
        &mut self,
        endpoint: &model::Endpoint,
        set_bits: &mut dyn FnMut(&[u32]) -> io::Result<()>,
    ) -> io::Result<()> {
        let row = Endpoint {
            interface: endpoint.ifindex,
            mac: endpoint.mac.0,
            host_mac: endpoint.host_mac.0,
            l7: rows::l7_flags(endpoint.l7),
        };
        let desired: BTreeMap<A, Endpoint> =
            endpoint.addresses.iter().filter_map(|ip| Some((A::from_ip(*ip)?, row))).collect();
        let bits: Vec<u32> = desired.keys().map(|address| rows::endpoint_bit(*address)).collect();
        set_bits(&bits)?;
        self.endpoints.put(&desired)
    }

    /// Removes every local pod's address that `keep` does not name.
    pub(crate) fn retain_endpoints(&mut self, keep: &BTreeSet<std::net::IpAddr>) -> io::Result<()> {
        let gone: Vec<A> = self
            .endpoints
            .known()
            .keys()
            .filter(|address| !keep.contains(&address.to_ip()))
            .copied()
            .collect();
        self.endpoints.delete(&gone)
    }

    /// Removes rows that no Service port owns: those of Services that went while no agent ran.
    pub(crate) fn prune(&mut self) -> Result<usize, Error> {
        let mut all = Rows::<A>::default();
        for rows in self.owned.values() {
            all.frontends.extend(&rows.frontends);
            all.backends.extend(&rows.backends);
            all.members.extend(&rows.members);
            all.ranges.extend(&rows.ranges);
            all.tables.extend(&rows.tables);
        }
        let frontends = gone_keys(self.frontends.known(), &all.frontends);
        let backends = gone_keys(self.backends.known(), &all.backends);
        let members = gone_keys(self.members.known(), &all.members);
        let ranges = gone_keys(self.ranges.known(), &all.ranges);
        let tables: Vec<SetId> = self.lookups.sets().filter(|set| !all.tables.contains_key(set)).collect();
        let count = frontends.len() + backends.len() + members.len() + ranges.len() + tables.len();
        self.frontends
            .delete(&frontends)
            .and_then(|()| tables.iter().try_for_each(|set| self.lookups.delete(*set)))
            .and_then(|()| self.backends.delete(&backends))
            .and_then(|()| self.members.delete(&members))
            .and_then(|()| self.ranges.delete(&ranges))
            .map_err(|source| Error::new("remove unowned rows", A::FRONTENDS, source))?;
        Ok(count)
    }

    /// Rereads every table; says in words what was not as this agent left it.
    pub(crate) fn refresh(&mut self) -> Result<Vec<String>, Error> {
        let failed = |name: &'static str| move |source: io::Error| Error::new("read map", name, source);
        let counts = [
            (A::FRONTENDS, self.frontends.refresh().map_err(failed(A::FRONTENDS))?),
            (A::BACKENDS, self.backends.refresh().map_err(failed(A::BACKENDS))?),
            (A::MEMBERS, self.members.refresh().map_err(failed(A::MEMBERS))?),
            (A::RANGES, self.ranges.refresh().map_err(failed(A::RANGES))?),
            (A::MAGLEV, self.lookups.refresh().map_err(failed(A::MAGLEV))?),
            (A::ENDPOINTS, self.endpoints.refresh().map_err(failed(A::ENDPOINTS))?),
            (A::ORIGINS, self.origins.refresh().map_err(failed(A::ORIGINS))?),
            (A::IDENTITIES, self.identities.refresh().map_err(failed(A::IDENTITIES))?),
        ];
        let words = |(name, count)| format!("repaired {count} drifted rows in {name}");
        Ok(counts.into_iter().filter(|(_, count)| *count > 0).map(words).collect())
    }

    pub(crate) fn owner(&self, key: &FrontendKey<A>) -> Option<&ServicePortId> {
        self.owners.get(key)
    }

    pub(crate) fn owned(&self) -> &BTreeMap<ServicePortId, Rows<A>> {
        &self.owned
    }

    /// Every bit of the prefilter that is needed now.
    pub(crate) fn bits(&self) -> impl Iterator<Item = u32> {
        let endpoints = self.endpoints.known().keys().map(|address| rows::endpoint_bit(*address));
        self.owned.values().flat_map(|rows| rows.bits.iter().copied()).chain(endpoints)
    }
}
