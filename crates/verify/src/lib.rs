//! Are the planes equal? Generated cluster states and probes, compared on the oracle and both planes.
//!
//! ```text
//!  generate ──▶ Case: Kubernetes objects, before and after
//!                 │ cluster::Index                  reference: the same objects, read naively
//!                 ▼                                    │
//!              Snapshot ──▶ model::oracle ◀── equal? ──┘
//!                 │              ▲
//!                 ├─ test_run    │ eBPF programs, packet in, packet out
//!                 ├─ walk        ├─ equal, or a named divergence?
//!                 └─ sockets     │ both planes, real packets in namespaces
//! ```
//! Every difference is counted under its [`model::Divergence`], or shrunk to a [`state::Case`] that reproduces it.
//!
//! Says "tested equal on N states", never "proven". Balance between backends is not compared.

pub mod cli;
pub mod compare;
pub mod corpus;
pub mod executor;
mod frame;
pub mod generate;
pub mod objects;
pub mod probe;
pub mod reference;
pub mod run;
pub mod sockets;
pub mod state;
pub mod tally;
pub mod test_run;
pub mod walk;
