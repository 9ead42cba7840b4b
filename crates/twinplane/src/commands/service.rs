//! `twinplane service list`: frontends and where they lead, as the kernel has them.

use std::process::ExitCode;

use dataplane::{BackendState, ServiceRow};
use model::TrafficPolicy;

use super::{
    output::{Output, columns},
    target::Target,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List frontends with their backends
    List {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        output: Output,
    },
}

/// # Errors
/// The agent cannot be asked.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Command::List { target, output } = args.command;
    let rows = target.ask(async |client| client.services().await)?;
    output.write(&rows, |rows| table(rows))?;
    Ok(ExitCode::SUCCESS)
}

fn table(rows: &[ServiceRow]) -> String {
    let titles = ["ID", "FRONTEND", "SERVICE TYPE", "BACKEND", "SERVICE"];
    columns(&titles, rows.iter().enumerate().map(|(i, row)| cells(i + 1, row)))
}

fn cells(id: usize, row: &ServiceRow) -> Vec<String> {
    let service = row.service.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
    let port = if row.port_name.is_empty() { String::new() } else { format!(":{}", row.port_name) };
    vec![
        id.to_string(),
        format!("{}/{}", row.frontend, row.protocol),
        kind(row),
        backends(row),
        format!("{service}{port}"),
    ]
}

/// The kind, with all that makes this frontend special.
fn kind(row: &ServiceRow) -> String {
    let mut text = format!("{:?}", row.kind).replace("Ip", "IP");
    if row.policy == TrafficPolicy::Local {
        text.push_str(" (local)");
    }
    if let Some(seconds) = row.affinity_seconds {
        text.push_str(&format!("\naffinity {seconds}s"));
    }
    if !row.source_ranges.is_empty() {
        text.push_str(&format!("\nfrom {}", row.source_ranges.join(", ")));
    }
    text
}

fn backends(row: &ServiceRow) -> String {
    let line = |(i, backend): (usize, &dataplane::BackendRow)| {
        let state = match backend.state {
            BackendState::Active => "active",
            BackendState::Terminating => "terminating",
        };
        let local = if backend.local { ", local" } else { "" };
        format!("{} => {}/{} ({state}{local})", i + 1, backend.address, row.protocol)
    };
    if row.backends.is_empty() {
        return "none".to_owned();
    }
    row.backends.iter().enumerate().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use dataplane::BackendRow;
    use model::{FrontendKind, Protocol, ServiceName};

    use super::*;

    fn row(kind: FrontendKind, frontend: &str) -> ServiceRow {
        let backend = |address: &str, state, local| BackendRow {
            address: address.parse().expect("address"),
            state,
            local,
        };
        ServiceRow {
            service: Some(ServiceName { namespace: "ns".into(), name: "web".into() }),
            port_name: "http".into(),
            kind,
            frontend: frontend.parse().expect("address"),
            protocol: Protocol::Tcp,
            policy: TrafficPolicy::Cluster,
            backends: vec![
                backend("10.20.0.2:80", BackendState::Active, true),
                backend("10.20.1.3:80", BackendState::Terminating, false),
            ],
            affinity_seconds: None,
            source_ranges: vec![],
        }
    }

    #[test]
    fn the_table_reads_like_ciliums() {
        let mut restricted = row(FrontendKind::LoadBalancer, "203.0.113.10:80");
        restricted.policy = TrafficPolicy::Local;
        restricted.affinity_seconds = Some(10);
        restricted.source_ranges = vec!["198.51.100.0/24".into()];
        restricted.backends.clear();
        restricted.service = None;
        restricted.port_name.clear();
        let text = table(&[row(FrontendKind::ClusterIp, "10.24.0.1:80"), restricted]);
        let expected = "\
ID   FRONTEND             SERVICE TYPE           BACKEND                                     SERVICE
1    10.24.0.1:80/TCP     ClusterIP              1 => 10.20.0.2:80/TCP (active, local)       ns/web:http
                                                 2 => 10.20.1.3:80/TCP (terminating)
2    203.0.113.10:80/TCP  LoadBalancer (local)   none                                        -
                          affinity 10s
                          from 198.51.100.0/24
";
        let squeeze = |text: &str| -> Vec<String> {
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
        };
        assert_eq!(squeeze(&text), squeeze(expected));
    }
}
