//! What a kubelet knows about one pod beyond its API object, and its record on disk. No decisions.
//!
//! The record is written before the thing it names is made, so that whoever comes later finds it.

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use serde::{Deserialize, Serialize};

use crate::process::ProcessId;

/// One pod on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PodRecord {
    pub(super) uid: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) node: String,
    pub(super) sandbox: Sandbox,
    /// By container name; what was never started has no entry.
    pub(super) containers: BTreeMap<String, Container>,
}

/// The pod's network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Sandbox {
    Missing,
    /// Could not be made; tried again at this time.
    Failed {
        attempts: u32,
        retry_at: Timestamp,
    },
    /// Being made or unmade: nothing runs in it, but it must be removed.
    Partial {
        netns: String,
    },
    Ready {
        netns: String,
        host_network: bool,
        addresses: Vec<IpAddr>,
        since: Timestamp,
    },
    /// The pod ended on its own; its network is gone, its addresses stay in its status.
    Removed {
        addresses: Vec<IpAddr>,
        since: Timestamp,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Container {
    pub(super) state: State,
    /// How the previous run ended.
    pub(super) last: Option<Exit>,
    pub(super) restarts: u32,
    /// Readiness as the probe last said. A probe starts over after a restart of the kubelet.
    #[serde(skip)]
    pub(super) ready: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum State {
    /// Not running: `CrashLoopBackOff` and the like, until the time given.
    Waiting {
        reason: String,
        message: String,
        until: Timestamp,
    },
    Running {
        process: ProcessId,
        since: Timestamp,
        stopping: bool,
    },
    Exited(Exit),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Exit {
    /// As a shell shows it: 128 and the signal's number if it was one.
    pub(super) code: i32,
    pub(super) reason: String,
    pub(super) message: Option<String>,
    pub(super) started: Option<Timestamp>,
    pub(super) finished: Timestamp,
}

impl PodRecord {
    pub(super) fn new(pod: &Pod, node: &str) -> Self {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        Self {
            uid: text(&pod.metadata.uid),
            namespace: text(&pod.metadata.namespace),
            name: text(&pod.metadata.name),
            node: node.to_owned(),
            sandbox: Sandbox::Missing,
            containers: BTreeMap::new(),
        }
    }

    pub(super) fn running(&self) -> impl Iterator<Item = (&str, ProcessId)> {
        self.containers.iter().filter_map(|(name, container)| match container.state {
            State::Running { process, .. } => Some((name.as_str(), process)),
            _ => None,
        })
    }

    /// `namespace/name`.
    pub(super) fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    pub(super) fn addresses(&self) -> &[IpAddr] {
        match &self.sandbox {
            Sandbox::Ready { addresses, .. } | Sandbox::Removed { addresses, .. } => addresses,
            Sandbox::Missing | Sandbox::Failed { .. } | Sandbox::Partial { .. } => &[],
        }
    }
}

/// The folder of one pod: its record, its containers' files and logs.
#[derive(Clone, Debug)]
pub(super) struct PodDirectory(PathBuf);

impl PodDirectory {
    pub(super) fn new(state_dir: &Path, uid: &str) -> Self {
        Self(pods(state_dir).join(uid))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn log(&self, container: &str) -> PathBuf {
        self.0.join(format!("{container}.log"))
    }

    /// Writes the record so that a reader sees the old one or the new one, never half.
    pub(super) fn save(&self, record: &PodRecord) -> io::Result<()> {
        fs::create_dir_all(&self.0)?;
        let partial = self.0.join(".record.json");
        fs::write(&partial, serde_json::to_vec_pretty(record)?)?;
        fs::rename(partial, self.0.join(RECORD))
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

const RECORD: &str = "record.json";

fn pods(state_dir: &Path) -> PathBuf {
    state_dir.join("pods")
}

/// Every record below `state_dir`; one that cannot be read is reported and left.
pub(super) fn load(state_dir: &Path) -> Vec<PodRecord> {
    let Ok(entries) = fs::read_dir(pods(state_dir)) else { return vec![] };
    let mut records: Vec<PodRecord> = vec![];
    for entry in entries.flatten() {
        let path = entry.path().join(RECORD);
        let record = fs::read(&path).map_err(anyhow::Error::from);
        match record.and_then(|bytes| Ok(serde_json::from_slice(&bytes)?)) {
            Ok(record) => records.push(record),
            Err(error) => tracing::warn!(path = %path.display(), %error, "read pod record"),
        }
    }
    records.sort_by(|left, right| left.uid.cmp(&right.uid));
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let state = tempfile::tempdir().expect("directory");
        let process = ProcessId::of(std::process::id()).expect("own");
        let record = PodRecord {
            uid: "u".to_owned(),
            namespace: "n".to_owned(),
            name: "p".to_owned(),
            node: "node-a".to_owned(),
            sandbox: Sandbox::Partial { netns: "x".to_owned() },
            containers: BTreeMap::from([(
                "c".to_owned(),
                Container {
                    state: State::Running { process, since: Timestamp::UNIX_EPOCH, stopping: false },
                    last: None,
                    restarts: 2,
                    ready: false,
                },
            )]),
        };
        let directory = PodDirectory::new(state.path(), &record.uid);
        directory.save(&record).expect("save");
        assert_eq!(load(state.path()), std::slice::from_ref(&record));
        assert_eq!(record.running().collect::<Vec<_>>(), [("c", process)]);
        fs::write(directory.path().join(RECORD), "{").expect("damage");
        assert_eq!(load(state.path()), []);
        directory.remove().expect("remove");
        directory.remove().expect("gone already");
    }
}
