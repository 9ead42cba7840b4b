//! `twinplane conntrack list`: tracked connections, as the kernel has them.

use std::process::ExitCode;

use dataplane::Connection;
use model::Masquerade;

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
    /// List tracked connections
    List {
        /// At most so many
        #[arg(long, value_name = "NUMBER", default_value_t = 10_000)]
        limit: usize,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        output: Output,
    },
}

/// # Errors
/// The agent cannot be asked.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Command::List { limit, target, output } = args.command;
    let connections = target.ask(async |client| client.connections(limit).await)?;
    output.write(&connections, |connections| table(connections))?;
    Ok(ExitCode::SUCCESS)
}

fn table(connections: &[Connection]) -> String {
    let titles =
        ["PROTO", "SOURCE", "DESTINATION", "BACKEND", "SOURCE SEEN", "STATE", "EXPIRES", "PACKETS", "BYTES"];
    columns(&titles, connections.iter().map(cells))
}

/// What was not translated is shown as "-", so that translations stand out.
fn cells(connection: &Connection) -> Vec<String> {
    let optional = |value: Option<u64>, unit: &str| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value}{unit}"))
    };
    let translated = connection.backend != connection.destination;
    let masqueraded = connection.masquerade == Masquerade::Yes || connection.source_seen != connection.source;
    vec![
        connection.protocol.to_string(),
        connection.source.to_string(),
        connection.destination.to_string(),
        if translated { connection.backend.to_string() } else { "-".to_owned() },
        if masqueraded { connection.source_seen.to_string() } else { "-".to_owned() },
        connection.state.clone(),
        optional(connection.expires_seconds, "s"),
        optional(connection.packets, ""),
        optional(connection.bytes, ""),
    ]
}

#[cfg(test)]
mod tests {
    use model::Protocol;

    use super::*;

    #[test]
    fn only_what_was_translated_is_shown_as_such() {
        let at = |address: &str| address.parse().expect("address");
        let plain = Connection {
            protocol: Protocol::Udp,
            source: at("10.20.0.2:5353"),
            destination: at("10.20.1.2:53"),
            backend: at("10.20.1.2:53"),
            source_seen: at("10.20.0.2:5353"),
            masquerade: Masquerade::No,
            state: "-".into(),
            expires_seconds: Some(30),
            packets: None,
            bytes: None,
        };
        let translated = Connection {
            protocol: Protocol::Tcp,
            destination: at("203.0.113.10:80"),
            backend: at("10.20.1.2:80"),
            source_seen: at("10.128.0.11:40000"),
            masquerade: Masquerade::Yes,
            state: "established".into(),
            packets: Some(12),
            bytes: Some(3400),
            ..plain.clone()
        };
        assert_eq!(cells(&plain), ["UDP", "10.20.0.2:5353", "10.20.1.2:53", "-", "-", "-", "30s", "-", "-"]);
        assert_eq!(
            cells(&translated)[2..6],
            ["203.0.113.10:80", "10.20.1.2:80", "10.128.0.11:40000", "established"]
        );
    }
}
