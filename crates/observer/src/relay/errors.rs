//! What nodes failed with, gathered for a while: many that fail in the same way are one message. Bounded, whatever nodes
//! say. Never reads a clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

/// How long the first failure waits for others like it (Hubble's relay waits as long).
const WINDOW: Duration = Duration::from_secs(10);
/// The most different messages that are kept apart.
const MAX_MESSAGES: usize = 16;
/// The most characters of a message.
const MAX_CHARS: usize = 256;
/// Where there are too many different ones.
const OTHERS: &str = "other errors";

/// Nodes by message, until they are due.
#[derive(Debug, Default)]
pub(super) struct Errors {
    nodes: BTreeMap<String, BTreeSet<String>>,
    due: Option<Instant>,
}

impl Errors {
    pub(super) fn add(&mut self, node: &str, message: &str, now: Instant) {
        let message: String = message.chars().take(MAX_CHARS).collect();
        let known = self.nodes.contains_key(&message) || self.nodes.len() < MAX_MESSAGES;
        let message = if known { message } else { OTHERS.to_owned() };
        self.nodes.entry(message).or_default().insert(node.to_owned());
        self.due.get_or_insert(now + WINDOW);
    }

    /// When they are to be told.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Messages with the nodes that failed so, by message; nothing is left.
    pub(super) fn take(&mut self) -> impl Iterator<Item = (String, Vec<String>)> + use<> {
        self.due = None;
        let nodes = std::mem::take(&mut self.nodes);
        nodes.into_iter().map(|(message, nodes)| (message, nodes.into_iter().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nodes_that_fail_alike_are_one_message_ten_seconds_after_the_first() {
        let (mut errors, start) = (Errors::default(), Instant::now());
        assert_eq!(errors.due(), None);
        errors.add("b", "no", start);
        errors.add("a", "no", start + WINDOW / 2);
        errors.add("a", "never", start + WINDOW / 2);
        assert_eq!(errors.due(), Some(start + WINDOW));
        let told: Vec<_> = errors.take().collect();
        let nodes = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(told, [("never".to_owned(), nodes(&["a"])), ("no".to_owned(), nodes(&["a", "b"]))]);
        assert_eq!((errors.due(), errors.take().count()), (None, 0));
    }

    #[tokio::test]
    async fn what_nodes_say_takes_bounded_room() {
        let (mut errors, now) = (Errors::default(), Instant::now());
        for node in 0..1000 {
            errors.add(&format!("node-{node}"), &format!("{node:04}{}", "é".repeat(1 << 16)), now);
        }
        let told: Vec<_> = errors.take().collect();
        assert_eq!(told.len(), MAX_MESSAGES + 1);
        assert!(told.iter().all(|(message, _)| message.chars().count() <= MAX_CHARS));
        assert_eq!(told.iter().map(|(_, nodes)| nodes.len()).sum::<usize>(), 1000);
        let (others, nodes) = told.last().expect("the last");
        assert_eq!((others.as_str(), nodes.len()), (OTHERS, 1000 - MAX_MESSAGES));
    }
}
