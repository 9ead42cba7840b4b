//! The eBPF dataplane: keeps the kernel's maps, programs and links in step with a [`model::Snapshot`].
//!
//! ```text
//!  rows      Service port → rows of the maps ── maglev: lookup tables (pure)
//!    ▼
//!  family    which rows differ, in which order they come and go ── policies: the same for who may talk to whom
//!    ▼
//!  table     typed maps, by batch where it pays ── sys: bpf(2)
//!  sock      programs on a cgroup, and closed sockets
//!  objects   programs fitted to the kernel ── links: on the devices ── bpffs: pinned, so that they outlive the agent
//! ```
//! The programs themselves are in `bpf/`; the bytes both sides share in `abi`. Never decides what a client gets: that is
//! [`model::ServicePort::target`].
//!
//! Invariant: the datapath forwards while no agent runs. A restarted agent finds its own rows by name, writes what differs,
//! replaces programs in place, and loses no connection.

mod bpffs;
mod btf;
mod events;
mod family;
mod identities;
mod links;
mod lookups;
mod maglev;
mod objects;
mod plane;
mod policies;
mod ports;
mod report;
mod rows;
mod sizes;
mod sock;
mod sys;
mod table;
mod tables;
mod xdp;

pub use abi::{
    Event, EventCount, EventKind, L7_BYTES, L7Event, Point, Reason, asked_flags, event_flags, matched,
};
pub use events::{Events, Record, Telling};
pub use links::Attach;
pub use maglev::{InvalidTableSize, TableSize};
pub use objects::Checksums;
pub use plane::{Config, EbpfDataplane, LoadBalancer};
pub use policies::FirstNumbers;
pub use sizes::Sizes;
pub use sock::{Refusals, cgroup_root, namespace_cookie};
pub use xdp::Acceleration;
