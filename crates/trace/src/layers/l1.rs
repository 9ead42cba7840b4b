//! L1: the Service as the control plane made it. No dataplane is asked.

use lab::Place;

use super::Found;
use crate::{
    bench::{Bench, Error},
    command::Line,
    normalise::Style,
    subject::Subject,
};

pub(super) fn capture(bench: &Bench, subject: &Subject) -> Result<Found, Error> {
    let Subject { namespace, name, cluster_ip, vip, node_port, .. } = subject;
    let lab = bench.lab.name().as_str();
    let list = Line::twinplane(Place::Edge, &["lab", "forwarding-rules", "list", "--name", lab], "");
    let mut rules = bench.twinplane("Forwarding rule", &list, Style::Plain)?;
    rules.capture.note = format!(
        "The load balancer owns {vip} and sends what arrives there to a pool of nodes. It has not heard of pods."
    );
    let service = bench.kubectl(
        "Service and its addresses",
        &["-n", namespace, "get", "service", name],
        format!(
            "{cluster_ip} inside the cluster, {vip} outside, port {node_port} on every node: one Service."
        ),
    )?;
    let details = bench.kubectl(
        "Service in detail",
        &["-n", namespace, "describe", "service", name],
        "The endpoints are the pods behind it; the events tell how the outside address came about.",
    )?;
    let mut found = Found { exhibits: vec![rules, service, details], ..Found::default() };
    found.fact("endpoints", subject.ready_pods(bench)?.len());
    Ok(found)
}
