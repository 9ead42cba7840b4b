//! The embedded Kubernetes API: in memory, the kinds a node's network is made from, and custom ones.
//!
//! It answers as a real API server does (defaults, allocations, validation, `Status` errors, watches), so that clients
//! need not know which of the two they talk to. It is the control plane's storage and admission only: it runs no
//! scheduler and no controllers, except garbage collection along owner references and namespaces.
//!
//! ```text
//! http ── ops ── intake → defaulting → alloc → validation ── state (store, registry, allocations)
//!   │       └─ patch (merge, strategic, json, apply; schema)
//!   └── table, discovery, openapi, view
//! ```

mod alloc;
mod config;
mod defaulting;
mod discovery;
mod http;
mod meta;
mod openapi;
mod ops;
mod patch;
mod resource;
mod schema;
mod select;
mod server;
mod state;
mod status;
mod store;
mod table;
mod validation;
mod view;

pub use config::{Clock, Config, Entropy, SystemClock, SystemEntropy};
pub use server::{ApiServer, SetupError};
