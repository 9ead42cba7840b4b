//! A pod's containers: starting, backing off, stopping, and noting how they ended.

use std::{io, path::PathBuf, time::Duration};

use k8s_openapi::{
    api::core::v1::{Container as Spec, Pod},
    jiff::{SignedDuration, Timestamp},
};

use super::{
    super::{
        super::{body, events::Note},
        image::{self, Setting},
        probe,
        process::{self, Place},
        state::{Container, Exit, Sandbox, State},
    },
    Ended, Worker, spec_of,
};
use crate::process::ProcessId;

/// A container that cannot be configured is looked at again after this (kubelet's sync period is of this order).
const RECONFIGURE: SignedDuration = SignedDuration::from_secs(10);

/// Why a container could not be started.
enum Launch {
    /// By its spec.
    Unrunnable(image::Unrunnable),
    /// By the system.
    Failed(io::Error),
}

impl Worker {
    pub(super) async fn start(&mut self, pod: &Pod, name: &str) {
        let Some(spec) = spec_of(pod, name) else { return };
        let before = self.record.containers.get(name);
        let (restarts, last) = match before.map(|container| &container.state) {
            Some(State::Exited(exit)) => (before.map_or(0, |before| before.restarts + 1), Some(exit.clone())),
            _ => {
                let last = before.and_then(|before| before.last.clone());
                let again = u32::from(last.is_some());
                (before.map_or(0, |before| before.restarts) + again, last)
            }
        };
        let state = match self.launch(pod, spec).await {
            Ok((process, listens)) => {
                self.note(pod, name, Note::normal("Started", format!("Started container {name}"))).await;
                let state = State::Running { process, since: Timestamp::now(), stopping: false };
                self.record
                    .containers
                    .insert(name.to_owned(), Container { state, last, restarts, ready: false });
                return self.watch(spec, listens);
            }
            Err(Launch::Unrunnable(why)) => {
                self.note(pod, name, Note::warning("Failed", format!("Error: {}", why.message))).await;
                let until = Timestamp::now() + RECONFIGURE;
                let restarts = before_restarts(restarts, last.as_ref());
                let state = State::Waiting { reason: why.reason.to_owned(), message: why.message, until };
                self.record
                    .containers
                    .insert(name.to_owned(), Container { state, last, restarts, ready: false });
                return;
            }
            Err(Launch::Failed(error)) => {
                self.note(pod, name, Note::warning("Failed", format!("Error: {error}"))).await;
                // As runc's shim: 127 not found, 126 not executable, 128 anything else.
                let code = match error.kind() {
                    io::ErrorKind::NotFound => 127,
                    io::ErrorKind::PermissionDenied => 126,
                    _ => 128,
                };
                let reason = "StartError".to_owned();
                let message = Some(error.to_string());
                State::Exited(Exit { code, reason, message, started: None, finished: Timestamp::now() })
            }
        };
        self.record.containers.insert(name.to_owned(), Container { state, last, restarts, ready: false });
    }

    async fn launch(&self, pod: &Pod, spec: &Spec) -> Result<(ProcessId, Option<u16>), Launch> {
        let Sandbox::Ready { netns, .. } = &self.record.sandbox else {
            return Err(Launch::Failed(io::Error::other("the pod has no network")));
        };
        let program = image::program(spec, &self.setting(pod, spec)).map_err(Launch::Unrunnable)?;
        let listens = program.listens;
        let directory = self.container_directory(spec);
        tokio::fs::create_dir_all(&directory).await.map_err(Launch::Failed)?;
        let place = Place {
            netns: netns.clone(),
            cgroup: self.node.cgroup.clone(),
            directory,
            log: self.directory.log(&spec.name),
        };
        let started = process::start(program, place).await.map_err(Launch::Failed)?;
        let (process, ended, container) = (started.process, self.exits.0.clone(), spec.name.clone());
        self.register(process, &container);
        let registry = self.shared.registry.clone();
        tokio::spawn(async move {
            let exit = started.exit.await;
            if let Err(error) = registry.forget(process) {
                tracing::warn!(pid = process.pid(), %error, "a container's record stays");
            }
            if let Ok(exit) = exit {
                // A worker that is gone has killed the container already.
                let _ = ended.send(Ended { container, process, exit }).await;
            }
        });
        Ok((process, listens))
    }

    /// One that ended at once cannot be recorded, and need not be.
    fn register(&self, process: ProcessId, container: &str) {
        let role = format!("pod {} {container}", self.record.full_name());
        if let Ok(pid) = u32::try_from(process.pid())
            && let Err(error) = self.shared.registry.record(&role, pid)
        {
            tracing::debug!(role, %error, "not recorded");
        }
    }

    pub(super) fn setting<'a>(&'a self, pod: &'a Pod, spec: &Spec) -> Setting<'a> {
        Setting {
            pod,
            node: &self.node.plan.name,
            addresses: self.record.addresses(),
            host_addresses: &self.node.plan.addresses,
            directory: self.container_directory(spec),
            bodies: body::directory(&self.shared.state_dir),
            exe: self.shared.exe.clone(),
        }
    }

    fn container_directory(&self, spec: &Spec) -> PathBuf {
        self.directory.path().join(&spec.name)
    }

    pub(super) async fn back_off(&mut self, pod: &Pod, name: &str, until: Timestamp, delay: Duration) {
        let Some(container) = self.record.containers.get_mut(name) else { return };
        let State::Exited(exit) = &container.state else { return };
        container.last = Some(exit.clone());
        let whose = format!(
            "container={name} pod={}_{}({})",
            self.record.name, self.record.namespace, self.record.uid
        );
        let message = format!("back-off {}s restarting failed {whose}", delay.as_secs());
        container.state = State::Waiting { reason: "CrashLoopBackOff".to_owned(), message, until };
        let whose =
            format!("{name} in pod {}_{}({})", self.record.name, self.record.namespace, self.record.uid);
        let note = Note::warning("BackOff", format!("Back-off restarting failed container {whose}"));
        self.note(pod, name, note).await;
    }

    /// Runs the preStop hook and then signals, beside everything else: the deadline does not wait for the hook.
    pub(super) async fn stop(&mut self, pod: &Pod, name: &str) {
        let Some(spec) = spec_of(pod, name) else { return self.kill(name) };
        let Some(container) = self.record.containers.get_mut(name) else { return };
        let State::Running { process, stopping, .. } = &mut container.state else { return };
        *stopping = true;
        let process = *process;
        let hook = spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.clone());
        let signal = image::stop_signal(spec);
        let netns = match &self.record.sandbox {
            Sandbox::Ready { netns, .. } => netns.clone(),
            _ => String::new(),
        };
        self.note(pod, name, Note::normal("Killing", format!("Stopping container {name}"))).await;
        tokio::spawn(async move {
            if let Some(hook) = hook {
                probe::run_hook(hook, netns).await;
            }
            if let Err(error) = process::stop(process, signal) {
                tracing::warn!(pid = process.pid(), %error, "stop container");
            }
        });
    }

    pub(super) fn kill(&mut self, name: &str) {
        let Some(State::Running { process, .. }) = self.record.containers.get(name).map(|c| &c.state) else {
            return;
        };
        if let Err(error) = process::kill(*process) {
            tracing::warn!(pod = self.record.full_name(), name, %error, "kill container");
        }
    }

    pub(super) fn ended(&mut self, ended: Ended) {
        self.unwatch(&ended.container);
        let Some(container) = self.record.containers.get_mut(&ended.container) else { return };
        if matches!(container.state, State::Running { process, .. } if process == ended.process) {
            container.state = State::Exited(ended.exit);
            container.ready = false;
            self.save();
        }
    }
}

/// A container that did not get to start has not been restarted.
fn before_restarts(restarts: u32, last: Option<&Exit>) -> u32 {
    restarts.saturating_sub(u32::from(last.is_some()))
}
