//! `trace.json`: what one trace found, as data. Serialised as it stands; the page is a pure function of it.
//!
//! Holds no opinion of its own: `identical` comes from [`crate::compare`], every fact from a capture.

use std::collections::BTreeMap;

use model::Plane;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version of the document's shape. Readers refuse another one.
pub const SCHEMA: u32 = 1;

/// Everything one run of `twinplane trace` found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    pub schema: u32,
    pub layers: Vec<Layer>,
}

/// One step on a packet's way, seen on both planes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    pub id: LayerId,
    pub title: String,
    /// Both planes' captures say the same once what allocation decided is set aside.
    pub identical: bool,
    /// In the order they were asked for; a plane's n-th capture is compared with the other's n-th.
    pub captures: Vec<Capture>,
    pub facts: PlaneFacts,
}

impl Layer {
    /// This plane's captures, in order.
    pub fn of(&self, plane: Plane) -> impl Iterator<Item = &Capture> {
        self.captures.iter().filter(move |capture| capture.dataplane == plane)
    }
}

/// One command and what it answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Capture {
    pub dataplane: Plane,
    pub title: String,
    /// The machine it ran on: `host`, `client`, `edge`, a node's or a pod's name.
    pub r#where: String,
    pub command: String,
    /// Exit status; -1 where a signal ended it.
    pub exit: i32,
    pub output: String,
    /// What to see in it; empty where it speaks for itself.
    pub note: String,
    /// The other plane was asked the same and said the same, once what allocation decided is set aside.
    #[serde(default)]
    pub identical: bool,
}

/// Figures by name. Scalars, or one level of scalars by group (L5: by traffic policy).
pub type Facts = BTreeMap<String, Value>;

/// What both planes measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlaneFacts {
    pub iptables: Facts,
    pub ebpf: Facts,
}

impl PlaneFacts {
    pub fn of(&self, plane: Plane) -> &Facts {
        match plane {
            Plane::Iptables => &self.iptables,
            Plane::Ebpf => &self.ebpf,
        }
    }

    pub fn of_mut(&mut self, plane: Plane) -> &mut Facts {
        match plane {
            Plane::Iptables => &mut self.iptables,
            Plane::Ebpf => &mut self.ebpf,
        }
    }
}

/// The layers there are, from the object down to the failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LayerId {
    L1,
    L2,
    L3,
    L4,
    L5,
    L6,
    L7,
    L8,
}

impl LayerId {
    pub const ALL: [Self; 8] =
        [Self::L1, Self::L2, Self::L3, Self::L4, Self::L5, Self::L6, Self::L7, Self::L8];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::L1 => "L1",
            Self::L2 => "L2",
            Self::L3 => "L3",
            Self::L4 => "L4",
            Self::L5 => "L5",
            Self::L6 => "L6",
            Self::L7 => "L7",
            Self::L8 => "L8",
        }
    }

    pub const fn title(self) -> &'static str {
        match self {
            Self::L1 => "Service and addresses",
            Self::L2 => "Cloud load balancer",
            Self::L3 => "Arrival at the node",
            Self::L4 => "Destination translation",
            Self::L5 => "External traffic policy",
            Self::L6 => "Failover",
            Self::L7 => "Flow observability",
            Self::L8 => "Network policy",
        }
    }
}

impl std::fmt::Display for LayerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for LayerId {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let wanted = |layer: &Self| layer.as_str().eq_ignore_ascii_case(s);
        Self::ALL.into_iter().find(wanted).ok_or_else(|| format!("unknown layer {s:?}: want L1 to L8"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_the_published_shape() {
        let trace = Trace {
            schema: SCHEMA,
            layers: vec![Layer {
                id: LayerId::L4,
                title: "t".into(),
                identical: false,
                captures: vec![Capture {
                    dataplane: Plane::Iptables,
                    title: "c".into(),
                    r#where: "node-a".into(),
                    command: "true".into(),
                    exit: 0,
                    output: "o".into(),
                    note: "n".into(),
                    identical: true,
                }],
                facts: PlaneFacts {
                    iptables: Facts::from([("frontends".into(), 3.into())]),
                    ebpf: Facts::new(),
                },
            }],
        };
        let json = serde_json::to_value(&trace).expect("serialise");
        assert_eq!(
            json,
            serde_json::json!({"schema": 1, "layers": [{
                "id": "L4", "title": "t", "identical": false,
                "captures": [{"dataplane": "iptables", "title": "c", "where": "node-a", "command": "true",
                              "exit": 0, "output": "o", "note": "n", "identical": true}],
                "facts": {"iptables": {"frontends": 3}, "ebpf": {}},
            }]})
        );
        assert_eq!(serde_json::from_value::<Trace>(json).expect("parse"), trace);
    }

    #[test]
    fn a_layer_is_named_in_either_case() {
        assert_eq!("l4".parse(), Ok(LayerId::L4));
        assert!("L9".parse::<LayerId>().expect_err("not traced").contains("L9"));
    }
}
