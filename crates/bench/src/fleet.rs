//! Child processes of the bench: itself, in another namespace. They end when dropped.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, ensure};
use netns::NetNs;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A child that runs until this is dropped.
#[derive(Debug)]
pub(crate) struct Running(Child);

/// This program with other arguments, in a namespace.
pub(crate) fn command(space: &NetNs, arguments: &[&str]) -> anyhow::Result<Command> {
    let program = std::env::current_exe().context("find this program")?;
    let mut command = space.command(program.to_str().context("read this program's path")?);
    command.args(arguments).stdin(Stdio::null());
    Ok(command)
}

impl Running {
    pub(crate) fn start(mut command: Command) -> anyhow::Result<Self> {
        Ok(Self(command.spawn().context("start a child")?))
    }

    /// Waits for the line that says that the child is ready.
    pub(crate) fn start_until_ready(mut command: Command) -> anyhow::Result<Self> {
        command.stdout(Stdio::piped());
        let mut this = Self::start(command)?;
        let mut line = String::new();
        BufReader::new(this.0.stdout.take().context("read from the child")?).read_line(&mut line)?;
        ensure!(line == "ready\n", "a child did not get ready");
        Ok(this)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Fails if the child has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.0.try_wait()? {
            Some(status) => anyhow::bail!("a child ended early: {status}"),
            None => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already; either way it is waited for.
        let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}
