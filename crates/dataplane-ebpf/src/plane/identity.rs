//! Whose addresses are, in both families' tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use dataplane::{Error, Key};
use ipnet::IpNet;
use model::{Family, IdentityId, Snapshot};

use super::EbpfDataplane;

impl EbpfDataplane {
    /// Programs what `moved` names, and at the first occasion removes what a former agent left; returns what failed.
    pub(super) fn apply_addresses(
        &mut self,
        snapshot: &Snapshot,
        moved: &BTreeSet<IpNet>,
    ) -> BTreeMap<Key, Error> {
        let again = !self.adopted;
        let (v4, v6) = (&mut self.tables.v4.identities, &mut self.tables.v6.identities);
        let mut failed = v4.apply(snapshot, moved);
        failed.extend(v6.apply(snapshot, moved));
        for stale in [v4.adopt(snapshot, again), v6.adopt(snapshot, again)] {
            if let Err(error) = stale {
                tracing::warn!(%error, "cannot remove identities of a former agent, will try again");
            }
        }
        let failure = |(prefix, error): (IpNet, _)| {
            (Key::Address(prefix), Error::new("program identity of", prefix.to_string(), error))
        };
        failed.into_iter().map(failure).collect()
    }

    /// See [`dataplane::Dataplane::identity_of`].
    pub(super) fn kernel_identity(&self, address: IpAddr) -> Result<Option<IdentityId>, Error> {
        let found = match Family::of(address) {
            Family::V4 => self.tables.v4.identities.of(address),
            Family::V6 => self.tables.v6.identities.of(address),
        };
        found.map_err(|source| Error::new("read identity of", address.to_string(), source))
    }
}
