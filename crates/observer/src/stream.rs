//! A ring as a stream of answers. Pulled by the client: one that stops reading is not read for, loses events when the
//! ring comes round, and is told how many. Never buffers.

use std::sync::Arc;

use flow::{
    cursor::{Cursor, Range, Step},
    event::{Event, Time},
    ring::Ring,
};
use futures::{Stream, stream};
use prost_types::Timestamp;
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;

/// Which part of a ring the fields of a request ask for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    pub number: u64,
    pub first: bool,
    pub follow: bool,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
}

impl Asked {
    /// Refuses contradictions and times that no calendar has.
    pub fn range(self) -> Result<Range, Status> {
        let time = |field: &str, time: Option<Timestamp>| match time {
            Some(time) if !(0..1_000_000_000).contains(&time.nanos) => {
                Err(Status::invalid_argument(format!("parse {field}: {} nanoseconds", time.nanos)))
            }
            time => Ok(time.map(Time::from)),
        };
        let range = Range {
            number: self.number,
            first: self.first,
            follow: self.follow,
            since: time("since", self.since)?,
            until: time("until", self.until)?,
        };
        range.check().map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(range)
    }
}

/// Which events a request is about.
pub type Keep = Box<dyn Fn(&Event) -> bool + Send + Sync>;

/// The answers to one request: `answer` makes them, and passes over events for which it has none. The permit is held for
/// as long as the stream lives.
pub fn answers<T: Send + 'static>(
    ring: Ring,
    range: Range,
    keep: Keep,
    answer: impl Fn(Arc<Event>) -> Option<T> + Send + 'static,
    permit: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<T, Status>> + Send + 'static {
    let cursor = Cursor::new(ring, range, keep);
    stream::unfold((cursor, answer, permit), |(mut cursor, answer, permit)| async move {
        loop {
            // A client that reads fast and a full ring would otherwise keep this thread for themselves.
            tokio::task::consume_budget().await;
            match cursor.step() {
                Step::Event(event) => {
                    if let Some(answer_to_it) = answer(event) {
                        return Some((Ok(answer_to_it), (cursor, answer, permit)));
                    }
                }
                Step::More => {}
                Step::Wait(number) => cursor.ring().written(number).await,
                Step::End => return None,
            }
        }
    })
}
