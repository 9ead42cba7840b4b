//! Scenarios: one topology, one table of cases, three executors.
//!
//! Each case says what must happen in its own words. It runs on the oracle alone, and on each plane between real
//! sockets in namespaces; all must agree, but for [`model::DIVERGENCES`].

pub mod cases;
pub mod cluster;
pub mod expect;
pub mod held;
mod paths;
pub mod places;
pub mod planes;
pub mod policed;
mod stray;
pub mod talk;
pub mod topology;
pub mod world;
