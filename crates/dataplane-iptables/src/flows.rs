//! Deletes the tracked UDP flows that changes leave without an endpoint: one dump of the table per family, one
//! request per deleted entry. Which ones is decided in [`crate::udp`].

use std::{collections::BTreeSet, io};

use dataplane::Counter;
use model::{Changed, Family, Protocol, ServicePortId, Snapshot};

use crate::{kernel::conntrack, udp::UdpServices};

/// What has been deleted, and what is still to be looked at.
#[derive(Debug, Default)]
pub(crate) struct UdpFlows {
    deleted: u64,
    /// Services whose flows could not be looked at: tried again with the next change.
    pending: BTreeSet<ServicePortId>,
}

impl UdpFlows {
    /// Deletes what `changed` leaves stale, and what earlier failures left. Rules must have been written before,
    /// or flows would be tracked by the old ones again.
    pub(crate) fn forget(&mut self, families: &[Family], snapshot: &Snapshot, changed: &Changed) {
        self.pending.extend(changed.services.iter().filter(|id| id.protocol == Protocol::Udp).cloned());
        for family in families {
            match self.forget_family(*family, snapshot) {
                Ok(0) => {}
                Ok(flows) => tracing::debug!(flows, ?family, "deleted stale UDP flows"),
                Err(error) => {
                    tracing::warn!(%error, ?family, "cannot delete stale UDP flows, leaving them for later");
                    continue;
                }
            }
            self.pending.retain(|id| id.family != *family);
        }
    }

    fn forget_family(&mut self, family: Family, snapshot: &Snapshot) -> io::Result<usize> {
        let ids = self.pending.iter().filter(|id| id.family == family);
        let services =
            UdpServices::of(ids.filter_map(|id| snapshot.services.get(id).map(|service| &**service)));
        if services.is_empty() {
            return Ok(0);
        }
        let stale = conntrack::entries(family, usize::MAX, |entry| services.is_stale(entry))?;
        let deleted = conntrack::delete(family, &stale)?;
        self.deleted += deleted as u64;
        Ok(deleted)
    }

    pub(crate) fn counter(&self) -> Counter {
        Counter { name: "deleted_stale_udp_flows".to_owned(), packets: self.deleted, bytes: 0 }
    }
}
