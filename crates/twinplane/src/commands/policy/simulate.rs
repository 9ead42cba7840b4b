//! `twinplane policy simulate` and `diff`: what would be judged otherwise. Exit 1 where anything would.

use std::{fmt::Write as _, path::PathBuf, process::ExitCode};

use model::policy::Verdict;
use policy::{
    diff::{Diff, diff},
    oracle::{Judgement, Walk},
    simulate::{Moved, Simulation, everything, recorded},
    world::{Connection, World},
};
use serde::Serialize;

use super::{
    super::{output::Output, target::Target},
    flows,
    objects::{Objects, read_files, tell},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// New and changed policies (a file, a folder or "-")
    #[arg(short, long = "filename", value_name = "PATH", required = true)]
    files: Vec<PathBuf>,
    /// Judge these recorded flows (JSON lines of `observe -o json`), with the labels that their ends had then, instead of
    /// everything that there can be
    #[arg(long, value_name = "FILE")]
    flows: Option<PathBuf>,
    #[command(flatten)]
    objects: Objects,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub(super) struct DiffArgs {
    /// Manifests before: a file or a folder
    #[arg(value_name = "A")]
    before: PathBuf,
    /// Manifests after
    #[arg(value_name = "B")]
    after: PathBuf,
    /// Pods, namespaces and nodes that both sets are about, where they have policies only
    #[arg(long, value_name = "PATH")]
    objects: Vec<PathBuf>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    newly_denied: Vec<Change>,
    newly_allowed: Vec<Change>,
    unchanged: usize,
    undecided: Vec<Undecided>,
}

/// With the reasons before and after.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Change {
    connection: Connection,
    before: String,
    after: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Undecided {
    connection: Connection,
    why: String,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct DiffReport {
    added: Vec<String>,
    removed: Vec<String>,
    changed: Vec<String>,
    /// Pods of one side only: nothing is said of their connections.
    only_before: Vec<String>,
    only_after: Vec<String>,
    connections: Report,
}

impl From<Simulation> for Report {
    fn from(simulation: Simulation) -> Self {
        let change = |moved: Moved| Change {
            connection: moved.connection,
            before: reason(&moved.before),
            after: reason(&moved.after),
        };
        let undecided = simulation.undecided.into_iter();
        Self {
            newly_denied: simulation.newly_denied.into_iter().map(change).collect(),
            newly_allowed: simulation.newly_allowed.into_iter().map(change).collect(),
            unchanged: simulation.unchanged,
            undecided: undecided
                .map(|(connection, why)| Undecided { connection, why: why.to_string() })
                .collect(),
        }
    }
}

impl From<Diff> for DiffReport {
    fn from(diff: Diff) -> Self {
        fn texts<T: ToString>(all: std::collections::BTreeSet<T>) -> Vec<String> {
            all.iter().map(ToString::to_string).collect()
        }
        Self {
            added: texts(diff.added),
            removed: texts(diff.removed),
            changed: texts(diff.changed),
            only_before: texts(diff.only_before),
            only_after: texts(diff.only_after),
            connections: diff.connections.into(),
        }
    }
}

/// What the verdict rests on: every direction that says the same.
fn reason(judgement: &Judgement) -> String {
    let verdict = judgement.verdict();
    let walks = [("egress", &judgement.egress), ("ingress", &judgement.ingress)];
    let said = walks.into_iter().filter_map(|(name, walk)| Some((name, walk.as_ref()?)));
    let fits = |(_, walk): &(&str, &Walk)| verdict == Verdict::Allow || walk.verdict == verdict;
    let texts: Vec<String> =
        said.filter(fits).map(|(name, walk)| format!("{name}: {}", walk.ground)).collect();
    texts.join("; ")
}

/// Exit 1 where anything would change.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let before = args.objects.read(&args.target)?.world;
    let after = with(&before, &args.files)?;
    let simulation = match &args.flows {
        Some(path) => {
            let recording = flows::read(&before, path)?;
            recording.tell();
            let all: Vec<_> = recording.recorded().map(|(recorded, _)| recorded).collect();
            recorded(&before, &after, &all)
        }
        None => everything(&before, &after),
    };
    let is_quiet = simulation.is_quiet();
    args.output.write(&Report::from(simulation), text)?;
    Ok(if is_quiet { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `world` with the policies that the files hold.
fn with(world: &World, files: &[PathBuf]) -> anyhow::Result<World> {
    let mut own = World::default();
    tell(&read_files(&mut own, files)?);
    if own.network_policies.is_empty() && own.cluster_network_policies.is_empty() {
        let names: Vec<_> = files.iter().map(|path| path.display().to_string()).collect();
        anyhow::bail!("simulate {}: there is no policy in it", names.join(", "));
    }
    // Pods stay those that are there: manifests have none of their addresses.
    let mut after = world.clone();
    after.network_policies.extend(own.network_policies);
    after.cluster_network_policies.extend(own.cluster_network_policies);
    for (name, labels) in own.namespaces {
        after.namespaces.entry(name).or_insert(labels);
    }
    Ok(after)
}

/// Exit 1 where anything differs.
pub(super) fn run_diff(args: &DiffArgs) -> anyhow::Result<ExitCode> {
    let mut base = World::default();
    tell(&read_files(&mut base, &args.objects)?);
    let side = |path: &PathBuf| -> anyhow::Result<World> {
        let mut world = base.clone();
        tell(&read_files(&mut world, std::slice::from_ref(path))?);
        Ok(world)
    };
    let (before, after) = (side(&args.before)?, side(&args.after)?);
    if before.pods.is_empty() && after.pods.is_empty() {
        eprintln!(
            "neither side has pods: policies are compared, connections are not\n\nname pods with --objects PATH"
        );
    }
    let diff = diff(&before, &after);
    let policies = [&diff.added, &diff.removed, &diff.changed].into_iter().all(|set| set.is_empty());
    let pods = diff.only_before.is_empty() && diff.only_after.is_empty();
    let is_same = policies && pods && diff.connections.is_quiet();
    args.output.write(&DiffReport::from(diff), diff_text)?;
    Ok(if is_same { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for (title, changes) in [("newly denied", &report.newly_denied), ("newly allowed", &report.newly_allowed)]
    {
        // Writing to a string does not fail.
        _ = writeln!(text, "{title}: {}", changes.len());
        for Change { connection: Connection { source, destination, l4 }, before, after } in changes {
            _ = writeln!(text, "  {source} -> {destination} {l4}\n    before: {before}\n    after:  {after}");
        }
    }
    _ = writeln!(text, "unchanged: {}", report.unchanged);
    for Undecided { connection: Connection { source, destination, l4 }, why } in &report.undecided {
        _ = writeln!(text, "  {source} -> {destination} {l4}: {why}");
    }
    text
}

fn diff_text(report: &DiffReport) -> String {
    let mut all = String::new();
    for (sign, names) in [("+", &report.added), ("-", &report.removed), ("~", &report.changed)] {
        names.iter().for_each(|name| _ = writeln!(all, "{sign} {name}"));
    }
    for (side, pods) in [("before", &report.only_before), ("after", &report.only_after)] {
        pods.iter().for_each(|pod| _ = writeln!(all, "pod {pod}: only {side}, not compared"));
    }
    all + &text(&report.connections)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const PODS: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
status: {podIP: 10.0.1.1}
---
apiVersion: v1
kind: Pod
metadata: {name: front, namespace: shop, labels: {role: frontend}}
status: {podIP: 10.0.1.2}
";

    fn policy(role: &str) -> String {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: web, namespace: shop}}\nspec:\n  \
             podSelector: {{matchLabels: {{app: web}}}}\n  ingress:\n    - from:\n        - podSelector: {{matchLabels: \
             {{role: {role}}}}}\n"
        )
    }

    fn worlds(role: &str) -> (World, World) {
        let folder = tempfile::tempdir().expect("folder");
        let [pods, new, none] = ["pods.yaml", "new.yaml", "none.yaml"].map(|name| folder.path().join(name));
        fs::write(&pods, PODS).expect("write");
        fs::write(&new, policy(role)).expect("write");
        fs::write(&none, PODS).expect("write");
        let mut before = World::default();
        read_files(&mut before, &[pods]).expect("read");
        let error = with(&before, &[none]).expect_err("no policy");
        assert!(error.to_string().contains("no policy"), "{error}");
        let after = with(&before, &[new]).expect("read");
        (before, after)
    }

    #[test]
    fn recorded_flows_find_what_a_policy_would_break_with_its_line() {
        let folder = tempfile::tempdir().expect("folder");
        let lines = ["frontend", "other"].map(|role| flows::tests::line("FORWARDED", 80, role));
        let (before, after) = worlds("frontend");
        let recording = flows::read(&before, &flows::tests::file(&folder, &lines)).expect("read");
        let all: Vec<_> = recording.recorded().map(|(recorded, _)| recorded).collect();
        let report = Report::from(recorded(&before, &after, &all));
        let [denied] = &report.newly_denied[..] else { panic!("{report:?}") };
        assert_eq!((report.newly_allowed.len(), report.unchanged), (0, 1));
        assert!(denied.before.contains("no policy says anything"), "{}", denied.before);
        assert_eq!(
            denied.after,
            "ingress: isolated by NetworkPolicy shop/web, and none of their rules allows it"
        );
        assert!(
            text(&report).contains("shop/front (10.0.1.2) -> shop/web (10.0.1.1) 80/TCP"),
            "{}",
            text(&report)
        );
    }

    #[test]
    fn a_difference_is_told_by_policy_and_connection() {
        let (_, one) = worlds("frontend");
        let (_, other) = worlds("other");
        let report = DiffReport::from(diff(&one, &other));
        assert_eq!(report.changed, ["NetworkPolicy shop/web"]);
        assert!(!report.connections.newly_denied.is_empty());
        let text = diff_text(&report);
        assert!(text.starts_with("~ NetworkPolicy shop/web\nnewly denied: "), "{text}");
        let same = diff(&one, &one);
        assert!(same.changed.is_empty() && same.connections.is_quiet());
    }
}
