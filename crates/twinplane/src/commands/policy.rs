//! `twinplane policy`: who may talk to whom. What the kernel has, why a connection is allowed or not, what other policies would
//! change, what is doubtful, and what would be enough. Arguments and words only: `policy` decides.

mod ends;
mod explain;
mod flows;
mod get;
mod lint;
mod live;
mod matrix;
mod objects;
mod simulate;
mod suggest;

use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// What the kernel allows and denies at a pod, with counts and rules
    Get(get::Args),
    /// Why a connection is allowed or not, and whether the kernel agrees
    Explain(explain::Args),
    /// What new or changed policies would deny or allow; exit 1 where anything would change
    Simulate(simulate::Args),
    /// What differs between two sets of manifests; exit 1 where anything does
    Diff(simulate::DiffArgs),
    /// Who reaches whom
    Matrix(matrix::Args),
    /// Policies that probably do not do what was meant; exit 1 where there are any
    Lint(lint::Args),
    /// Policies that allow what was seen, and little more
    Suggest(suggest::Args),
}

/// # Errors
/// The objects, the flows or the agent cannot be read or asked.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Get(args) => get::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Simulate(args) => simulate::run(&args),
        Command::Diff(args) => simulate::run_diff(&args),
        Command::Matrix(args) => matrix::run(&args),
        Command::Lint(args) => lint::run(&args),
        Command::Suggest(args) => suggest::run(args),
    }
}
