//! The relay: one connection per node, kept up with jittered retries; requests fan out over them and the answers come
//! back in the order of their time. What a client does not read is not fetched: the nodes count what it misses. Never
//! keeps flows.
//!
//! [`Relay::start`] follows the peer service; the relay itself is an `observer.Observer` for [`crate::serve`].

mod collect;
mod errors;
mod follow_peers;
mod merge;
mod metrics;
mod pool;
mod service;

use std::{sync::Arc, time::Duration};

use tokio::task::JoinHandle;

pub use self::{pool::NodeStatus, service::Relay};
use crate::{connect::Target, node::Identity, tls::Certificates};

/// What a relay needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    pub identity: Identity,
    /// Who tells which nodes there are: the first that answers, and the next where one fails. At least one.
    pub peer_services: Vec<Target>,
    /// Shown to nodes and to the peer service; `None`: only plain text within this machine makes sense.
    pub certificates: Option<Arc<Certificates>>,
    pub retry: Retry,
}

/// How long to wait before connecting again: twice as long each time, half of it by chance.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    pub first: Duration,
    pub longest: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), longest: Duration::from_secs(30) }
    }
}

impl Retry {
    /// After so many failures in a row; `chance` is between 0 and 1.
    fn wait(self, failures: u32, chance: f64) -> Duration {
        let full = self.first.saturating_mul(1 << failures.min(16)).min(self.longest);
        full.mul_f64(0.5 + chance / 2.0)
    }
}

/// Ends the task when dropped.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_are_spread() {
        let retry = Retry::default();
        let waits =
            |chance| (0..7).map(|failures| retry.wait(failures, chance).as_millis()).collect::<Vec<_>>();
        assert_eq!(waits(0.0), [500, 1000, 2000, 4000, 8000, 15000, 15000]);
        assert_eq!(waits(1.0), [1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        assert_eq!(retry.wait(u32::MAX, 1.0).as_secs(), 30);
    }
}
