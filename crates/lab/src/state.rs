//! What is remembered of a lab from before anything is made until all of it is gone.

use std::{fs, io, path::PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    agent_arg::AgentArg,
    edge::HealthCheckTiming,
    paths::Paths,
    plan::{LabName, Topology},
    process::{Record, Registry, write_whole},
    supervisor, system,
};

/// Of the layout of `state.json`.
const VERSION: u32 = 1;

/// `state.json`: enough to supervise the lab and to find all of it after any crash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    version: u32,
    pub topology: Topology,
    /// The name it was asked for by, where two labs were made at once (`--dataplane both`).
    pub group: Option<LabName>,
    pub created: Timestamp,
    pub health_check: HealthCheckTiming,
    /// What every agent is given besides what the lab itself gives it.
    #[serde(default)]
    pub agent_args: Vec<AgentArg>,
    /// The lab's cgroup, where the machine has a cgroup v2 hierarchy.
    pub cgroup: Option<PathBuf>,
    pub bpffs: PathBuf,
}

/// Why a lab's state cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("open lab {0}: there is none of that name (see twinplane lab list)")]
    NotFound(LabName),
    #[error("read state of lab {name}")]
    Read {
        name: LabName,
        #[source]
        source: io::Error,
    },
    #[error("write state of lab {name}")]
    Write {
        name: LabName,
        #[source]
        source: io::Error,
    },
    #[error("create lab {name}: {what}; remove it with: twinplane lab down --name {name}")]
    Exists { name: LabName, what: &'static str },
}

impl State {
    pub fn new(
        topology: Topology,
        group: Option<LabName>,
        health_check: HealthCheckTiming,
        cgroup_mount: Option<PathBuf>,
    ) -> Self {
        let paths = Paths::new(&topology.name);
        Self {
            version: VERSION,
            topology,
            group,
            created: Timestamp::now(),
            health_check,
            agent_args: vec![],
            cgroup: cgroup_mount.map(|mount| paths.cgroup(&mount)),
            bpffs: paths.bpffs(),
        }
    }

    pub fn paths(&self) -> Paths {
        Paths::new(&self.topology.name)
    }

    /// The cgroup of one node.
    pub fn node_cgroup(&self, node: &str) -> Option<PathBuf> {
        self.cgroup.as_ref().map(|group| group.join(node))
    }

    /// The node's own folder in the BPF file system.
    pub fn node_bpffs(&self, node: &str) -> PathBuf {
        self.bpffs.join(node)
    }

    /// Takes the lab's name and remembers the plan. Two that try at once: one succeeds.
    ///
    /// # Errors
    /// [`Error::Exists`] where a lab, or what a crash left of one, has the name.
    pub fn claim(&self) -> Result<(), Error> {
        let (paths, name) = (self.paths(), self.topology.name.clone());
        let write = |source| Error::Write { name: name.clone(), source };
        let claimed = system::in_shared_folder(|| {
            fs::create_dir_all(Paths::all())?;
            match fs::create_dir(paths.root()) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
                result => result.map(|()| true),
            }
        });
        if !claimed.map_err(write)? {
            return Err(Error::Exists { what: standing(&paths), name });
        }
        fs::create_dir(paths.logs()).map_err(write)?;
        self.store()
    }

    /// Remembers it as it is now.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn store(&self) -> Result<(), Error> {
        let write = |source| Error::Write { name: self.topology.name.clone(), source };
        let text = serde_json::to_vec_pretty(self).map_err(|error| write(error.into()))?;
        write_whole(&self.paths().state(), &text).map_err(write)
    }

    /// # Errors
    /// No such lab, or a file that cannot be understood.
    pub fn load(name: &LabName) -> Result<Self, Error> {
        let failed = |source| Error::Read { name: name.clone(), source };
        let text = match fs::read(Paths::new(name).state()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NotFound(name.clone()));
            }
            text => text.map_err(failed)?,
        };
        let state: Self = serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
        if state.version != VERSION {
            let message = format!("layout {} where {VERSION} is known", state.version);
            return Err(failed(io::Error::other(message)));
        }
        Ok(state)
    }
}

/// What has a lab's name already.
fn standing(paths: &Paths) -> &'static str {
    let records = Registry::new(paths.processes()).all().unwrap_or_default();
    let runs = |record: &Record| record.role == supervisor::ROLE && record.process.is_alive();
    if records.iter().any(runs) { "one of that name is up" } else { "a crash left one of that name" }
}

/// The names of all labs, those that a crash left behind included, sorted.
///
/// # Errors
/// The folder of labs cannot be read.
pub fn names() -> io::Result<Vec<LabName>> {
    let entries = match fs::read_dir(Paths::all()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        entries => entries?,
    };
    let mut names = vec![];
    for entry in entries {
        names.extend(entry?.file_name().to_str().and_then(|name| LabName::new(name).ok()));
    }
    names.sort();
    Ok(names)
}
