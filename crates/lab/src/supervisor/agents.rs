//! One agent process per node: started in the node's namespace and cgroup, started again when it ends, unless it was told to.

use std::{
    fs::{self, File},
    io,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use model::Family;
use netns::NetNs;
use nix::sys::signal::Signal;
use tokio::{process::Child, sync::watch, task::JoinSet};

use super::{Shared, quiet_environment};
use crate::{
    agent_arg::AgentArg, http, plan::NodePlan, process::ProcessId, state::State, status::AgentStatus,
};

/// Between an end and the next start, doubling with every end in a row.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// An agent that ran this long has earned a fresh start.
const STABLE: Duration = Duration::from_secs(30);

/// How often a starting agent is asked whether it answers.
pub(super) const POLL: Duration = Duration::from_millis(20);

/// How long an agent has to end when it is told to.
const GRACE: Duration = Duration::from_secs(3);

/// Starts all agents; the returned future ends only when one cannot be supervised any more.
///
/// # Errors
/// A node's namespace is missing.
pub(super) fn start(shared: &Arc<Shared>) -> anyhow::Result<impl Future<Output = anyhow::Error> + use<>> {
    let mut tasks = JoinSet::new();
    for node in &shared.state.topology.nodes {
        let namespace = NetNs::open(&node.namespace)?;
        tasks.spawn(keep_running(Arc::clone(shared), node.clone(), namespace));
    }
    Ok(async move {
        match tasks.join_next().await {
            Some(Ok(error)) => error.into(),
            Some(Err(panicked)) => panicked.into(),
            None => anyhow::anyhow!("there is no node"),
        }
    })
}

async fn keep_running(shared: Arc<Shared>, node: NodePlan, namespace: NetNs) -> io::Error {
    let mut wanted = shared.wanted[&node.name].subscribe();
    let mut pauses = Pauses::default();
    loop {
        let begun = Instant::now();
        let child = match spawn(&shared, &node, &namespace) {
            Ok(child) => child,
            Err(error) => return error,
        };
        let exit = run(&shared, &node, child, &mut wanted).await;
        let stopped = !*wanted.borrow();
        set(&shared, &node, |agent| {
            let restarts = agent.restarts + u32::from(!stopped);
            *agent =
                AgentStatus { restarts, last_exit: Some(exit.clone()), stopped, ..AgentStatus::default() };
        });
        if stopped {
            tracing::info!(node = node.name, exit, "the agent was told to end");
            until(&mut wanted, true).await;
            set(&shared, &node, |agent| agent.stopped = false);
            pauses = Pauses::default();
        } else {
            let pause = pauses.after(begun.elapsed());
            tracing::error!(node = node.name, exit, pause_ms = pause.as_millis(), "the agent ended");
            tokio::time::sleep(pause).await;
        }
    }
}

/// Until it ends, by itself or because it is not wanted any more; says how.
async fn run(shared: &Shared, node: &NodePlan, child: Child, wanted: &mut watch::Receiver<bool>) -> String {
    let process = child.id().and_then(|pid| ProcessId::of(pid).ok());
    let signal = |signal| {
        if let Some(Err(error)) = process.map(|process| process.signal(signal)) {
            tracing::warn!(node = node.name, %error, "the agent cannot be ended");
        }
    };
    let mut watching = std::pin::pin!(watch_child(shared, node, child));
    let ended = tokio::select! {
        ended = &mut watching => ended,
        () = until(wanted, false) => {
            signal(Signal::SIGTERM);
            match tokio::time::timeout(GRACE, &mut watching).await {
                Ok(ended) => ended,
                Err(_) => {
                    signal(Signal::SIGKILL);
                    watching.await
                }
            }
        }
    };
    ended.map_or_else(|error| error.to_string(), |status| status.to_string())
}

/// The sender lives as long as the supervisor.
async fn until(wanted: &mut watch::Receiver<bool>, value: bool) {
    if wanted.wait_for(|wanted| *wanted == value).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn spawn(shared: &Shared, node: &NodePlan, namespace: &NetNs) -> io::Result<Child> {
    let state = &shared.state;
    let paths = state.paths();
    let log = File::options().create(true).append(true).open(paths.agent_log(&node.name))?;
    let mut command = namespace.command(&std::env::current_exe()?.to_string_lossy());
    command.arg("agent");
    command.args(["--node", &node.name, "--dataplane", state.topology.plane.as_str()]);
    command.args(["--api-server", &state.topology.api_url(), "--uplink", "eth0"]);
    command.arg("--socket").arg(paths.agent_socket(&node.name));
    command.arg("--observer-socket").arg(paths.observer_socket(&node.name));
    if state.topology.relay_address().is_some() {
        command.args(["--observer-bind", &node.observer_address().to_string()]);
        command.arg("--observer-tls-cert").arg(paths.certificate(&node.name));
        command.arg("--observer-tls-key").arg(paths.key(&node.name));
        command.arg("--observer-tls-client-ca").arg(paths.authority());
    }
    command.arg("--bpffs").arg(state.node_bpffs(&node.name));
    // Never the machine's own: other labs, and the machine, are below its root.
    command.arg("--cgroup").arg(state.node_cgroup(&node.name).unwrap_or_else(|| "none".into()));
    for family in &state.topology.addressing {
        command.args(["--cluster-cidr", &family.pods.to_string()]);
        if family.family() == Family::V6 {
            // Takes IPv4 as well (RFC 3493, section 5.3).
            command.args(["--healthz-bind", "[::]:10256"]);
        }
    }
    command.args(["--routing", state.topology.routing.as_str()]);
    command.args(arguments(state).iter().map(AgentArg::as_str));
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir("/");
    quiet_environment(&mut command);
    let child = tokio::process::Command::from(command).spawn()?;
    let pid = child.id().ok_or(io::ErrorKind::NotFound)?;
    // One that ended at once cannot be recorded, and need not be.
    if let Err(error) = shared.registry.record(&format!("agent {}", node.name), pid) {
        tracing::warn!(node = node.name, %error, "the agent is not recorded");
    }
    if let Some(group) = state.node_cgroup(&node.name)
        && let Err(error) = fs::write(group.join("cgroup.procs"), pid.to_string())
    {
        tracing::warn!(node = node.name, %error, "the agent stays out of its node's cgroup");
    }
    Ok(child)
}

/// What a user gives agents now: others than at first, perhaps.
fn arguments(state: &State) -> Vec<AgentArg> {
    State::load(&state.topology.name).map_or_else(
        |error| {
            tracing::warn!(%error, "agents get the arguments of the lab's start");
            state.agent_args.clone()
        },
        |now| now.agent_args,
    )
}

/// Waits for the end, noting when it answers.
async fn watch_child(shared: &Shared, node: &NodePlan, mut child: Child) -> io::Result<ExitStatus> {
    let process = child.id().and_then(|pid| ProcessId::of(pid).ok());
    set(shared, node, |agent| agent.pid = child.id());
    let answers = async {
        let socket = shared.state.paths().agent_socket(&node.name);
        let path = "/v1/status";
        loop {
            let socket = socket.clone();
            let ask = move || http::get_unix(&socket, path, Duration::from_secs(1));
            let answer = tokio::task::spawn_blocking(ask).await;
            if matches!(answer, Ok(Ok(response)) if response.status == 200) {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let ended = tokio::select! {
        ended = child.wait() => ended,
        () = answers => {
            tracing::info!(node = node.name, "the agent answers");
            set(shared, node, |agent| agent.ready = true);
            child.wait().await
        }
    };
    if let Some(process) = process
        && let Err(error) = shared.registry.forget(process)
    {
        tracing::warn!(node = node.name, %error, "the agent's record stays");
    }
    ended
}

fn set(shared: &Shared, node: &NodePlan, change: impl FnOnce(&mut AgentStatus)) {
    shared.update(|status| {
        let own = status.nodes.iter_mut().find(|status| status.name == node.name);
        change(&mut own.expect("every node has a status").agent);
    });
}

/// How long to wait before the next start.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    /// Ends in a row of agents that did not run long.
    quick_ends: u32,
}

impl Pauses {
    pub(super) fn after(&mut self, ran: Duration) -> Duration {
        self.quick_ends = if ran >= STABLE { 0 } else { self.quick_ends + 1 };
        let doublings = self.quick_ends.saturating_sub(1).min(16);
        (FIRST_PAUSE * 2u32.pow(doublings)).min(LONGEST_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_begin_anew_after_a_long_run() {
        let mut pauses = Pauses::default();
        let quick: Vec<_> = (0..9).map(|_| pauses.after(Duration::ZERO).as_millis()).collect();
        assert_eq!(quick, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(pauses.after(STABLE).as_millis(), 100);
        assert_eq!(pauses.after(Duration::ZERO).as_millis(), 100);
    }
}
