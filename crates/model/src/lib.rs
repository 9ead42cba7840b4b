//! The neutral model: what one node's dataplane must do, decided once and executed by every plane.
//!
//! `cluster` turns Kubernetes objects into a [`Snapshot`]; a dataplane turns a `Snapshot` into kernel
//! state; [`oracle`] answers, naively, what a packet must experience. Never does IO, never reads a clock.
//!
//! Invariant: no type here knows Kubernetes objects, BPF maps or iptables chains.

mod divergence;
mod identity;
mod ids;
pub mod label_keys;
mod node_ports;
pub mod oracle;
pub mod policy;
mod service;
mod snapshot;
pub mod told;
mod update;

pub use divergence::{Answer, DIVERGENCES, Divergence, Plane, Situation};
pub use identity::{IdentityId, InvalidIdentity, Labels, Reserved};
pub use ids::{Family, Generation, InvalidPort, PodName, Port, Protocol, ServiceName, ServicePortId};
pub use node_ports::NodePortAddresses;
pub use policy::PolicyTable;
pub use service::{
    Backend, Frontend, FrontendAddress, FrontendKind, KnownEndpoint, Masquerade, ServicePort, Target,
    TrafficPolicy,
};
pub use snapshot::{Changed, Endpoint, L7Visibility, MacAddress, NodeConfig, Peer, Snapshot, Tunnel};
pub use update::Update;
