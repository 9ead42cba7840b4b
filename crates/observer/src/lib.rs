//! Hubble's gRPC surface: [`node`] over a node's flow ring, [`relay`] over many nodes. Never decodes events and never
//! decides what a flow is; that is the `flow` crate.
//!
//! An agent makes a [`flow::feed::Feed`], hands its readers to [`node::Node`], its peers to [`peers::Peers`], and serves
//! both with [`serve::node_routes`] on a unix socket ([`serve::unix`]), on loopback ([`serve::loopback`]) and, with
//! certificates, anywhere ([`serve::tls`]).

mod accept;
pub mod connect;
pub mod export;
pub mod metrics;
pub mod names;
pub mod node;
pub mod peers;
pub mod relay;
pub mod serve;
pub mod stream;
pub mod tls;
