//! Policies from their objects. What cannot be read is reported, and closed. Pure.

mod admin;
mod mode;
mod network_policy;
mod parts;
mod pod;

use std::collections::BTreeMap;

use model::policy::{Direction, SourceLine};

pub use admin::cluster_network_policy;
pub use mode::{POLICY_ANNOTATION, mode};
pub use network_policy::network_policy;
pub use pod::{PodReading, container_ports, pod};

use crate::{Policy, Problem};

/// A policy, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    pub policy: Policy,
    pub problems: Vec<Problem>,
}

/// Where an object's rules stand in the file that it was read from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    pub file: String,
    /// Of the object itself, from 1.
    pub object: u64,
    /// From 1.
    pub rules: BTreeMap<(Direction, usize), u64>,
}

impl Lines {
    /// Where a rule stands.
    pub fn of(&self, direction: Direction, rule: usize) -> Option<SourceLine> {
        let line = *self.rules.get(&(direction, rule))?;
        Some(SourceLine { file: self.file.clone(), line })
    }
}
