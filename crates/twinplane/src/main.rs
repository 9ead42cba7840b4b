//! One Kubernetes Service, two dataplanes: the command.
//!
//! Only parses and dispatches. Data goes to stdout, everything else to stderr; exit 0 yes, 1 no, 2 error.

mod commands;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::commands::{conntrack, endpoint, identity, observe, policy, relay, service, status};

#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the node daemon
    Agent(Box<agent::cli::Args>),
    /// Serve the flows of all nodes, in the order of their time
    Relay(Box<relay::Args>),
    /// Run a whole cluster in network namespaces
    Lab(lab::cli::Args),
    /// Trace one Service on both dataplanes, layer by layer
    Trace(trace::cli::Args),
    /// Compare generated cluster states on the oracle and both dataplanes
    Verify(verify::cli::Args),
    /// Services as the kernel of a node has them
    Service(service::Args),
    /// Pods with identity, address and node
    Endpoint(endpoint::Args),
    /// Numbers that stand for sets of labels
    Identity(identity::Args),
    /// Connections that a node tracks
    Conntrack(conntrack::Args),
    /// Flows that a node sees, with identities and verdicts
    Observe(Box<observe::Args>),
    /// Who may talk to whom: enforced, explained, simulated, suggested
    Policy(Box<policy::Args>),
    /// What a node has programmed, and how its kernel is
    Status(status::Args),
}

fn main() -> ExitCode {
    if let Some(exit) = cni::run_if_called_as_plugin() {
        return exit;
    }
    let command = Cli::parse().command;
    // A daemon says what it does; a command only what is wrong.
    let is_daemon = matches!(command, Command::Agent(_) | Command::Relay(_));
    log_to_stderr(if is_daemon { "info" } else { "warn" });
    let result = match command {
        Command::Agent(args) => agent::cli::run(*args),
        Command::Relay(args) => relay::run(*args),
        Command::Lab(args) => lab::cli::run(args),
        Command::Trace(args) => trace::cli::run(args),
        Command::Verify(args) => verify::cli::run(args),
        Command::Service(args) => service::run(args),
        Command::Endpoint(args) => endpoint::run(args),
        Command::Identity(args) => identity::run(args),
        Command::Conntrack(args) => conntrack::run(args),
        Command::Observe(args) => observe::run(*args),
        Command::Policy(args) => policy::run(*args),
        Command::Status(args) => status::run(args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}

fn log_to_stderr(default: &str) {
    let filter = EnvFilter::try_from_env("TWINPLANE_LOG").unwrap_or_else(|_| default.into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}
