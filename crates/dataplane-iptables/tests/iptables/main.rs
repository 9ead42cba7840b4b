//! The iptables plane against recordings of kube-proxy, generated states, and a real kernel in namespaces.

mod addresses;
mod common;
mod enforced;
mod equivalence;
mod flows;
mod golden;
mod kernel;
mod legacy;
mod legal;
mod node;
mod policies;
mod property;
mod sctp;
mod tables;
mod telling;
mod udp;
