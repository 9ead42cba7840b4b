//! The commands that ask a node's agent.

pub(crate) mod conntrack;
pub(crate) mod endpoint;
pub(crate) mod identity;
pub(crate) mod observe;
mod output;
pub(crate) mod service;
pub(crate) mod status;
mod target;
