//! `make bench`: what packets, connections, programming and memory cost, in one table from one run.
//!
//! The table goes to stdout and nothing else; progress to stderr; `results.json` and `index.html` into a folder. Method:
//! `README.md` beside this crate. Works in namespaces of its own, as root, and leaves nothing. Never a test: a slow row
//! fails nothing, a row that measured a wrong path fails the run.

mod agents;
mod connect;
mod enforce;
mod fleet;
mod listener;
mod machine;
mod maps;
mod packet;
mod page;
mod plane;
mod program;
mod rows;
mod scale;
mod stale;
mod talk;
#[path = "../../dataplane-ebpf/tests/kernel/wire.rs"]
#[expect(dead_code, reason = "shared with the datapath's tests")]
mod wire;

use std::{fs, path::PathBuf, process::ExitCode, time::Instant};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use rows::Report;

#[derive(Debug, Parser)]
#[command(about = "Measure both dataplanes; root, an idle machine")]
struct Cli {
    /// Fewer rounds, fewer sizes: a minute, and figures that scatter
    #[arg(long)]
    quick: bool,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["packets", "programming", "memory", "connections"])]
    only: Vec<Part>,
    /// Where results.json and index.html go
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
    #[command(subcommand)]
    child: Option<Child>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Packets,
    Programming,
    Memory,
    Connections,
}

/// What this program runs of itself, in other namespaces and on other CPUs.
#[derive(Debug, Subcommand)]
enum Child {
    #[command(hide = true)]
    Serve(talk::Serve),
    #[command(hide = true)]
    Ask(talk::Ask),
    #[command(hide = true)]
    Agent(Box<agent::cli::Args>),
}

/// How long and how often things are measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Service counts, ascending; the last is what targets are about.
    pub(crate) sizes: &'static [u32],
    pub(crate) packet_rounds: usize,
    pub(crate) packets: u32,
    pub(crate) connection_rounds: usize,
    /// Of one measurement of connections or throughput.
    pub(crate) seconds: f64,
}

impl Effort {
    const FULL: Self = Self {
        sizes: &[10, 1_000, 10_000],
        packet_rounds: 9,
        packets: 200_000,
        connection_rounds: 21,
        seconds: 0.15,
    };
    const QUICK: Self = Self { packet_rounds: 3, packets: 100_000, connection_rounds: 5, ..Self::FULL };
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter =
        tracing_subscriber::EnvFilter::try_from_env("TWINPLANE_LOG").unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let result = match cli.child {
        None => run(&cli).map(|()| ExitCode::SUCCESS),
        Some(Child::Serve(serve)) => serve.run().map(|()| ExitCode::SUCCESS),
        Some(Child::Ask(ask)) => ask.run().map(|()| ExitCode::SUCCESS),
        Some(Child::Agent(args)) => agent::cli::run(*args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let effort = if cli.quick { Effort::QUICK } else { Effort::FULL };
    let (start, mut report) = (Instant::now(), Report::default());
    for part in &cli.only {
        eprintln!("bench: {:6.1} s  {}", start.elapsed().as_secs_f64(), format!("{part:?}").to_lowercase());
        match part {
            Part::Packets => {
                packet::measure(effort, &mut report)?;
                packet::policy::measure(effort, &mut report)?;
                packet::loss::measure(effort, &mut report)?;
            }
            Part::Programming => {
                program::measure(effort, &mut report)?;
                enforce::measure(&mut report)?;
                stale::measure(&mut report)?;
            }
            Part::Memory => {
                maps::measure(&mut report)?;
                agents::measure(effort, &mut report)?;
            }
            Part::Connections => connect::measure(effort, &mut report)?,
        }
    }
    fs::create_dir_all(&cli.out).with_context(|| format!("create {}", cli.out.display()))?;
    let write = |name: &str, text: String| {
        let path = cli.out.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    };
    write("results.json", report.json()?)?;
    write("index.html", page::render(&report, &machine::describe())?)?;
    eprintln!(
        "bench: {:6.1} s  done; page: {}",
        start.elapsed().as_secs_f64(),
        cli.out.join("index.html").display()
    );
    rows::print(&report.table())
}
