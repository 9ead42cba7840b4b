//! The seam between the neutral model and a kernel: the [`Dataplane`] trait and what it reports.
//!
//! Never knows Kubernetes. The agent owns one `Dataplane` and drives it from one thread.

pub mod fake;
mod policy;
mod reconcile;
mod report;
mod retry;
mod status;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use model::{Changed, Family, IdentityId, Plane, PodName, PolicyTable, ServicePortId, Snapshot};

pub use policy::{Enforced, RuleTraffic};
pub use reconcile::{Reconciler, Step, Timing};
pub use report::{
    BackendRow, BackendState, Connection, Counter, Feature, MapFill, PlaneStatus, ServiceRow, Unseen,
};
pub use retry::Backoff;
pub use status::{ObjectState, ObjectStatus};

/// A backend that keeps a kernel in step with a [`Snapshot`].
///
/// Implementations hold no semantics: what a client gets is [`model::ServicePort::target`].
pub trait Dataplane: Send {
    fn plane(&self) -> Plane;

    /// Programs the keys that `changed` names, adding before use and deleting last, and nothing else.
    ///
    /// One object's failure never stops the others: it is returned in [`Applied::failed`], to be retried.
    ///
    /// # Errors
    /// Only when nothing at all could be programmed (the kernel refuses the plane itself).
    fn apply(&mut self, snapshot: &Snapshot, changed: &Changed) -> Result<Applied, Error>;

    /// Compares the whole kernel state with `snapshot` and repairs what drifted; returns what it repaired,
    /// in words for a log line (empty: nothing had drifted).
    fn repair(&mut self, snapshot: &Snapshot) -> Result<Vec<String>, Error>;

    /// The frontends as the kernel has them now, sorted.
    fn services(&self) -> Result<Vec<ServiceRow>, Error>;

    /// Tracked connections as the kernel has them now, at most `limit`.
    fn connections(&self, limit: usize) -> Result<Vec<Connection>, Error>;

    fn status(&self) -> PlaneStatus;

    /// Whose `address` is, as the kernel has it now; `None` where it has nothing, or the plane keeps no identities.
    fn identity_of(&self, address: IpAddr) -> Result<Option<IdentityId>, Error> {
        let _ = address;
        Ok(None)
    }

    /// What is enforced at `endpoint`, read from the kernel, with the names of rules that `wanted` has; `None` where the plane
    /// enforces no policies, or cannot read them back.
    ///
    /// # Errors
    /// A table cannot be read, or holds what no agent writes.
    fn enforced(&self, endpoint: &PodName, wanted: &PolicyTable) -> Result<Option<Enforced>, Error> {
        let _ = (endpoint, wanted);
        Ok(None)
    }

    /// How full the tables are: what can be asked for every few seconds, so nothing that costs more.
    fn maps(&self) -> Vec<MapFill> {
        self.status().maps
    }

    /// Removes everything this plane ever put into the kernel of this node.
    fn clean_up(&mut self) -> Result<(), Error>;
}

/// A kernel refusal: operation and object; the cause is its source.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {object}")]
pub struct Error {
    /// A verb: "insert service", "attach program".
    pub operation: &'static str,
    /// What it was done to.
    pub object: String,
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl Error {
    pub fn new(
        operation: &'static str,
        object: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { operation, object: object.into(), source: source.into() }
    }
}

/// What one [`Dataplane::apply`] could not do; everything else is programmed.
#[derive(Debug, Default)]
pub struct Applied {
    pub failed: BTreeMap<Key, Error>,
    /// Families of which the kernel took nothing at all; it took something of the others.
    pub refused: BTreeSet<Family>,
}

/// What is programmed, reported and retried on its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Service(ServicePortId),
    Endpoint(PodName),
    Peer(String),
    /// Whose the addresses of a prefix are.
    Address(IpNet),
    /// Who may talk to whom: lists are shared, and go together.
    Policy,
    Node,
}
