//! `twinplane policy explain`: why a connection is allowed or not, by the objects; and whether the kernels agree.

use std::{fmt, path::PathBuf, process::ExitCode};

use model::{
    Family,
    policy::{Direction, Verdict},
};
use policy::{
    explain::{Explanation, explain},
    simulate::{self, Recorded},
    world::{Connection, Owner, Undecidable, World},
};
use serde::Serialize;

use super::{
    super::{output::Output, target::Target},
    ends::{End, PortArg, connections},
    flows::{self, Tally},
    live::{self, Kernel},
    objects::{Known, Objects, read_files, tell},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Who sends: as namespace/pod, pod (in namespace "default"), or an address
    #[arg(value_name = "SRC", required_unless_present = "flow")]
    source: Option<End>,
    /// Who receives, as SRC; for a Service name one of its pods, at which policies are asked
    #[arg(value_name = "DST", required_unless_present = "flow")]
    destination: Option<End>,
    /// The destination's port, as 80 or 53/UDP; "icmp" for what has no port
    #[arg(value_name = "PORT[/PROTO]", required_unless_present = "flow")]
    port: Option<PortArg>,
    /// In IPv4; by default in the family of an address, and between pods in both, told of once where they do not differ
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    ipv4: bool,
    /// In IPv6
    #[arg(short = '6', long)]
    ipv6: bool,
    /// Explain the denials by policies among these flows instead (JSON lines of `observe -o json`); "-" is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["source", "destination", "port"])]
    flow: Option<PathBuf>,
    /// Files that the cluster's policies were applied from, so that rules have lines
    #[arg(short, long = "filename", value_name = "PATH")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    objects: Objects,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

/// An answer, or why there is none.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    /// `None`: cannot be decided.
    verdict: Option<Verdict>,
    /// It is denied, and passes all the same: whoever denies it is audited only.
    audited: bool,
    undecided: Option<String>,
    explanation: Option<Explanation>,
    /// What the kernels of the pods' nodes say; none where manifests are asked about.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kernel: Vec<Kernel>,
    /// What flows said of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    recorded: Option<Dropped>,
    /// The same between the same pods in IPv6, where it is not the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    other_family: Option<Box<Self>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Dropped {
    connection: Connection,
    flows: u64,
    audited: u64,
    reasons: Vec<String>,
    denied_by: Vec<String>,
}

/// Exit 0: allowed or audited (or every denial is explained), 1: denied (or a drop is not), 2: cannot be decided, or a kernel differs.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut known = args.objects.read(&args.target)?;
    if !args.files.is_empty() {
        let mut written = World::default();
        tell(&read_files(&mut written, &args.files)?);
        for policy in known.world.take_lines(&written) {
            eprintln!("{policy}: not as in the files: without lines");
        }
    }
    if let Some(path) = &args.flow {
        return of_flows(args, &known, path);
    }
    let (Some(source), Some(destination), Some(port)) = (&args.source, &args.destination, args.port) else {
        anyhow::bail!("nothing to explain: want SRC DST PORT, or --flow FILE");
    };
    let family = match (args.ipv4, args.ipv6) {
        (true, _) => Some(Family::V4),
        (_, true) => Some(Family::V6),
        _ => None,
    };
    let mut answer = answers(&known, connections(&known.world, [source, destination], port.0, family));
    let ask = |answer: &mut Answer| {
        if let (Some(explanation), true) = (&answer.explanation, known.is_live) {
            answer.kernel = live::ask(&known.world, &explanation.connection, &args.target);
        }
    };
    ask(&mut answer);
    answer.other_family.iter_mut().for_each(|other| ask(other));
    args.output.write(&answer, ToString::to_string)?;
    let other = answer.other_family.as_ref().map_or(0, |other| other.exit());
    Ok(ExitCode::from(answer.exit().max(other)))
}

impl Answer {
    fn exit(&self) -> u8 {
        let differs = self.kernel.iter().any(|kernel| kernel.agrees == Some(false));
        match self.verdict {
            _ if differs => 2,
            None => 2,
            Some(Verdict::Deny) if !self.audited => 1,
            Some(Verdict::Allow | Verdict::Deny) => 0,
        }
    }

    /// Whether both say the same for the same reasons.
    fn is_like(&self, other: &Self) -> bool {
        let walks = |answer: &Self| {
            let judgement = answer.explanation.as_ref().map(|explanation| explanation.judgement.clone())?;
            Some(
                [judgement.egress, judgement.ingress]
                    .map(|walk| walk.map(|walk| (walk.verdict, walk.ground))),
            )
        };
        (self.verdict, &self.undecided, walks(self)) == (other.verdict, &other.undecided, walks(other))
    }
}

/// Of the first connection; with that of the second, where it differs.
fn answers(known: &Known, asked: Result<Vec<Connection>, Undecidable>) -> Answer {
    let mut all = match asked {
        Ok(asked) => asked.into_iter().map(|asked| answer(known, Ok(asked))).collect(),
        Err(why) => vec![answer(known, Err(why))],
    }
    .into_iter();
    // There is no connection in no family.
    let Some(mut first) = all.next() else { return Answer::default() };
    first.other_family = all.next().filter(|other| !first.is_like(other)).map(Box::new);
    first
}

fn reason(why: &Undecidable) -> String {
    let text = why.to_string();
    text.strip_prefix("cannot decide: ").map(str::to_owned).unwrap_or(text)
}

fn answer(known: &Known, asked: Result<Connection, Undecidable>) -> Answer {
    let explained = asked.map_err(|why| reason(&why)).and_then(|connection| {
        let to = &connection.destination;
        match known.services.get(&to.address) {
            Some(service) if to.owner == Owner::Outside => Err(format!(
                "{} is the address of Service {service}; policies are asked at the pod that it leads to",
                to.address
            )),
            _ => explain(&known.world, &connection).map_err(|why| reason(&why)),
        }
    });
    match explained {
        Ok(explanation) => Answer {
            verdict: Some(explanation.judgement.verdict()),
            audited: explanation.judgement.is_audited(),
            explanation: Some(explanation),
            ..Answer::default()
        },
        Err(why) => Answer { undecided: Some(why), ..Answer::default() },
    }
}

/// Each drop with the labels of then, and the policies of now.
fn of_flows(args: &Args, known: &Known, path: &std::path::Path) -> anyhow::Result<ExitCode> {
    let recording = flows::read(&known.world, path)?;
    recording.tell();
    let mut world = known.world.clone();
    let mut answers = vec![];
    let others = recording.recorded().filter(|(_, tally)| tally.dropped > 0 && !tally.is_denied());
    for (Recorded { connection: Connection { source, destination, l4 }, .. }, tally) in others {
        let reasons: Vec<_> = tally.reasons.iter().map(String::as_str).collect();
        eprintln!("{source} -> {destination} {l4}: not dropped by a policy: {}", reasons.join(", "));
    }
    for (recorded, tally) in recording.recorded().filter(|(_, tally)| tally.is_denied()) {
        let connection = recorded.connection.clone();
        let judged = simulate::judge(&mut world, &recorded);
        let mut answer = Answer {
            verdict: judged.as_ref().ok().map(policy::oracle::Judgement::verdict),
            audited: judged.as_ref().is_ok_and(policy::oracle::Judgement::is_audited),
            undecided: judged.as_ref().err().map(reason),
            explanation: judged.ok().map(|judgement| Explanation { connection, judgement }),
            ..Answer::default()
        };
        answer.recorded = Some(dropped(recorded.connection, tally));
        answers.push(answer);
    }
    args.output.write(&answers, |answers| {
        let texts: Vec<String> = answers.iter().map(ToString::to_string).collect();
        texts.join("\n")
    })?;
    let explained = answers.iter().all(|answer| answer.verdict == Some(Verdict::Deny));
    Ok(if explained { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn dropped(connection: Connection, tally: &Tally) -> Dropped {
    Dropped {
        connection,
        flows: tally.dropped,
        audited: tally.audited,
        reasons: tally.reasons.iter().cloned().collect(),
        denied_by: tally.denied_by.iter().cloned().collect(),
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.explanation, &self.undecided, &self.recorded) {
            (Some(explanation), ..) => explanation.fmt(f)?,
            (None, Some(why), Some(Dropped { connection: Connection { source, destination, l4 }, .. })) => {
                writeln!(f, "{source} -> {destination} {l4}: Cannot be decided: {why}")?;
            }
            (None, Some(why), None) => {
                writeln!(f, "Cannot be decided: {why}")?;
            }
            (None, None, _) => {}
        }
        for kernel in &self.kernel {
            let direction = match kernel.direction {
                Direction::Ingress => "ingress",
                Direction::Egress => "egress",
            };
            writeln!(f, "kernel of {}, {direction}: {}", kernel.node, kernel.detail)?;
        }
        if let Some(dropped) = &self.recorded {
            let by = match &dropped.denied_by[..] {
                [] => String::new(),
                all => format!(" by {}", all.join(", ")),
            };
            if dropped.audited > 0 {
                writeln!(f, "flows: audited {} times{by}", dropped.audited)?;
            }
            if dropped.flows > 0 {
                writeln!(f, "flows: dropped {} times{by} ({})", dropped.flows, dropped.reasons.join(", "))?;
            }
            if self.verdict == Some(Verdict::Allow) {
                writeln!(
                    f,
                    "flows: the policies of now allow it: they changed since, or it was dropped for another reason"
                )?;
            }
        }
        if let Some(other) = &self.other_family {
            write!(f, "\nin IPv6 it differs:\n{other}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
