//! `twinplane agent`: arguments, signals, exit codes. Everything else is the library's.

mod conntrack;
mod export;
mod values;

use std::{num::NonZeroU16, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::ValueEnum;
use dataplane::Timing;
use dataplane_ebpf::{Acceleration, LoadBalancer, TableSize, Telling};
use dataplane_iptables::TellingConfig;
use flow::ring::Capacity;
use ipnet::IpNet;
use kube::{
    Client,
    config::{KubeConfigOptions, Kubeconfig},
};
use model::{Family, Plane, Port};
use observer::tls::Files;
use tokio::signal::unix::{SignalKind, signal};

pub use self::values::{Bind, SocketPath};
use self::{
    conntrack::ConntrackArgs,
    export::ExportArgs,
    values::{Aggregation, IDENTITY_WITHIN, NodePortFilter, Period, Switch, capacity, node_ports},
};
use crate::{
    client::DEFAULT_SOCKET,
    daemon,
    flows::{OBSERVER_SOCKET, Observer},
    memory,
    network::{self, Routing},
    plane::{Cgroup, PlaneConfig, open_plane},
    tunnel::Vxlan,
};

/// Half a minute of growth is a trend, and five minutes are remembered.
const FILL_EVERY: Duration = Duration::from_secs(10);

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
    /// Which addresses of the node serve node ports: prefixes, or "primary" for the first of each family [default: all]
    #[arg(long = "nodeport-addresses", value_name = "CIDR|primary", value_delimiter = ',')]
    nodeport_addresses: Vec<NodePortFilter>,
    /// How packets get to other nodes' pods
    #[arg(long, value_enum, value_name = "HOW", default_value = "native")]
    routing: RoutingName,
    /// VXLAN network identifier, equal on all nodes
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    vxlan_vni: u32,
    /// UDP port of VXLAN packets, equal on all nodes
    #[arg(long, value_name = "PORT", default_value_t = 8472)]
    vxlan_port: u16,
    /// Where /healthz and /livez are served; "none" for nowhere
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:10256")]
    healthz_bind: Bind,
    /// Where /metrics and /proxyMode are served; "none" for nowhere
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:10249")]
    metrics_bind: Bind,
    #[command(flatten)]
    conntrack: ConntrackArgs,
    #[command(flatten)]
    observer: ObserverArgs,
    #[command(flatten)]
    export: ExportArgs,
}

/// Where flows are shown, as Hubble's clients ask for them.
#[derive(Clone, Debug, clap::Args)]
struct ObserverArgs {
    /// Unix socket that flows are served on; "none" for none
    #[arg(long, value_name = "PATH", default_value = OBSERVER_SOCKET)]
    observer_socket: SocketPath,
    /// Address that flows are served on: with certificates any, without only a loopback one, in plain text; "none" for
    /// nowhere. Its port is taken to be every node's
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4244")]
    observer_bind: Bind,
    /// Certificate that is shown to clients (PEM, with what leads to its authority), read again when it changes
    #[arg(long, value_name = "FILE", requires_all = ["observer_tls_key", "observer_tls_client_ca"])]
    observer_tls_cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "observer_tls_cert")]
    observer_tls_key: Option<PathBuf>,
    /// Authority whose certificates clients have to show
    #[arg(long, value_name = "FILE", requires = "observer_tls_cert")]
    observer_tls_client_ca: Option<PathBuf>,
    /// Flows that are kept, the last ones: a power of two less one
    #[arg(long, value_name = "FLOWS", default_value = "4095", value_parser = capacity)]
    flow_capacity: Capacity,
    /// How much is told of flows (ebpf only)
    #[arg(long, value_enum, default_value = "medium")]
    event_aggregation: Aggregation,
    /// At medium aggregation, how often a flow that goes on is told of (ebpf only)
    #[arg(long, value_name = "TIME", default_value = "5s")]
    flow_interval: Period,
    /// Tell of flows: what connection tracking says of them, and what rules stop, by a rule that logs before each (iptables
    /// only: ebpf does unless --event-aggregation is off)
    #[arg(long, value_enum, default_value_t)]
    flows: Switch,
    /// NFLOG group of those rules; no other program of the node may use it (iptables only)
    #[arg(long, value_name = "GROUP", default_value_t = TellingConfig::DEFAULT_GROUP)]
    nflog_group: NonZeroU16,
}

impl From<ObserverArgs> for Observer {
    fn from(args: ObserverArgs) -> Self {
        let certificates = (args.observer_tls_cert, args.observer_tls_key, args.observer_tls_client_ca);
        let certificates = match certificates {
            (Some(certificate), Some(key), Some(authority)) => Some(Files { certificate, key, authority }),
            // Clap has all of them or none.
            _ => None,
        };
        Self {
            socket: args.observer_socket.0,
            bind: args.observer_bind.0,
            certificates,
            capacity: args.flow_capacity,
            export: None,
        }
    }
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
    /// Entries of the Maglev tables that lead clients from outside to the same backend on every node: a prime, the same on
    /// all nodes, and a hundred times the backends of the largest Service for even shares (ebpf only)
    #[arg(long, value_name = "PRIME", default_value_t)]
    maglev_table_size: TableSize,
    /// How clients from outside reach backends on other nodes under Cluster policy: snat gives them the node's address, dsr
    /// keeps theirs and needs a tunnel between the nodes (ebpf only)
    #[arg(long, value_enum, default_value = "snat")]
    load_balancer_mode: LoadBalancerMode,
    /// The cgroup (v2) whose processes get their backends at their sockets: a folder above the node's and its pods', "auto"
    /// for the root of the hierarchy, or "none" (ebpf only)
    #[arg(long, value_name = "PATH", default_value = "auto")]
    cgroup: Cgroup,
    /// Send load-balancer traffic whose backend is on another node back out before the stack sees it (ebpf only)
    #[arg(long, value_enum, default_value_t)]
    xdp: Xdp,
    /// Enforce NetworkPolicy and ClusterNetworkPolicy objects at this node's pods [default: on with ebpf, off with iptables]
    #[arg(long, value_enum, value_name = "WHETHER")]
    network_policy: Option<Switch>,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Xdp {
    #[default]
    Off,
    /// In the driver, or in front of the stack where the driver has no XDP
    Auto,
    /// In the driver, or not at all: the agent does not start
    Native,
    /// In front of the stack
    Generic,
}

impl From<Xdp> for Acceleration {
    fn from(xdp: Xdp) -> Self {
        match xdp {
            Xdp::Off => Self::Off,
            Xdp::Auto => Self::Auto,
            Xdp::Native => Self::Native,
            Xdp::Generic => Self::Generic,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PlaneName {
    Ebpf,
    Iptables,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoutingName {
    /// The network between the nodes routes pod addresses
    Native,
    /// It does not: packets between nodes' pods travel in VXLAN
    Vxlan,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LoadBalancerMode {
    Snat,
    Dsr,
}

impl From<LoadBalancerMode> for LoadBalancer {
    fn from(mode: LoadBalancerMode) -> Self {
        match mode {
            LoadBalancerMode::Snat => Self::Masquerade,
            LoadBalancerMode::Dsr => Self::DirectReturn,
        }
    }
}

impl From<PlaneArgs> for PlaneConfig {
    fn from(args: PlaneArgs) -> Self {
        let plane = match args.dataplane {
            PlaneName::Ebpf => Plane::Ebpf,
            PlaneName::Iptables => Plane::Iptables,
        };
        Self {
            plane,
            bpffs: args.bpffs,
            uplinks: args.uplinks,
            table_size: args.maglev_table_size,
            load_balancer: args.load_balancer_mode.into(),
            acceleration: args.xdp.into(),
            families: Family::ALL.to_vec(),
            cgroup: args.cgroup,
            events: Telling::Nothing,
            telling: None,
            network_policy: args.network_policy.map_or(plane == Plane::Ebpf, |switch| switch == Switch::On),
        }
    }
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// The environment does not support the plane, or a part fails that the agent cannot do without.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    memory::keep_little();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    match args.command {
        Some(Command::Cleanup(plane)) => {
            open_plane(&plane.into())?.plane.clean_up()?;
            runtime.block_on(network::remove())?;
        }
        None => runtime.block_on(serve(args))?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let (Some(plane_args), Some(node)) = (args.plane, args.node) else {
        anyhow::bail!("--node and --dataplane are required");
    };
    let routing = match args.routing {
        RoutingName::Native => Routing::Native,
        RoutingName::Vxlan => {
            let port = Port::new(args.vxlan_port).context("read --vxlan-port")?;
            Routing::Vxlan(Vxlan::new(args.vxlan_vni, port).context("read --vxlan-vni")?)
        }
    };
    let mut terminate = signal(SignalKind::terminate()).context("catch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("catch SIGINT")?;
    let events = args.observer.event_aggregation.telling(args.observer.flow_interval);
    let group = args.observer.nflog_group;
    let telling =
        (args.observer.flows == Switch::On).then(|| TellingConfig { group, ..TellingConfig::default() });
    let mut plane_config = PlaneConfig { events, telling, ..plane_args.into() };
    if !args.cluster_cidrs.is_empty() {
        plane_config.families = args.cluster_cidrs.iter().map(|cidr| Family::of(cidr.addr())).collect();
    }
    if plane_config.load_balancer == LoadBalancer::DirectReturn && routing == Routing::Native {
        anyhow::bail!("--load-balancer-mode dsr needs a tunnel between the nodes\n\nadd --routing vxlan");
    }
    let plane = open_plane(&plane_config)?;
    let shows_identities = plane_config.plane == Plane::Ebpf && plane_config.events != Telling::Nothing;
    let client = connect(args.kubeconfig, args.api_server).await?;
    let config = daemon::Config {
        node,
        socket: args.socket,
        uplinks: plane_config.uplinks,
        cluster_cidrs: args.cluster_cidrs,
        node_ports: node_ports(&args.nodeport_addresses)?,
        routing,
        healthz_bind: args.healthz_bind.0,
        metrics_bind: args.metrics_bind.0,
        conntrack: (plane_config.plane == Plane::Iptables).then(|| args.conntrack.into()),
        timing: Timing::default(),
        fill_every: FILL_EVERY,
        identity_within: if shows_identities { IDENTITY_WITHIN } else { Duration::ZERO },
        observer: Observer { export: args.export.export()?, ..args.observer.into() },
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
#[cfg(test)]
mod tests {
    use super::*;

    /// Every option has one row in the document, and every row is an option's.
    #[test]
    fn every_option_is_documented_once() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/agent.md");
        let document = std::fs::read_to_string(path).expect("the document");
        let rows = document.lines().filter_map(|line| line.strip_prefix("| `--"));
        let name =
            |row: &str| row.split(|c: char| !c.is_ascii_lowercase() && c != '-').next().map(str::to_owned);
        let mut documented: Vec<_> = rows.filter_map(name).collect();
        documented.sort();
        let command = <Args as clap::Args>::augment_args(clap::Command::new("agent"));
        let mut options: Vec<_> =
            command.get_arguments().filter_map(|option| option.get_long().map(str::to_owned)).collect();
        options.sort();
        assert_eq!(documented, options);
    }
}
