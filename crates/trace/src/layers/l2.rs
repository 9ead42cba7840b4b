//! L2: the load balancer's pool, and its health checks as they pass on the wire.

use std::{net::IpAddr, time::Duration};

use lab::{
    Place,
    edge::{Health, TargetPool},
};

use super::Found;
use crate::{
    bench::{Bench, Error, Watch, until},
    command::{Line, watch_health_check},
    normalise::Style,
    subject::Subject,
};

pub(super) fn capture(bench: &Bench, subject: &Subject) -> Result<Found, Error> {
    let pool = pool(bench, subject)?;
    let lab = bench.lab.name().as_str();
    let first = pool.members.first().ok_or_else(|| Error::Missing { what: "a member of the pool".into() })?;
    let interface = interface_towards(bench, first.address)?;
    let watches = pool.members.iter().map(|member| {
        let port = pool.health_check.target.port.get();
        let line = watch_health_check(&interface, &member.address.to_string(), port);
        Ok((member.node.clone(), bench.watch(&line)?, line))
    });
    let watches = watches.collect::<Result<Vec<_>, Error>>()?;
    let mut found = Found::default();
    let mut described = bench.twinplane("Target pool", &describe(lab, &pool.name, false), Style::Plain)?;
    described.capture.note = "Members are nodes. Each is asked over HTTP; after enough bad answers in a row it gets no more connections.".into();
    found.exhibits.push(described);
    let limit = pool.health_check.timing.interval * 2 + Duration::from_secs(5);
    for (node, watch, line) in watches {
        let heard = one_exchange(bench, watch, &line, limit)?;
        let title = format!("Health check of {node} on the wire");
        let note = "The question and the answer, as they left and reached the load balancer.";
        found.exhibits.push(bench.exhibit(&title, &line, Style::Wire, heard, 0, note));
    }
    let healthy = pool.members.iter().filter(|member| member.health == Health::Healthy).count();
    let timing = pool.health_check.timing;
    found.fact("members", pool.members.len());
    found.fact("healthy", healthy);
    found.fact("health_check_port", pool.health_check.target.port.get());
    found.fact("health_check_interval_s", timing.interval.as_secs_f64());
    found.fact("unhealthy_threshold", timing.unhealthy_threshold);
    Ok(found)
}

/// A question and its answer. Where the capture began between the two, the next pair is waited for.
fn one_exchange(bench: &Bench, mut watch: Watch, line: &Line, limit: Duration) -> Result<String, Error> {
    for _ in 0..3 {
        watch.listen(limit, |heard| heard.contains("GET ") && heard.contains("\nHTTP/1."))?;
        let heard = watch.stop();
        if heard.find("GET ").zip(heard.find("\nHTTP/1.")).is_some_and(|(question, answer)| question < answer)
        {
            return Ok(heard);
        }
        watch = bench.watch(line)?;
    }
    Err(Error::Missing { what: format!("a health check answered on the wire: {line}") })
}

/// The pool as the command line shows it, with its latest health checks or without.
pub(super) fn describe(lab: &str, pool: &str, history: bool) -> Line {
    let words = ["lab", "target-pools", "describe", pool, "--name", lab];
    Line::twinplane(Place::Edge, &words, if history { "" } else { "sed '/^CHECKED/,$d'" })
}

/// The load balancer's interface on the nodes' side.
fn interface_towards(bench: &Bench, node: IpAddr) -> Result<String, Error> {
    let line = Line::new(Place::Edge, ["ip", "-json", "route", "get", &node.to_string()]);
    let output = bench.run(&line, Duration::from_secs(10))?;
    let routes: serde_json::Value = serde_json::from_str(&output.stdout)
        .map_err(|source| Error::Answer { command: line.to_string(), source })?;
    let device = routes[0]["dev"].as_str().map(str::to_owned);
    device.ok_or_else(|| Error::Missing { what: format!("the load balancer's route to {node}") })
}

/// The Service's pool, as the load balancer has it now.
///
/// # Errors
/// The load balancer does not answer, or knows no such Service.
pub(super) fn pool(bench: &Bench, subject: &Subject) -> Result<TargetPool, Error> {
    let ours = |pool: &TargetPool| pool.ip_address == subject.vip;
    let pool = bench.lab.edge_status()?.target_pools.into_iter().find(ours);
    pool.ok_or_else(|| Error::Missing { what: format!("target pool of {}", subject.vip) })
}

/// Waits until the pool asks the port of the present policy and every member has said yes to that.
///
/// # Errors
/// It does not come to that in time.
pub(super) fn wait_healthy(bench: &Bench, subject: &Subject, port: u16) -> Result<TargetPool, Error> {
    let timing = pool(bench, subject)?.health_check.timing;
    let what = format!("every node to pass health checks on port {port}");
    until(&what, timing.interval * 3 + Duration::from_secs(30), || {
        let pool = pool(bench, subject)?;
        let asked = format!(":{port}/");
        let well = pool.members.iter().all(|member| {
            let answered = |probe: &lab::edge::Probe| probe.answer.is_success() && probe.url.contains(&asked);
            member.health == Health::Healthy && member.last_probe.as_ref().is_some_and(answered)
        });
        Ok((well && !pool.members.is_empty()).then_some(pool))
    })
}
