//! The Deployment controller: keeps one ReplicaSet per pod template and moves replicas between them.
//!
//! [`plan`] decides; this executes. Never touches pods: that is the ReplicaSet controller's.

mod plan;
mod rollout;
mod status;

use std::sync::Arc;

use k8s_openapi::{
    api::apps::v1::{Deployment, ReplicaSet},
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

pub(super) struct Deployments {
    pub(super) client: Client,
    pub(super) world: World,
    pub(super) recorder: Recorder,
}

impl Controller for Deployments {
    const NAME: &'static str = "deployment-controller";

    fn triggers(&self) -> Vec<watch::Receiver<u64>> {
        vec![self.world.deployments.changes(), self.world.replica_sets.changes()]
    }

    async fn pass(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        let sets = self.world.replica_sets.all();
        for deployment in self.world.deployments.all() {
            let result = self.reconcile(&deployment, &sets, &mut outcome).await;
            outcome.note(result);
        }
        outcome
    }
}

impl Deployments {
    async fn reconcile(
        &self,
        deployment: &Deployment,
        sets: &[Arc<ReplicaSet>],
        outcome: &mut Outcome,
    ) -> Result<(), WriteError> {
        let selector = deployment.spec.as_ref().map(|spec| &spec.selector);
        let (owned, orphans) = claim(&deployment.metadata, selector, sets);
        let planned = plan::plan(deployment, &owned, &orphans, Timestamp::now());
        if let Some(delay) = planned.again_after {
            outcome.again(delay);
        }
        for action in planned.actions {
            self.execute(deployment, action).await?;
        }
        Ok(())
    }

    async fn execute(&self, deployment: &Deployment, action: Action) -> Result<(), WriteError> {
        let (client, sets) = (&self.client, &self.world.replica_sets);
        match action {
            Action::Adopt(set) => {
                let patch = json!({"metadata": {"ownerReferences": [controlled_by(deployment)]}});
                write::merge(client, sets, &set, patch).await
            }
            Action::Create(set) => {
                let Some(created) = write::create(client, sets, &set).await? else { return Ok(()) };
                let replicas = created.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
                if replicas > 0 {
                    self.recorder.record(deployment, scaled(&created, 0, replicas)).await;
                }
                Ok(())
            }
            Action::Scale { set, replicas, annotations } => {
                let before = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
                let patch = json!({"metadata": {"annotations": annotations}, "spec": {"replicas": replicas}});
                write::merge(client, sets, &set, patch).await?;
                if before != replicas {
                    self.recorder.record(deployment, scaled(&set, before, replicas)).await;
                }
                Ok(())
            }
            Action::Delete(set) => write::delete(client, sets, set.as_ref(), None).await,
            Action::SetRevision(revision) => {
                let patch = json!({"metadata": {"annotations": {plan::REVISION: revision}}});
                write::merge(client, &self.world.deployments, deployment, patch).await
            }
            Action::SetStatus(status) => {
                let written = Deployment { status: Some(*status), ..deployment.clone() };
                write::replace_status(client, &self.world.deployments, &written).await
            }
        }
    }
}

fn scaled(set: &ReplicaSet, from: i32, to: i32) -> Note {
    let direction = if to > from { "up" } else { "down" };
    let name = set.metadata.name.as_deref().unwrap_or_default();
    Note::normal("ScalingReplicaSet", format!("Scaled {direction} replica set {name} from {from} to {to}"))
}
