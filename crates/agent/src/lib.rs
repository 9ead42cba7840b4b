//! The node daemon: wiring, local API socket, pods' interfaces, routes and tunnel, health checks.
//!
//! ```text
//!  kube API ─watches─▶ controller (Index) ─Update─▶ worker thread (Reconciler, Dataplane)
//!                        ▲      │  └──▶ network      ▲
//!  CNI plugin ─▶ server ─▶ pods │  └──▶ health       │ questions, waits
//!                        └──────┴────────────────────┘
//! ```
//!
//! Holds no semantics of its own: what a Service means is `cluster`'s, what the kernel holds is the plane's.
//! When the agent stops, the datapath stays and keeps forwarding.

pub mod cli;
pub mod client;
mod controller;
mod daemon;
mod events;
mod export;
mod fill;
mod flows;
mod health;
mod health_server;
mod memory;
mod metrics;
mod metrics_server;
mod netlink;
mod network;
mod plane;
mod pods;
mod routes;
mod server;
mod serving;
mod source;
mod sysctl;
mod tunnel;
pub mod wire;
mod wishes;
mod worker;

pub use daemon::{Config, run};
pub use export::Export;
pub use flows::{OBSERVER_SOCKET, Observer};
pub use network::Routing;
pub use plane::{Opened, PlaneConfig, Unsupported, open_plane};
pub use source::Source;
pub use sysctl::Conntrack;
pub use tunnel::{InvalidVni, Vxlan};
