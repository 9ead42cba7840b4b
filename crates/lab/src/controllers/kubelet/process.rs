//! Containers as host processes: started in a pod's namespaces, signalled, and never left behind.
//!
//! Each container is the first process of its own PID namespace, so the kernel ends everything in it with it; and it
//! is killed when the thread that started it goes, which is when this process does. Never decides when.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
    thread,
};

use k8s_openapi::jiff::Timestamp;
use netns::NetNs;
use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::Signal,
};
use tokio::sync::oneshot;

use super::{
    image::{Program, StopSignal},
    state::Exit,
};
use crate::process::ProcessId;

/// A container's thread only forks and waits.
const STACK: usize = 128 << 10;

/// A container that runs.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) process: ProcessId,
    /// How it ended.
    pub(super) exit: oneshot::Receiver<Exit>,
}

/// Where a container runs.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) netns: String,
    /// Its cgroup's folder, if it gets one.
    pub(super) cgroup: Option<PathBuf>,
    /// Working directory unless the program has its own.
    pub(super) directory: PathBuf,
    /// Standard output and error are appended here.
    pub(super) log: PathBuf,
}

/// Starts `program`; returns when its `exec` has succeeded or failed.
pub(super) async fn start(program: Program, place: Place) -> io::Result<Started> {
    let (report, started) = oneshot::channel();
    let (ended, exit) = oneshot::channel();
    thread::Builder::new().name("container".to_owned()).stack_size(STACK).spawn(move || {
        // The thread stays with the container: its end would be the container's (PR_SET_PDEATHSIG).
        let started = Timestamp::now();
        match spawn(&program, &place) {
            Err(error) => drop(report.send(Err(error))),
            Ok((mut child, process)) => {
                drop(report.send(Ok(process)));
                let status = child.wait();
                drop(ended.send(exit_of(status, started)));
            }
        }
    })?;
    let process = started.await.map_err(|_| io::Error::other("the container's thread ended"))??;
    Ok(Started { process, exit })
}

fn spawn(program: &Program, place: &Place) -> io::Result<(std::process::Child, ProcessId)> {
    for (path, text) in &program.files {
        fs::write(path, text)?;
    }
    let netns = NetNs::open(&place.netns).map_err(|error| error.source)?;
    let log = OpenOptions::new().create(true).append(true).open(&place.log)?;
    let name = program.argv.first().map_or("", String::as_str);
    let path = program.env.get("PATH").map_or("", String::as_str);
    let executable = find(name, path).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("exec: {name:?}: executable file not found in $PATH"))
    })?;
    let mut command = Command::new(executable);
    command
        .arg0(name)
        .args(&program.argv[1..])
        .env_clear()
        .envs(&program.env)
        .current_dir(program.working_dir.as_ref().unwrap_or(&place.directory))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    netns.confine(&mut command);
    let cgroup = match &place.cgroup {
        Some(folder) => Some(OpenOptions::new().write(true).open(folder.join("cgroup.procs"))?),
        None => None,
    };
    // SAFETY: between fork and exec only prctl(2), setsid(2) and write(2) are called, all async-signal-safe; the
    // descriptor is open in the child because close-on-exec acts at exec.
    unsafe {
        command.pre_exec(move || {
            if let Some(cgroup) = &cgroup {
                io::Write::write_all(&mut &*cgroup, b"0")?;
            }
            nix::unistd::setsid()?;
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            Ok(())
        });
    }
    // The thread's next children are in a new PID namespace; the first of them is its init.
    unshare(CloneFlags::CLONE_NEWPID)?;
    let mut child = command.spawn()?;
    match ProcessId::of(child.id()) {
        Ok(process) => Ok((child, process)),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(error)
        }
    }
}

/// The file that `name` means with this PATH.
fn find(name: &str, path: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name));
    }
    std::env::split_paths(path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

fn exit_of(status: io::Result<ExitStatus>, started: Timestamp) -> Exit {
    let (code, reason, message) = match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(0), _) => (0, "Completed", None),
            (Some(code), _) => (code, "Error", None),
            (None, signal) => (128 + signal.unwrap_or(0), "Error", None),
        },
        Err(error) => (255, "ContainerStatusUnknown", Some(error.to_string())),
    };
    Exit { code, reason: reason.to_owned(), message, started: Some(started), finished: Timestamp::now() }
}

/// Kills the container and all of its PID namespace. Gone already is a success.
pub(super) fn kill(process: ProcessId) -> io::Result<()> {
    process.signal(Signal::SIGKILL)
}

/// Asks the container to stop.
///
/// The first process of a PID namespace gets only signals that it handles (pid_namespaces(7)): one without a
/// handler would sit out its grace period unaware, so it is killed at once.
pub(super) fn stop(process: ProcessId, stop: StopSignal) -> io::Result<()> {
    let signal = match stop {
        StopSignal::Terminate => Signal::SIGTERM,
        StopSignal::Quit => Signal::SIGQUIT,
    };
    process.signal(if handles(process.pid(), signal) { signal } else { Signal::SIGKILL })
}

/// Whether the process has a handler for `signal` (proc_pid_status(5), `SigCgt`).
fn handles(pid: i32, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (signal as i32 - 1)) != 0
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use netns::Owned;

    use super::*;

    struct Fixture {
        namespace: Owned,
        directory: tempfile::TempDir,
    }

    impl Fixture {
        fn new(tag: &str) -> Self {
            let name = format!("tp-{}-proc-{tag}", std::process::id());
            let namespace = Owned::create(&name).expect("namespace");
            Self { namespace, directory: tempfile::tempdir().expect("directory") }
        }

        async fn start(&self, argv: &[&str]) -> io::Result<Started> {
            let program = Program {
                argv: argv.iter().map(|word| (*word).to_owned()).collect(),
                env: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
                working_dir: None,
                files: vec![],
                listens: None,
            };
            let place = Place {
                netns: self.namespace.name().to_owned(),
                cgroup: None,
                directory: self.directory.path().to_owned(),
                log: self.directory.path().join("log"),
            };
            start(program, place).await
        }

        fn log(&self) -> String {
            fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
        }
    }

    async fn ended(started: Started) -> Exit {
        tokio::time::timeout(Duration::from_secs(10), started.exit).await.expect("in time").expect("exit")
    }

    #[tokio::test]
    async fn a_container_has_its_own_network_and_is_first_in_its_pid_namespace() {
        let fixture = Fixture::new("own");
        let script = "echo pid=$$; cat /proc/self/net/dev | grep -c :; exit 3";
        let exit = ended(fixture.start(&["sh", "-c", script]).await.expect("start")).await;
        assert_eq!(exit.code, 3);
        assert_eq!(fixture.log(), "pid=1\n1\n");
    }

    #[tokio::test]
    async fn what_a_container_started_ends_with_it() {
        let fixture = Fixture::new("tree");
        let mut started = fixture.start(&["sh", "-c", "sleep 1000 & echo up; wait"]).await.expect("start");
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while fixture.log() != "up\n" {
            assert!(tokio::time::Instant::now() < deadline, "{}", fixture.log());
            tokio::task::yield_now().await;
        }
        let shell = started.process.pid();
        let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).expect("children");
        let child = ProcessId::of(children.trim().parse().expect("one child")).expect("alive");
        assert!(started.exit.try_recv().is_err(), "runs");
        kill(started.process).expect("kill");
        assert_eq!(ended(started).await.code, 137);
        assert!(!child.is_alive());
    }

    #[tokio::test]
    async fn stopping_asks_who_listens_and_kills_who_does_not() {
        let fixture = Fixture::new("stop");
        let started =
            fixture.start(&["sh", "-c", "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done"]);
        let polite = started.await.expect("start");
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while fixture.log() != "up\n" {
            assert!(tokio::time::Instant::now() < deadline, "{}", fixture.log());
            tokio::task::yield_now().await;
        }
        stop(polite.process, StopSignal::Terminate).expect("stop");
        assert_eq!(ended(polite).await.code, 7);
        let deaf = fixture.start(&["sleep", "1000"]).await.expect("start");
        stop(deaf.process, StopSignal::Terminate).expect("stop");
        assert_eq!(ended(deaf).await.code, 137);
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let error = Fixture::new("none").start(&["no-such-program"]).await.expect_err("missing");
        assert_eq!(error.to_string(), "exec: \"no-such-program\": executable file not found in $PATH");
    }
}
