//! A supervisor in a process of its own, to be killed.

use std::{fs, path::PathBuf, process::Command};

use lab::process::{ProcessId, Registry};
use netns::NetNs;

/// What a victim says once its pods run; the folder of its process records follows.
pub(crate) const READY: &str = "victim is ready: ";

/// A supervisor in a process of its own, to be killed.
pub(crate) struct Victim {
    process: std::process::Child,
    records: PathBuf,
}

/// Runs the ignored test `name` of this binary until it is ready.
pub(crate) fn victim(name: &str) -> Victim {
    use std::io::BufRead as _;

    let mut process = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", name, "--ignored", "--nocapture"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("start");
    let output = std::io::BufReader::new(process.stdout.take().expect("piped"));
    let records = output.lines().map_while(Result::ok).find_map(|line| {
        let (_, records) = line.split_once(READY)?;
        Some(PathBuf::from(records))
    });
    Victim { process, records: records.expect("the victim ended early") }
}

impl Victim {
    /// Its containers and what they started.
    pub(crate) fn processes(&self) -> Vec<ProcessId> {
        let mut found: Vec<_> = Registry::new(&self.records)
            .all()
            .expect("records")
            .into_iter()
            .map(|record| record.process)
            .collect();
        let mut next = 0;
        while let Some(parent) = found.get(next).map(ProcessId::pid) {
            let children =
                fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
            found.extend(
                children.split_ascii_whitespace().filter_map(|pid| ProcessId::of(pid.parse().ok()?).ok()),
            );
            next += 1;
        }
        found
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("kill");
        self.process.wait().expect("wait");
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        for namespace in NetNs::list(&format!("tpl-t{}-", self.process.id())).unwrap_or_default() {
            let _ = NetNs::remove(&namespace);
        }
        if let Some(directory) = self.records.parent() {
            let _ = fs::remove_dir_all(directory);
        }
    }
}
