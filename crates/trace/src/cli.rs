//! `twinplane trace`: brings labs up, traces, writes the report, takes the labs down.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::Ordering,
    time::Duration,
};

use anyhow::Context as _;
use lab::{
    LabName,
    cli::{duration, on_interrupt, report},
    edge::HealthCheckTiming,
    manifest::{self, Manifest, Problem, Source},
};

use crate::{
    bench::CANCELLED,
    labs::{self, Labs, Lines, Plan},
    page,
    report::{LayerId, Trace},
    run,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Manifests to apply: files, folders or - for standard input; by default three nginx behind a load balancer
    #[arg(short = 'f', long = "filename", value_name = "PATH", conflicts_with = "lab")]
    manifests: Vec<PathBuf>,
    /// Layers to trace
    #[arg(long, value_delimiter = ',', default_value = "L1,L2,L3,L4,L5,L6,L7,L8", value_name = "LAYERS")]
    layers: Vec<LayerId>,
    /// Folder for index.html and trace.json
    #[arg(long, default_value = "twinplane-trace", value_name = "DIR")]
    out: PathBuf,
    /// Use the running labs NAME-iptables and NAME-ebpf, and leave them as they were found
    #[arg(long, value_name = "NAME")]
    lab: Option<LabName>,
    /// Leave the labs running
    #[arg(long)]
    keep: bool,
    /// Between two health checks of a node
    #[arg(long, default_value = "8s", value_parser = duration, value_name = "TIME", conflicts_with = "lab")]
    health_check_interval: Duration,
    /// Failures in a row until a node is unhealthy
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=10), value_name = "N", conflicts_with = "lab")]
    unhealthy_threshold: u32,
}

/// Exit 0: traced; 1: a manifest has errors.
///
/// # Errors
/// What failed, in which lab and on which layer. The labs are gone then, unless they are to be kept.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    listen_for_signals().context("listen for signals")?;
    let lines = Lines::new();
    let labs = match &args.lab {
        Some(pair) => Labs::open(pair),
        None => {
            let (manifests, problems) = manifest::read(&Source::of(&args.manifests))?;
            if !problems.is_empty() {
                return Ok(refused(&problems));
            }
            Labs::up(&args.plan(manifests), &lines)
        }
    };
    let mut labs = match labs {
        Err(labs::Error::Manifests(_, problems)) => return Ok(refused(&problems)),
        Err(labs::Error::Up(error)) => {
            report(&error);
            return Ok(ExitCode::from(2));
        }
        labs => labs?,
    };
    if args.keep {
        let names = labs.benches.iter().map(|bench| bench.lab.name().as_str()).collect::<Vec<_>>();
        lines.say(&format!(
            "the labs stay: {}; remove one with: twinplane lab down --name NAME",
            names.join(", ")
        ));
        labs.keep();
    }
    let trace = run::trace(&labs.benches, &args.layers, labs.outlive(), &lines)?;
    write(&args.out, &trace)?;
    if !labs.outlive() {
        lines.say("take the labs down");
    }
    drop(labs);
    println!("{}", args.out.join("index.html").display());
    Ok(ExitCode::SUCCESS)
}

impl Args {
    fn plan(&self, manifests: Vec<Manifest>) -> Plan {
        let usual = HealthCheckTiming::default();
        Plan {
            pair: own_name(),
            manifests,
            health_check: HealthCheckTiming {
                interval: self.health_check_interval,
                timeout: usual.timeout.min(self.health_check_interval),
                unhealthy_threshold: self.unhealthy_threshold,
                ..usual
            },
        }
    }
}

/// A pair of labs that no other run has.
#[expect(clippy::expect_used, reason = "a lab's name may be letters and digits")]
fn own_name() -> LabName {
    LabName::new(format!("trace-{}", std::process::id())).expect("a sound name")
}

fn refused(problems: &[Problem]) -> ExitCode {
    problems.iter().for_each(|problem| eprintln!("error: {problem}"));
    ExitCode::from(1)
}

/// The page last: where it is, the data is too.
fn write(folder: &Path, trace: &Trace) -> anyhow::Result<()> {
    let file = |name: &str, text: String| {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    };
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    file("trace.json", format!("{}\n", serde_json::to_string_pretty(trace)?))?;
    file("index.html", page::render(trace)?)
}

/// Ctrl-C and SIGTERM end what runs now; the labs are taken down on the way out.
fn listen_for_signals() -> std::io::Result<()> {
    on_interrupt(|| {
        eprintln!("called off: finishing the running command, then cleaning up");
        CANCELLED.store(true, Ordering::Relaxed);
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn parse(arguments: &[&str]) -> Result<Args, clap::Error> {
        Command::try_parse_from([&["trace"], arguments].concat()).map(|command| command.args)
    }

    #[test]
    fn all_layers_are_traced_unless_some_are_named() {
        assert_eq!(parse(&[]).expect("defaults").layers, LayerId::ALL);
        assert_eq!(parse(&["--layers", "L1,l4"]).expect("two").layers, [LayerId::L1, LayerId::L4]);
        assert!(parse(&["--layers", "L9"]).is_err());
    }

    #[test]
    fn running_labs_keep_their_manifests_and_timing() {
        assert!(parse(&["--lab", "x", "-f", "a.yaml"]).is_err());
        assert!(parse(&["--lab", "x", "--health-check-interval", "2s"]).is_err());
        assert!(parse(&["--lab", "x"]).is_ok());
    }
}
