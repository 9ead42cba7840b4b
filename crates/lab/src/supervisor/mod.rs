//! The process behind a running lab: embedded API, edge, controllers, one agent process per node, the relay.
//!
//! Started by `lab up`, ended by `lab down`. Holds no state that outlives it and cleans nothing up: `remove` finds
//! everything by records and names, so that an orderly end and a crash are the same.

mod agents;
mod api;
mod kubeconfig;
mod relay;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use apiserver::ApiServer;
use kube::{Api, Client, Config, api::PostParams};
use netns::NetNs;
use tokio::{
    net::{TcpListener, UnixListener},
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use crate::{
    controllers,
    edge::Edge,
    plan::LabName,
    process::Registry,
    state::State,
    status::{Phase, Status},
};

/// The role it is recorded under.
pub(crate) const ROLE: &str = "supervisor";

/// Logs of background processes: informative, without colours, unless the user says otherwise.
pub(crate) fn quiet_environment(command: &mut Command) {
    command.env("NO_COLOR", "1");
    if std::env::var_os("TWINPLANE_LOG").is_none() {
        command.env("TWINPLANE_LOG", "info");
    }
}

/// What the supervisor's tasks share.
#[derive(Debug)]
struct Shared {
    state: State,
    status: Mutex<Status>,
    registry: Registry,
    /// Which nodes' agents are to run.
    wanted: BTreeMap<String, watch::Sender<bool>>,
}

impl Shared {
    /// Changes the status under its lock.
    fn update(&self, change: impl FnOnce(&mut Status)) {
        // Every change is one assignment: a panic elsewhere leaves nothing half done.
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn begin(&self, step: &str) {
        tracing::info!(step, "starting");
        self.update(|status| status.phase = Phase::Starting { step: step.to_owned() });
    }
}

/// Runs the supervisor of this lab until it is told to end.
///
/// # Errors
/// What kept it from starting; it is also told on `lab.sock` before.
pub(crate) fn run(name: &LabName) -> anyhow::Result<()> {
    // Nothing that happens to the terminal of `lab up` may reach the lab. Refused only where it leads one already.
    let _ = nix::unistd::setsid();
    let state = State::load(name)?;
    let registry = Registry::new(state.paths().processes());
    registry.record(ROLE, std::process::id())?;
    let status = Mutex::new(Status::initial(&state));
    let wanted =
        state.topology.nodes.iter().map(|node| (node.name.clone(), watch::Sender::new(true))).collect();
    let shared = Arc::new(Shared { state, status, registry, wanted });
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(supervise(shared))
}

async fn supervise(shared: Arc<Shared>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let socket = UnixListener::bind(shared.state.paths().supervisor_socket())?;
    let edge = Arc::new(std::sync::OnceLock::new());
    tokio::spawn(api::serve(socket, Arc::clone(&shared), Arc::clone(&edge)));
    tokio::select! {
        ended = start_and_run(&shared, &edge) => {
            if let Err(error) = &ended
                && let Phase::Starting { step } = shared.status().phase
            {
                shared.update(|status| status.phase = Phase::Failed { step, message: format!("{error:#}") });
                // Long enough for `lab up` to read it; whoever comes later finds the log.
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
            ended
        }
        _ = terminate.recv() => {
            tracing::info!("told to end");
            Ok(())
        }
    }
}

async fn start_and_run(shared: &Arc<Shared>, edge: &std::sync::OnceLock<Edge>) -> anyhow::Result<()> {
    shared.begin("start the API");
    let (address, serving) = start_api(&shared.state).await?;
    shared.update(|status| status.api = Some(address));
    let client = Client::try_from(Config::new(format!("http://{address}").parse()?))?;
    define(&client).await?;

    shared.begin("start the load balancer");
    let balancers = Edge::new(shared.state.topology.clone(), shared.state.health_check)?;
    edge.set(balancers.clone()).expect("set once");

    shared.begin("start controllers");
    let agents = agents::start(shared)?;
    let relay = relay::start(shared)?;
    let controllers = controllers::run(context(shared, client, balancers)?, CancellationToken::new());
    shared.update(|status| status.phase = Phase::Running);
    tracing::info!(api = %address, "running");
    tokio::select! {
        () = controllers => anyhow::bail!("the controllers ended"),
        ended = serving => Err(anyhow::Error::from(ended?.expect_err("served until the end")).context("serve the API")),
        ended = agents => Err(ended.context("supervise agents")),
        ended = relay => Err(ended.context("supervise the relay")),
    }
}

/// Kinds that a cluster has because somebody installed them, and that policies of a lab may be of.
async fn define(client: &Client) -> anyhow::Result<()> {
    let definition = policy::v1alpha2::definition();
    Api::all(client.clone()).create(&PostParams::default(), &definition).await.context("define a kind")?;
    Ok(())
}

fn context(shared: &Shared, client: Client, balancers: Edge) -> anyhow::Result<controllers::Context<Edge>> {
    let state = &shared.state;
    let paths = state.paths();
    let exe = std::env::current_exe()?;
    let node = |plan: &crate::NodePlan| controllers::NodeContext {
        agent_socket: paths.agent_socket(&plan.name),
        cgroup: state.node_cgroup(&plan.name),
        plan: plan.clone(),
    };
    Ok(controllers::Context {
        client,
        topology: state.topology.clone(),
        balancers,
        registry: shared.registry.clone(),
        nodes: state.topology.nodes.iter().map(node).collect(),
        state_dir: paths.root().to_owned(),
        cni_plugin: exe.clone(),
        exe,
    })
}

type Serving = tokio::task::JoinHandle<io::Result<()>>;

/// The API on the edge's address for the nodes, and on this host's loopback for the user.
async fn start_api(state: &State) -> anyhow::Result<(SocketAddr, Serving)> {
    let topology = &state.topology;
    let mut config = apiserver::Config::new(topology.addressing.iter().map(|f| f.services).collect());
    config.advertise = Some((topology.api_address().ip(), topology.api_address().port()));
    let server = ApiServer::new(config)?;
    let edge = NetNs::open(&topology.edge_namespace())?;
    let inside = edge.run(|| std::net::TcpListener::bind(topology.api_address()))??;
    inside.set_nonblocking(true)?;
    let inside = TcpListener::from_std(inside)?;
    let outside = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
    let address = outside.local_addr()?;
    kubeconfig::write(&state.paths().kubeconfig(), &topology.name, address)?;
    let serving = tokio::spawn(async move {
        tokio::try_join!(
            server.serve(inside, std::future::pending()),
            server.serve(outside, std::future::pending()),
        )
        .map(drop)
    });
    Ok((address, serving))
}
