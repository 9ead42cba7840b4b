//! Kubernetes objects in, frontends and backends out: tables named after the facts they hold.

mod api;
mod choice;
mod host_ports;
mod identities;
mod isolation;
mod live;
mod nodes;
mod objects;
mod policies;
mod pressure;
mod support;
mod visibility;
