//! Finds and removes all of a lab, whatever state a crash left it in.
//!
//! Processes by recorded number and start time, by membership in the lab's cgroup and by being in one of its
//! namespaces; never by name. Goes on after an error and reports all of them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use netns::NetNs;
use nix::sys::signal::Signal;

use crate::{
    paths::Paths,
    plan::LabName,
    process::{self, ProcessId, Registry},
    state::State,
    system,
};

/// How long processes have to end by themselves.
const GRACE: Duration = Duration::from_secs(3);

/// How long the kernel has to make an end of killed ones.
const LIMIT: Duration = Duration::from_secs(10);

/// One thing that could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("list {what}")]
    List {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("end process {pid}")]
    Process {
        pid: i32,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    #[error("remove {path}")]
    Path {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// A lab that could not be removed wholly; what is left is still found by the next attempt.
#[derive(Debug, thiserror::Error)]
#[error("remove lab {name}: {}", list(.failures))]
pub struct Error {
    pub name: LabName,
    pub failures: Vec<Failure>,
}

/// What was found and removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// There was anything to remove.
    pub existed: bool,
    pub processes: usize,
    pub namespaces: usize,
}

/// Removes the lab of this name. Needs no readable state: names tell where everything is.
///
/// # Errors
/// Everything that could not be removed.
pub fn remove(name: &LabName) -> Result<Removed, Error> {
    let mut removal = Removal { failures: vec![], removed: Removed::default() };
    removal.run(name);
    match removal.failures {
        failures if failures.is_empty() => Ok(removal.removed),
        failures => Err(Error { name: name.clone(), failures }),
    }
}

struct Removal {
    failures: Vec<Failure>,
    removed: Removed,
}

impl Removal {
    fn run(&mut self, name: &LabName) {
        let paths = Paths::new(name);
        // Where the mount has moved since, the state still knows the old place.
        let recorded = State::load(name).ok().and_then(|state| state.cgroup);
        let cgroup = recorded.or_else(|| system::cgroup_mount().map(|mount| paths.cgroup(&mount)));
        self.end_processes(name, &paths, cgroup.as_deref());
        for namespace in self.namespaces(name) {
            match NetNs::remove(&namespace) {
                Ok(()) => self.removed.namespaces += 1,
                Err(error) => self.failures.push(error.into()),
            }
        }
        self.remove_tree(&paths.bpffs());
        remove_empty_parent(&paths.bpffs());
        if let Some(cgroup) = cgroup {
            self.remove_cgroup(&cgroup);
            remove_empty_parent(&cgroup);
        }
        self.removed.existed |= paths.root().exists() || self.removed != Removed::default();
        // The last to go: as long as anything is left, the lab is listed.
        if self.failures.is_empty() {
            self.remove_tree(paths.root());
            remove_empty_parent(paths.root());
            // An agent of the machine itself may have its socket there.
            remove_empty_parent(Paths::all());
        }
    }

    /// The supervisor first, so that it restarts nothing; then all others, asked once and killed afterwards.
    fn end_processes(&mut self, name: &LabName, paths: &Paths, cgroup: Option<&Path>) {
        let records = self.listed("recorded processes", Registry::new(paths.processes()).all());
        let (supervisors, others): (Vec<_>, Vec<_>) =
            records.iter().partition(|record| record.role == crate::supervisor::ROLE);
        for group in [supervisors, others] {
            self.end(group.iter().map(|record| record.process).collect(), Signal::SIGTERM);
        }
        let namespaces: Vec<_> =
            self.namespaces(name).iter().filter_map(|namespace| NetNs::open(namespace).ok()).collect();
        let inside = self.listed("processes inside the lab", process::inside(&namespaces));
        self.end(inside, Signal::SIGKILL);
        if let Some(cgroup) = cgroup
            && let Err(source) = system::kill_cgroup(cgroup)
        {
            self.failures.push(Failure::Path { path: cgroup.to_owned(), source });
        }
    }

    fn end(&mut self, mut processes: Vec<ProcessId>, first: Signal) {
        processes.retain(ProcessId::is_alive);
        self.removed.processes += processes.len();
        for (signal, patience) in [(first, GRACE), (Signal::SIGKILL, LIMIT)] {
            for process in &processes {
                if let Err(source) = process.signal(signal) {
                    self.failures.push(Failure::Process { pid: process.pid(), source });
                }
            }
            let deadline = Instant::now() + patience;
            processes
                .retain(|process| !process.wait_gone(deadline.saturating_duration_since(Instant::now())));
        }
        for process in processes {
            let source = io::Error::from(io::ErrorKind::TimedOut);
            self.failures.push(Failure::Process { pid: process.pid(), source });
        }
    }

    fn namespaces(&mut self, name: &LabName) -> Vec<String> {
        let mut namespaces = self.listed("namespaces", NetNs::list(""));
        namespaces.retain(|namespace| name.owns_namespace(namespace));
        namespaces
    }

    fn remove_tree(&mut self, path: &Path) {
        match fs::remove_dir_all(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                self.failures.push(Failure::Path { path: path.to_owned(), source });
            }
            _ => {}
        }
    }

    /// Killed processes leave their cgroup a moment later.
    fn remove_cgroup(&mut self, path: &Path) {
        let deadline = Instant::now() + LIMIT;
        while let Err(source) = system::remove_cgroup(path) {
            if source.kind() != io::ErrorKind::ResourceBusy || Instant::now() >= deadline {
                self.failures.push(Failure::Path { path: path.to_owned(), source });
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn listed<T>(&mut self, what: &'static str, result: io::Result<Vec<T>>) -> Vec<T> {
        result.unwrap_or_else(|source| {
            self.failures.push(Failure::List { what, source });
            vec![]
        })
    }
}

/// The folder that the labs share goes with the last of them; what refuses is still in use.
fn remove_empty_parent(path: &Path) {
    if let Some(parent) = path.parent() {
        let _ = fs::remove_dir(parent);
    }
}

fn list(failures: &[Failure]) -> String {
    let text = |failure: &Failure| match std::error::Error::source(failure) {
        Some(source) => format!("{failure}: {source}"),
        None => failure.to_string(),
    };
    failures.iter().map(text).collect::<Vec<_>>().join("; ")
}
