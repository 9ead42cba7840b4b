//! Kubernetes objects to [`model::Snapshot`]: Service semantics, and the watches that feed them.
//!
//! ```text
//!  Service ──┐                       ┌── Claims: who owns an address that several want
//!            ├─▶ Index ── compile ───┤
//!  Slices ───┤  (one owner only)    └── choose: readiness, traffic policies, topology
//!  Nodes ────┤        │
//!  Pods ─────┘        │
//!                     ▼
//!               model::Update ─▶ dataplane
//! ```
//!
//! [`Index`] is pure: it is told of objects and answers with what moved. [`watch`] is the only IO.
//! Never touches a kernel.
//!
//! Invariant: a change of one Service or one slice costs that Service, not all of them.
//! Invariant: a bad object is reported as [`Problem`]s and changes nothing for any other object.

mod address;
mod causes;
mod choose;
mod claims;
mod few;
mod host_port;
mod identity;
mod index;
mod kinds;
mod node;
mod owner;
mod problem;
mod program;
mod service;
mod slice;
mod visibility;
pub mod watch;

pub use causes::Causes;
pub use identity::{
    CLUSTER, CLUSTER_NAME, EndpointStatus, EndpointView, IdentitySpec, IdentityView, NAMESPACE,
    NAMESPACE_LABELS, NamedPort, News, SERVICE_ACCOUNT, TwinplaneEndpoint, TwinplaneIdentity, UNUSED_SINCE,
    Wish, definitions,
};
pub use index::{Index, Judgement, POLICY_ANNOTATION, Settings};
pub use kinds::Kind;
pub use problem::{ObjectRef, Problem};
pub use visibility::L7_ANNOTATION;
