//! The plane on a real kernel: packets through test runs, sockets through namespaces, restarts, clean-up. Needs root.
//!
//! Every test has namespaces and a bpf file system of its own, and leaves none.

mod identity;
mod lifecycle;
mod model_of;
mod packets;
mod sock;
mod sockets;
mod space;
mod wire;
