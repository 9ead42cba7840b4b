//! The node daemon: wiring, local API socket, health checks.

pub mod cli;
