//! The iptables plane against recordings of kube-proxy, generated states, and a real kernel in namespaces.

mod common;
mod golden;
mod kernel;
mod node;
mod property;
mod udp;
