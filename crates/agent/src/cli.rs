//! `twinplane agent`: arguments, signals, exit codes. Everything else is the library's.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::ValueEnum;
use dataplane::Timing;
use ipnet::IpNet;
use kube::{
    Client,
    config::{KubeConfigOptions, Kubeconfig},
};
use model::Plane;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    client::DEFAULT_SOCKET,
    daemon,
    plane::{PlaneConfig, open_plane},
};

/// Run the node daemon.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    plane: Option<PlaneArgs>,
    /// Name of this node's Node object
    #[arg(long, env = "NODE_NAME", required = true)]
    node: Option<String>,
    /// Where to find the API server and how to log in [default: in-cluster, or ~/.kube/config]
    #[arg(long, value_name = "FILE", conflicts_with = "api_server")]
    kubeconfig: Option<PathBuf>,
    /// URL of an API server that wants no login
    #[arg(long, value_name = "URL")]
    api_server: Option<String>,
    /// Unix socket of the local API; the state of the node's pods is kept beside it
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// Prefix of all pods of the cluster; once per address family
    #[arg(long = "cluster-cidr", value_name = "CIDR")]
    cluster_cidrs: Vec<IpNet>,
    /// Where /healthz and /livez are served; "none" for nowhere
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:10256")]
    healthz_bind: Bind,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Remove everything the agent ever put into this node's kernel, the pods' own interfaces aside
    Cleanup(PlaneArgs),
}

#[derive(Clone, Debug, clap::Args)]
struct PlaneArgs {
    /// What forwards packets
    #[arg(long, value_enum)]
    dataplane: PlaneName,
    /// Folder for pinned maps and links; a BPF file system is mounted on it where it is on none
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/twinplane")]
    bpffs: PathBuf,
    /// A device to the outside; may be given several times
    #[arg(long = "uplink", value_name = "INTERFACE")]
    uplinks: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PlaneName {
    Ebpf,
    Iptables,
}

#[derive(Clone, Copy, Debug)]
struct Bind(Option<SocketAddr>);

impl std::str::FromStr for Bind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self(None)),
            _ => text
                .parse()
                .map(|address| Self(Some(address)))
                .map_err(|_| format!("invalid address {text:?}: want ADDRESS:PORT, or none")),
        }
    }
}

impl From<PlaneArgs> for PlaneConfig {
    fn from(args: PlaneArgs) -> Self {
        let plane = match args.dataplane {
            PlaneName::Ebpf => Plane::Ebpf,
            PlaneName::Iptables => Plane::Iptables,
        };
        Self { plane, bpffs: args.bpffs, uplinks: args.uplinks }
    }
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// The environment does not support the plane, or a part fails that the agent cannot do without.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    match args.command {
        Some(Command::Cleanup(plane)) => {
            open_plane(&plane.into())?.clean_up()?;
            runtime.block_on(daemon::remove_routes())?;
        }
        None => runtime.block_on(serve(args))?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let (Some(plane_args), Some(node)) = (args.plane, args.node) else {
        anyhow::bail!("--node and --dataplane are required");
    };
    let mut terminate = signal(SignalKind::terminate()).context("catch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("catch SIGINT")?;
    let plane_config = PlaneConfig::from(plane_args);
    let plane = open_plane(&plane_config)?;
    let client = connect(args.kubeconfig, args.api_server).await?;
    let config = daemon::Config {
        node,
        socket: args.socket,
        uplinks: plane_config.uplinks,
        cluster_cidrs: args.cluster_cidrs,
        healthz_bind: args.healthz_bind.0,
        timing: Timing::default(),
    };
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    daemon::run(config, plane, client, stop).await
}

async fn connect(kubeconfig: Option<PathBuf>, api_server: Option<String>) -> anyhow::Result<Client> {
    let config = match (kubeconfig, api_server) {
        (_, Some(url)) => {
            let url = url.parse().with_context(|| format!("parse --api-server {url:?}"))?;
            kube::Config::new(url)
        }
        (Some(path), None) => {
            let read = Kubeconfig::read_from(&path).with_context(|| format!("read {}", path.display()))?;
            kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("use {}", path.display()))?
        }
        (None, None) => kube::Config::infer().await.context("find an API server")?,
    };
    Client::try_from(config).context("set up the connection to the API server")
}
