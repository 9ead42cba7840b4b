//! A whole cluster in network namespaces on one Linux machine.
//!
//! ```text
//! cli ── Lab::up ── plan ── links ── supervisor process ──┬── embedded API
//!                                                        ├── edge: forwarding rules, pools, health checks
//!                                                        ├── controllers: scheduler, kubelet, services …
//!                                                        ├── one real agent process per node
//!                                                        └── the relay of an ebpf cluster
//! ```
//!
//! Never touches a dataplane: nodes run the real agent, and nothing here knows what it programs.

mod agent_arg;
mod build;
mod certificates;
pub mod cli;
pub mod command;
pub mod controllers;
pub mod edge;
mod exec;
pub mod http;
mod lab;
mod links;
mod log;
pub mod manifest;
pub mod paths;
pub mod plan;
pub mod process;
mod ready;
pub mod remove;
pub mod state;
pub mod status;
mod supervisor;
pub mod system;
mod up;

pub use agent_arg::{AgentArg, Taken};
pub use exec::Output;
pub use lab::{Error, Lab};
pub use log::Line as LogLine;
pub use plan::{Addressing, IpFamilies, LabName, NodePlan, Place, Routing, Topology};
pub use up::{Error as UpError, Options, Progress, Up};
