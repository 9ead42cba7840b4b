//! The commands that ask a node's agent.

pub(crate) mod conntrack;
mod output;
pub(crate) mod service;
pub(crate) mod status;
mod target;
