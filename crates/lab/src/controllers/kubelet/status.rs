//! A pod's status from its object and its record. Pure.
//!
//! Conditions of others (readiness gates) are kept; times change only when what they belong to does.

use std::net::IpAddr;

use k8s_openapi::{
    api::core::v1::{
        Container as Spec, ContainerState, ContainerStateRunning, ContainerStateTerminated,
        ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
    },
    jiff::Timestamp,
};

use super::{
    super::meta::api_time,
    plan::ended,
    state::{Container, Exit, PodRecord, Sandbox, State},
};
use crate::process::ProcessId;

/// The conditions this kubelet writes, in the order a real one does.
const OWN: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// The status of `pod` as the node sees it.
pub(super) fn render(pod: &Pod, record: &PodRecord, host: &[IpAddr], now: Timestamp) -> PodStatus {
    let before = pod.status.clone().unwrap_or_default();
    let spec = pod.spec.clone().unwrap_or_default();
    let addresses = record.addresses();
    let init = spec.init_containers.unwrap_or_default();
    let (phase, ended) = phase(pod, record);
    let statuses = |containers: &[Spec], role: Role| {
        containers.iter().map(|spec| container(spec, role, record)).collect::<Vec<_>>()
    };
    PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(conditions(pod, record, ended, now)),
        host_ip: host.first().map(ToString::to_string),
        host_ips: Some(host.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        pod_ip: addresses.first().map(ToString::to_string),
        pod_ips: Some(addresses.iter().map(|ip| PodIP { ip: ip.to_string() }).collect::<Vec<_>>())
            .filter(|addresses| !addresses.is_empty()),
        start_time: before.start_time.clone().or_else(|| Some(api_time(now))),
        container_statuses: Some(statuses(&spec.containers, Role::Main)),
        init_container_statuses: Some(statuses(&init, Role::Init)).filter(|statuses| !statuses.is_empty()),
        qos_class: before.qos_class.clone().or_else(|| Some("BestEffort".to_owned())),
        reason: None,
        message: None,
        ..before
    }
}

/// The phase, and whether the pod ended on its own.
fn phase(pod: &Pod, record: &PodRecord) -> (&'static str, bool) {
    match ended(pod, record) {
        Some(true) => return ("Succeeded", true),
        Some(false) => return ("Failed", true),
        None => {}
    }
    let mut main = pod.spec.iter().flat_map(|spec| &spec.containers);
    let ran = main.any(|spec| {
        record.containers.get(&spec.name).is_some_and(|container| match &container.state {
            State::Running { .. } | State::Exited(_) => true,
            State::Waiting { .. } => container.last.is_some(),
        })
    });
    (if ran { "Running" } else { "Pending" }, false)
}

fn conditions(pod: &Pod, record: &PodRecord, ended: bool, now: Timestamp) -> Vec<PodCondition> {
    let before = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    let main = spec.map_or(&[][..], |spec| spec.containers.as_slice());
    let names = |containers: &[Spec], ok: &dyn Fn(&Container) -> bool| -> Vec<String> {
        let missing = |spec: &&Spec| !record.containers.get(&spec.name).is_some_and(ok);
        containers.iter().filter(missing).map(|spec| spec.name.clone()).collect()
    };
    let incomplete = names(init, &|container| match &container.state {
        State::Exited(exit) => exit.code == 0,
        State::Running { .. } => container.ready,
        State::Waiting { .. } => false,
    });
    let unready = names(main, &is_ready);
    let gates = spec.and_then(|spec| spec.readiness_gates.as_deref()).unwrap_or_default();
    let closed = gates.iter().find(|gate| {
        !before.iter().any(|condition| condition.type_ == gate.condition_type && condition.status == "True")
    });
    let containers_ready = if ended {
        Some(("PodCompleted", None))
    } else if unready.is_empty() {
        None
    } else {
        Some(("ContainersNotReady", Some(format!("containers with unready status: [{}]", unready.join(" ")))))
    };
    let ready = containers_ready.clone().or_else(|| {
        closed.map(|gate| {
            let message = format!(
                "corresponding condition of pod readiness gate {:?} does not exist or is not True.",
                gate.condition_type
            );
            ("ReadinessGatesNotReady", Some(message))
        })
    });
    let initialized = (!incomplete.is_empty() && !ended).then(|| {
        let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
        ("ContainersNotInitialized", Some(message))
    });
    let network = matches!(record.sandbox, Sandbox::Ready { .. });
    let faults: [Option<(&str, Option<String>)>; 5] =
        [(!network).then_some(("", None)), initialized, ready, containers_ready, None];
    let mut conditions: Vec<_> =
        OWN.into_iter().zip(faults).map(|(kind, fault)| condition(&before, kind, fault, now)).collect();
    conditions.extend(before.into_iter().filter(|condition| !OWN.contains(&condition.type_.as_str())));
    conditions
}

fn is_ready(container: &Container) -> bool {
    container.ready && matches!(container.state, State::Running { .. })
}

/// True without a fault; with one, false for its reason and message.
fn condition(
    before: &[PodCondition],
    kind: &str,
    fault: Option<(&str, Option<String>)>,
    now: Timestamp,
) -> PodCondition {
    let status = if fault.is_none() { "True" } else { "False" };
    let same = before.iter().find(|condition| condition.type_ == kind && condition.status == status);
    let (reason, message) =
        fault.map_or((None, None), |(reason, message)| (Some(reason.to_owned()), message));
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.filter(|reason| !reason.is_empty()),
        message,
        last_transition_time: same
            .and_then(|condition| condition.last_transition_time.clone())
            .or_else(|| Some(api_time(now))),
        ..PodCondition::default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Init,
    Main,
}

fn container(spec: &Spec, role: Role, record: &PodRecord) -> ContainerStatus {
    let image = spec.image.clone().unwrap_or_default();
    let base = ContainerStatus { name: spec.name.clone(), image, ..ContainerStatus::default() };
    let Some(container) = record.containers.get(&spec.name) else {
        let reason = match &record.sandbox {
            Sandbox::Ready { .. } if record.containers.is_empty() => "PodInitializing",
            _ => "ContainerCreating",
        };
        let state = waiting(reason, None);
        return ContainerStatus { state: Some(state), started: Some(false), ..base };
    };
    let state = match &container.state {
        State::Waiting { reason, message, .. } => waiting(reason, Some(message.clone())),
        State::Running { since, .. } => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(api_time(*since)) }),
            ..ContainerState::default()
        },
        State::Exited(exit) => terminated(exit),
    };
    let process = match container.state {
        State::Running { process, .. } => Some(process),
        State::Waiting { .. } | State::Exited(_) => None,
    };
    // An init container is ready by having done its work.
    let done = role == Role::Init && matches!(&container.state, State::Exited(exit) if exit.code == 0);
    ContainerStatus {
        container_id: process.map(id),
        ready: done || is_ready(container),
        started: Some(process.is_some()),
        restart_count: i32::try_from(container.restarts).unwrap_or(i32::MAX),
        last_state: container.last.as_ref().map(terminated),
        state: Some(state),
        ..base
    }
}

fn id(process: ProcessId) -> String {
    format!("twinplane://{}", process.pid())
}

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    let waiting = ContainerStateWaiting {
        reason: Some(reason.to_owned()),
        message: message.filter(|message| !message.is_empty()),
    };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn terminated(exit: &Exit) -> ContainerState {
    let terminated = ContainerStateTerminated {
        exit_code: exit.code,
        reason: Some(exit.reason.clone()),
        message: exit.message.clone(),
        started_at: exit.started.map(api_time),
        finished_at: Some(api_time(exit.finished)),
        ..ContainerStateTerminated::default()
    };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("time")
    }

    fn pod(spec: Value, status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec, "status": status}))
            .expect("pod")
    }

    fn record(state: State, ready: bool, last: Option<Exit>) -> PodRecord {
        let addresses = vec!["10.20.0.5".parse().expect("address")];
        PodRecord {
            uid: "u".to_owned(),
            namespace: "n".to_owned(),
            name: "p".to_owned(),
            node: "node-a".to_owned(),
            sandbox: Sandbox::Ready { netns: "n".to_owned(), host_network: false, addresses, since: at(1) },
            containers: BTreeMap::from([("c".to_owned(), Container { state, last, restarts: 2, ready })]),
        }
    }

    fn running() -> State {
        let process = ProcessId::of(std::process::id()).expect("own");
        State::Running { process, since: at(3), stopping: false }
    }

    fn exit(code: i32) -> Exit {
        Exit { code, reason: "Error".to_owned(), message: None, started: Some(at(3)), finished: at(4) }
    }

    fn status(pod: &Pod, record: &PodRecord, now: i64) -> PodStatus {
        render(pod, record, &["10.128.0.11".parse().expect("address")], at(now))
    }

    fn is_true(status: &PodStatus, kind: &str) -> bool {
        let conditions = status.conditions.as_ref().expect("conditions");
        conditions.iter().find(|condition| condition.type_ == kind).expect(kind).status == "True"
    }

    #[test]
    fn a_running_pod_shows_addresses_and_readiness() {
        let pod = pod(json!({"containers": [{"name": "c", "image": "nginx"}]}), json!({}));
        let up = status(&pod, &record(running(), true, None), 9);
        assert_eq!((up.phase.as_deref(), up.pod_ip.as_deref()), (Some("Running"), Some("10.20.0.5")));
        assert_eq!(up.host_ip.as_deref(), Some("10.128.0.11"));
        assert!(OWN.iter().all(|kind| is_true(&up, kind)));
        let container = &up.container_statuses.as_ref().expect("containers")[0];
        assert!(container.ready && container.restart_count == 2);
        let starting = status(&pod, &record(running(), false, None), 9);
        assert!(!is_true(&starting, "Ready") && is_true(&starting, "Initialized"));
        let conditions = starting.conditions.expect("conditions");
        assert_eq!(conditions[2].message.as_deref(), Some("containers with unready status: [c]"));
    }

    #[test]
    fn times_move_only_with_what_they_belong_to() {
        let mut pod = pod(json!({"containers": [{"name": "c"}]}), json!({}));
        pod.status = Some(status(&pod, &record(running(), true, None), 9));
        let later = status(&pod, &record(running(), true, None), 99);
        assert_eq!(pod.status.as_ref(), Some(&later), "nothing happened");
        let unready = status(&pod, &record(running(), false, None), 99);
        let time = |status: &PodStatus, index: usize| {
            status.conditions.as_ref().expect("conditions")[index]
                .last_transition_time
                .clone()
                .expect("time")
                .0
        };
        assert_eq!((time(&unready, 1), time(&unready, 2)), (at(9), at(99)));
        assert_eq!(unready.start_time, later.start_time);
    }

    #[test]
    fn a_crashed_container_shows_what_it_waits_for_and_how_it_ended() {
        let pod = pod(json!({"containers": [{"name": "c"}]}), json!({}));
        let waiting = State::Waiting {
            reason: "CrashLoopBackOff".to_owned(),
            message: "back-off".to_owned(),
            until: at(9),
        };
        let status = status(&pod, &record(waiting, false, Some(exit(3))), 5);
        assert_eq!(status.phase.as_deref(), Some("Running"));
        let container = &status.container_statuses.as_ref().expect("containers")[0];
        let reason = container.state.as_ref().and_then(|state| state.waiting.as_ref()?.reason.as_deref());
        assert_eq!(reason, Some("CrashLoopBackOff"));
        let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref()).expect("last");
        assert_eq!(last.exit_code, 3);
    }

    #[test]
    fn ends_and_beginnings_have_their_phases() {
        let never = json!({"restartPolicy": "Never", "containers": [{"name": "c"}]});
        for (code, phase) in [(0, "Succeeded"), (1, "Failed")] {
            let pod = pod(never.clone(), json!({}));
            let status = status(&pod, &record(State::Exited(exit(code)), false, None), 9);
            assert_eq!(status.phase.as_deref(), Some(phase));
            assert!(!is_true(&status, "Ready"));
        }
        let fresh = pod(never, json!({}));
        let mut empty = record(running(), false, None);
        empty.containers.clear();
        empty.sandbox = Sandbox::Missing;
        let status = status(&fresh, &empty, 9);
        assert_eq!((status.phase.as_deref(), status.pod_ip), (Some("Pending"), None));
        let state = status.container_statuses.as_ref().and_then(|all| all[0].state.as_ref()?.waiting.clone());
        assert_eq!(state.and_then(|state| state.reason).as_deref(), Some("ContainerCreating"));
    }

    #[test]
    fn readiness_gates_of_others_are_kept_and_obeyed() {
        let gated = json!({"containers": [{"name": "c"}], "readinessGates": [{"conditionType": "x/y"}]});
        let closed = status(&pod(gated.clone(), json!({})), &record(running(), true, None), 9);
        assert!(is_true(&closed, "ContainersReady") && !is_true(&closed, "Ready"));
        let open = pod(gated, json!({"conditions": [{"type": "x/y", "status": "True"}]}));
        let open = status(&open, &record(running(), true, None), 9);
        assert!(is_true(&open, "Ready") && is_true(&open, "x/y"));
    }
}
