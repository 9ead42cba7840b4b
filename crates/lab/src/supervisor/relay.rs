//! The relay of an ebpf cluster: one process in the edge's namespace, started again when it ends.

use std::{
    fs::File,
    io,
    os::unix::net::UnixStream,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Instant,
};

use netns::NetNs;
use tokio::process::Child;

use super::{
    Shared,
    agents::{POLL, Pauses},
    quiet_environment,
};
use crate::{process::ProcessId, status::AgentStatus};

/// The role it is recorded under, and its log.
const ROLE: &str = "relay";

/// Starts it where the lab has one; the returned future ends only when it cannot be supervised any more.
///
/// # Errors
/// The edge's namespace is missing.
pub(super) fn start(shared: &Arc<Shared>) -> anyhow::Result<impl Future<Output = anyhow::Error> + use<>> {
    let namespace = NetNs::open(&shared.state.topology.edge_namespace())?;
    let shared = Arc::clone(shared);
    Ok(async move {
        match shared.state.topology.relay_address() {
            Some(_) => keep_running(&shared, &namespace).await.into(),
            None => std::future::pending().await,
        }
    })
}

async fn keep_running(shared: &Shared, namespace: &NetNs) -> io::Error {
    let mut pauses = Pauses::default();
    loop {
        let begun = Instant::now();
        let child = match spawn(shared, namespace) {
            Ok(child) => child,
            Err(error) => return error,
        };
        let ended = watch(shared, child).await;
        let exit = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
        let pause = pauses.after(begun.elapsed());
        tracing::error!(exit, pause_ms = pause.as_millis(), "the relay ended");
        set(shared, |relay| {
            let restarts = relay.restarts + 1;
            *relay = AgentStatus { restarts, last_exit: Some(exit), ..AgentStatus::default() };
        });
        tokio::time::sleep(pause).await;
    }
}

fn spawn(shared: &Shared, namespace: &NetNs) -> io::Result<Child> {
    let (state, paths) = (&shared.state, shared.state.paths());
    let log = File::options().create(true).append(true).open(paths.log(ROLE))?;
    let mut command = namespace.command(&std::env::current_exe()?.to_string_lossy());
    command.arg("relay").arg("--socket").arg(paths.relay_socket());
    if let Some(address) = state.topology.relay_address() {
        command.args(["--bind", &address.to_string()]);
    }
    for node in &state.topology.nodes {
        command.args(["--peer-service", &node.observer_address().to_string()]);
    }
    // Everything is on this machine: whoever watches an agent come back need not wait for long.
    command.args(["--retry-timeout", "2s"]);
    command.arg("--tls-cert").arg(paths.certificate(ROLE));
    command.arg("--tls-key").arg(paths.key(ROLE));
    command.arg("--tls-ca").arg(paths.authority());
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir("/");
    quiet_environment(&mut command);
    let child = tokio::process::Command::from(command).spawn()?;
    let pid = child.id().ok_or(io::ErrorKind::NotFound)?;
    // One that ended at once cannot be recorded, and need not be.
    if let Err(error) = shared.registry.record(ROLE, pid) {
        tracing::warn!(%error, "the relay is not recorded");
    }
    Ok(child)
}

/// Waits for the end, noting when it listens.
async fn watch(shared: &Shared, mut child: Child) -> io::Result<ExitStatus> {
    let process = child.id().and_then(|pid| ProcessId::of(pid).ok());
    set(shared, |relay| relay.pid = child.id());
    let socket = shared.state.paths().relay_socket();
    let listens = async {
        // Local, and answered by the kernel: it takes no time.
        while UnixStream::connect(&socket).is_err() {
            tokio::time::sleep(POLL).await;
        }
    };
    let ended = tokio::select! {
        ended = child.wait() => ended,
        () = listens => {
            tracing::info!("the relay listens");
            set(shared, |relay| relay.ready = true);
            child.wait().await
        }
    };
    if let Some(process) = process
        && let Err(error) = shared.registry.forget(process)
    {
        tracing::warn!(%error, "the relay's record stays");
    }
    ended
}

fn set(shared: &Shared, change: impl FnOnce(&mut AgentStatus)) {
    shared.update(|status| {
        if let Some(relay) = &mut status.relay {
            change(&mut relay.process);
        }
    });
}
