//! Real sockets: a client behind an edge router, two nodes, pods on both.
//!
//! ```text
//!  client 198.51.100.10 ── edge ── 10.128.0.0/24 ──┬── node-a .11 ── a1 10.20.0.5, a2 10.20.0.6
//!                                                  └── node-b .12 ── b1 10.20.1.7
//! ```

pub(crate) mod cluster;
mod direct;
mod policy;
mod scenarios;
pub(crate) mod talk;
mod xdp;
