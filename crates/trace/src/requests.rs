//! Requests from the client, one after the other, each kept as an [`Attempt`].

use std::time::{Duration, Instant};

use crate::{
    attempt::{Attempt, Outcome},
    bench::{Bench, Error},
    command::{Line, request},
};

/// What a client waits before it gives up.
pub const CLIENT_LIMIT_S: u64 = 6;

/// A series of requests to one address. Offsets count from `start`.
#[derive(Debug)]
pub struct Series<'a> {
    pub bench: &'a Bench,
    pub line: Line,
    pub start: Instant,
    /// From one request's start to the next one's, where the first was quicker than that.
    pub pace: Duration,
}

impl<'a> Series<'a> {
    pub fn new(bench: &'a Bench, url: &str, pace: Duration) -> Self {
        Self { bench, line: request(url, CLIENT_LIMIT_S), start: Instant::now(), pace }
    }

    /// One request now.
    ///
    /// # Errors
    /// curl cannot be started.
    pub fn one(&self) -> Result<Attempt, Error> {
        let at_ms = microseconds(self.start.elapsed()) / 1000;
        let output = self.bench.run(&self.line, Duration::from_secs(CLIENT_LIMIT_S + 10))?;
        let (body, report) = output.stdout.trim_end().rsplit_once('\n').unwrap_or(("", &output.stdout));
        let (status, took_us) = reported(report).unwrap_or((0, microseconds(output.elapsed)));
        let outcome = match output.exit {
            0 => Outcome::Answered { status, client: client_in(body) },
            exit => Outcome::Failed { exit },
        };
        Ok(Attempt { at_ms, took_us, outcome })
    }

    /// One request after the other, at least one, until `done` says so after a request.
    ///
    /// # Errors
    /// curl cannot be started; `done`'s own.
    pub fn until(
        &self,
        mut done: impl FnMut(&[Attempt]) -> Result<bool, Error>,
    ) -> Result<Vec<Attempt>, Error> {
        let mut attempts = vec![];
        loop {
            let begun = Instant::now();
            attempts.push(self.one()?);
            if done(&attempts)? {
                return Ok(attempts);
            }
            std::thread::sleep(self.pace.saturating_sub(begun.elapsed()));
        }
    }

    /// `count` requests.
    ///
    /// # Errors
    /// curl cannot be started.
    pub fn take(&self, count: usize) -> Result<Vec<Attempt>, Error> {
        self.until(|attempts| Ok(attempts.len() >= count))
    }
}

/// One row per request, as a capture shows them.
pub fn listed(attempts: &[Attempt]) -> String {
    attempts.iter().map(|attempt| format!("{attempt}\n")).collect()
}

/// curl's `--write-out`: `200 0.001234`.
fn reported(line: &str) -> Option<(u16, u64)> {
    let (status, seconds) = line.trim().split_once(' ')?;
    Some((status.parse().ok()?, microseconds(Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?)))
}

/// The address that the pod says it saw: `client=198.51.100.10`, wherever in the answer.
fn client_in(body: &str) -> String {
    let told = body.split_whitespace().find_map(|word| word.strip_prefix("client="));
    told.unwrap_or_default().to_owned()
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curls_report_is_read() {
        assert_eq!(reported("200 0.001934"), Some((200, 1934)));
        assert_eq!(reported("000 6.001412"), Some((0, 6_001_412)));
        assert_eq!(reported("curl: (7) refused"), None);
    }

    #[test]
    fn the_pods_word_about_its_client_is_found() {
        assert_eq!(client_in("pod=nginx-1 node=node-a client=198.51.100.10\n"), "198.51.100.10");
        assert_eq!(client_in("<html>hello</html>"), "");
    }
}
