//! Runs `ipset`: sets of prefixes that rules match addresses against.

use std::{
    collections::BTreeMap,
    io::Write as _,
    process::{Command, Stdio},
};

use ipnet::IpNet;
use model::Family;

use super::Refusal;
use crate::policy::sets::{self, Members, SetName};

/// Reads and changes the sets of one address family. The caller passes the real one or a fake.
pub(crate) trait Sets {
    /// Every set of ours with its members.
    fn save(&self) -> Result<BTreeMap<SetName, Members>, Refusal>;

    /// Executes the lines in turn, up to the first that is refused; what is there already is no refusal.
    fn restore(&mut self, text: &str) -> Result<(), Refusal>;
}

/// The program, found by `PATH`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ipset {
    pub family: Family,
}

const PROGRAM: &str = "ipset";

impl Sets for Ipset {
    fn save(&self) -> Result<BTreeMap<SetName, Members>, Refusal> {
        let output = Command::new(PROGRAM).arg("save").stdin(Stdio::null()).output();
        let output = output.map_err(|error| refusal(error.to_string()))?;
        if !output.status.success() {
            return Err(refusal(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        Ok(sets::parse(&String::from_utf8_lossy(&output.stdout), self.family))
    }

    fn restore(&mut self, text: &str) -> Result<(), Refusal> {
        let mut child = Command::new(PROGRAM)
            .args(["restore", "-exist"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| refusal(error.to_string()))?;
        let input = child.stdin.take();
        // Its errors are a few lines, which fit the pipe while this writes; a broken pipe shows in the exit status.
        let written = input.map(|mut input| input.write_all(text.as_bytes()));
        let output = child.wait_with_output().map_err(|error| refusal(error.to_string()))?;
        if !output.status.success() {
            return Err(refusal(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        written.transpose().map(|_| ()).map_err(|error| refusal(error.to_string()))
    }
}

/// Makes a set and takes it away again.
///
/// # Errors
/// There is no `ipset`, or the kernel has no sets of this kind.
pub(crate) fn probe() -> Result<(), Refusal> {
    let name = SetName::probe();
    let prefix = IpNet::from(std::net::IpAddr::from([192, 0, 2, 0]));
    let text = format!("{}add {name} {prefix} nomatch\ndestroy {name}\n", sets::create(&name, Family::V4));
    Ipset { family: Family::V4 }.restore(&text)
}

fn refusal(problem: String) -> Refusal {
    Refusal { program: PROGRAM.to_owned(), problem, line: None }
}
