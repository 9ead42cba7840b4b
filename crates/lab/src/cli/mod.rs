//! `twinplane lab`: parses, calls the library, prints. Data to stdout, the rest to stderr.

mod output;
mod progress;
mod shared;
mod show;
mod up;

use std::{os::unix::process::CommandExt as _, process::ExitCode};

use anyhow::Context as _;
use clap::Subcommand;

use self::output::Format;
pub use self::shared::{duration, on_interrupt, report};
use crate::{
    agent_arg::AgentArg,
    lab::Lab,
    manifest,
    plan::{LabName, Place},
    remove,
    state::{self, State},
    supervisor,
};

/// The name of a lab that is given none.
const DEFAULT_NAME: &str = "lab";

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring a cluster up in network namespaces of this machine
    Up(up::Args),
    /// Print a manifest of many Services, for "lab up -f"
    Manifest {
        /// Number of Services; the first and the last have a load-balancer address
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
        services: u32,
        /// Number of pods that every one of them selects
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=100))]
        pods: u32,
    },
    /// Show the nodes, agents and pods of a lab
    Status(Shown),
    /// List the labs of this machine
    List {
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Run kubectl against a lab
    Kubectl {
        #[command(flatten)]
        lab: Chosen,
        /// What kubectl is given
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run a command inside a place of a lab; its exit code is passed on
    Exec {
        #[command(flatten)]
        lab: Chosen,
        /// client, edge, a node (node-a) or a pod ([namespace/]name)
        place: Place,
        /// A program of this machine, and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// End a node's agent, or start it again; its node forwards meanwhile
    #[command(subcommand)]
    Agent(Agent),
    /// Show the load balancer's forwarding rules
    #[command(subcommand)]
    ForwardingRules(ForwardingRules),
    /// Show the load balancer's target pools, the health of their members and what the checks said
    #[command(subcommand)]
    TargetPools(TargetPools),
    /// Remove a lab: processes, namespaces, files; also what a crash left
    Down {
        #[command(flatten)]
        lab: Chosen,
        /// Every lab of this machine
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// The process behind a running lab
    #[command(hide = true)]
    Supervise {
        #[arg(long)]
        name: LabName,
    },
    /// What the images twinplane/echo and agnhost run
    #[command(hide = true)]
    Echo(crate::controllers::echo::Args),
}

#[derive(Debug, Subcommand)]
enum Agent {
    /// Until it is started again
    Stop {
        node: String,
        #[command(flatten)]
        lab: Chosen,
    },
    /// Returns once it answers
    Start {
        node: String,
        #[command(flatten)]
        lab: Chosen,
    },
    /// Every node's, one after the other, with other arguments than before
    Restart {
        #[command(flatten)]
        lab: Chosen,
        /// As of lab up; those given there, or here before, count no longer
        #[arg(long = "agent-arg", value_name = "ARGUMENT", allow_hyphen_values = true)]
        agent_args: Vec<AgentArg>,
    },
}

#[derive(Debug, Subcommand)]
enum ForwardingRules {
    /// One line per rule
    List(Shown),
}

#[derive(Debug, Subcommand)]
enum TargetPools {
    /// One line per pool
    List(Shown),
    /// One pool: members, health, the latest checks (all that are kept with -o json)
    Describe {
        /// The pool's name, or its Service as namespace/name
        pool: String,
        #[command(flatten)]
        shown: Shown,
    },
}

/// Which lab is meant.
#[derive(Debug, clap::Args)]
struct Chosen {
    /// Name of the lab; needed only where there are several
    #[arg(long)]
    name: Option<LabName>,
}

/// Which lab is meant, and how it is printed.
#[derive(Debug, clap::Args)]
struct Shown {
    #[command(flatten)]
    lab: Chosen,
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Exit 0: done; 1: done, but something was refused; 2 (an error): not done.
///
/// # Errors
/// In words for the user.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Up(args) => up::run(args),
        Command::Manifest { services, pods } => {
            output::text(&manifest::many(services, pods)).map(|()| ExitCode::SUCCESS)
        }
        Command::Status(shown) => show::status(&open(&shown.lab)?, shown.output),
        Command::List { output } => show::list(output),
        Command::Kubectl { lab, arguments } => {
            let mut command = open(&lab)?.kubectl_command();
            command.args(arguments);
            Err(command.exec()).context("run kubectl")
        }
        Command::Exec { lab, place, command } => exec(&open(&lab)?, &place, &command),
        Command::Agent(Agent::Stop { node, lab }) => run_agent(&open(&lab)?, &node, false),
        Command::Agent(Agent::Start { node, lab }) => run_agent(&open(&lab)?, &node, true),
        Command::Agent(Agent::Restart { lab, agent_args }) => restart_agents(&open(&lab)?, agent_args),
        Command::ForwardingRules(ForwardingRules::List(shown)) => {
            show::forwarding_rules(&open(&shown.lab)?, shown.output)
        }
        Command::TargetPools(TargetPools::List(shown)) => {
            show::target_pools(&open(&shown.lab)?, shown.output)
        }
        Command::TargetPools(TargetPools::Describe { pool, shown }) => {
            show::target_pool(&open(&shown.lab)?, &pool, shown.output)
        }
        Command::Down { lab, all } => down(&lab, all),
        Command::Supervise { name } => supervisor::run(&name).map(|()| ExitCode::SUCCESS),
        Command::Echo(args) => crate::controllers::echo::run(args),
    }
}

/// Becomes the command, among the processes of its node, so that terminal, signals and exit code are its own.
fn exec(lab: &Lab, place: &Place, command: &[String]) -> anyhow::Result<ExitCode> {
    let (program, arguments) = command.split_first().context("name a command")?;
    let mut process = lab.command(place, program)?;
    process.args(arguments);
    Err(process.exec()).with_context(|| format!("run {program:?} in {place}"))
}

fn run_agent(lab: &Lab, node: &str, runs: bool) -> anyhow::Result<ExitCode> {
    lab.run_agent(node, runs)?;
    Ok(ExitCode::SUCCESS)
}

fn restart_agents(lab: &Lab, arguments: Vec<AgentArg>) -> anyhow::Result<ExitCode> {
    lab.restart_agents(arguments)?;
    let nodes = lab.topology().nodes.iter();
    output::text(&nodes.map(|node| format!("agent of {}: answers\n", node.name)).collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}

fn down(chosen: &Chosen, all: bool) -> anyhow::Result<ExitCode> {
    let names = if all { state::names()? } else { meant(chosen)? };
    if names.is_empty() {
        eprintln!("no lab is up");
    }
    let mut failed = false;
    for name in names {
        match remove::remove(&name) {
            Ok(removed) if !removed.existed => eprintln!("there is no lab {name}"),
            Ok(removed) => eprintln!(
                "removed lab {name}: {} processes, {} namespaces",
                removed.processes, removed.namespaces
            ),
            Err(error) => {
                failed = true;
                eprintln!("error: {error}");
            }
        }
    }
    Ok(if failed { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

fn open(chosen: &Chosen) -> anyhow::Result<Lab> {
    match &meant(chosen)?[..] {
        [name] => Ok(Lab::open(name)?),
        [] => anyhow::bail!("no lab is up (start one with: twinplane lab up)"),
        several => anyhow::bail!("say which lab with --name: {}", join(several)),
    }
}

/// The labs that a name, or no name, stands for.
fn meant(chosen: &Chosen) -> anyhow::Result<Vec<LabName>> {
    let labs = state::names().context("list labs")?;
    let group = |name: &LabName| State::load(name).ok().and_then(|state| state.group);
    Ok(resolve(chosen.name.as_ref(), &labs, group))
}

/// A given name is a lab's, or that of a group; none given: the only lab or group, else the default one.
fn resolve(
    name: Option<&LabName>,
    labs: &[LabName],
    group: impl Fn(&LabName) -> Option<LabName>,
) -> Vec<LabName> {
    let of_group = |wanted: &LabName| -> Vec<_> {
        labs.iter().filter(|lab| group(lab).as_ref() == Some(wanted)).cloned().collect()
    };
    match name {
        // What has lost its folder may still have namespaces.
        Some(name) if labs.contains(name) || of_group(name).is_empty() => vec![name.clone()],
        Some(name) => of_group(name),
        None => {
            let default = labs.iter().find(|lab| lab.as_str() == DEFAULT_NAME);
            default.map_or_else(|| labs.to_vec(), |default| vec![default.clone()])
        }
    }
}

fn join(names: &[LabName]) -> String {
    names.iter().map(LabName::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<LabName> {
        names.iter().map(|name| LabName::new(*name).expect("name")).collect()
    }

    #[test]
    fn a_name_is_a_lab_or_a_group_and_no_name_the_only_or_the_default_one() {
        let group = |name: &LabName| name.as_str().strip_prefix("g-").map(|_| names(&["g"])[0].clone());
        let resolve = |name: Option<&str>, labs: &[&str]| {
            let name = name.map(|name| LabName::new(name).expect("name"));
            super::resolve(name.as_ref(), &names(labs), group)
        };
        assert_eq!(resolve(None, &["x"]), names(&["x"]));
        assert_eq!(resolve(None, &["lab", "x"]), names(&["lab"]));
        assert_eq!(resolve(None, &["x", "y"]), names(&["x", "y"]));
        assert_eq!(resolve(Some("g"), &["g-ebpf", "g-iptables", "x"]), names(&["g-ebpf", "g-iptables"]));
        assert_eq!(resolve(Some("g-ebpf"), &["g-ebpf", "g-iptables"]), names(&["g-ebpf"]));
        assert_eq!(resolve(Some("gone"), &["x"]), names(&["gone"]));
    }
}
