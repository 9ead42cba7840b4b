//! The report as one HTML file: a pure function of the trace, with style and script inside and nothing fetched.
//!
//! Everything captured passes the template's escaping; only the page's own style and script do not.

mod rows;
mod timeline;

use std::{collections::VecDeque, mem};

use minijinja::{AutoEscape, Environment, value::Serde};
use model::Plane;
use serde::Serialize;

use crate::report::{Capture, Layer, LayerId, Trace};

const TEMPLATE: &str = include_str!("../assets/page.html");
const STYLE: &str = include_str!("../assets/page.css");
const SCRIPT: &str = include_str!("../assets/page.js");

/// The template could not be filled in.
#[derive(Debug, thiserror::Error)]
#[error("render page")]
pub struct Error(#[from] minijinja::Error);

/// The page, as `index.html` holds it.
///
/// # Errors
/// The template does not fit its data, which the tests rule out.
pub fn render(trace: &Trace) -> Result<String, Error> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_template("page", TEMPLATE)?;
    let view = PageView {
        css: STYLE,
        js: SCRIPT,
        verdict: verdict(trace),
        glance: rows::glance(trace),
        layers: trace.layers.iter().map(LayerView::new).collect(),
    };
    Ok(environment.get_template("page")?.render(Serde(view))?)
}

#[derive(Debug, Serialize)]
struct PageView<'a> {
    css: &'static str,
    js: &'static str,
    verdict: String,
    glance: Vec<rows::Row>,
    layers: Vec<LayerView<'a>>,
}

#[derive(Debug, Serialize)]
struct LayerView<'a> {
    id: LayerId,
    title: &'a str,
    intro: &'static str,
    identical: bool,
    summary: &'static str,
    /// Rows of two columns, iptables first: a row per question that both planes were asked.
    pairs: Vec<[Vec<CaptureView<'a>>; 2]>,
    facts: Vec<rows::Row>,
    timeline: Option<timeline::Chart>,
}

#[derive(Debug, Serialize)]
struct CaptureView<'a> {
    plane: Plane,
    plane_name: &'static str,
    title: &'a str,
    r#where: &'a str,
    command: &'a str,
    exit: i32,
    output: &'a str,
    /// The output, where its lines may be broken; empty where columns would fall apart.
    lines: Vec<&'a str>,
    note: &'a str,
    identical: bool,
}

impl<'a> LayerView<'a> {
    fn new(layer: &'a Layer) -> Self {
        let columns = Plane::ALL.map(|plane| layer.of(plane).map(CaptureView::new).collect::<Vec<_>>());
        let shown = match layer.identical {
            true => "Show what both planes said",
            false => "Captures",
        };
        Self {
            id: layer.id,
            title: &layer.title,
            intro: intro(layer.id),
            identical: layer.identical,
            summary: shown,
            pairs: pairs(columns),
            facts: rows::of(&layer.facts),
            timeline: timeline::chart(layer),
        }
    }
}

impl<'a> CaptureView<'a> {
    fn new(capture: &'a Capture) -> Self {
        let Capture { dataplane, title, r#where, command, exit, output, note, identical } = capture;
        let plane_name = name(*dataplane);
        let cells = |line: &str| line.split("   ").filter(|part| !part.trim().is_empty()).count();
        let has_columns = output.lines().any(|line| cells(line) > 2);
        Self {
            plane: *dataplane,
            plane_name,
            title,
            r#where,
            command,
            exit: *exit,
            output: output.trim_end(),
            lines: if has_columns { vec![] } else { output.trim_end().lines().collect() },
            note,
            identical: *identical,
        }
    }
}

/// Side by side what both planes were asked; between two such rows, what only one was, each plane's in its own column and order.
fn pairs<'a>(columns: [Vec<CaptureView<'a>>; 2]) -> Vec<[Vec<CaptureView<'a>>; 2]> {
    let [left, right] = columns;
    let mut right = VecDeque::from(right);
    let (mut rows, mut alone) = (vec![], vec![]);
    for capture in left {
        let Some(at) = right.iter().position(|other| other.title == capture.title) else {
            alone.push(capture);
            continue;
        };
        rows.push([mem::take(&mut alone), right.drain(..at).collect()]);
        rows.push([vec![capture], right.drain(..1).collect()]);
    }
    rows.push([alone, right.into()]);
    rows.retain(|row| row.iter().any(|column| !column.is_empty()));
    rows
}

/// As people write it.
const fn name(plane: Plane) -> &'static str {
    match plane {
        Plane::Iptables => "iptables",
        Plane::Ebpf => "eBPF",
    }
}

/// Which layers came out the same, in a sentence.
fn verdict(trace: &Trace) -> String {
    let named = |identical: bool| {
        let layers = trace.layers.iter().filter(|layer| layer.identical == identical);
        layers.map(|layer| layer.id.to_string()).collect::<Vec<_>>()
    };
    match (listed(&named(true)), listed(&named(false))) {
        (None, None) => "No layer was traced.".to_owned(),
        (Some(same), None) => format!("Identical on both: {same}."),
        (None, Some(apart)) => format!("The planes differ in {apart}."),
        (Some(same), Some(apart)) => format!(
            "The planes differ in {apart}. With what a cluster allots by chance set aside, they show the same in \
             {same}: dimmed and folded below."
        ),
    }
}

/// `a`, `a and b`, `a, b and c`; `None` for nothing.
fn listed(names: &[String]) -> Option<String> {
    match names {
        [] => None,
        [one] => Some(one.clone()),
        [most @ .., last] => Some(format!("{} and {last}", most.join(", "))),
    }
}

/// What a layer is about. States no measured number: those are facts.
const fn intro(layer: LayerId) -> &'static str {
    match layer {
        LayerId::L1 => {
            "One Service gets three ways in: an address inside the cluster, a port on every node, and an address \
             at the cloud's load balancer. The control plane hands them out; no dataplane is involved yet."
        }
        LayerId::L2 => {
            "The load balancer in front knows nodes, not pods. It asks each node over HTTP whether to send \
             traffic there, hashes every connection over the nodes that said yes, and forwards packets untouched."
        }
        LayerId::L3 => {
            "One connection request from outside, followed from the wire of the node that received it through \
             every hook that handled it."
        }
        LayerId::L4 => {
            "Somewhere a packet for the Service must become a packet for one pod. iptables finds out by trying \
             rules one after the other; eBPF asks a hash map for the address and takes a backend from the answer."
        }
        LayerId::L5 => {
            "With policy Cluster any node may serve the client through any pod, and hides the client's address \
             so that the answer comes back the same way. With Local a node uses only pods of its own and the \
             address stays. As long as every node has a pod, both work."
        }
        LayerId::L6 => {
            "Policy Local, then one pod left: a node without a pod keeps getting connections until its health \
             checks fail. What a client notices in between is up to the dataplane."
        }
        LayerId::L7 => {
            "What became of one client's requests? The programs that forward a packet can tell of it as they do so, with the \
             names of both ends. Rules cannot: what they did is put together afterwards, from what connection tracking \
             still remembers and from what was on the wire."
        }
        LayerId::L8 => {
            "A NetworkPolicy says who may reach the pods of the Service: whoever has a label, and nobody else. On the cluster with \
             iptables the network-policy add-on is off at first, and the same object keeps nobody out; turned on, it writes rules \
             about addresses. eBPF enforces by identity, a number for a set of labels, and tells who was turned away, by which \
             policy and why."
        }
    }
}

#[cfg(test)]
mod tests;
