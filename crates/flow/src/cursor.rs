//! One request's way through the ring: where it starts, what it passes over, where it ends, as Hubble's observer has it.
//! Never waits: [`Step::Wait`] says for which event.
//!
//! - Without `follow` a request sees what was in the ring when it came, and ends.
//! - `since` decides the start and wins over `number` and `first`; `number` still limits what is sent.
//! - Else `first` starts at the oldest event, and anything else at the oldest of the newest `number` that match.
//! - `until` ends the stream at the first later event.
//! - Events that were lost before the ring pass every filter and count for nothing.

use std::sync::Arc;

use crate::{
    event::{Body, Event, Time},
    proto::flow::{LostEvent, LostEventSource},
    ring::{Read, Ring},
};

/// Which part of the ring a client wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// 0: no limit.
    pub number: u64,
    pub first: bool,
    pub follow: bool,
    pub since: Option<Time>,
    pub until: Option<Time>,
}

/// `first` and `follow` contradict each other.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("first cannot be specified with follow")]
pub struct FirstWithFollow;

impl Range {
    pub fn check(&self) -> Result<(), FirstWithFollow> {
        if self.first && self.follow { Err(FirstWithFollow) } else { Ok(()) }
    }
}

/// What comes next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Event(Arc<Event>),
    /// Nothing until the event with this number is written.
    Wait(u64),
    /// Many events were looked at and none is wanted: ask again, and let others work in between.
    More,
    End,
}

/// At most one report of what this reader missed is made per second of the ring's time.
const REPORT_INTERVAL: i64 = 1_000_000_000;

/// Events that one step looks at, at most.
const LOOKED_AT: usize = 1024;

/// A request's place in the ring. `Keep` says which events it is about.
#[derive(Debug)]
pub struct Cursor<Keep> {
    ring: Ring,
    range: Range,
    keep: Keep,
    next: u64,
    /// Without `follow`: what is written later is not this request's. 0 once a later event than `until` was met.
    end: u64,
    sent: u64,
    missed: Missed,
}

/// What this reader missed and has not been told yet.
#[derive(Debug, Default)]
struct Missed {
    events: u64,
    since: Option<Time>,
    reported: Option<Time>,
}

impl<Keep: Fn(&Event) -> bool> Cursor<Keep> {
    pub fn new(ring: Ring, range: Range, keep: Keep) -> Self {
        let head = ring.head();
        let next = start(&ring, &range, &keep, head);
        let end = if range.follow { u64::MAX } else { head };
        Self { ring, range, keep, next, end, sent: 0, missed: Missed::default() }
    }

    /// Follows the ring from the event with the number `next`, or from the oldest that is still there.
    pub fn resume(ring: Ring, next: u64, keep: Keep) -> Self {
        let range = Range { follow: true, ..Range::default() };
        Self { ring, range, keep, next, end: u64::MAX, sent: 0, missed: Missed::default() }
    }

    /// The number of the event that comes next.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The next event, or what to do instead.
    pub fn step(&mut self) -> Step {
        for _ in 0..LOOKED_AT {
            if self.next >= self.end || self.is_full() {
                return self.missed.take_last().map_or(Step::End, Step::Event);
            }
            let event = match self.ring.read(self.next) {
                Read::Empty => return Step::Wait(self.next),
                Read::Missed { next } => {
                    let next = next.min(self.end);
                    self.missed.events += next - self.next;
                    self.ring.count_missed(next - self.next);
                    self.next = next;
                    continue;
                }
                Read::Event(event) => event,
            };
            if let Some(report) = self.missed.report(event.time) {
                return Step::Event(report);
            }
            self.next += 1;
            if matches!(event.body, Body::Lost(_)) {
                return Step::Event(event);
            }
            if self.range.until.is_some_and(|until| event.time > until) {
                self.end = 0;
                continue;
            }
            if self.range.since.is_some_and(|since| event.time < since) || !(self.keep)(&event) {
                continue;
            }
            self.sent += 1;
            return Step::Event(event);
        }
        Step::More
    }

    fn is_full(&self) -> bool {
        !self.range.follow && self.range.number > 0 && self.sent >= self.range.number
    }

    /// The ring this reads.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }
}

impl Missed {
    /// The report that is due at `now`, which is the time of the next event.
    fn report(&mut self, now: Time) -> Option<Arc<Event>> {
        if self.events == 0 {
            return None;
        }
        let since = *self.since.get_or_insert(now);
        if self.reported.is_some_and(|last| now.0.saturating_sub(last.0) < REPORT_INTERVAL) {
            return None;
        }
        self.reported = Some(now);
        self.take(since, now)
    }

    /// What is left to report at the end.
    fn take_last(&mut self) -> Option<Arc<Event>> {
        let at = self.since.or(self.reported).unwrap_or_default();
        self.take(at, at)
    }

    fn take(&mut self, first: Time, last: Time) -> Option<Arc<Event>> {
        let events = std::mem::take(&mut self.events);
        self.since = None;
        let lost = LostEvent {
            source: LostEventSource::HubbleRingBuffer.into(),
            num_events_lost: events,
            cpu: None,
            first: Some(first.into()),
            last: Some(last.into()),
        };
        (events > 0).then(|| Arc::new(Event { time: last, body: Body::Lost(lost) }))
    }
}

fn start(ring: &Ring, range: &Range, keep: &impl Fn(&Event) -> bool, head: u64) -> u64 {
    let tail = head.saturating_sub(ring.capacity());
    if range.since.is_none() {
        if range.first {
            return tail;
        }
        if range.follow && range.number == 0 {
            return head;
        }
    }
    let mut matching = 0;
    for number in (tail..head).rev() {
        // Overwritten while this looked back: all that is older is gone too.
        let Read::Event(event) = ring.read(number) else { return number + 1 };
        if matches!(event.body, Body::Lost(_)) || !keep(&event) {
            continue;
        }
        matching += 1;
        match range.since {
            Some(since) if event.time < since => return number + 1,
            None if matching == range.number => return number,
            Some(_) | None => {}
        }
    }
    tail
}
