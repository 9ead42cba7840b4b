//! The ReplicaSet controller: as many pods as wanted, and which go first when there are too many.
//!
//! [`plan`] decides; this executes.

mod plan;

use std::sync::Arc;

use k8s_openapi::{
    api::{apps::v1::ReplicaSet, core::v1::Pod},
    jiff::Timestamp,
};
use kube::Client;
use serde_json::json;
use tokio::sync::watch;

use self::plan::Action;
use super::{
    events::{Note, Recorder},
    meta::{claim, controlled_by},
    pass::{Controller, Outcome},
    world::World,
    write::{self, WriteError},
};

pub(super) struct ReplicaSets {
    pub(super) client: Client,
    pub(super) world: World,
    pub(super) recorder: Recorder,
}

impl Controller for ReplicaSets {
    const NAME: &'static str = "replicaset-controller";

    fn triggers(&self) -> Vec<watch::Receiver<u64>> {
        vec![self.world.replica_sets.changes(), self.world.pods.changes()]
    }

    async fn pass(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        let pods = self.world.pods.all();
        for set in self.world.replica_sets.all() {
            let result = self.reconcile(&set, &pods, &mut outcome).await;
            outcome.note(result);
        }
        outcome
    }
}

impl ReplicaSets {
    async fn reconcile(
        &self,
        set: &ReplicaSet,
        pods: &[Arc<Pod>],
        outcome: &mut Outcome,
    ) -> Result<(), WriteError> {
        let selector = set.spec.as_ref().map(|spec| &spec.selector);
        let (owned, orphans) = claim(&set.metadata, selector, pods);
        let planned = plan::plan(set, &owned, &orphans, Timestamp::now());
        if let Some(delay) = planned.again_after {
            outcome.again(delay);
        }
        for action in planned.actions {
            self.execute(set, action).await?;
        }
        Ok(())
    }

    async fn execute(&self, set: &ReplicaSet, action: Action) -> Result<(), WriteError> {
        let (client, pods) = (&self.client, &self.world.pods);
        match action {
            Action::Adopt(pod) => {
                let patch = json!({"metadata": {"ownerReferences": [controlled_by(set)]}});
                write::merge(client, pods, &pod, patch).await
            }
            Action::Create(pod) => match write::create(client, pods, &pod).await {
                Ok(created) => {
                    if let Some(created) = created {
                        let name = created.metadata.name.unwrap_or_default();
                        let note = Note::normal("SuccessfulCreate", format!("Created pod: {name}"));
                        self.recorder.record(set, note).await;
                    }
                    Ok(())
                }
                Err(error) => {
                    let cause =
                        std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                    let note = Note::warning("FailedCreate", format!("Error creating: {cause}"));
                    self.recorder.record(set, note).await;
                    Err(error)
                }
            },
            Action::Delete(pod) => {
                write::delete(client, pods, pod.as_ref(), None).await?;
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                let note = Note::normal("SuccessfulDelete", format!("Deleted pod: {name}"));
                self.recorder.record(set, note).await;
                Ok(())
            }
            Action::SetStatus(status) => {
                let written = ReplicaSet { status: Some(*status), ..set.clone() };
                write::replace_status(client, &self.world.replica_sets, &written).await
            }
        }
    }
}
