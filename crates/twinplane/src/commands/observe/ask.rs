//! `twinplane observe status|nodes|namespaces|peers`: what a node or a relay says of itself, in the words of Hubble's command.

use std::process::ExitCode;

use anyhow::Context as _;
use flow::{
    json,
    print::{health, nodes, peer, server_status},
    proto::{
        observer::{
            GetNamespacesRequest, GetNodesRequest, Namespace, ServerStatusRequest,
            observer_client::ObserverClient,
        },
        peer::{NotifyRequest, peer_client::PeerClient},
    },
};
use observer::names::HEALTH_SERVICE;
use prost::{Message, Name};
use tonic::transport::Channel;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::refused;
use crate::commands::{
    output::{columns, write_all},
    server::Server,
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Whether a server is healthy, how full it is, and which nodes a relay misses; exit code 1 where it is not healthy
    Status(Ask),
    /// The nodes of a relay
    Nodes(Ask),
    /// Namespaces with flows in the last hour
    Namespaces(Ask),
    /// The nodes that a peer service names, and what becomes of them, until interrupted
    Peers(Ask),
}

#[derive(Debug, clap::Args)]
pub(super) struct Ask {
    #[command(flatten)]
    server: Server,
    /// How the answer is written
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    #[default]
    #[value(alias = "table")]
    Compact,
    /// With version, address and TLS
    Wide,
    Json,
}

/// # Errors
/// The server cannot be asked, or refuses.
pub(super) async fn run(command: &Command) -> anyhow::Result<ExitCode> {
    let (Command::Status(ask) | Command::Nodes(ask) | Command::Namespaces(ask) | Command::Peers(ask)) =
        command;
    let (channel, address) = ask.server.connect().await?;
    match command {
        Command::Status(_) => return status(&address, channel, ask.output).await,
        Command::Nodes(_) => {
            let answer = ObserverClient::new(channel).get_nodes(GetNodesRequest {}).await.map_err(refused)?;
            let list = answer.into_inner().nodes;
            write_all(&match ask.output {
                Output::Json => array(&list)?,
                Output::Compact | Output::Wide => nodes(&list, ask.output == Output::Wide),
            })?;
        }
        Command::Namespaces(_) => {
            let answer = ObserverClient::new(channel).get_namespaces(GetNamespacesRequest {}).await;
            let list = answer.map_err(refused)?.into_inner().namespaces;
            let row = |it: &Namespace| vec![it.cluster.clone(), it.namespace.clone()];
            write_all(&match ask.output {
                Output::Json => array(&list)?,
                Output::Compact | Output::Wide => columns(&["CLUSTER", "NAMESPACE"], list.iter().map(row)),
            })?;
        }
        Command::Peers(_) => peers(channel, ask.output).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn status(address: &str, channel: Channel, output: Output) -> anyhow::Result<ExitCode> {
    let serving = is_serving(channel.clone()).await?;
    let answer = ObserverClient::new(channel).server_status(ServerStatusRequest {}).await;
    let status = answer.map_err(refused)?.into_inner();
    write_all(&match output {
        Output::Json => json::to_string(&status)? + "\n",
        Output::Compact | Output::Wide => health(address, serving) + &server_status(&status),
    })?;
    Ok(if serving { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether the server says that it serves flows.
pub(crate) async fn is_serving(channel: Channel) -> anyhow::Result<bool> {
    let request = HealthCheckRequest { service: HEALTH_SERVICE.to_owned() };
    let answer = HealthClient::new(channel).check(request).await.map_err(refused)?;
    Ok(answer.into_inner().status() == ServingStatus::Serving)
}

async fn peers(channel: Channel, output: Output) -> anyhow::Result<()> {
    let answer = PeerClient::new(channel).notify(NotifyRequest {}).await.map_err(refused)?;
    let mut changes = answer.into_inner();
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let change = tokio::select! {
            change = changes.message() => change.map_err(refused)?,
            _ = &mut interrupted => return Ok(()),
        };
        let change = change.context("watch peers: the server ended the stream")?;
        let text = match output {
            Output::Json => json::to_string(&change)? + "\n",
            Output::Compact | Output::Wide => peer(&change),
        };
        if !write_all(&text)? {
            return Ok(());
        }
    }
}

/// One line of JSON.
fn array<M: Message + Name>(list: &[M]) -> anyhow::Result<String> {
    let items = list.iter().map(json::to_string).collect::<Result<Vec<_>, _>>()?;
    Ok(format!("[{}]\n", items.join(",")))
}
