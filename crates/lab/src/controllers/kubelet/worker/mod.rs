//! One pod's worker: asks [`plan`](super::plan) what is next, does it, reports what became of it.
//!
//! The only owner of the pod's record. Decides nothing itself; every step may be repeated.

mod containers;
mod health;
mod network;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{Container as Spec, ObjectReference, Pod},
    jiff::Timestamp,
};
use kube::Resource as _;
use netns::NetNs;
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        NodeContext,
        events::{Note, Recorder},
        write,
    },
    Shared,
    cni::Plugin,
    image,
    plan::{self, Desired, Step},
    probe::Finding,
    state::{Exit, PodDirectory, PodRecord, Sandbox},
    status,
};
use crate::process::ProcessId;

/// A step that changed nothing is tried again after this.
const RETRY: Duration = Duration::from_secs(1);
/// A status that another writer overtook is written again after this.
const REPUBLISH: Duration = Duration::from_millis(50);
/// At shutdown, killed containers get this long to be gone.
const LAST_WAIT: Duration = Duration::from_secs(5);
/// How often an adopted process, which is nobody's child, is looked for.
const LOOK: Duration = Duration::from_millis(200);

struct Ended {
    container: String,
    process: ProcessId,
    exit: Exit,
}

pub(super) struct Worker {
    shared: Arc<Shared>,
    node: Arc<NodeContext>,
    recorder: Recorder,
    plugin: Plugin,
    directory: PodDirectory,
    record: PodRecord,
    probes: BTreeMap<String, Vec<AbortHandle>>,
    exits: (mpsc::Sender<Ended>, mpsc::Receiver<Ended>),
    findings: (mpsc::Sender<Finding>, mpsc::Receiver<Finding>),
    /// The pod is forgotten: nothing is left to do.
    done: bool,
}

impl Worker {
    pub(super) fn new(
        shared: Arc<Shared>,
        node: Arc<NodeContext>,
        recorder: Recorder,
        plugin: Plugin,
        record: PodRecord,
    ) -> Self {
        let directory = PodDirectory::new(&shared.state_dir, &record.uid);
        Self {
            shared,
            node,
            recorder,
            plugin,
            directory,
            record,
            probes: BTreeMap::new(),
            exits: mpsc::channel(16),
            findings: mpsc::channel(16),
            done: false,
        }
    }

    pub(super) async fn run(
        mut self,
        mut desired: watch::Receiver<Option<Arc<Pod>>>,
        shutdown: CancellationToken,
    ) {
        let pod = desired.borrow().clone();
        self.adopt(pod.as_deref());
        loop {
            let pod = desired.borrow_and_update().clone();
            let before = self.record.clone();
            let planned = plan::plan(Desired::of(pod.as_deref()), &self.record, Timestamp::now());
            let busy = !planned.steps.is_empty();
            for step in planned.steps {
                self.execute(step, pod.as_deref()).await;
            }
            if self.done {
                return;
            }
            let published = self.publish().await;
            if self.record != before {
                self.save();
                continue;
            }
            let mut wait = planned.wake_at.map_or(Duration::MAX, |at| plan::between(Timestamp::now(), at));
            if busy {
                wait = wait.min(RETRY);
            }
            if !published {
                wait = wait.min(REPUBLISH);
            }
            tokio::select! {
                changed = desired.changed() => if changed.is_err() { return self.abandon().await },
                Some(ended) = self.exits.1.recv() => self.ended(ended),
                Some(finding) = self.findings.1.recv() => self.found(finding, pod.as_deref()).await,
                () = tokio::time::sleep(wait) => {}
                () = shutdown.cancelled() => return self.abandon().await,
            }
        }
    }

    async fn execute(&mut self, step: Step, pod: Option<&Pod>) {
        match (step, pod) {
            (Step::MakeSandbox, Some(pod)) => self.make_sandbox(pod).await,
            (Step::RemoveSandbox, _) => self.remove_sandbox(pod).await,
            (Step::Start(name), Some(pod)) => self.start(pod, &name).await,
            (Step::BackOff { container, until, delay }, Some(pod)) => {
                self.back_off(pod, &container, until, delay).await;
            }
            (Step::Stop(name), Some(pod)) => self.stop(pod, &name).await,
            (Step::Kill(name), _) => self.kill(&name),
            (Step::RemoveObject, Some(pod)) => {
                let pods = &self.shared.world.pods;
                if let Err(error) = write::delete(&self.shared.client, pods, pod, Some(0)).await {
                    tracing::warn!(error = &error as &dyn std::error::Error, "remove pod object");
                }
            }
            (Step::Forget, _) => {
                if let Err(error) = self.directory.remove() {
                    tracing::warn!(pod = self.record.full_name(), %error, "remove pod directory");
                }
                self.done = true;
            }
            // Only what runs needs the object, and what has none is not planned to run.
            (
                Step::MakeSandbox
                | Step::Start(_)
                | Step::BackOff { .. }
                | Step::Stop(_)
                | Step::RemoveObject,
                None,
            ) => {}
        }
    }

    // What an earlier supervisor left.

    /// Takes over what still runs, and notes what no longer does.
    fn adopt(&mut self, pod: Option<&Pod>) {
        let running: Vec<_> =
            self.record.running().map(|(name, process)| (name.to_owned(), process)).collect();
        for (container, process) in running {
            let (ended, name) = (self.exits.0.clone(), container.clone());
            tokio::spawn(async move {
                while process.is_alive() {
                    tokio::time::sleep(LOOK).await;
                }
                let exit = Exit {
                    code: 137,
                    reason: "ContainerStatusUnknown".to_owned(),
                    message: Some(
                        "The container could not be located when the kubelet was restarted".to_owned(),
                    ),
                    started: None,
                    finished: Timestamp::now(),
                };
                let _ = ended.send(Ended { container: name, process, exit }).await;
            });
            if let Some(pod) = pod
                && let Some(spec) = spec_of(pod, &container)
            {
                let listens =
                    image::program(spec, &self.setting(pod, spec)).ok().and_then(|program| program.listens);
                self.watch(spec, listens);
            }
        }
    }

    // What others see.

    /// Writes the status if it differs from what the API has; false if it must be tried again.
    async fn publish(&self) -> bool {
        let pods = &self.shared.world.pods;
        let Some(pod) = pods.get(Some(&self.record.namespace), &self.record.name) else { return true };
        if pod.metadata.uid.as_deref() != Some(&self.record.uid) {
            return true;
        }
        let status = status::render(&pod, &self.record, &self.node.plan.addresses, Timestamp::now());
        if pod.status.as_ref() == Some(&status) {
            return true;
        }
        let written = Pod { status: Some(status), ..pod.as_ref().clone() };
        match write::replace_status(&self.shared.client, pods, &written).await {
            Ok(()) => true,
            Err(error) => {
                if !error.is_conflict() {
                    tracing::warn!(error = &error as &dyn std::error::Error, "publish pod status");
                }
                false
            }
        }
    }

    async fn note(&self, pod: &Pod, container: &str, note: Note) {
        let involved = ObjectReference {
            field_path: Some(format!("spec.containers{{{container}}}")),
            ..pod.object_ref(&())
        };
        self.recorder.record_on(involved, note).await;
    }

    fn save(&self) {
        if let Err(error) = self.directory.save(&self.record) {
            tracing::error!(pod = self.record.full_name(), %error, "save pod record");
        }
    }

    /// The lab ends: kills everything and removes the namespace. The API and the agent may be gone by now.
    async fn abandon(mut self) {
        let running: Vec<_> = self.record.running().map(|(_, process)| process).collect();
        let names: Vec<_> = self.record.containers.keys().cloned().collect();
        for name in names {
            self.unwatch(&name);
            self.kill(&name);
        }
        let gone = async {
            while running.iter().any(|process| process.is_alive()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(LAST_WAIT, gone).await.is_err() {
            tracing::error!(pod = self.record.full_name(), "containers outlive SIGKILL");
            return;
        }
        let netns = match &self.record.sandbox {
            Sandbox::Ready { netns, host_network: false, .. } | Sandbox::Partial { netns } => {
                Some(netns.clone())
            }
            _ => None,
        };
        if let Some(netns) = netns
            && let Err(error) = NetNs::remove(&netns)
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "end of a pod");
            return;
        }
        if let Err(error) = self.directory.remove() {
            tracing::warn!(pod = self.record.full_name(), %error, "remove pod directory");
        }
    }
}

fn spec_of<'a>(pod: &'a Pod, name: &str) -> Option<&'a Spec> {
    let spec = pod.spec.as_ref()?;
    spec.containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .find(|container| container.name == name)
}
