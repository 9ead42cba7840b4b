//! The accepted differences between the planes, each written down once.

use serde::{Deserialize, Serialize};

use crate::oracle::Outcome;

/// A dataplane this project has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Plane {
    Ebpf,
    Iptables,
}

impl Plane {
    pub const ALL: [Self; 2] = [Self::Iptables, Self::Ebpf];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::Iptables => "iptables",
        }
    }
}

impl std::fmt::Display for Plane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Plane {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "ebpf" => Ok(Self::Ebpf),
            "iptables" => Ok(Self::Iptables),
            _ => Err(format!("unknown dataplane {s:?}: want ebpf or iptables")),
        }
    }
}

/// What a client notices, where the model alone does not settle it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// TCP RST or ICMP port unreachable, at once.
    Refused,
    /// Nothing: the client times out.
    Silence,
}

/// One accepted difference.
#[derive(Clone, Copy, Debug)]
pub struct Divergence {
    /// Stable name; the scenario that tests it carries the same one.
    pub name: &'static str,
    pub reason: &'static str,
    pub ebpf: Answer,
    pub iptables: Answer,
    applies: fn(&Outcome) -> bool,
}

/// Every accepted difference. Anything else is a bug in one of the planes.
pub const DIVERGENCES: &[Divergence] = &[Divergence {
    name: "no-local-endpoints",
    reason: "kube-proxy drops under Local policy without a local endpoint, and the client waits for its timeout; \
             the eBPF plane refuses, so that the client can try again at once",
    ebpf: Answer::Refused,
    iptables: Answer::Silence,
    applies: |outcome| matches!(outcome, Outcome::NoLocalEndpoints),
}];

impl Plane {
    /// What a client notices of an outcome that forwards nothing; `None` where packets flow.
    pub fn answer(self, outcome: &Outcome) -> Option<Answer> {
        if let Some(divergence) = DIVERGENCES.iter().find(|d| (d.applies)(outcome)) {
            return Some(match self {
                Self::Ebpf => divergence.ebpf,
                Self::Iptables => divergence.iptables,
            });
        }
        match outcome {
            Outcome::Untouched | Outcome::Forwarded { .. } => None,
            Outcome::NoEndpoints => Some(Answer::Refused),
            Outcome::NoLocalEndpoints | Outcome::SourceDenied => Some(Answer::Silence),
        }
    }
}
