//! The loop that every cluster controller runs: wait for a change, look at everything it owns, plan, execute.
//!
//! Level-triggered: a pass sees the present state only, so a missed or repeated wake-up changes nothing.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use futures::{FutureExt as _, future::select_all};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::write::WriteError;

/// A pass runs at least this often, so that nothing depends on a wake-up.
const RESYNC: Duration = Duration::from_secs(30);
/// Failed passes are repeated after this, doubled each time up to [`RESYNC`].
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// Changes come in bursts; a pass waits this long for the rest of one.
const COALESCE: Duration = Duration::from_millis(5);
/// And as long as the last one took, up to this: where passes are long, changes never stop coming in.
const LONGEST_COALESCE: Duration = Duration::from_millis(250);

/// A controller: `pass` brings what it owns one step nearer to what is wanted.
pub(super) trait Controller: Send {
    const NAME: &'static str;

    /// The kinds whose changes start a pass.
    fn triggers(&self) -> Vec<watch::Receiver<u64>>;

    /// One pass over everything; returns when the next is due even if nothing changes, and what failed.
    fn pass(&mut self) -> impl Future<Output = Outcome> + Send;
}

/// What a pass left behind. One object's failure never stops the others.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Run again after this time at the latest: something depends on the clock.
    pub(super) again_after: Option<Duration>,
    failed: bool,
    conflicted: bool,
}

impl Outcome {
    /// Notes the end of one object's work.
    pub(super) fn note(&mut self, result: Result<(), WriteError>) {
        match result {
            Ok(()) => {}
            Err(error) if error.is_conflict() => self.conflicted = true,
            Err(error) => {
                self.failed = true;
                tracing::warn!(error = &error as &dyn std::error::Error, "controller");
            }
        }
    }

    /// Notes a failure that is not the API's.
    pub(super) fn fail(&mut self) {
        self.failed = true;
    }

    /// Asks for the next pass after `delay` or earlier.
    pub(super) fn again(&mut self, delay: Duration) {
        self.again_after = Some(self.again_after.map_or(delay, |before| before.min(delay)));
    }
}

/// Runs `controller` until `shutdown`.
pub(super) async fn run(mut controller: impl Controller, shutdown: CancellationToken) {
    let mut triggers = controller.triggers();
    let mut retry = FIRST_RETRY;
    loop {
        for trigger in &mut triggers {
            trigger.mark_unchanged();
        }
        let start = Instant::now();
        let outcome = tokio::select! {
            outcome = controller.pass() => outcome,
            () = shutdown.cancelled() => return,
        };
        let coalesce = start.elapsed().clamp(COALESCE, LONGEST_COALESCE);
        let mut wait = outcome.again_after.unwrap_or(RESYNC).min(RESYNC);
        if outcome.failed {
            wait = wait.min(retry);
            retry = (retry * 2).min(RESYNC);
        } else {
            retry = FIRST_RETRY;
        }
        if outcome.conflicted {
            wait = wait.min(FIRST_RETRY);
        }
        let changed = select_all(triggers.iter_mut().map(|trigger| trigger.changed().boxed()));
        tokio::select! {
            _ = changed => tokio::time::sleep(coalesce).await,
            () = tokio::time::sleep(wait) => {}
            () = shutdown.cancelled() => return,
        }
    }
}
