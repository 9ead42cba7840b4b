//! Runs one command to its end, with a time limit, and says how it went.

use std::{
    io,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde::Serialize;

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    /// The exit code; 128 and the signal's number where a signal ended it, as shells count.
    pub exit: i32,
    pub stdout: String,
    pub stderr: String,
    #[serde(skip)]
    pub elapsed: Duration,
    /// It was ended because its time was up.
    pub timed_out: bool,
}

impl Output {
    pub fn success(&self) -> bool {
        self.exit == 0
    }
}

/// Runs `command`; after `limit` it and whatever it started in its process group are ended.
///
/// # Errors
/// It cannot be started.
pub(crate) fn run(mut command: Command, limit: Duration) -> io::Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let start = Instant::now();
    let child = command.spawn()?;
    let group = Pid::from_raw(child.id().cast_signed());
    let (done, result) = mpsc::channel();
    let waiter = std::thread::spawn(move || {
        // Nobody listens any more only where the caller panicked.
        let _ = done.send(child.wait_with_output());
    });
    let (output, timed_out) = match result.recv_timeout(limit) {
        Ok(output) => (output?, false),
        Err(_) => {
            // Its pipes are open, so the group still exists or the answer is on its way.
            let _ = killpg(group, Signal::SIGKILL);
            (result.recv().expect("the waiter always answers")?, true)
        }
    };
    let elapsed = start.elapsed();
    if waiter.join().is_err() {
        tracing::warn!("a thread that waited for a command panicked");
    }
    let exit = output.status.code().or_else(|| output.status.signal().map(|s| 128 + s)).unwrap_or(-1);
    Ok(Output {
        exit,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        elapsed,
        timed_out,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Output {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(command, limit).expect("start")
    }

    #[test]
    fn output_and_exit_code_come_back() {
        let output = shell("echo out; echo err >&2; exit 7", Duration::from_secs(10));
        assert_eq!((output.exit, output.stdout.as_str(), output.stderr.as_str()), (7, "out\n", "err\n"));
        assert!(!output.timed_out);
    }

    #[test]
    fn what_takes_too_long_is_ended_with_all_it_started() {
        let output = shell("sleep 60 & echo begun; sleep 60", Duration::from_millis(300));
        assert!(output.timed_out);
        assert_eq!((output.exit, output.stdout.as_str()), (137, "begun\n"));
        assert!(output.elapsed < Duration::from_secs(30));
    }
}
