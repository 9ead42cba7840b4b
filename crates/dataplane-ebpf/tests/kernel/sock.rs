//! Socket load balancing, by real sockets of processes in a cgroup.
//!
//! ```text
//!  node 10.128.0.11 ──┬── client 10.20.0.9, a pod of the plane
//!       fd00:128::11  └── backends 10.20.0.5, .6 and their fd00:20:: likes, which the plane knows nothing of
//! ```
//! No route leads to a frontend, and the host has no program on any device: what arrives was translated by the socket.

mod balance;
mod close;
mod datagrams;
mod lifecycle;
mod node;
mod told;
