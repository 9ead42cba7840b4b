//! One running lab under trace: runs command lines in it and keeps what they said.
//!
//! Decides nothing about what is worth capturing; see [`crate::layers`].

mod watch;

use std::{
    ffi::OsString,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use lab::{Lab, Output, Place};
use model::Plane;
use serde_json::Value;

use crate::{command::Line, compare::Exhibit, normalise::Style, report::Capture};

pub use watch::{Heard, Watch};

/// How long an ordinary command may take on a busy machine.
const ORDINARY: Duration = Duration::from_secs(30);

/// Set when the user wants no more.
pub static CANCELLED: AtomicBool = AtomicBool::new(false);

/// A lab and the dataplane its nodes run.
#[derive(Debug)]
pub struct Bench {
    pub lab: Lab,
    pub plane: Plane,
    /// This program: captures of its own subcommands run the same build.
    program: PathBuf,
}

/// Why a layer could not be traced.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Lab(#[from] lab::Error),
    #[error("start {command:?} in {place}")]
    Start {
        command: String,
        place: Place,
        #[source]
        source: std::io::Error,
    },
    #[error("write {what}")]
    Write {
        what: String,
        #[source]
        source: std::io::Error,
    },
    #[error("run {command:?}: exit status {exit}: {message}")]
    Exit { command: String, exit: i32, message: String },
    #[error("read the answer of {command:?}")]
    Answer {
        command: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("read the programs on {node}'s interfaces")]
    Hooks {
        node: String,
        #[source]
        source: std::io::Error,
    },
    #[error("account for the requests by {by}: {gaps}")]
    Unaccounted { by: String, gaps: String },
    #[error("wait for {what}: not within {seconds} s")]
    Late { what: String, seconds: u64 },
    #[error("find {what}")]
    Missing { what: String },
    #[error("make {what}: the cluster has one of that name already")]
    Taken { what: String },
    #[error("{what}: want {wanted}, found {found}")]
    Otherwise { what: String, wanted: String, found: String },
    #[error("trace: called off")]
    Cancelled,
}

impl Bench {
    pub fn new(lab: Lab, program: PathBuf) -> Self {
        let plane = lab.topology().plane;
        Self { lab, plane, program }
    }

    /// Runs a line to its end.
    ///
    /// # Errors
    /// It cannot be started. One that fails is no error: its status is part of what was found.
    pub fn run(&self, line: &Line, limit: Duration) -> Result<Output, Error> {
        check()?;
        let words = line.argv.iter().map(String::as_str).collect::<Vec<_>>();
        Ok(self.lab.exec(&line.place, &words, limit)?)
    }

    /// Runs a line and keeps it as a capture.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn capture(
        &self,
        title: &str,
        line: &Line,
        style: Style,
        note: impl Into<String>,
    ) -> Result<Exhibit, Error> {
        let output = self.run(line, ORDINARY)?;
        Ok(self.exhibit(title, line, style, said(&output), output.exit, note))
    }

    /// A capture of text that is there already.
    pub fn exhibit(
        &self,
        title: &str,
        line: &Line,
        style: Style,
        output: impl Into<String>,
        exit: i32,
        note: impl Into<String>,
    ) -> Exhibit {
        let capture = Capture {
            dataplane: self.plane,
            title: title.to_owned(),
            r#where: line.place.to_string(),
            command: line.to_string(),
            exit,
            output: output.into(),
            note: note.into(),
            identical: false,
        };
        Exhibit { capture, style }
    }

    /// A `kubectl` capture; runs on this host against the lab's API.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn kubectl(
        &self,
        title: &str,
        arguments: &[&str],
        note: impl Into<String>,
    ) -> Result<Exhibit, Error> {
        self.kubectl_in(Path::new("."), title, arguments, note)
    }

    /// As [`Self::kubectl`], where files that the arguments name are in `folder`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn kubectl_in(
        &self,
        folder: &Path,
        title: &str,
        arguments: &[&str],
        note: impl Into<String>,
    ) -> Result<Exhibit, Error> {
        check()?;
        let output = self.lab.kubectl_in(folder, arguments)?;
        let line = Line::new(Place::Client, std::iter::once("kubectl").chain(arguments.iter().copied()));
        let mut exhibit = self.exhibit(title, &line, Style::Kubectl, said(&output), output.exit, note);
        exhibit.capture.r#where = "host".to_owned();
        Ok(exhibit)
    }

    /// A capture of one of this program's own subcommands, run on this host by the same build.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn twinplane(&self, title: &str, line: &Line, style: Style) -> Result<Exhibit, Error> {
        self.twinplane_in(Path::new("."), title, line, style)
    }

    /// As [`Self::twinplane`], where files that the line names are in `folder`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn twinplane_in(
        &self,
        folder: &Path,
        title: &str,
        line: &Line,
        style: Style,
    ) -> Result<Exhibit, Error> {
        check()?;
        let failed = |source| Error::Start { command: line.to_string(), place: line.place.clone(), source };
        let (shell, arguments) =
            line.argv.split_first().ok_or_else(|| failed(std::io::ErrorKind::InvalidInput.into()))?;
        let output = Command::new(shell)
            .args(arguments)
            .env("PATH", self.path())
            .current_dir(folder)
            .output()
            .map_err(failed)?;
        let output = Output {
            exit: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            elapsed: Duration::ZERO,
            timed_out: false,
        };
        Ok(self.exhibit(title, line, style, said(&output), output.exit, ""))
    }

    /// Where commands are looked for: this build's own first.
    fn path(&self) -> OsString {
        let mut path = self.program.parent().map(Path::as_os_str).unwrap_or_default().to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        path
    }

    /// Changes something through the API.
    ///
    /// # Errors
    /// `kubectl` cannot be started or is refused.
    pub fn order(&self, arguments: &[&str]) -> Result<String, Error> {
        check()?;
        let output = self.lab.kubectl(arguments)?;
        if output.success() {
            return Ok(output.stdout);
        }
        let command = format!("kubectl {}", arguments.join(" "));
        Err(Error::Exit { command, exit: output.exit, message: output.stderr.trim().to_owned() })
    }

    /// Creates objects.
    ///
    /// # Errors
    /// `kubectl` cannot be started or is refused.
    pub fn create(&self, objects: &Value) -> Result<(), Error> {
        check()?;
        let line = Line::new(Place::Client, ["kubectl", "create", "-f", "-"]);
        let failed = |source| Error::Start { command: line.to_string(), place: Place::Client, source };
        let mut command = self.lab.kubectl_command();
        command
            .args(["create", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        if let Some(mut pipe) = child.stdin.take() {
            pipe.write_all(objects.to_string().as_bytes()).map_err(failed)?;
        }
        let output = child.wait_with_output().map_err(failed)?;
        if output.status.success() {
            return Ok(());
        }
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Error::Exit { command: line.to_string(), exit: output.status.code().unwrap_or(-1), message })
    }

    /// An object, or a list of them.
    ///
    /// # Errors
    /// As [`Self::order`]; an answer that is no JSON.
    pub fn object(&self, arguments: &[&str]) -> Result<Value, Error> {
        let arguments = [arguments, &["-o", "json"]].concat();
        let answer = self.order(&arguments)?;
        serde_json::from_str(&answer)
            .map_err(|source| Error::Answer { command: format!("kubectl {}", arguments.join(" ")), source })
    }
}

/// What a terminal would show: the errors behind the output.
fn said(output: &Output) -> String {
    let Output { stdout, stderr, .. } = output;
    if output.success() || stderr.trim().is_empty() { stdout.clone() } else { format!("{stdout}{stderr}") }
}

/// # Errors
/// The user called it off.
pub fn check() -> Result<(), Error> {
    if CANCELLED.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
}

/// Asks again and again until `ready` has an answer.
///
/// # Errors
/// `ready`'s own; no answer within `limit`; called off.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut ready: impl FnMut() -> Result<Option<T>, Error>,
) -> Result<T, Error> {
    let deadline = Instant::now() + limit;
    loop {
        check()?;
        if let Some(answer) = ready()? {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            return Err(Error::Late { what: what.to_owned(), seconds: limit.as_secs() });
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
