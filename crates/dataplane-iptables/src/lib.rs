//! The iptables dataplane: kube-proxy's chains, names, order, matches and comments.
//!
//! ```text
//! Snapshot ── render ──► rules ── family: compare, write what differs ──► iptables-restore
//!                                    ▲ iptables-save ── parse ◄────────── kernel
//!
//! connection tracking, NFLOG ── told ──► what flows do, where a node asks for it
//! ```
//! Anyone who knows kube-proxy 1.36 can read what this writes. Semantics are the model's, never decided here.
//!
//! Invariant: everything that touches the kernel is below `kernel`; all else is pure and runs on a fake.

mod counts;
mod enforcement;
mod family;
mod features;
mod flows;
mod kernel;
pub mod names;
pub mod parse;
mod plane;
mod policy;
pub mod render;
mod rows;
pub mod rule;
pub mod ruleset;
mod status;
mod told;
mod udp;
pub mod walk;

pub use plane::{Config, IptablesDataplane, rendered_text};
pub use told::{Heard, Telling, TellingConfig};
