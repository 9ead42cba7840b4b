//! `twinplane lab up`.

use std::{path::PathBuf, process::ExitCode, thread, time::Duration};

use anyhow::Context as _;
use model::Plane;

use super::{
    DEFAULT_NAME,
    output::{self, Format},
    progress::Terminal,
    shared::{duration, report},
    show,
};
use crate::{
    agent_arg::AgentArg,
    edge::HealthCheckTiming,
    manifest::{self, Manifest, Problem, Source},
    plan::{IpFamilies, LabName, Routing},
    remove,
    up::{self, Options, Up},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of the lab; with --dataplane both the labs are NAME-iptables and NAME-ebpf
    #[arg(long, default_value = DEFAULT_NAME)]
    name: LabName,
    #[arg(long, value_enum, default_value_t = Planes::Ebpf)]
    dataplane: Planes,
    /// Number of nodes, 1 to 8
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=i64::from(crate::plan::MAX_NODES)))]
    nodes: u8,
    /// Address families of pods, Services, nodes and the client
    #[arg(long, value_enum, value_name = "WHICH", default_value = "dual")]
    ip_family: IpFamilies,
    /// How packets get to other nodes' pods
    #[arg(long, value_enum, value_name = "HOW", default_value = "native")]
    routing: Routing,
    /// Manifests to apply: files, folders or - for standard input; by default three nginx behind a load balancer
    #[arg(short = 'f', long = "filename", value_name = "PATH")]
    manifests: Vec<PathBuf>,
    /// An argument for every node's agent, as --agent-arg=--xdp=auto; may be given several times (see twinplane agent --help)
    #[arg(long = "agent-arg", value_name = "ARGUMENT", allow_hyphen_values = true)]
    agent_args: Vec<AgentArg>,
    /// Between two health checks of a node
    #[arg(long, default_value = "8s", value_parser = duration, value_name = "TIME")]
    health_check_interval: Duration,
    /// Until a health check without answer has failed
    #[arg(long, default_value = "1s", value_parser = duration, value_name = "TIME")]
    health_check_timeout: Duration,
    /// Successes in a row until a node is healthy
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10), value_name = "N")]
    healthy_threshold: u32,
    /// Failures in a row until a node is unhealthy
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=10), value_name = "N")]
    unhealthy_threshold: u32,
    /// How long agents, and after them pods and load balancers, may take
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "TIME")]
    timeout: Duration,
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Planes {
    Ebpf,
    Iptables,
    /// Two labs with identical addresses
    Both,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        args.health_check_timeout <= args.health_check_interval,
        "a health check's timeout cannot be longer than its interval"
    );
    let (manifests, mut problems) = manifest::read(&Source::of(&args.manifests))?;
    let labs = options(&args, &manifests)?;
    let terminal = Terminal::new().context("listen for signals")?;
    let results: Vec<_> = thread::scope(|scope| {
        let runs: Vec<_> = labs.iter().map(|options| scope.spawn(|| up::up(options, &terminal))).collect();
        let joined = runs.into_iter().map(|run| run.join());
        joined.map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    terminal.finish();
    let (ups, errors) = split(results);
    if !errors.is_empty() {
        // Half of a pair is of no use.
        for up in ups {
            remove::remove(up.lab.name())?;
        }
        errors.iter().for_each(report);
        return Ok(ExitCode::from(2));
    }
    // Both labs refuse the same manifests: told once.
    problems.extend(ups.iter().flat_map(|up| up.problems.iter().cloned()));
    problems.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    problems.dedup();
    problems.iter().for_each(|problem| eprintln!("error: {problem}"));
    eprintln!("up in {:.1} s", terminal.elapsed().as_secs_f64());
    let statuses = ups.iter().map(|up| up.lab.status()).collect::<Result<Vec<_>, _>>()?;
    output::print(args.output, &statuses, |statuses| show::statuses(statuses))?;
    Ok(exit(&problems))
}

fn exit(problems: &[Problem]) -> ExitCode {
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn options(args: &Args, manifests: &[Manifest]) -> anyhow::Result<Vec<Options>> {
    let options = |name: LabName, plane, group| Options {
        nodes: args.nodes,
        families: args.ip_family,
        routing: args.routing,
        agent_args: args.agent_args.clone(),
        group,
        manifests: manifests.to_vec(),
        health_check: HealthCheckTiming {
            interval: args.health_check_interval,
            timeout: args.health_check_timeout,
            healthy_threshold: args.healthy_threshold,
            unhealthy_threshold: args.unhealthy_threshold,
        },
        patience: args.timeout,
        ..Options::new(name, plane)
    };
    let one = |plane| Ok(vec![options(args.name.clone(), plane, None)]);
    match args.dataplane {
        Planes::Ebpf => one(Plane::Ebpf),
        Planes::Iptables => one(Plane::Iptables),
        Planes::Both => Plane::ALL
            .iter()
            .map(|plane| {
                let name = LabName::new(format!("{}-{plane}", args.name))?;
                Ok(options(name, *plane, Some(args.name.clone())))
            })
            .collect(),
    }
}

fn split(results: Vec<Result<Up, up::Error>>) -> (Vec<Up>, Vec<up::Error>) {
    let (mut ups, mut errors) = (vec![], vec![]);
    for result in results {
        match result {
            Ok(up) => ups.push(up),
            Err(error) => errors.push(error),
        }
    }
    (ups, errors)
}
