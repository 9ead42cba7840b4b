//! One Kubernetes Service, two dataplanes: the command.
//!
//! Only parses and dispatches. Data goes to stdout, everything else to stderr; exit 0 yes, 1 no, 2 error.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the node daemon
    Agent(agent::cli::Args),
    /// Run a whole cluster in network namespaces
    Lab(lab::cli::Args),
    /// Trace one Service on both dataplanes, layer by layer
    Trace(trace::cli::Args),
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("TWINPLANE_LOG").unwrap_or_else(|_| "warn".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    if let Some(exit) = cni::run_if_called_as_plugin() {
        return exit;
    }
    let result = match Cli::parse().command {
        Command::Agent(args) => agent::cli::run(args),
        Command::Lab(args) => lab::cli::run(args),
        Command::Trace(args) => trace::cli::run(args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}
