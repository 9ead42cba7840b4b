//! Servers and relays asked over sockets of this machine.

mod common;
mod node;
mod relay;
mod tls;
