//! What a lab is, printed.

use std::{fmt::Write as _, process::ExitCode};

use anyhow::Context as _;
use serde::Serialize;

use super::output::{self, Format, columns};
use crate::{
    edge::{ForwardingRule, Member, Probe, ProbeAnswer, TargetPool},
    lab::Lab,
    plan::LabName,
    state::{self, State},
    status::{AgentStatus, Phase, PodInfo, RelayStatus, Status},
};

/// Checks shown for people; programs get all that are kept.
const RECENT: usize = 12;

/// One lab of this machine.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    name: LabName,
    dataplane: String,
    nodes: usize,
    state: String,
    created: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    #[serde(flatten)]
    status: Status,
    pods: Vec<PodInfo>,
}

pub(super) fn list(format: Format) -> anyhow::Result<ExitCode> {
    let labs: Vec<_> = state::names().context("list labs")?.iter().map(listed).collect();
    output::print(format, &labs, |labs| {
        let row = |lab: &Listed| {
            let Listed { name, dataplane, nodes, state, created } = lab;
            [name.to_string(), dataplane.clone(), nodes.to_string(), state.clone(), created.clone()]
        };
        columns(["NAME", "DATAPLANE", "NODES", "STATE", "CREATED"], labs.iter().map(row))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn listed(name: &LabName) -> Listed {
    let unknown = || "-".to_owned();
    let Ok(state) = State::load(name) else {
        let state = "broken (remove it with lab down)".to_owned();
        return Listed { name: name.clone(), dataplane: unknown(), nodes: 0, state, created: unknown() };
    };
    let (plane, nodes) = (state.topology.plane.to_string(), state.topology.nodes.len());
    let created = format!("{:.0}", state.created);
    let state = match Lab::from_state(state).status() {
        Ok(status) => phase(&status.phase),
        Err(_) => "supervisor gone (remove it with lab down)".to_owned(),
    };
    Listed { name: name.clone(), dataplane: plane, nodes, state, created }
}

/// Exit 1 where something of the lab does not run.
pub(super) fn status(lab: &Lab, format: Format) -> anyhow::Result<ExitCode> {
    let shown = Shown { status: lab.status()?, pods: lab.pods()? };
    output::print(format, &shown, |shown| {
        let mut text = statuses(std::slice::from_ref(&shown.status));
        text.push('\n');
        text.push_str(&nodes(&shown.status));
        text.push('\n');
        if let Some(shown) = &shown.status.relay {
            text.push_str(&relay(shown));
            text.push('\n');
        }
        text.push_str(&pods(&shown.pods));
        text
    })?;
    let status = &shown.status;
    let processes =
        status.nodes.iter().map(|node| &node.agent).chain(status.relay.iter().map(|it| &it.process));
    let runs = status.phase == Phase::Running && processes.into_iter().all(|process| process.ready);
    Ok(if runs { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

pub(super) fn statuses(statuses: &[Status]) -> String {
    let row = |status: &Status| {
        [
            status.name.to_string(),
            status.plane.to_string(),
            phase(&status.phase),
            status.api.map_or_else(|| "-".to_owned(), |api| format!("http://{api}")),
        ]
    };
    columns(["LAB", "DATAPLANE", "STATE", "API"], statuses.iter().map(row))
}

fn phase(phase: &Phase) -> String {
    match phase {
        Phase::Starting { step } => format!("starting: {step}"),
        Phase::Running => "running".to_owned(),
        Phase::Failed { step, message } => format!("failed: {step}: {message}"),
    }
}

fn nodes(status: &Status) -> String {
    let rows = status.nodes.iter().map(|node| {
        let agent = process(&node.agent);
        let last = node.agent.last_exit.clone().unwrap_or_else(|| "-".to_owned());
        let restarts = node.agent.restarts.to_string();
        [node.name.clone(), node.address.to_string(), node.pod_cidr.clone(), agent, restarts, last]
    });
    columns(["NODE", "ADDRESS", "PODS", "AGENT", "RESTARTS", "LAST EXIT"], rows)
}

fn process(process: &AgentStatus) -> String {
    match (process.pid, process.ready) {
        (Some(pid), true) => format!("ready (pid {pid})"),
        (Some(pid), false) => format!("starting (pid {pid})"),
        (None, _) if process.stopped => "stopped".to_owned(),
        (None, _) => "down".to_owned(),
    }
}

fn relay(relay: &RelayStatus) -> String {
    let last = relay.process.last_exit.clone().unwrap_or_else(|| "-".to_owned());
    let (address, socket) = (relay.address.to_string(), relay.socket.display().to_string());
    let row = [process(&relay.process), address, socket, relay.process.restarts.to_string(), last];
    columns(["RELAY", "ADDRESS", "SOCKET", "RESTARTS", "LAST EXIT"], [row])
}

fn pods(pods: &[PodInfo]) -> String {
    let rows = pods.iter().map(|pod| {
        let address = pod.ip.map_or_else(|| "-".to_owned(), |ip| ip.to_string());
        let ready = if pod.ready { "yes" } else { "no" };
        let name = format!("{}/{}", pod.namespace, pod.name);
        [name, pod.node.clone(), address, ready.to_owned(), pod.netns.clone()]
    });
    columns(["POD", "NODE", "ADDRESS", "READY", "NAMESPACE"], rows)
}

pub(super) fn forwarding_rules(lab: &Lab, format: Format) -> anyhow::Result<ExitCode> {
    let rules = lab.edge_status()?.forwarding_rules;
    output::print(format, &rules, |rules| {
        let row = |rule: &ForwardingRule| {
            let ForwardingRule { name, region, ip_address, ip_protocol, target, .. } = rule;
            let (address, protocol) = (ip_address.to_string(), ip_protocol.to_string());
            [name.clone(), region.clone(), address, protocol, target.clone()]
        };
        columns(["NAME", "REGION", "IP_ADDRESS", "IP_PROTOCOL", "TARGET"], rules.iter().map(row))
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn target_pools(lab: &Lab, format: Format) -> anyhow::Result<ExitCode> {
    let pools = lab.edge_status()?.target_pools;
    output::print(format, &pools, |pools| {
        let row = |pool: &TargetPool| {
            let receiving = pool.members.iter().filter(|member| member.receives_traffic).count();
            let members = format!("{receiving}/{}", pool.members.len());
            let TargetPool { name, region, session_affinity, service, .. } = pool;
            [name.clone(), region.clone(), session_affinity.clone(), service.to_string(), members]
        };
        columns(["NAME", "REGION", "SESSION_AFFINITY", "SERVICE", "RECEIVING"], pools.iter().map(row))
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn target_pool(lab: &Lab, wanted: &str, format: Format) -> anyhow::Result<ExitCode> {
    let pools = lab.edge_status()?.target_pools;
    let names: Vec<_> = pools.iter().map(|pool| format!("{} ({})", pool.name, pool.service)).collect();
    let pool = pools
        .into_iter()
        .find(|pool| pool.name == wanted || pool.service.to_string() == wanted)
        .with_context(|| format!("find target pool {wanted:?}: there is {}", or_none(&names)))?;
    output::print(format, &pool, describe)?;
    Ok(ExitCode::SUCCESS)
}

fn or_none(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn describe(pool: &TargetPool) -> String {
    let check = &pool.health_check;
    let mut text = String::new();
    for (key, value) in [
        ("name", pool.name.clone()),
        ("region", pool.region.clone()),
        ("service", pool.service.to_string()),
        ("IPAddress", pool.ip_address.to_string()),
        ("sessionAffinity", pool.session_affinity.clone()),
        ("healthCheck", format!("HTTP port {} path {}", check.target.port, check.target.path)),
        ("checkInterval", format!("{:?}", check.timing.interval)),
        ("timeout", format!("{:?}", check.timing.timeout)),
        ("healthyThreshold", check.timing.healthy_threshold.to_string()),
        ("unhealthyThreshold", check.timing.unhealthy_threshold.to_string()),
    ] {
        let _ = writeln!(text, "{key:<20}{value}");
    }
    let member = |member: &Member| {
        let traffic = if member.receives_traffic { "yes" } else { "no" };
        let health = format!("{:?}", member.health).to_uppercase();
        let since = format!("{:.0}", member.since);
        let last = member.last_probe.as_ref().map_or_else(|| "-".to_owned(), |probe| answer(&probe.answer));
        [member.node.clone(), member.address.to_string(), health, since, traffic.to_owned(), last]
    };
    let header = ["MEMBER", "ADDRESS", "HEALTH", "SINCE", "TRAFFIC", "LAST CHECK"];
    let _ = write!(text, "\n{}", columns(header, pool.members.iter().map(member)));
    let probe = |probe: &Probe| {
        let latency =
            format!("{:.1} ms", f64::from(u32::try_from(probe.latency_us).unwrap_or(u32::MAX)) / 1000.0);
        let change = probe.transition.map_or_else(String::new, |health| format!("{health:?}").to_uppercase());
        [format!("{:.3}", probe.time), probe.node.clone(), latency, change, answer(&probe.answer)]
    };
    let recent = pool.history.iter().skip(pool.history.len().saturating_sub(RECENT));
    let _ = write!(text, "\n{}", columns(["CHECKED", "NODE", "TOOK", "BECAME", "ANSWER"], recent.map(probe)));
    text
}

fn answer(answer: &ProbeAnswer) -> String {
    match answer {
        ProbeAnswer::Http { status, body } => {
            format!("{status} {}", body.split_whitespace().collect::<String>())
        }
        ProbeAnswer::Failed { error } => error.clone(),
    }
}
