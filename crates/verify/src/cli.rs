//! `twinplane verify`: what it takes, what it prints, how it ends.

use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use clap::ValueEnum;
use model::{Plane, oracle};
use serde::Serialize;

use crate::{
    corpus,
    executor::{Executor, Model, Programs, Walker},
    run::Outcome,
    sockets::Sockets,
    state::Found,
    tally::Tally,
    test_run::TestRun,
};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// How many generated states are compared
    #[arg(long, default_value_t = 1000)]
    states: u64,
    /// Of those, how many are also asked by real sockets in namespaces, some seconds each
    #[arg(long, value_name = "STATES", default_value_t = 10)]
    sockets: u64,
    /// Where generation starts: the same seed gives the same states
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Which plane is compared with the oracle; the oracle itself always is, with the objects read naively
    #[arg(long, value_enum, default_value_t)]
    plane: Which,
    /// Compare these case files (a file, or a folder of them) instead of generated states
    #[arg(long, value_name = "FILE|DIR")]
    replay: Option<PathBuf>,
    /// Where differences are written as case files
    #[arg(long, value_name = "DIR", default_value = "target/verify")]
    directory: PathBuf,
    /// How the summary is written
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Which {
    Ebpf,
    Iptables,
    #[default]
    #[value(alias = "all")]
    Both,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    #[default]
    Table,
    Json,
}

/// More differences than that tell nothing new.
const ENOUGH: usize = 5;

/// The summary as a machine reads it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    seed: u64,
    executors: std::collections::BTreeMap<&'static str, Tally>,
    differences: Vec<Written>,
}

#[derive(Debug, Serialize)]
struct Written {
    file: PathBuf,
    #[serde(flatten)]
    found: Found,
}

/// Runs the command: exit 0 where all is equal, 1 where something differs.
///
/// # Errors
/// An executor cannot be set up, or a file cannot be read or written.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let cases = args.replay.as_deref().map(corpus::read).transpose()?;
    let mut executors = executors(args.plane, args.sockets > 0)?;
    let mut outcome = Outcome::default();
    if let Some(cases) = cases {
        corpus::replay(&cases, &mut executors, &mut outcome)?;
    } else {
        for number in 0..args.states {
            if number == args.sockets {
                executors.retain(|executor| !executor.is_slow());
            }
            outcome.generated((args.seed, number), &mut executors)?;
            if outcome.differences.len() >= ENOUGH {
                break;
            }
        }
    }
    drop(executors);
    let summary = write_cases(outcome, &args)?;
    let text = match args.output {
        Format::Table => table(&summary),
        Format::Json => serde_json::to_string_pretty(&summary)? + "\n",
    };
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(error).context("write to stdout");
        }
        _ => {}
    }
    Ok(if summary.differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn executors(plane: Which, sockets: bool) -> anyhow::Result<Vec<Box<dyn Executor>>> {
    let mut executors: Vec<Box<dyn Executor>> = vec![Box::new(Model)];
    if plane != Which::Ebpf {
        executors.push(Box::new(Walker { oracle: oracle::forward }));
    }
    if plane != Which::Iptables {
        let run = TestRun::new().context("set up the eBPF plane for test runs")?;
        executors.push(Box::new(Programs { run, oracle: oracle::forward }));
    }
    for (asked, left_out) in [(Plane::Iptables, Which::Ebpf), (Plane::Ebpf, Which::Iptables)] {
        if sockets && plane != left_out {
            executors.push(Box::new(Sockets::new(asked, oracle::forward)?));
        }
    }
    Ok(executors)
}

fn write_cases(outcome: Outcome, args: &Args) -> anyhow::Result<Summary> {
    let mut differences = vec![];
    for (number, case) in outcome.differences.into_iter().enumerate() {
        fs::create_dir_all(&args.directory)
            .with_context(|| format!("create {}", args.directory.display()))?;
        let file = args.directory.join(format!("seed-{}-{number}.yaml", args.seed));
        let text = case.to_yaml().map_err(anyhow::Error::msg)?;
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        differences.extend(case.found.map(|found| Written { file, found }));
    }
    Ok(Summary { seed: args.seed, executors: outcome.tallies, differences })
}

const TITLES: [&str; 9] =
    ["EXECUTOR", "STATES", "STEPPED", "PROBES", "FORWARDED", "REFUSED", "DROPPED", "UNTOUCHED", "DIVERGENT"];

fn table(summary: &Summary) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(TITLES);
    for (name, tally) in &summary.executors {
        let divergent: u64 = tally.divergences.values().map(|divergent| divergent.probes).sum();
        let counts = [
            tally.states,
            tally.transitions,
            tally.probes,
            tally.forwarded,
            tally.refused,
            tally.dropped,
            tally.untouched,
            divergent,
        ];
        table.add_row([(*name).to_owned()].into_iter().chain(counts.map(|count| count.to_string())));
    }
    let mut text: String = table.lines().map(|line| line.trim().to_owned() + "\n").collect();
    for (name, tally) in &summary.executors {
        for (divergence, divergent) in &tally.divergences {
            text += &format!(
                "\n{name}: {} probes as {divergence} has it: {}\n",
                divergent.probes, divergent.reason
            );
        }
        for (reason, probes) in &tally.left_out {
            text += &format!("\n{name}: {probes} probes left out: {reason}\n");
        }
    }
    for Written { file, found } in &summary.differences {
        text += &format!(
            "\nDIFFERENT  {}: {}\n  wanted {}\n  got    {}\n  replay twinplane verify --replay {}\n",
            found.executor,
            found.probe,
            found.wanted,
            found.got,
            file.display()
        );
    }
    let states = summary.executors.values().map(|tally| tally.states).max().unwrap_or_default();
    text += &match summary.differences.len() {
        0 => format!("\ntested equal on {states} states (seed {})\n", summary.seed),
        count => format!("\n{count} differences on {states} states (seed {})\n", summary.seed),
    };
    text
}
