//! `twinplane policy suggest`: policies for the workloads of a namespace, from flows that got through.

use std::{fmt::Write as _, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use policy::{
    suggest::{Suggestion, suggest},
    world::Connection,
};
use serde::Serialize;

use super::{
    super::{output::write_all, server::Server, target::Target},
    flows,
    objects::Objects,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Whose pods policies are wanted for
    #[arg(long, short, value_name = "NAMESPACE")]
    namespace: String,
    /// Flows since then, as 1h or 2026-01-31T10:00:00Z [default: all that are stored]
    #[arg(long, value_name = "TIME", conflicts_with = "flows")]
    since: Option<String>,
    /// Recorded flows (JSON lines of `observe -o json`; "-" is standard input) instead of a server's
    #[arg(long, value_name = "FILE")]
    flows: Option<PathBuf>,
    /// How policies are written
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    objects: Objects,
    #[command(flatten)]
    server: Server,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Manifests, and what they would block as comments
    #[default]
    Yaml,
    Json,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    policies: &'a [NetworkPolicy],
    /// What was seen, and they would deny.
    blocked: &'a [Connection],
}

/// Exit 1 where nothing was seen that would make a policy.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let local = Target::default();
    let target = args.server.agent().unwrap_or(&local);
    let world = args.objects.read(target)?.world;
    let recording = match &args.flows {
        Some(path) => flows::read(&world, path)?,
        None => flows::ask(&world, &args.server, args.since.as_deref())?,
    };
    recording.tell();
    let passed = recording.recorded().filter(|(_, tally)| tally.passed > 0);
    let connections: Vec<Connection> = passed.map(|(recorded, _)| recorded.connection).collect();
    let suggestion = suggest(&world, &args.namespace, &connections);
    if suggestion.policies.is_empty() {
        eprintln!("no flow of a pod in namespace {} was seen", args.namespace);
        return Ok(ExitCode::FAILURE);
    }
    let Suggestion { policies, blocked } = &suggestion;
    write_all(&match args.output {
        Format::Yaml => yaml(&suggestion)?,
        Format::Json => {
            serde_json::to_string_pretty(&Report { policies, blocked }).context("write JSON")? + "\n"
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn yaml(suggestion: &Suggestion) -> anyhow::Result<String> {
    let mut text = String::new();
    for policy in &suggestion.policies {
        text += "---\n";
        text += serde_saphyr::to_string(policy).context("write YAML")?.trim_end();
        text += "\n";
    }
    if !suggestion.blocked.is_empty() {
        text += "# They would block what was seen:\n";
    }
    for Connection { source, destination, l4 } in &suggestion.blocked {
        // Writing to a string does not fail.
        _ = writeln!(text, "#   {source} -> {destination} {l4}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use policy::{manifest, world::World};

    use super::*;

    #[test]
    fn suggestions_read_back_as_the_policies_that_they_are() {
        let mut world = World::default();
        let pod = |name: &str, address: &str| {
            format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}\n\
                 status: {{podIP: {address}}}\n"
            )
        };
        let text = pod("web", "10.0.1.1") + &pod("front", "10.0.1.2");
        assert_eq!(manifest::read(&mut world, "pods.yaml", &text), []);
        let folder = tempfile::tempdir().expect("folder");
        let lines = [flows::tests::line("FORWARDED", 80, "x"), flows::tests::line("DROPPED", 81, "x")];
        let recording = flows::read(&world, &flows::tests::file(&folder, &lines)).expect("read");
        let passed: Vec<_> =
            recording.recorded().filter(|(_, tally)| tally.passed > 0).map(|(r, _)| r.connection).collect();
        let suggestion = suggest(&world, "shop", &passed);
        let written = yaml(&suggestion).expect("YAML");
        let mut read = World::default();
        assert_eq!(manifest::read(&mut read, "out.yaml", &written), [], "{written}");
        assert_eq!(read.network_policies.len(), 2, "{written}");
        let ours = suggestion.policies.iter().map(|policy| &policy.spec);
        let theirs = read.network_policies.values().map(|written| &written.object.spec);
        assert!(ours.clone().all(|spec| theirs.clone().any(|other| other == spec)), "{written}");
        assert!(!written.contains("81"), "what was dropped is not asked for: {written}");
    }
}
