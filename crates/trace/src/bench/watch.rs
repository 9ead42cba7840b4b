//! A command that listens while something else happens: started, waited for until it listens, ended, read.

use std::{
    fs, io,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use super::{Bench, Error, until};
use crate::command::Line;

const PATIENCE: Duration = Duration::from_secs(20);

/// `NETLINK_NETFILTER`, as `/proc/net/netlink` prints it.
const NETFILTER: &str = "12";

/// `NFNLGRP_NFTRACE` (9, linux/netfilter/nfnetlink.h) in a mask of groups.
const TRACE_GROUP: u32 = 1 << 8;

/// A running listener. Ended, with all it started, when dropped.
#[derive(Debug)]
pub struct Watch {
    child: Child,
    heard: Arc<Mutex<Vec<u8>>>,
    errors: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
    line: Line,
}

impl Bench {
    /// Starts a listener and returns when it listens.
    ///
    /// # Errors
    /// It cannot be started, or ends or stays deaf instead of listening.
    pub fn watch(&self, line: &Line) -> Result<Watch, Error> {
        let failed = |source| Error::Start { command: line.to_string(), place: line.place.clone(), source };
        let namespace = self.lab.namespace(&line.place)?;
        let (program, arguments) =
            line.argv.split_first().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        let mut command = namespace.command(program);
        command.args(arguments);
        let mut watch = Watch::start(command, line).map_err(failed)?;
        until(&format!("{line} to listen"), PATIENCE, || {
            watch.listens().map(|listens| listens.then_some(()))
        })?;
        Ok(watch)
    }

    /// Starts one of this program's own subcommands on this host, which tells from a moment on that it is told itself.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn follow(&self, line: &Line) -> Result<Watch, Error> {
        let failed = |source| Error::Start { command: line.to_string(), place: line.place.clone(), source };
        let (program, arguments) =
            line.argv.split_first().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        let mut command = Command::new(program);
        command.args(arguments).env("PATH", self.path());
        Watch::start(command, line).map_err(failed)
    }
}

/// What a listener that was interrupted has said, and told on stderr.
#[derive(Clone, Debug)]
pub struct Heard {
    pub said: String,
    pub told: String,
}

impl Watch {
    fn start(mut command: Command, line: &Line) -> io::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn()?;
        let (heard, errors) = (Arc::default(), Arc::default());
        let mut readers = vec![];
        readers.extend(child.stdout.take().map(|pipe| collect(pipe, &heard)));
        readers.extend(child.stderr.take().map(|pipe| collect(pipe, &errors)));
        Ok(Self { child, heard, errors, readers, line: line.clone() })
    }

    /// What was heard so far.
    pub fn so_far(&self) -> String {
        text(&self.heard)
    }

    /// Waits until what was heard satisfies `enough`, or the time is up; either is fine.
    ///
    /// # Errors
    /// Called off.
    pub fn listen(&self, limit: Duration, enough: impl Fn(&str) -> bool) -> Result<(), Error> {
        match until("traffic", limit, || Ok(enough(&self.so_far()).then_some(()))) {
            Err(Error::Late { .. }) => Ok(()),
            other => other,
        }
    }

    /// Ends it and returns all that was heard.
    pub fn stop(mut self) -> String {
        self.end(Signal::SIGTERM);
        self.so_far()
    }

    /// Ends it as Ctrl-C does, and returns all that it has said by then and then.
    pub fn interrupt(mut self) -> Heard {
        self.end(Signal::SIGINT);
        Heard { said: self.so_far(), told: text(&self.errors) }
    }

    /// tcpdump says so; a listener for packet traces shows in the namespace's own table.
    fn listens(&mut self) -> Result<bool, Error> {
        if text(&self.errors).contains("listening on") || self.traces() {
            return Ok(true);
        }
        match self.child.try_wait() {
            Ok(Some(status)) => Err(Error::Exit {
                command: self.line.to_string(),
                exit: status.code().unwrap_or(-1),
                message: text(&self.errors).trim().to_owned(),
            }),
            _ => Ok(false),
        }
    }

    /// Whether somebody in its namespace listens for packet traces: columns Eth and Groups of `/proc/net/netlink`
    /// (net/netlink/af_netlink.c, netlink_native_seq_show). Nobody but us does on a node.
    fn traces(&self) -> bool {
        let table = fs::read_to_string(format!("/proc/{}/net/netlink", self.group())).unwrap_or_default();
        table.lines().any(|row| {
            let fields = row.split_whitespace().collect::<Vec<_>>();
            let groups = |text| u32::from_str_radix(text, 16).unwrap_or(0);
            matches!(fields[..], [_, NETFILTER, _, mask, ..] if groups(mask) & TRACE_GROUP != 0)
        })
    }

    /// The process group that its whole pipeline is in.
    fn group(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    fn end(&mut self, signal: Signal) {
        // A process that has ended already is no failure.
        let _ = killpg(self.group(), signal);
        let _ = self.child.wait();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.readers.is_empty() {
            self.end(Signal::SIGTERM);
        }
    }
}

fn collect(mut pipe: impl io::Read + Send + 'static, into: &Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    let into = Arc::clone(into);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = pipe.read(&mut buffer) {
            into.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..read]);
        }
    })
}

fn text(bytes: &Mutex<Vec<u8>>) -> String {
    String::from_utf8_lossy(&bytes.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
}
