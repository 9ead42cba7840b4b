//! The commands that ask a node's agent or a server of flows, and the relay.

pub(crate) mod conntrack;
pub(crate) mod endpoint;
pub(crate) mod identity;
pub(crate) mod observe;
mod output;
pub(crate) mod policy;
pub(crate) mod relay;
mod server;
pub(crate) mod service;
pub(crate) mod status;
mod target;
