//! Network policies: read from Kubernetes objects, compiled to [`model::PolicyTable`], explained, compared, suggested.
//!
//! ```text
//!  NetworkPolicy ─────────┐
//!                         ├─ read ─▶ Policy ─▶ Compiler ─▶ model::PolicyUpdate
//!  ClusterNetworkPolicy ──┘             identities, endpoints ─┘
//!
//!  the same objects, pods, namespaces ─▶ World ─▶ oracle ─▶ explain, simulate, diff, matrix, lint, suggest
//! ```
//!
//! Pure: no IO, no clock, no kernel. Called by `cluster` (the compiler) and by the commands (the rest).
//!
//! Invariant: the oracle shares no code with what reads and compiles policies; pods, with their ports by name, are read once.
//! Invariant: what cannot be read or is not supported allows nothing, isolates all the same, and is reported.

pub mod compile;
pub mod diff;
pub mod explain;
pub mod lint;
pub mod manifest;
pub mod matrix;
mod mutation;
pub mod offline;
pub mod oracle;
mod problem;
pub mod read;
mod selector;
pub mod simulate;
mod spec;
pub mod suggest;
pub mod v1alpha2;
pub mod world;

pub use problem::Problem;
pub use selector::{Requirement, Selector, Test};
pub use spec::{Block, NamespaceScope, PeerMatch, Peers, PodSelector, Policy, PortMatch, Ports, Rule};

#[cfg(test)]
mod tests;
