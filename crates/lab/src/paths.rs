//! Where a lab keeps its files. Only names; makes nothing.
//!
//! ```text
//! /run/twinplane/lab/<name>/
//!   state.json       what was planned, written before anything is made
//!   kubeconfig       the embedded API on this host's loopback
//!   lab.sock         the supervisor's API
//!   processes/       one file per process: pid, start time, what it is
//!   logs/            supervisor.log, agent-<node>.log, pod logs
//!   <node>/agent.sock, observer.sock
//!   relay.sock       the relay of an ebpf cluster
//!   tls/             its authority, and certificates with keys: of nodes, of the relay, for clients
//!   kubectl-cache/
//! ```

use std::path::{Path, PathBuf};

use crate::plan::LabName;

/// Gone after a reboot, as namespaces are.
const ROOT: &str = "/run/twinplane/lab";

/// The file names of one lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    root: PathBuf,
    name: LabName,
}

impl Paths {
    pub fn new(name: &LabName) -> Self {
        Self { root: Path::new(ROOT).join(name.as_str()), name: name.clone() }
    }

    /// The folder that holds one folder per lab.
    pub fn all() -> &'static Path {
        Path::new(ROOT)
    }

    /// Everything below goes when the lab goes.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn state(&self) -> PathBuf {
        self.root.join("state.json")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    pub fn supervisor_socket(&self) -> PathBuf {
        self.root.join("lab.sock")
    }

    pub fn processes(&self) -> PathBuf {
        self.root.join("processes")
    }

    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// `logs/<what>.log`.
    pub fn log(&self, what: &str) -> PathBuf {
        self.logs().join(format!("{what}.log"))
    }

    /// The log of a node's agent.
    pub fn agent_log(&self, node: &str) -> PathBuf {
        self.log(&format!("agent-{node}"))
    }

    /// A node's own folder.
    pub fn node(&self, node: &str) -> PathBuf {
        self.root.join(node)
    }

    pub fn agent_socket(&self, node: &str) -> PathBuf {
        self.node(node).join("agent.sock")
    }

    pub fn observer_socket(&self, node: &str) -> PathBuf {
        self.node(node).join("observer.sock")
    }

    pub fn relay_socket(&self) -> PathBuf {
        self.root.join("relay.sock")
    }

    pub fn tls(&self) -> PathBuf {
        self.root.join("tls")
    }

    pub fn authority(&self) -> PathBuf {
        self.tls().join("ca.crt")
    }

    /// Of a node, `relay` or `client`.
    pub fn certificate(&self, whose: &str) -> PathBuf {
        self.tls().join(format!("{whose}.crt"))
    }

    /// The key of [`Self::certificate`].
    pub fn key(&self, whose: &str) -> PathBuf {
        self.tls().join(format!("{whose}.key"))
    }

    pub fn kubectl_cache(&self) -> PathBuf {
        self.root.join("kubectl-cache")
    }

    /// The lab's folder in the BPF file system; one folder per node below it.
    pub fn bpffs(&self) -> PathBuf {
        Path::new("/sys/fs/bpf/twinplane-lab").join(self.name.as_str())
    }

    /// The lab's cgroup below the cgroup v2 mount `mount`; one per node below it.
    pub fn cgroup(&self, mount: &Path) -> PathBuf {
        mount.join("twinplane-lab").join(self.name.as_str())
    }
}
