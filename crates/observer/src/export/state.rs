//! How far an export is, in `PATH.state` beside its file. Replaced whole, so that it is never half of one.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// The file with this inode has everything before `next` in its first `bytes` bytes, or in files that were put aside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// Which ring `next` is a number of.
    pub ring: String,
    /// The first event that is not written.
    pub next: u64,
    pub inode: u64,
    pub bytes: u64,
    /// When the file was begun, in seconds since 1970.
    pub begun: u64,
}

/// `None`: there is none, or none that can be read, which is as good.
pub(super) fn load(export: &Path) -> io::Result<Option<State>> {
    match fs::read(path(export)) {
        Ok(text) => Ok(serde_json::from_slice(&text).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn save(export: &Path, state: &State) -> io::Result<()> {
    let (path, new) = (path(export), with_suffix(export, ".state.new"));
    fs::write(&new, serde_json::to_vec(state)?)?;
    fs::rename(new, path)
}

fn path(export: &Path) -> PathBuf {
    with_suffix(export, ".state")
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
