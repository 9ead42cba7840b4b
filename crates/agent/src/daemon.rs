//! Puts the parts together and runs them until told to stop.

use std::{future::Future, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use cluster::{Index, Problem, Settings};
use dataplane::Timing;
use ipnet::IpNet;
use kube::Client;
use model::NodePortAddresses;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{
    controller::{Controller, Outlets},
    events::{self, Notice},
    fill::Fill,
    flows::{self, Observer},
    health::Checks,
    health_server::{self, Probe},
    metrics::Metrics,
    metrics_server,
    netlink::{self, Netlink},
    network::{Network, Routing},
    plane::Opened,
    pods::{self, Identities, Pods},
    server,
    sysctl::{self, Conntrack},
    wishes,
    worker::Worker,
};

/// Events that may wait to be written: objects can go wrong faster than an API server takes Events.
const NOTICES: usize = 1024;

/// How long a disk may take at the end.
const EXPORT_PATIENCE: Duration = Duration::from_secs(5);

/// What an agent is run with, its plane and its API server aside.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name of this node's Node object.
    pub node: String,
    /// The local API's socket. The pods' state is kept beside it.
    pub socket: PathBuf,
    /// The node's devices to the outside.
    pub uplinks: Vec<String>,
    /// Prefixes of all pods of the cluster.
    pub cluster_cidrs: Vec<IpNet>,
    /// Which of the node's addresses serve node ports and health-check node ports.
    pub node_ports: NodePortAddresses,
    /// How packets get to other nodes' pods.
    pub routing: Routing,
    /// Where `/healthz` and `/livez` are served; nowhere if `None`.
    pub healthz_bind: Option<SocketAddr>,
    /// Where `/metrics` and `/proxyMode` are served; nowhere if `None`.
    pub metrics_bind: Option<SocketAddr>,
    /// What the kernel's connection tracking is set to; `None` for a plane that does not need it.
    pub conntrack: Option<Conntrack>,
    pub timing: Timing,
    /// How often the fill of kernel tables is looked at, for its forecast.
    pub fill_every: Duration,
    /// How long a new pod is held back until the kernel knows its identity; zero: not at all.
    pub identity_within: Duration,
    /// Where flows are served.
    pub observer: Observer,
}

/// Runs the agent in the network namespace of the calling thread until `stop` ends.
///
/// What is programmed stays programmed.
///
/// # Errors
/// A part that the agent cannot do without fails: the socket, the state file, the dataplane's thread.
pub async fn run(
    config: Config,
    Opened { plane, events, policies }: Opened,
    client: Client,
    stop: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let socket =
        server::listen(&config.socket).with_context(|| format!("listen at {}", config.socket.display()))?;
    let healthz = listen(config.healthz_bind).await?;
    let metrics_listener = listen(config.metrics_bind).await?;
    tracing::info!(node = config.node, plane = plane.plane().as_str(), "agent starts");
    let ipv6 = config.cluster_cidrs.iter().any(|cidr| cidr.addr().is_ipv6());
    sysctl::apply_all(&sysctl::of_node(&config.uplinks, ipv6));
    if let Some(conntrack) = &config.conntrack {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
        sysctl::apply_all(&sysctl::of_conntrack(conntrack, cores));
    }

    let netlink = Netlink::open().context("open a netlink socket")?;
    let (plane_name, metrics) = (plane.plane(), Metrics::default());
    let worker =
        Worker::start(plane, config.timing, metrics.clone()).context("start the dataplane thread")?;
    let (nodes, known_nodes) = watch::channel(None);
    let (checks, wanted_checks) = watch::channel(Checks::default());
    let (problems, new_problems) = mpsc::channel(NOTICES);
    let (notices, to_write) = mpsc::channel(NOTICES);
    let (wishes, to_grant) = watch::channel(Arc::default());
    let mut index = Index::new(Settings {
        node: config.node.clone(),
        cluster_cidrs: config.cluster_cidrs.clone(),
        node_ports: config.node_ports.clone(),
    });
    if let Some(first) = policies {
        index.enforce_policies(first);
    }
    let flows = match events {
        Some(events) => Some(flows::open(&config.node, &config.observer, events, known_nodes.clone()).await?),
        None => None,
    };
    let directory = flows.as_ref().map(|flows| flows.directory());
    let (controller, task) =
        Controller::new(index, worker.clone(), Outlets { nodes, checks, problems, wishes, directory });
    // Before the first look, so that nothing changes unseen.
    let changes = netlink::changes().context("watch links, addresses and routes")?;
    let network = Network::open(netlink.clone(), controller.clone(), config.routing).await;
    let identities = Identities { worker: worker.clone(), within: config.identity_within };
    let state = pods::state_path(&config.socket);
    let pods = Pods::open(state, netlink, controller.clone(), config.routing, identities).await?;
    controller.set_endpoints_known();

    let probe = Probe { controller: controller.clone(), worker: worker.clone() };
    let mut tasks = JoinSet::new();
    let watches = cluster::watch::watch(&client, &config.node);
    tasks.spawn(async move { anyhow::Error::from(task.run(watches).await) });
    spawn(&mut tasks, "network", network.keep(known_nodes, changes));
    spawn(&mut tasks, "identities", wishes::grant(client.clone(), to_grant));
    spawn(&mut tasks, "events", events::write(client, config.node.clone(), to_write));
    spawn(&mut tasks, "problems", forward(new_problems, notices.clone(), config.node.clone()));
    spawn(&mut tasks, "health checks", health_server::serve_services(wanted_checks, probe.clone(), notices));
    if let Some(listener) = healthz {
        spawn(&mut tasks, "healthz", health_server::serve_proxy(listener, probe, metrics.clone()));
    }
    let (parts, flow_metrics, export) = flows.map(flows::Flows::into_parts).unwrap_or_default();
    for part in parts {
        tasks.spawn(part);
    }
    let fill = Fill::default();
    spawn(&mut tasks, "fill", fill.clone().watch(worker.clone(), config.fill_every));
    if let Some(listener) = metrics_listener {
        let context = metrics_server::Context {
            plane: plane_name,
            metrics,
            flows: Arc::new(flow_metrics),
            worker: worker.clone(),
            fill: fill.clone(),
        };
        spawn(&mut tasks, "metrics", metrics_server::serve(listener, context));
    }
    let context = server::Context { node: config.node, controller, worker, pods: Arc::new(pods), fill };
    let api = axum::serve(socket, server::router(context));
    tasks.spawn(async move {
        anyhow::Error::from(api.await.err().unwrap_or_else(|| std::io::Error::other("the local API ended")))
    });

    let ended = tokio::select! {
        () = stop => {
            tracing::info!("agent stops, the datapath stays");
            Ok(())
        }
        Some(ended) = tasks.join_next() => Err(ended.unwrap_or_else(anyhow::Error::from)),
    };
    tasks.shutdown().await;
    // What was stored is written before the ring is gone.
    if let Some(export) = export {
        export.finish(EXPORT_PATIENCE).await;
    }
    // Another agent may be waiting for the name.
    let _ = std::fs::remove_file(&config.socket);
    if let Some(socket) = &config.observer.socket {
        let _ = std::fs::remove_file(socket);
    }
    ended
}

async fn listen(address: Option<SocketAddr>) -> anyhow::Result<Option<TcpListener>> {
    match address {
        Some(address) => {
            Ok(Some(TcpListener::bind(address).await.with_context(|| format!("listen at {address}"))?))
        }
        None => Ok(None),
    }
}

fn spawn(
    tasks: &mut JoinSet<anyhow::Error>,
    what: &'static str,
    part: impl Future<Output = ()> + Send + 'static,
) {
    tasks.spawn(async move {
        part.await;
        anyhow::anyhow!("{what}: ended unexpectedly")
    });
}

/// Turns what is wrong with Services into notices on them.
async fn forward(mut problems: mpsc::Receiver<Problem>, notices: mpsc::Sender<Notice>, node: String) {
    while let Some(problem) = problems.recv().await {
        if let Some(notice) = Notice::refused(&problem, &node) {
            // Where too many wait, the status still tells.
            let _ = notices.try_send(notice);
        }
    }
}
