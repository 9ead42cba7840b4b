//! The layers: what to capture on each, and which facts follow from it. One plane at a time; the caller pairs them.

mod l1;
mod l2;
mod l3;
mod l4;
mod l5;
mod l6;
mod l7;
mod l8;

use dataplane::ServiceRow;
use model::ServiceName;
use serde_json::Value;

use crate::{
    bench::{Bench, Error},
    compare::Exhibit,
    report::{Facts, LayerId},
    subject::Subject,
};

/// What one plane showed on one layer.
#[derive(Clone, Debug, Default)]
pub struct Found {
    pub exhibits: Vec<Exhibit>,
    pub facts: Facts,
    /// Lines for the terminal.
    pub told: Vec<String>,
}

impl Found {
    fn fact(&mut self, name: &str, value: impl Into<Value>) {
        self.facts.insert(name.to_owned(), value.into());
    }
}

/// Captures one layer.
///
/// # Errors
/// Something that the layer needs is not there, or does not come to pass in time.
pub fn capture(layer: LayerId, bench: &Bench, subject: &mut Subject) -> Result<Found, Error> {
    match layer {
        LayerId::L1 => l1::capture(bench, subject),
        LayerId::L2 => l2::capture(bench, subject),
        LayerId::L3 => l3::capture(bench, subject),
        LayerId::L4 => l4::capture(bench, subject),
        LayerId::L5 => l5::capture(bench, subject),
        LayerId::L6 => l6::capture(bench, subject),
        LayerId::L7 => l7::capture(bench, subject),
        LayerId::L8 => l8::capture(bench, subject),
    }
}

/// Puts the Service and its pods back as they were `found`; the Service as it is then.
///
/// # Errors
/// The API refuses, or the pods do not come back in time.
pub fn restore(bench: &Bench, found: &Subject) -> Result<Subject, Error> {
    l6::restore(bench, found)
}

/// The node that is looked into where one stands for all.
fn first_node(bench: &Bench) -> String {
    bench.lab.topology().nodes.first().map(|node| node.name.clone()).unwrap_or_default()
}

/// The rows of this Service, as a node's dataplane has them.
fn rows(bench: &Bench, subject: &Subject, node: &str) -> Result<Vec<ServiceRow>, Error> {
    let answer = bench.lab.agent_get(node, "/v1/services")?;
    let mut rows: Vec<ServiceRow> = serde_json::from_slice(&answer)
        .map_err(|source| Error::Answer { command: format!("GET /v1/services of {node}"), source })?;
    let ours = ServiceName { namespace: subject.namespace.clone(), name: subject.name.clone() };
    rows.retain(|row| row.service.as_ref() == Some(&ours));
    Ok(rows)
}
