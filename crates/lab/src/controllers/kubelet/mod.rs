//! The kubelet of one node: a worker per pod, a heartbeat for the node.
//!
//! ```text
//!  World ── pods of this node ──> Kubelet ──> Worker per pod ──┬── plan: object + record -> steps (pure)
//!                                                              ├── cni: the pod's network
//!                                                              ├── process: its containers
//!                                                              └── probe: their readiness
//! ```
//!
//! Never decides where a pod runs, and never touches a network beyond creating the pod's namespace.

mod cni;
mod image;
mod nginx;
mod node;
mod plan;
mod probe;
mod process;
mod state;
mod status;
mod worker;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::Client;
use tokio::{
    sync::watch,
    task::{Id, JoinSet},
};
use tokio_util::sync::CancellationToken;

use self::{cni::Plugin, state::PodRecord, worker::Worker};
use super::{
    NodeContext,
    events::Recorder,
    meta::{is_finished, is_terminating, node_of},
    world::World,
};
use crate::{plan::Topology, process::Registry};

/// What all kubelets of a lab share.
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) world: World,
    pub(super) topology: Topology,
    pub(super) state_dir: PathBuf,
    pub(super) registry: Registry,
    pub(super) exe: PathBuf,
    pub(super) cni_plugin: PathBuf,
    /// When this lab's nodes "booted".
    pub(super) boot: Timestamp,
}

pub(super) struct Kubelet {
    shared: Arc<Shared>,
    node: Arc<NodeContext>,
    recorder: Recorder,
    plugin: Plugin,
    /// What each worker is told, by pod uid.
    told: BTreeMap<String, watch::Sender<Option<Arc<Pod>>>>,
    workers: JoinSet<()>,
    /// Which task is whose.
    uids: BTreeMap<Id, String>,
}

impl Kubelet {
    pub(super) fn new(shared: Arc<Shared>, node: NodeContext) -> Self {
        let recorder = Recorder::new(shared.client.clone(), "kubelet", Some(node.plan.name.clone()));
        let plugin = Plugin { executable: shared.cni_plugin.clone(), socket: node.agent_socket.clone() };
        Self {
            shared,
            node: Arc::new(node),
            recorder,
            plugin,
            told: BTreeMap::new(),
            workers: JoinSet::new(),
            uids: BTreeMap::new(),
        }
    }

    /// Runs until `shutdown`; then every worker ends its pod.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let beating = node::heartbeat(
            Arc::clone(&self.shared),
            Arc::clone(&self.node),
            self.plugin.clone(),
            shutdown.clone(),
        );
        let beating = tokio::spawn(beating);
        // Pods of an earlier supervisor: adopted if the API still wants them, cleaned up if not.
        for record in state::load(&self.shared.state_dir) {
            if record.node == self.node.plan.name {
                let pod =
                    self.pods().into_iter().find(|pod| pod.metadata.uid.as_deref() == Some(&record.uid));
                self.start(record, pod, &shutdown);
            }
        }
        let mut changes = self.shared.world.pods.changes();
        loop {
            changes.mark_unchanged();
            self.tell(&shutdown);
            tokio::select! {
                _ = changes.changed() => {}
                Some(ended) = self.workers.join_next_with_id() => {
                    let id = match &ended {
                        Ok((id, ())) => *id,
                        Err(error) => {
                            tracing::error!(%error, "a pod worker failed");
                            error.id()
                        }
                    };
                    if let Some(uid) = self.uids.remove(&id) {
                        self.told.remove(&uid);
                    }
                }
                () = shutdown.cancelled() => break,
            }
        }
        while self.workers.join_next().await.is_some() {}
        let _ = beating.await;
    }

    fn pods(&self) -> Vec<Arc<Pod>> {
        let mut pods = self.shared.world.pods.all();
        pods.retain(|pod| node_of(pod) == Some(&self.node.plan.name));
        pods
    }

    /// Tells every worker the present object of its pod, and starts workers for new pods.
    fn tell(&mut self, shutdown: &CancellationToken) {
        let pods = self.pods();
        let mut present: BTreeMap<_, _> =
            pods.into_iter().filter_map(|pod| Some((pod.metadata.uid.clone()?, pod))).collect();
        for (uid, told) in &self.told {
            let pod = present.remove(uid);
            told.send_if_modified(|before| {
                let version = |pod: &Option<Arc<Pod>>| {
                    pod.as_ref().and_then(|pod| pod.metadata.resource_version.clone())
                };
                let news = before.is_some() != pod.is_some() || version(before) != version(&pod);
                *before = pod;
                news
            });
        }
        for pod in present.into_values() {
            // What has ended needs nobody until it is deleted.
            if !is_finished(&pod) || is_terminating(&pod.metadata) {
                let record = PodRecord::new(&pod, &self.node.plan.name);
                self.start(record, Some(pod), shutdown);
            }
        }
    }

    fn start(&mut self, record: PodRecord, pod: Option<Arc<Pod>>, shutdown: &CancellationToken) {
        let uid = record.uid.clone();
        let (told, desired) = watch::channel(pod);
        let worker = Worker::new(
            Arc::clone(&self.shared),
            Arc::clone(&self.node),
            self.recorder.clone(),
            self.plugin.clone(),
            record,
        );
        let task = self.workers.spawn(worker.run(desired, shutdown.clone()));
        self.uids.insert(task.id(), uid.clone());
        self.told.insert(uid, told);
    }
}
