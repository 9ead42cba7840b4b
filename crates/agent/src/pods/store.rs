//! The pods of this node on disk, so that an agent that starts again knows them.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use model::Endpoint;
use serde::{Deserialize, Serialize};

use super::ipam::Pool;
use crate::wire::Attachment;

const VERSION: u32 = 1;

/// Everything that must outlive the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) pods: BTreeMap<Attachment, Record>,
    pub(crate) pools: Vec<Pool>,
}

/// An attached pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) netns: PathBuf,
    pub(crate) endpoint: Endpoint,
    /// Of both ends of the pair; unknown of pods that an older agent attached.
    #[serde(default)]
    pub(crate) mtu: Option<u32>,
}

/// The file as it is written. A map with structured keys is no JSON, so pods are a list.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OnDisk {
    version: u32,
    pods: Vec<(Attachment, Record)>,
    pools: Vec<Pool>,
}

/// The state file cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{operation} pod state {}", path.display())]
pub(crate) struct Error {
    operation: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Reads `path`; a file that is not there is an empty state.
///
/// # Errors
/// The file is damaged or of another version: going on would give out addresses that are in use.
pub(crate) fn load(path: &Path) -> Result<State, Error> {
    let failed = |source| Error { operation: "read", path: path.to_owned(), source };
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
        text => text.map_err(failed)?,
    };
    let disk: OnDisk = serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
    if disk.version != VERSION {
        return Err(failed(io::Error::other(format!("unknown version {}", disk.version))));
    }
    Ok(State { pods: disk.pods.into_iter().collect(), pools: disk.pools })
}

/// Writes `state` so that a crash leaves either the old or the new one.
///
/// # Errors
/// The disk refuses.
pub(crate) fn save(path: &Path, state: &State) -> Result<(), Error> {
    let failed = |source| Error { operation: "write", path: path.to_owned(), source };
    let disk = OnDisk {
        version: VERSION,
        pods: state.pods.iter().map(|(key, record)| (key.clone(), record.clone())).collect(),
        pools: state.pools.clone(),
    };
    let text = serde_json::to_vec_pretty(&disk).map_err(|error| failed(error.into()))?;
    let temporary = path.with_extension("new");
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(failed)
}

#[cfg(test)]
mod tests {
    use model::{MacAddress, PodName};

    use super::*;

    #[test]
    fn what_was_saved_is_loaded_and_damage_is_refused() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("pods.json");
        assert_eq!(load(&path).expect("nothing yet"), State::default());

        let endpoint = Endpoint {
            pod: PodName { namespace: "ns".into(), name: "pod".into() },
            addresses: vec!["10.20.0.2".parse().expect("address")],
            interface: "tp0".into(),
            ifindex: 7,
            mac: MacAddress([2, 0, 0, 0, 0, 1]),
            host_mac: MacAddress([2, 0, 0, 0, 0, 2]),
            netns: Some("/run/netns/x".into()),
            l7: Default::default(),
        };
        let attachment = Attachment { container_id: "c".into(), ifname: "eth0".into() };
        let state = State {
            pods: [(attachment, Record { netns: "/run/netns/x".into(), endpoint, mtu: Some(1450) })].into(),
            pools: vec![Pool::new("10.20.0.0/24".parse().expect("prefix"))],
        };
        save(&path, &state).expect("save");
        assert_eq!(load(&path).expect("load"), state);
        let left: Vec<_> = fs::read_dir(directory.path()).expect("list").collect();
        assert_eq!(left.len(), 1, "no temporary file is left");

        fs::write(&path, "{\"version\":1,").expect("damage");
        let error = load(&path).expect_err("damaged");
        assert!(error.to_string().starts_with("read pod state /"), "{error}");
        fs::write(&path, "{\"version\":9,\"pods\":[],\"pools\":[]}").expect("write");
        load(&path).expect_err("from the future");
    }
}
