//! L5: both external traffic policies while every node has a pod: ten requests under each.

use std::time::Duration;

use lab::{edge::TargetPool, status::PodInfo};
use serde_json::json;

use super::{Found, l2};
use crate::{
    attempt::{Attempt, Outcome},
    bench::{Bench, Error, until},
    normalise::Style,
    requests::{Series, listed},
    subject::Subject,
};

/// kube-proxy's own health port, asked under policy Cluster.
const CLUSTER_HEALTH_PORT: u16 = 10256;

const REQUESTS: usize = 10;

pub(super) fn capture(bench: &Bench, subject: &mut Subject) -> Result<Found, Error> {
    let pods = subject.ready_pods(bench)?;
    every_node_has_one(bench, &pods)?;
    let mut found = Found::default();
    for policy in ["Cluster", "Local"] {
        set_policy(bench, subject, policy)?;
        let series = Series::new(bench, &subject.url(), Duration::from_millis(20));
        let attempts = series.take(REQUESTS)?;
        let title = format!("Ten requests, policy {policy}");
        found.exhibits.push(bench.exhibit(
            &title,
            &series.line,
            Style::Requests,
            listed(&attempts),
            0,
            note(bench, &attempts),
        ));
        let ok = attempts.iter().filter(|attempt| attempt.ok()).count();
        let kept =
            ok > 0 && attempts.iter().filter(|attempt| attempt.ok()).all(|attempt| preserved(bench, attempt));
        found.fact(policy, json!({"ok": ok, "total": attempts.len(), "client_ip_preserved": kept}));
    }
    Ok(found)
}

/// Sets the policy and waits until the load balancer and every node follow it.
///
/// # Errors
/// The API refuses it, or a node does not follow in time.
pub(super) fn set_policy(bench: &Bench, subject: &mut Subject, policy: &str) -> Result<TargetPool, Error> {
    let (namespace, name) = (subject.namespace.clone(), subject.name.clone());
    let patch = json!({"spec": {"externalTrafficPolicy": policy}}).to_string();
    bench.order(&["-n", &namespace, "patch", "service", &name, "-p", &patch])?;
    let service = model::ServiceName { namespace, name };
    *subject = until("the health check port", Duration::from_secs(10), || {
        let subject = Subject::read(bench, &service)?;
        let settled = (subject.health_check_node_port != 0) == (policy == "Local");
        Ok(settled.then_some(subject))
    })?;
    let port = if policy == "Local" { subject.health_check_node_port } else { CLUSTER_HEALTH_PORT };
    l2::wait_healthy(bench, subject, port)
}

fn every_node_has_one(bench: &Bench, pods: &[PodInfo]) -> Result<(), Error> {
    let empty = bench.lab.topology().nodes.iter().find(|node| pods.iter().all(|pod| pod.node != node.name));
    match empty {
        Some(node) => Err(Error::Missing {
            what: format!("a ready pod on {} (policy Local needs one on every node)", node.name),
        }),
        None => Ok(()),
    }
}

fn preserved(bench: &Bench, attempt: &Attempt) -> bool {
    let client = bench.lab.topology().primary().client().to_string();
    matches!(&attempt.outcome, Outcome::Answered { client: seen, .. } if *seen == client)
}

fn note(bench: &Bench, attempts: &[Attempt]) -> String {
    let (client, ok) = (bench.lab.topology().primary().client(), attempts.iter().filter(|a| a.ok()).count());
    let kept = attempts.iter().filter(|attempt| preserved(bench, attempt)).count();
    let seen = match kept {
        0 => format!(
            "None of the pods saw the client's own address, {client}: the node put its own in place of it."
        ),
        n if n == attempts.len() => format!("The pods saw the client's own address, {client}."),
        n => format!("In {n} of them the pod saw the client's own address, {client}."),
    };
    format!("{ok} of {} answered. {seen}", attempts.len())
}
