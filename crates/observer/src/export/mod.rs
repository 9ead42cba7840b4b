//! A node's flows as lines of JSON in a file. Has a thread of its own and reads the ring as any client does: a disk that is
//! slow, full or gone costs nobody else anything, and what the ring overwrites meanwhile is a line of its own, with how many.
//!
//! Each event that the ring still holds is in the file once, whatever happens to the thread: what is written and from where
//! to go on is kept beside the file ([`state`]), and what was written after that is taken back ([`file`]).

mod counts;
mod file;
mod state;

use std::{
    future::Future,
    io,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use flow::{
    cursor::{Cursor, Step},
    event::{Body, Event},
    filter::Filters,
    json,
    mask::Mask,
    proto::flow::LostEventSource,
    ring::Ring,
};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};

pub use self::counts::ExportCounts;
use self::{file::Sink, state::State};
use crate::node::masked;

/// When a file is put aside, and how many are kept.
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    /// A file is not made longer than this; a line that is longer has a file of its own.
    pub bytes: u64,
    /// Files that are kept beside the current one: `PATH.1` is the newest.
    pub files: u32,
    /// A file is put aside with the first line that comes after this time.
    pub age: Option<Duration>,
}

/// What is written where.
#[derive(Debug)]
pub struct Config {
    pub path: PathBuf,
    pub rotation: Rotation,
    pub filters: Arc<Filters>,
    pub mask: Mask,
    /// Told in lines that no flow's node is in.
    pub node: String,
}

/// Lines are collected up to so many bytes before they are written.
const CHUNK: usize = 64 * 1024;
/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often it is noted how far the file is, while flows come.
const NOTE_EVERY: Duration = Duration::from_secs(1);

/// Writes. To be run in a thread ([`start`]).
pub struct Exporter {
    sink: Sink,
    state: State,
    config: Config,
    ring: Ring,
    /// Whole lines that are not written yet.
    lines: Vec<u8>,
    counts: ExportCounts,
    noted: Instant,
    failing: bool,
}

impl Exporter {
    /// `ring_id` tells this ring from any that was there before. Nothing is opened yet.
    pub fn new(config: Config, (ring, ring_id): (Ring, u128), counts: ExportCounts) -> Self {
        let sink = Sink::new(config.path.clone(), config.rotation);
        let state = State { ring: format!("{ring_id:032x}"), ..State::default() };
        let noted = Instant::now();
        Self { sink, state, config, ring, lines: vec![], counts, noted, failing: false }
    }

    /// Writes until `stop`, and then what is stored by then.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = Stop { future: std::pin::pin!(stop), came: false };
        let next = loop {
            match self.resume() {
                Ok(next) => break next,
                Err(error) => self.failed("open", &error),
            }
            if !stop.retry().await {
                return self.left();
            }
        };
        let filters = Arc::clone(&self.config.filters);
        let mut cursor =
            Cursor::resume(self.ring.clone(), next, move |event: &Event| filters.keep_flow(event));
        loop {
            let before = cursor.next();
            let step = cursor.step();
            if let Step::Event(event) = &step
                && let Some(line) = self.line(event)
            {
                let is_full = self.lines.len() + line.len() > CHUNK
                    || self.sink.is_too_much(self.lines.len() + line.len());
                if is_full && !self.flush(before, &mut stop).await {
                    return self.left();
                }
                self.lines.extend_from_slice(line.as_bytes());
                self.lines.push(b'\n');
            }
            if let Step::Wait(number) = step {
                if !self.flush(number, &mut stop).await {
                    return self.left();
                }
                if stop.came {
                    return;
                }
                let ring = self.ring.clone();
                tokio::select! {
                    () = ring.written(number) => {}
                    () = &mut stop.future => stop.came = true,
                }
            }
        }
    }

    /// Where to go on: where the file ends, if it is of this ring.
    fn resume(&mut self) -> io::Result<u64> {
        let before = state::load(&self.config.path)?.filter(|before| before.ring == self.state.ring);
        self.sink.resume(before.as_ref())?;
        self.state.next = before.map_or(0, |before| before.next);
        self.counts.set_next(self.state.next);
        Ok(self.state.next)
    }

    fn line(&self, event: &Arc<Event>) -> Option<String> {
        if let Body::Lost(lost) = &event.body
            && lost.source() == LostEventSource::HubbleRingBuffer
        {
            self.counts.lost.inc_by(lost.num_events_lost);
        }
        let answer = masked(&self.config.mask, event.to_response(&self.config.node)?);
        json::to_string(&answer).inspect_err(|error| self.counts.failed("encode", error)).ok()
    }

    /// Writes what is collected, however long that takes; false: it cannot be, and `stop` came. `next` is the first event that
    /// is not among it.
    async fn flush(&mut self, next: u64, stop: &mut Stop<'_, impl Future<Output = ()>>) -> bool {
        while let Err((operation, error)) = self.write(next) {
            self.failed(operation, &error);
            if !stop.retry().await {
                return false;
            }
        }
        if self.failing {
            tracing::info!(path = %self.config.path.display(), "flows are exported again");
            self.failing = false;
            self.counts.failing.set(0);
        }
        true
    }

    fn write(&mut self, next: u64) -> Result<(), (&'static str, io::Error)> {
        if !self.lines.is_empty() {
            if self.sink.is_due(self.lines.len(), SystemTime::now()) {
                // Noted before, so that nothing of it is written again wherever this ends.
                self.sink.note(&self.state).map_err(|error| ("note", error))?;
                self.sink.rotate().map_err(|error| ("rotate", error))?;
                self.counts.rotations.inc();
            }
            if self.sink.reopen().map_err(|error| ("open", error))? {
                self.sink.note(&self.state).map_err(|error| ("note", error))?;
            }
            self.sink.append(&self.lines).map_err(|error| ("write", error))?;
            self.counts.bytes.inc_by(self.lines.len() as u64);
            self.counts.lines.inc_by(newlines(&self.lines));
            self.lines.clear();
        }
        self.state.next = next;
        self.counts.set_next(next);
        if self.noted.elapsed() >= NOTE_EVERY {
            self.note();
        }
        Ok(())
    }

    fn note(&mut self) {
        self.noted = Instant::now();
        if let Err(error) = self.sink.note(&self.state) {
            self.counts.failed("note", &error);
            tracing::debug!(path = %self.config.path.display(), %error, "cannot note how far the export is");
        }
    }

    fn failed(&mut self, operation: &'static str, error: &io::Error) {
        self.counts.failed(operation, error);
        self.counts.failing.set(1);
        if !self.failing {
            let path = self.config.path.display();
            tracing::warn!(%path, %error, "cannot export flows ({operation}); trying again every second");
            self.failing = true;
        }
    }

    /// Given up at the end.
    fn left(&self) {
        let events = self.ring.head().saturating_sub(self.state.next);
        tracing::warn!(path = %self.config.path.display(), events, "stopped exporting with events unwritten");
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        if self.sink.is_open() && !self.failing {
            self.note();
        }
    }
}

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exporter").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The end, and whether it has come.
struct Stop<'a, F> {
    future: Pin<&'a mut F>,
    came: bool,
}

impl<F: Future<Output = ()>> Stop<'_, F> {
    /// After a while; false: there is no time left to try again.
    async fn retry(&mut self) -> bool {
        if self.came {
            return false;
        }
        tokio::select! {
            () = sleep(RETRY) => {}
            () = &mut self.future => self.came = true,
        }
        true
    }
}

fn newlines(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// A running export.
#[derive(Debug)]
pub struct Running {
    stop: oneshot::Sender<()>,
    done: oneshot::Receiver<()>,
}

/// Runs `exporter` in a thread of its own.
///
/// # Errors
/// The thread or its runtime cannot be started.
pub fn start(exporter: Exporter) -> io::Result<Running> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let (end, done) = oneshot::channel();
    thread::Builder::new().name("export".into()).spawn(move || {
        runtime.block_on(exporter.run(async { drop(stopped.await) }));
        // Nobody waits where the process ends anyway.
        let _ = end.send(());
    })?;
    Ok(Running { stop, done })
}

impl Running {
    /// Stops when all that is stored now is written, or after `patience`; false: not all was.
    pub async fn finish(self, patience: Duration) -> bool {
        drop(self.stop);
        timeout(patience, self.done).await.is_ok_and(|ended| ended.is_ok())
    }
}

#[cfg(test)]
mod tests;
