//! Servers and relays asked over sockets of this machine.

mod common;
mod fake;
mod hostile;
mod node;
mod relay;
mod tls;
