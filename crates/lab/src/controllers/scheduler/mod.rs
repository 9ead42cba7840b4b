//! The scheduler: binds pods that have no node. [`plan`] decides; this executes.

mod plan;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::core::v1::{Pod, PodCondition, PodStatus},
    jiff::Timestamp,
};
use kube::Client;
use tokio::sync::watch;

use self::plan::Decision;
use super::{
    events::{Note, Recorder},
    meta::{api_time, full_name, pod_condition},
    pass::{Controller, Outcome},
    world::World,
    write::{self, WriteError},
};

/// At its start a lab's nodes get this long to become ready; until then nothing is placed on the first that is.
const START_UP: Duration = Duration::from_secs(10);

pub(super) struct Scheduler {
    client: Client,
    world: World,
    recorder: Recorder,
    /// The nodes that the lab starts with, until they are there or late.
    awaited: Option<(Vec<String>, Instant)>,
}

impl Scheduler {
    pub(super) fn new(client: Client, world: World, recorder: Recorder, nodes: Vec<String>) -> Self {
        Self { client, world, recorder, awaited: Some((nodes, Instant::now() + START_UP)) }
    }

    /// How long to wait for nodes that are about to come up: what spreads must know over what.
    fn wait_for_nodes(&mut self) -> Option<Duration> {
        let (awaited, deadline) = self.awaited.as_ref()?;
        let rest = deadline.saturating_duration_since(Instant::now());
        if rest.is_zero() || plan::all_ready(awaited, &self.world.nodes.all()) {
            self.awaited = None;
            return None;
        }
        Some(rest)
    }
}

impl Controller for Scheduler {
    const NAME: &'static str = "default-scheduler";

    fn triggers(&self) -> Vec<watch::Receiver<u64>> {
        vec![self.world.pods.changes(), self.world.nodes.changes()]
    }

    async fn pass(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        if let Some(rest) = self.wait_for_nodes() {
            outcome.again(rest);
            return outcome;
        }
        for (pod, decision) in plan::plan(&self.world.pods.all(), &self.world.nodes.all()) {
            let result = match decision {
                Decision::Bind { node } => self.bind(&pod, &node).await,
                Decision::Wait { message } => self.wait(&pod, message).await,
            };
            outcome.note(result);
        }
        outcome
    }
}

impl Scheduler {
    async fn bind(&self, pod: &Arc<Pod>, node: &str) -> Result<(), WriteError> {
        write::bind(&self.client, &self.world.pods, pod, node).await?;
        let message = format!("Successfully assigned {} to {node}", full_name(&pod.metadata));
        self.recorder.record(pod.as_ref(), Note::normal("Scheduled", message)).await;
        Ok(())
    }

    /// Says why the pod waits; once per reason, so that waiting costs nothing.
    async fn wait(&self, pod: &Arc<Pod>, message: String) -> Result<(), WriteError> {
        let told = pod_condition(pod, "PodScheduled");
        if told.is_some_and(|told| told.status == "False" && told.message.as_deref() == Some(&message)) {
            return Ok(());
        }
        let mut status = pod
            .status
            .clone()
            .unwrap_or_else(|| PodStatus { phase: Some("Pending".to_owned()), ..PodStatus::default() });
        let conditions = status.conditions.get_or_insert_default();
        conditions.retain(|condition| condition.type_ != "PodScheduled");
        conditions.push(PodCondition {
            type_: "PodScheduled".to_owned(),
            status: "False".to_owned(),
            reason: Some("Unschedulable".to_owned()),
            message: Some(message.clone()),
            last_transition_time: Some(api_time(Timestamp::now())),
            ..PodCondition::default()
        });
        let written = Pod { status: Some(status), ..pod.as_ref().clone() };
        write::replace_status(&self.client, &self.world.pods, &written).await?;
        self.recorder.record(pod.as_ref(), Note::warning("FailedScheduling", message)).await;
        Ok(())
    }
}
