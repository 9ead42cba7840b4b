//! Stand-ins for the control plane and the kubelets of a real cluster.
//!
//! ```text
//!  API ── watches ──> World ──┬── deployment, replicaset, scheduler      ┐ each: plan(desired, observed) -> actions,
//!                             ├── endpointslice, service ──> edge         ├ a thin executor, level-triggered
//!                             └── kubelet per node ──> namespaces, CNI,   ┘
//!                                                      processes
//! ```
//!
//! Only the supervisor runs these. They speak the Kubernetes API and know nothing of who serves it; they never
//! touch a dataplane: pods get their network from the real CNI plugin.

mod body;
mod deployment;
pub mod echo;
mod endpointslice;
mod events;
mod kubelet;
mod meta;
mod pass;
mod replicaset;
mod scheduler;
mod service;
mod world;
mod write;

use std::{path::PathBuf, sync::Arc};

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use service::{LoadBalancerError, LoadBalancers};

use self::{
    deployment::Deployments, endpointslice::EndpointSlices, events::Recorder, kubelet::Kubelet,
    pass::Controller, replicaset::ReplicaSets, scheduler::Scheduler, service::Services, world::World,
};
use crate::{
    plan::{NodePlan, Topology},
    process::Registry,
};

/// What the controllers work with.
#[derive(Clone)]
pub struct Context<L> {
    /// Speaks to the lab's API.
    pub client: Client,
    pub topology: Topology,
    /// The edge, or what stands in for it.
    pub balancers: L,
    /// One per node that gets a kubelet.
    pub nodes: Vec<NodeContext>,
    /// Records of running pods, their files and logs. Survives the supervisor; goes with the lab.
    pub state_dir: PathBuf,
    /// Where container processes are recorded, for whoever removes the lab.
    pub registry: Registry,
    /// The `twinplane` binary: what the echo image runs.
    pub exe: PathBuf,
    /// What is executed as the CNI plugin; normally `exe`.
    pub cni_plugin: PathBuf,
}

/// What a kubelet must know beyond the plan.
#[derive(Clone, Debug)]
pub struct NodeContext {
    pub plan: NodePlan,
    /// The node agent's socket: handed to the CNI plugin.
    pub agent_socket: PathBuf,
    /// The node's cgroup (v2): its containers are put there. `None`: they stay in the supervisor's.
    pub cgroup: Option<PathBuf>,
}

impl<L: std::fmt::Debug> std::fmt::Debug for Context<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The client has nothing to show.
        let Self { topology, balancers, nodes, state_dir, registry, exe, cni_plugin, client: _ } = self;
        f.debug_struct("Context")
            .field("topology", topology)
            .field("balancers", balancers)
            .field("nodes", nodes)
            .field("state_dir", state_dir)
            .field("registry", registry)
            .field("exe", exe)
            .field("cni_plugin", cni_plugin)
            .finish()
    }
}

/// Runs every controller and kubelet until `shutdown`, then ends all containers and removes their namespaces.
pub async fn run<L: LoadBalancers>(context: Context<L>, shutdown: CancellationToken) {
    let mut tasks = JoinSet::new();
    // The watches end last: what ends before them may still wait for its own writes.
    let watching = CancellationToken::new();
    let world = World::start(&context.client, &mut tasks, &watching).await;
    let (client, recorder) = (&context.client, |name| Recorder::new(context.client.clone(), name, None));
    let mut work = JoinSet::new();
    work.spawn(pass::run(
        Deployments { client: client.clone(), world: world.clone(), recorder: recorder(Deployments::NAME) },
        shutdown.clone(),
    ));
    work.spawn(pass::run(
        ReplicaSets { client: client.clone(), world: world.clone(), recorder: recorder(ReplicaSets::NAME) },
        shutdown.clone(),
    ));
    let names = context.nodes.iter().map(|node| node.plan.name.clone()).collect();
    let scheduler = Scheduler::new(client.clone(), world.clone(), recorder(Scheduler::NAME), names);
    work.spawn(pass::run(scheduler, shutdown.clone()));
    let slices = EndpointSlices::new(client.clone(), world.clone(), context.topology.api_address());
    work.spawn(pass::run(slices, shutdown.clone()));
    let services = Services::new(
        client.clone(),
        world.clone(),
        recorder(Services::<L>::NAME),
        context.balancers.clone(),
    );
    work.spawn(pass::run(services, shutdown.clone()));
    let shared = Arc::new(kubelet::Shared {
        client: client.clone(),
        world,
        topology: context.topology.clone(),
        state_dir: context.state_dir.clone(),
        registry: context.registry.clone(),
        exe: context.exe.clone(),
        cni_plugin: context.cni_plugin.clone(),
        boot: Timestamp::now(),
    });
    work.spawn(body::provide(body::directory(&context.state_dir)));
    for node in context.nodes {
        work.spawn(Kubelet::new(Arc::clone(&shared), node).run(shutdown.clone()));
    }
    while let Some(ended) = work.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            tracing::error!(%error, "a controller panicked");
        }
    }
    watching.cancel();
    while tasks.join_next().await.is_some() {}
}
