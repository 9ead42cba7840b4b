//! Whoever hears what a plane tells of flows, as the agent does: records are taken, read, stored, at the agent's pace.

use std::{
    os::fd::{AsFd as _, AsRawFd as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context as _;
use dataplane_ebpf::{Events, Record};
use flow::{
    directory::Directory,
    event::{Node, Time},
    feed::Feed,
    record::Decoder,
    ring::Capacity,
};

/// As `agent::flows` has them.
const BATCH: usize = 256;
const PAUSE: Duration = Duration::from_millis(10);
/// Milliseconds that it may take until a listener that hears nothing sees that it is to end.
const LOOK_UP: i32 = 50;

/// A thread that reads until it is stopped, or this is dropped.
pub(crate) struct Listener {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<anyhow::Result<(Events, u64)>>>,
}

impl Listener {
    pub(crate) fn start(events: Events) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        Self { stop, thread: Some(thread::spawn(move || listen(events, &told))) }
    }

    /// Everything that was there has been read: the reading end, and how many records there were.
    pub(crate) fn stop(mut self) -> anyhow::Result<(Events, u64)> {
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.take().context("stop a listener twice")?;
        thread.join().map_err(|_| anyhow::anyhow!("a listener panicked"))?
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(mut events: Events, stop: &AtomicBool) -> anyhow::Result<(Events, u64)> {
    let node = Arc::new(Node { name: "node-a".into(), labels: vec![] });
    let mut decoder = Decoder::new(node, Box::new(|_| None), 1);
    let (directory, mut feed) = (Directory::new("default"), Feed::new(Capacity::DEFAULT));
    let mut heard = 0;
    loop {
        let stopping = stop.load(Ordering::Acquire);
        let (mut taken, mut batch) = (0, vec![]);
        while taken < BATCH
            && let Some(record) = events.take()
        {
            taken += 1;
            if let Record::Event(event) = record {
                decoder.decode(&event, &directory, Time(0), &mut batch)?;
            }
        }
        heard += taken as u64;
        feed.append(batch);
        match taken {
            BATCH => {}
            1.. => thread::sleep(PAUSE),
            0 if stopping => return Ok((events, heard)),
            0 => wait(&events),
        }
    }
}

/// Until there is a record, or it is time to look up.
fn wait(events: &Events) {
    let mut ring = libc::pollfd { fd: events.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid entry. Whatever it answers, the ring is looked at next.
    unsafe { libc::poll(&raw mut ring, 1, LOOK_UP) };
}
