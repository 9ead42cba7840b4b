//! What all end-to-end tests do with the shipped command: run it, read its answer, take labs down.

use std::{
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::Value;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_twinplane");

/// A name no other test has, and the lab of that name gone at the end.
pub(crate) struct Named(pub(crate) String);

impl Drop for Named {
    fn drop(&mut self) {
        let _ = run(&["lab", "down", "--name", &self.0]);
    }
}

impl Named {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        Self(format!("e2e-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)))
    }

    /// `twinplane lab <words> --name <name> <rest>`
    pub(crate) fn lab(&self, words: &str, rest: &[&str]) -> Output {
        let mut arguments = vec!["lab"];
        arguments.extend(words.split(' '));
        arguments.extend(["--name", &self.0]);
        arguments.extend(rest);
        run(&arguments)
    }

    pub(crate) fn up(&self, rest: &[&str]) {
        succeeded(&self.lab("up", rest));
    }
}

/// Runs the command to its end, without input.
pub(crate) fn run(arguments: &[&str]) -> Output {
    Command::new(BINARY).args(arguments).stdin(Stdio::null()).output().expect("start twinplane")
}

/// Its stdout, once it has succeeded.
#[track_caller]
pub(crate) fn succeeded(output: &Output) -> String {
    let (out, err) = texts(output);
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    out
}

#[track_caller]
pub(crate) fn json(output: &Output) -> Value {
    serde_json::from_str(&succeeded(output)).expect("JSON")
}

/// Its stdout and stderr.
pub(crate) fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}
