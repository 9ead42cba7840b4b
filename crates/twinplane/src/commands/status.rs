//! `twinplane status`: what is programmed, what the kernel offers, how full its tables are; `--relay`: how the nodes' flows
//! are reached.

mod relay;

use std::{collections::BTreeSet, process::ExitCode};

use agent::wire::AgentStatus;
use dataplane::{Counter, Feature, MapFill, ObjectState, ObjectStatus, Unseen};
use serde::Serialize;

use super::{
    output::{Output, columns},
    server::Server,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// List every object, not only those that are not programmed
    #[arg(long, conflicts_with = "relay")]
    all: bool,
    /// Of a relay: its nodes, their flows, how full their rings are, and what was lost
    #[arg(long)]
    relay: bool,
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    output: Output,
}

/// The status with the objects that were asked for.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    status: AgentStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    all: Option<Vec<ObjectStatus>>,
}

/// Exit 0 where everything is programmed (of a relay: every node connected), 1 where something is not.
///
/// # Errors
/// The agent or the relay cannot be asked.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.relay {
        return relay::run(&args.server, args.output);
    }
    let all = args.all;
    let report = args.server.agent()?.ask(async |client| {
        let all = if all { Some(client.objects().await?) } else { None };
        Ok(Report { status: client.status().await?, all })
    })?;
    args.output.write(&report, table)?;
    let fine = report.status.waiting_for.is_none() && report.status.problems.is_empty();
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn table(report: &Report) -> String {
    let status = &report.status;
    let objects = &status.objects;
    let mut head = vec![
        vec!["node".to_owned(), status.node.clone()],
        vec!["dataplane".into(), format!("{} (agent {})", status.plane, status.version)],
        vec![
            "snapshot".into(),
            format!("{} programmed, {} wanted", status.programmed.0, status.generation.0),
        ],
        vec![
            "objects".into(),
            format!(
                "{} programmed, {} pending, {} failed, {} refused",
                objects.programmed, objects.pending, objects.failed, objects.refused
            ),
        ],
    ];
    head.extend(policies(&status.problems));
    head.extend(status.waiting_for.iter().map(|what| vec!["waiting for".into(), what.clone()]));
    let interruptions = status.interruptions.iter();
    head.extend(
        interruptions.map(|i| vec!["interrupted".into(), format!("watch on {}: {}", i.kind, i.error)]),
    );
    let sections = [
        section(&["OBJECT", "STATE", "FIELD", "REASON"], listed(report).iter().map(object)),
        section(&["FEATURE", "AVAILABLE", "DETAIL"], status.dataplane.features.iter().map(feature)),
        section(
            &["MAP", "ENTRIES", "CAPACITY", "FILL", "FULL IN", "REFUSED", "BYTES"],
            status.dataplane.maps.iter().map(|fill| map(fill, status.full_in_seconds.get(&fill.name))),
        ),
        section(&["COUNTER", "PACKETS", "BYTES"], status.dataplane.counters.iter().map(counter)),
        section(&["NOT IN FLOWS", "WHY"], status.dataplane.unseen.iter().map(unseen)),
    ];
    let head = columns(&["", ""], head).trim_start().to_owned();
    head + &sections.concat()
}

/// How many policies are not enforced as they are written, if any.
fn policies(problems: &[ObjectStatus]) -> Option<Vec<String>> {
    let of_policies = problems.iter().filter(|problem| problem.kind.ends_with("NetworkPolicy"));
    let concerned: BTreeSet<_> = of_policies.map(|problem| (&problem.kind, &problem.name)).collect();
    let count = concerned.len();
    (count > 0).then(|| vec!["policies".into(), format!("{count} with parts that cannot be enforced")])
}

/// A blank line and a table; nothing where there is nothing to show.
fn section(titles: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() { String::new() } else { format!("\n{}", columns(titles, rows)) }
}

fn listed(report: &Report) -> &[ObjectStatus] {
    report.all.as_deref().unwrap_or(&report.status.problems)
}

fn object(object: &ObjectStatus) -> Vec<String> {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let state = match object.state {
        ObjectState::Programmed => "programmed",
        ObjectState::Pending => "pending",
        ObjectState::Failed => "failed",
        ObjectState::Refused => "refused",
    };
    vec![
        format!("{} {}", object.kind, object.name),
        state.to_owned(),
        or_dash(&object.field),
        or_dash(&object.reason),
    ]
}

fn feature(feature: &Feature) -> Vec<String> {
    let available = if feature.available { "yes" } else { "no" };
    vec![feature.name.clone(), available.to_owned(), feature.detail.clone()]
}

fn map(map: &MapFill, full_in_seconds: Option<&u64>) -> Vec<String> {
    // A plane may have tables without a limit.
    let (capacity, fill) = match map.capacity {
        0 => ("-".to_owned(), "-".to_owned()),
        capacity => (capacity.to_string(), format!("{}%", map.entries * 100 / capacity)),
    };
    let full_in = full_in_seconds.map_or_else(|| "-".to_owned(), |seconds| full_in(*seconds));
    let [entries, refused, bytes] = [map.entries, map.refused, map.bytes].map(|count| count.to_string());
    vec![map.name.clone(), entries, capacity, fill, full_in, refused, bytes]
}

/// As precise as a forecast is.
fn full_in(seconds: u64) -> String {
    match seconds {
        0 => "now".to_owned(),
        1..60 => "<1 min".to_owned(),
        60..7200 => format!("~{} min", seconds / 60),
        _ => format!("~{} h", seconds / 3600),
    }
}

fn counter(counter: &Counter) -> Vec<String> {
    vec![counter.name.clone(), counter.packets.to_string(), counter.bytes.to_string()]
}

fn unseen(unseen: &Unseen) -> Vec<String> {
    vec![unseen.what.clone(), unseen.why.clone()]
}

#[cfg(test)]
mod tests {
    use agent::wire::ObjectCounts;
    use dataplane::PlaneStatus;
    use model::{Generation, Plane};

    use super::*;

    #[test]
    fn a_refused_object_is_named_with_field_and_reason() {
        let problem = ObjectStatus {
            kind: "Service".into(),
            name: "ns/web".into(),
            state: ObjectState::Refused,
            field: Some("spec.externalIPs".into()),
            reason: Some("taken".into()),
            generation: Generation(0),
        };
        let status = AgentStatus {
            node: "node-a".into(),
            version: "1.2.3".into(),
            plane: Plane::Ebpf,
            waiting_for: None,
            generation: Generation(9),
            programmed: Generation(8),
            objects: ObjectCounts { programmed: 5, refused: 1, ..ObjectCounts::default() },
            problems: vec![problem],
            interruptions: vec![],
            dataplane: PlaneStatus {
                plane: Plane::Ebpf,
                features: vec![],
                maps: vec![MapFill {
                    name: "services".into(),
                    entries: 5,
                    capacity: 20,
                    bytes: 4096,
                    refused: 3,
                }],
                counters: vec![],
                unseen: vec![Unseen { what: "verdicts".into(), why: "no rule gives one".into() }],
            },
            full_in_seconds: [("services".to_owned(), 12 * 60 + 30)].into(),
        };
        let text = table(&Report { status, all: None });
        let lines: Vec<_> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines,
            [
                "node node-a",
                "dataplane ebpf (agent 1.2.3)",
                "snapshot 8 programmed, 9 wanted",
                "objects 5 programmed, 0 pending, 0 failed, 1 refused",
                "",
                "OBJECT STATE FIELD REASON",
                "Service ns/web refused spec.externalIPs taken",
                "",
                "MAP ENTRIES CAPACITY FILL FULL IN REFUSED BYTES",
                "services 5 20 25% ~12 min 3 4096",
                "",
                "NOT IN FLOWS WHY",
                "verdicts no rule gives one",
            ]
        );
    }

    #[test]
    fn policies_with_problems_are_counted_each_once() {
        let problem = |kind: &str, field: &str| ObjectStatus {
            kind: kind.into(),
            name: "shop/web".into(),
            state: ObjectState::Refused,
            field: Some(field.into()),
            reason: Some("unknown".into()),
            generation: Generation(0),
        };
        assert_eq!(policies(&[problem("Service", "a")]), None);
        let all = [
            problem("NetworkPolicy", "a"),
            problem("NetworkPolicy", "b"),
            problem("ClusterNetworkPolicy", "a"),
        ];
        assert_eq!(policies(&all).expect("some")[1], "2 with parts that cannot be enforced");
    }

    #[test]
    fn forecasts_are_rounded_and_absent_where_there_is_none() {
        let shown = [0, 1, 59, 60, 7199, 7200, 86_400].map(full_in);
        assert_eq!(shown, ["now", "<1 min", "<1 min", "~1 min", "~119 min", "~2 h", "~24 h"]);
        assert_eq!(map(&MapFill::default(), None)[2..5], ["-", "-", "-"]);
    }
}
