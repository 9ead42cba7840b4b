//! Processes of a lab: each is recorded in a file of its own, by number and start time, and ended by that only.
//!
//! A number alone is reused; number and start time together are not, until the next boot.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

/// One process, unmistakably.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessId {
    pid: i32,
    /// Clock ticks after boot (field 22 of proc_pid_stat(5)).
    started: u64,
}

/// What is known of a process that was started for a lab.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// What it is: "supervisor", "agent node-a", "pod netflow-test/nginx-0".
    pub role: String,
    /// The boot it belongs to: numbers and start times begin anew with each.
    boot: String,
    #[serde(flatten)]
    pub process: ProcessId,
}

/// The folder of records of one lab.
#[derive(Clone, Debug)]
pub struct Registry {
    folder: PathBuf,
}

impl ProcessId {
    /// # Errors
    /// There is no such process.
    pub fn of(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let started = start_time(&stat).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { pid, started })
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Running: neither gone, nor a zombie, nor another process of the same number.
    pub fn is_alive(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/stat", self.pid))
            .is_ok_and(|stat| start_time(&stat) == Some(self.started) && !is_zombie(&stat))
    }

    /// Sends `signal`; a process that is gone is no error.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits until it is gone; false when `limit` passed first.
    pub fn wait_gone(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.is_alive() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

impl Registry {
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Records a running process; call right after starting it.
    ///
    /// # Errors
    /// It is gone already, or the file cannot be written.
    pub fn record(&self, role: &str, pid: u32) -> io::Result<ProcessId> {
        let process = ProcessId::of(pid)?;
        let record = Record { role: role.to_owned(), boot: boot()?, process };
        fs::create_dir_all(&self.folder)?;
        write_whole(&self.file(process), &serde_json::to_vec(&record)?)?;
        Ok(process)
    }

    /// Forgets a process that ended.
    ///
    /// # Errors
    /// The file cannot be removed. One that is gone is no error.
    pub fn forget(&self, process: ProcessId) -> io::Result<()> {
        match fs::remove_file(self.file(process)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Every record of this boot that can be read, sorted; ended processes included.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn all(&self) -> io::Result<Vec<Record>> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            entries => entries?,
        };
        let boot = boot()?;
        let mut records = vec![];
        for entry in entries {
            // A crash may have cut a file short of its rename: there is nothing in it then.
            let text = fs::read(entry?.path()).unwrap_or_default();
            records.extend(serde_json::from_slice::<Record>(&text));
        }
        records.retain(|record| record.boot == boot);
        records.sort();
        Ok(records)
    }

    fn file(&self, process: ProcessId) -> PathBuf {
        self.folder.join(format!("{}-{}.json", process.pid, process.started))
    }
}

fn boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Writes a file so that no reader and no crash ever sees half of it.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, bytes)?;
    fs::rename(&new, path)
}

/// Processes whose network namespace is one of `namespaces`, as `ip netns pids` finds them.
///
/// # Errors
/// `/proc` cannot be read.
pub(crate) fn inside(namespaces: &[netns::NetNs]) -> io::Result<Vec<ProcessId>> {
    use std::os::unix::fs::MetadataExt as _;

    let identity = |path: PathBuf| fs::metadata(path).map(|m| (m.dev(), m.ino()));
    let mut wanted: Vec<_> = namespaces.iter().filter_map(|ns| identity(ns.path()).ok()).collect();
    // Whatever a name has come to stand for: the host's own processes are never meant.
    let host = identity("/proc/self/ns/net".into())?;
    wanted.retain(|namespace| *namespace != host);
    let mut found = vec![];
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let own = identity(format!("/proc/{pid}/ns/net").into());
        if own.is_ok_and(|own| wanted.contains(&own)) {
            found.extend(ProcessId::of(pid));
        }
    }
    Ok(found)
}

/// The command's name may hold blanks and parentheses; fields count from behind it.
fn fields(stat: &str) -> Option<Vec<&str>> {
    Some(stat.rsplit_once(')')?.1.split_whitespace().collect())
}

fn start_time(stat: &str) -> Option<u64> {
    fields(stat)?.get(19)?.parse().ok()
}

fn is_zombie(stat: &str) -> bool {
    fields(stat).is_some_and(|fields| fields.first() == Some(&"Z"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_name_with_blanks_and_parentheses_does_not_confuse() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(start_time(&format!("7 (a) b) {tail}")), Some(4711));
        assert!(!is_zombie(&format!("7 (Z) {tail}")));
        assert!(is_zombie("7 (x) Z 1"));
    }

    #[test]
    fn a_process_is_ended_by_number_and_start_time_only() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("start");
        let process = ProcessId::of(child.id()).expect("running");
        let other = ProcessId { started: process.started + 1, ..process };
        assert!(!other.is_alive());
        other.signal(Signal::SIGKILL).expect("nothing to do");
        assert!(process.is_alive());
        process.signal(Signal::SIGKILL).expect("kill");
        assert!(process.wait_gone(Duration::from_secs(5)));
        child.wait().expect("reap");
    }

    #[test]
    fn records_survive_and_are_forgotten_one_by_one() {
        let folder = std::env::temp_dir().join(format!("twinplane-registry-{}", std::process::id()));
        let registry = Registry::new(&folder);
        let own = registry.record("self", std::process::id()).expect("record");
        fs::write(folder.join("half.new"), b"{\"ro").expect("a file cut short");
        let other = Record { role: "old".into(), boot: "another".into(), process: own };
        fs::write(folder.join("old.json"), serde_json::to_vec(&other).expect("JSON")).expect("an old boot's");
        let records = Registry::new(&folder).all().expect("read");
        let found: Vec<_> = records.iter().map(|record| (record.role.as_str(), record.process)).collect();
        assert_eq!(found, [("self", own)]);
        registry.forget(own).expect("forget");
        registry.forget(own).expect("twice is fine");
        assert_eq!(registry.all().expect("read"), []);
        fs::remove_dir_all(folder).expect("clean up");
    }
}
