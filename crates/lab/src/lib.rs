//! A whole cluster in network namespaces on one Linux machine.

pub mod cli;
