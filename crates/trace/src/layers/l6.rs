//! L6: policy Local, one pod left: what a client lives through until the load balancer has dropped the empty node.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant, SystemTime},
};

use lab::{
    edge::{Health, HealthCheckTiming, Probe},
    status::PodInfo,
};

use model::FrontendKind;

use super::{Found, l2, l5, rows};
use crate::{
    attempt::Attempt,
    bench::{Bench, Error, until},
    normalise::Style,
    requests::{CLIENT_LIMIT_S, Series, listed},
    subject::Subject,
};

/// From one request's start to the next one's, where the answer was quicker.
const PACE: Duration = Duration::from_millis(250);

/// Requests after the empty node is gone.
const AFTER: usize = 10;

pub(super) fn capture(bench: &Bench, subject: &mut Subject) -> Result<Found, Error> {
    let pool = l5::set_policy(bench, subject, "Local")?;
    let timing = pool.health_check.timing;
    let scale = Scale::to_one(bench, subject)?;
    let series = Series { start: scale.at, ..Series::new(bench, &subject.url(), PACE) };
    let (during, removal) = until_removed(&scale, &series, timing, subject)?;
    let after = series.take(AFTER)?;
    let outcome = Outcome::of(&during, &after);

    let empty = &removal.node;
    let left = bench.kubectl(
        "The pod that is left",
        &["-n", &subject.namespace, "get", "pods", "-o", "wide"],
        format!(
            "{empty} has no pod of this Service any more, and policy Local forbids it to use another node's."
        ),
    )?;
    let rows = |title: &str, attempts: &[Attempt], note: String| {
        bench.exhibit(title, &series.line, Style::Requests, listed(attempts), 0, note)
    };
    let note = format!(
        "{} of {} requests failed until the load balancer had dropped {empty}. {}",
        outcome.failed,
        during.len(),
        outcome.in_words(),
    );
    let window = rows("Requests until the empty node is dropped", &during, note);
    let describe = l2::describe(bench.lab.name().as_str(), &pool.name, true);
    let mut history = bench.twinplane("The pool's health checks", &describe, Style::Plain)?;
    history.capture.note = format!(
        "Asked every {} s; dropped after {} bad answers in a row, the same on both planes.",
        timing.interval.as_secs_f64(),
        timing.unhealthy_threshold,
    );
    let note = format!("{} of {} answered once the node was gone.", outcome.answered_after, after.len());
    let rest = rows("Ten requests after that", &after, note);

    let mut found = Found { exhibits: vec![left, window, history, rest], ..Found::default() };
    found.fact("requests", during.len());
    found.fact("failed", outcome.failed);
    found.fact("first_failure_ms", outcome.first_failure_ms);
    found.fact("median_failure_ms", outcome.median_failure_ms);
    found.fact("node_removed_after_s", (removal.after.as_secs_f64() * 10.0).round() / 10.0);
    found.fact("recovered", outcome.answered_after == AFTER);
    found.fact("health_check_interval_s", timing.interval.as_secs_f64());
    found.fact("unhealthy_threshold", timing.unhealthy_threshold);
    found.fact("client_limit_s", CLIENT_LIMIT_S);
    Ok(found)
}

/// Requests, one after the other, until the load balancer has dropped the empty node.
fn until_removed(
    scale: &Scale,
    series: &Series<'_>,
    timing: HealthCheckTiming,
    subject: &Subject,
) -> Result<(Vec<Attempt>, Removal), Error> {
    let most = timing.interval * (timing.unhealthy_threshold + 2) + Duration::from_secs(60);
    let late = || Error::Late {
        what: "the load balancer to drop a node without a pod".to_owned(),
        seconds: most.as_secs(),
    };
    let mut removal = None;
    let during = series.until(|_| {
        removal = scale.removal(series.bench, subject)?;
        match removal {
            None if scale.at.elapsed() > most => Err(late()),
            _ => Ok(removal.is_some()),
        }
    })?;
    removal.map(|removal| (during, removal)).ok_or_else(late)
}

/// Puts the Service and its pods back as they were `found`.
pub(super) fn restore(bench: &Bench, found: &Subject) -> Result<Subject, Error> {
    let replicas = format!("--replicas={}", found.replicas);
    let wanted = usize::try_from(found.replicas).unwrap_or(usize::MAX);
    bench.order(&["-n", &found.namespace, "scale", "deployment", &found.deployment, &replicas])?;
    until("the pods to come back", Duration::from_secs(60), || {
        Ok((found.ready_pods(bench)?.len() >= wanted).then_some(()))
    })?;
    found.spread(bench)?;
    let mut subject = found.clone();
    l5::set_policy(bench, &mut subject, &found.policy)?;
    Ok(subject)
}

/// The moment of the scale-down, on both clocks: the client's is monotonic, the load balancer tells the time of day.
struct Scale {
    at: Instant,
    time: SystemTime,
    before: Vec<PodInfo>,
}

/// A node that the load balancer has dropped.
struct Removal {
    node: String,
    after: Duration,
}

impl Scale {
    fn to_one(bench: &Bench, subject: &Subject) -> Result<Self, Error> {
        let scale = Self { before: subject.ready_pods(bench)?, at: Instant::now(), time: SystemTime::now() };
        bench.order(&[
            "-n",
            &subject.namespace,
            "scale",
            "deployment",
            &subject.deployment,
            "--replicas=1",
        ])?;
        until("every node to know of the pod that is left", Duration::from_secs(20), || {
            followed(bench, subject).map(|followed| followed.then_some(()))
        })?;
        Ok(scale)
    }

    /// Whether every node without a pod is out of the pool, and since when the last of them is.
    fn removal(&self, bench: &Bench, subject: &Subject) -> Result<Option<Removal>, Error> {
        let left = subject.ready_pods(bench)?.into_iter().map(|pod| pod.node).collect::<BTreeSet<_>>();
        let had = self.before.iter().map(|pod| pod.node.clone()).collect::<BTreeSet<_>>();
        let empty = had.difference(&left).collect::<Vec<_>>();
        if left.len() != 1 || empty.is_empty() {
            return Ok(None);
        }
        let pool = l2::pool(bench, subject)?;
        let dropped = |node: &&String| pool.history.iter().rev().find_map(|probe| self.drop_of(node, probe));
        let mut removals = empty.iter().map(dropped).collect::<Option<Vec<_>>>().unwrap_or_default();
        removals.sort_by_key(|removal| removal.after);
        Ok(removals.pop())
    }

    /// The drop of `node` since the scale-down, where `probe` brought it about.
    fn drop_of(&self, node: &str, probe: &Probe) -> Option<Removal> {
        if probe.node != node || probe.transition != Some(Health::Unhealthy) {
            return None;
        }
        let after = SystemTime::from(probe.time).duration_since(self.time).ok()?;
        let after = after + Duration::from_micros(probe.latency_us);
        Some(Removal { node: node.to_owned(), after })
    }
}

/// Whether one pod is left and every node's kernel has no other behind the Service.
///
/// Requests start then: what happens to one that is under way to a pod that ends is not what this layer compares.
fn followed(bench: &Bench, subject: &Subject) -> Result<bool, Error> {
    let pods = subject.ready_pods(bench)?;
    let [PodInfo { ip: Some(left), .. }] = pods[..] else { return Ok(false) };
    for node in &bench.lab.topology().nodes {
        let rows = rows(bench, subject, &node.name)?;
        let inside = rows.iter().filter(|row| row.kind == FrontendKind::ClusterIp);
        let mut backends = inside.flat_map(|row| &row.backends).peekable();
        if backends.peek().is_none() || backends.any(|backend| backend.address.ip() != left) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What the requests come to.
#[derive(Debug, PartialEq)]
struct Outcome {
    failed: usize,
    first_failure_ms: Option<f64>,
    median_failure_ms: Option<f64>,
    answered_after: usize,
}

impl Outcome {
    fn of(during: &[Attempt], after: &[Attempt]) -> Self {
        let mut failures = during.iter().filter(|a| !a.ok()).map(|a| a.took_us).collect::<Vec<_>>();
        let first_failure_ms = failures.first().map(tenths);
        failures.sort_unstable();
        Self {
            failed: failures.len(),
            first_failure_ms,
            median_failure_ms: failures.get(failures.len() / 2).map(tenths),
            answered_after: after.iter().filter(|a| a.ok()).count(),
        }
    }

    fn in_words(&self) -> String {
        match self.median_failure_ms {
            None => "None of them failed.".to_owned(),
            Some(ms) if ms >= (CLIENT_LIMIT_S * 1000) as f64 => {
                format!("Nobody told the client: it waited {ms} ms, its own limit.")
            }
            Some(ms) => format!("The client was told after {ms} ms (median) and could try again."),
        }
    }
}

/// Milliseconds with one decimal.
fn tenths(us: &u64) -> f64 {
    (*us as f64 / 100.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt;

    fn attempt(took_us: u64, ok: bool) -> Attempt {
        let outcome = match ok {
            true => attempt::Outcome::Answered { status: 200, client: String::new() },
            false => attempt::Outcome::Failed { exit: 28 },
        };
        Attempt { at_ms: 0, took_us, outcome }
    }

    #[test]
    fn failures_are_counted_first_and_median() {
        let during =
            [attempt(300, true), attempt(6_001_260, false), attempt(900, false), attempt(6_002_000, false)];
        let outcome = Outcome::of(&during, &[attempt(200, true), attempt(200, false)]);
        let expected = Outcome {
            failed: 3,
            first_failure_ms: Some(6001.3),
            median_failure_ms: Some(6001.3),
            answered_after: 1,
        };
        assert_eq!(outcome, expected);
        assert_eq!(Outcome::of(&[attempt(300, true)], &[]).median_failure_ms, None);
    }
}
