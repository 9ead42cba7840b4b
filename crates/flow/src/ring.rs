//! The last events of a node: one writer, any number of readers. A reader that is too slow loses events and is told how
//! many; it never delays the writer or another reader, and costs no memory. Never filters and never reads a clock.
//!
//! A slot's lock is held only to copy or replace one pointer. Events are numbered from 0 in the order of writing.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::Notify;

use crate::event::Event;

/// How many events a ring holds: 2^n - 1, because the slot that is being written cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity(u64);

/// The capacity is not one that a ring can have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("set ring capacity {0}: want 2^n - 1 between 1 and 65535")]
pub struct InvalidCapacity(u64);

impl Capacity {
    /// Hubble's default.
    pub const DEFAULT: Self = Self(4095);
    pub const MAX: Self = Self(65535);

    pub fn new(events: u64) -> Result<Self, InvalidCapacity> {
        let valid = (1..=Self::MAX.0).contains(&events) && (events + 1).is_power_of_two();
        valid.then_some(Self(events)).ok_or(InvalidCapacity(events))
    }

    pub const fn get(self) -> u64 {
        self.0
    }
}

#[derive(Debug)]
struct Shared {
    slots: Box<[Mutex<Option<Slot>>]>,
    /// The number of the next event; all below it are written.
    head: AtomicU64,
    flows: AtomicU64,
    /// Events that some reader wanted and that were overwritten before it came.
    missed: AtomicU64,
    written: Notify,
}

#[derive(Clone, Debug)]
struct Slot {
    number: u64,
    event: Arc<Event>,
}

/// The only one that writes.
#[derive(Debug)]
pub struct Writer(Arc<Shared>);

/// Reads what is there; cheap to copy.
#[derive(Clone, Debug)]
pub struct Ring(Arc<Shared>);

/// What is at a number.
#[derive(Clone, Debug, PartialEq)]
pub enum Read {
    Event(Arc<Event>),
    /// Overwritten; the oldest event that is still there has the number `next`.
    Missed {
        next: u64,
    },
    /// Not written yet.
    Empty,
}

/// An empty ring.
pub fn ring(capacity: Capacity) -> (Writer, Ring) {
    let shared = Arc::new(Shared {
        slots: (0..=capacity.0).map(|_| Mutex::new(None)).collect(),
        head: AtomicU64::new(0),
        flows: AtomicU64::new(0),
        missed: AtomicU64::new(0),
        written: Notify::new(),
    });
    (Writer(Arc::clone(&shared)), Ring(shared))
}

impl Writer {
    /// Stores one event and wakes who waits.
    pub fn push(&mut self, event: Event) {
        self.append([event]);
    }

    /// Stores a batch and wakes who waits, once.
    pub fn append(&mut self, events: impl IntoIterator<Item = Event>) {
        let start = self.0.head.load(Ordering::Relaxed);
        let (mut head, mut flows) = (start, 0);
        for event in events {
            flows += u64::from(event.flow().is_some());
            let slot = Slot { number: head, event: Arc::new(event) };
            // What is replaced is dropped after the lock.
            let old = self.0.slot(head).lock().unwrap_or_else(PoisonError::into_inner).replace(slot);
            head += 1;
            // Pairs with the load in `Ring::head`.
            self.0.head.store(head, Ordering::Release);
            drop(old);
        }
        if head != start {
            self.0.flows.fetch_add(flows, Ordering::Relaxed);
            self.0.written.notify_waiters();
        }
    }

    /// The reading side.
    pub fn ring(&self) -> Ring {
        Ring(Arc::clone(&self.0))
    }
}

impl Ring {
    /// How many events fit.
    pub fn capacity(&self) -> u64 {
        self.0.slots.len() as u64 - 1
    }

    /// How many events are there.
    pub fn len(&self) -> u64 {
        self.head().min(self.capacity())
    }

    pub fn is_empty(&self) -> bool {
        self.head() == 0
    }

    /// The number that the next event gets.
    pub fn head(&self) -> u64 {
        self.0.head.load(Ordering::Acquire)
    }

    /// The number of the oldest event that is still there.
    pub fn tail(&self) -> u64 {
        self.head().saturating_sub(self.capacity())
    }

    /// Flows written since the start.
    pub fn flows(&self) -> u64 {
        self.0.flows.load(Ordering::Relaxed)
    }

    /// Events that readers lost since the start, all readers together.
    pub fn missed(&self) -> u64 {
        self.0.missed.load(Ordering::Relaxed)
    }

    /// The event with that number.
    pub fn read(&self, number: u64) -> Read {
        let head = self.head();
        if number >= head {
            return Read::Empty;
        }
        if number < self.tail() {
            return Read::Missed { next: self.tail() };
        }
        let slot = self.0.slot(number).lock().unwrap_or_else(PoisonError::into_inner);
        match slot.as_ref() {
            Some(slot) if slot.number == number => Read::Event(Arc::clone(&slot.event)),
            // The writer came round in between; it stores the event before it moves the head.
            Some(_) | None => Read::Missed { next: self.tail().max(number + 1) },
        }
    }

    /// Adds to what readers lost.
    pub(crate) fn count_missed(&self, events: u64) {
        self.0.missed.fetch_add(events, Ordering::Relaxed);
    }

    /// Returns once the event with that number has been written.
    pub async fn written(&self, number: u64) {
        loop {
            let notified = self.0.written.notified();
            tokio::pin!(notified);
            // Registers before the look, so that no write between look and wait is slept through.
            notified.as_mut().enable();
            if self.head() > number {
                return;
            }
            notified.await;
        }
    }
}

impl Shared {
    fn slot(&self, number: u64) -> &Mutex<Option<Slot>> {
        // The length is a power of two.
        &self.slots[(number & (self.slots.len() as u64 - 1)) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::Time, testing::lost};

    fn event(number: i64) -> Event {
        Event { time: Time(number), body: lost(1) }
    }

    #[test]
    fn capacities() {
        for valid in [1, 3, 4095, 65535] {
            assert_eq!(Capacity::new(valid).unwrap().get(), valid);
        }
        for invalid in [0, 2, 4096, 131_071, u64::MAX] {
            assert_eq!(Capacity::new(invalid), Err(InvalidCapacity(invalid)));
        }
    }

    #[test]
    fn the_last_events_are_there_and_no_others() {
        let (mut writer, ring) = ring(Capacity::new(3).unwrap());
        assert!(ring.is_empty());
        assert_eq!(ring.read(0), Read::Empty);
        writer.append((0..10).map(event));
        assert_eq!((ring.len(), ring.tail(), ring.head()), (3, 7, 10));
        assert_eq!(ring.read(6), Read::Missed { next: 7 });
        for number in 7..10 {
            assert_eq!(ring.read(number), Read::Event(Arc::new(event(number as i64))));
        }
        assert_eq!(ring.read(10), Read::Empty);
    }

    /// Readers in threads, beside a writer that goes round many times: each sees every number at most once, in order,
    /// with the event that belongs to it, and what it did not see it was told.
    #[test]
    fn readers_beside_a_writer_see_or_are_told() {
        const EVENTS: i64 = 100_000;
        let (mut writer, ring) = ring(Capacity::new(127).unwrap());
        let reader = |ring: Ring| {
            move || {
                let (mut next, mut seen, mut missed) = (0, 0, 0);
                while next < EVENTS as u64 {
                    match ring.read(next) {
                        Read::Event(event) => {
                            assert_eq!(event.time, Time(next as i64));
                            (next, seen) = (next + 1, seen + 1);
                        }
                        Read::Missed { next: at } => {
                            assert!(at > next);
                            missed += at - next;
                            next = at;
                        }
                        Read::Empty => std::thread::yield_now(),
                    }
                }
                assert_eq!(seen + missed, EVENTS as u64);
                seen
            }
        };
        let readers: Vec<_> = (0..3).map(|_| std::thread::spawn(reader(ring.clone()))).collect();
        writer.append((0..EVENTS).map(event));
        for reader in readers {
            assert!(reader.join().unwrap() >= 127);
        }
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let (mut writer, ring) = ring(Capacity::DEFAULT);
        let waiting = tokio::spawn({
            let ring = ring.clone();
            async move { ring.written(1).await }
        });
        tokio::task::yield_now().await;
        writer.push(event(0));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        writer.push(event(1));
        waiting.await.unwrap();
        ring.written(1).await;
    }
}
