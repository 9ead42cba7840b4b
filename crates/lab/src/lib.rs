//! A whole cluster in network namespaces on one Linux machine.
//!
//! ```text
//! cli ── Lab::up ── plan ── links ── supervisor process ──┬── embedded API
//!                                                        ├── edge: forwarding rules, pools, health checks
//!                                                        ├── controllers: scheduler, kubelet, services …
//!                                                        └── one real agent process per node
//! ```
//!
//! Never touches a dataplane: nodes run the real agent, and nothing here knows what it programs.

pub mod cli;
pub mod command;
pub mod edge;
pub mod paths;
pub mod plan;

pub use plan::{Addressing, LabName, NodePlan, Place, Topology};
