//! The cells of pods: what a pod's phase, conditions and containers add up to. Never changes a pod.

use jiff::Timestamp;
use serde_json::Value;

use super::age;
use crate::meta::{self, Object, items, text};

/// One row.
pub(super) fn cells(pod: &Object, name: Value, age: Value, now: Timestamp) -> Vec<Value> {
    let statuses = items(pod, &["status", "containerStatuses"]);
    let total = items(pod, &["spec", "containers"]).len();
    let ready = statuses.iter().filter(|status| status["ready"] == true).count();
    let gates = items(pod, &["spec", "readinessGates"]);
    let or_none = |text: &str| Value::from(if text.is_empty() { "<none>" } else { text });
    vec![
        name,
        format!("{ready}/{total}").into(),
        status(pod).into(),
        restarts(statuses, now).into(),
        age,
        or_none(text(pod, &["status", "podIP"])),
        or_none(text(pod, &["spec", "nodeName"])),
        or_none(text(pod, &["status", "nominatedNodeName"])),
        if gates.is_empty() { "<none>".into() } else { readiness(pod, gates).into() },
    ]
}

fn restarts(statuses: &[Value], now: Timestamp) -> String {
    let count: i64 = statuses.iter().map(|status| status["restartCount"].as_i64().unwrap_or(0)).sum();
    let last = statuses.iter().map(|status| text(status, &["lastState", "terminated", "finishedAt"])).max();
    match last {
        Some(last) if count > 0 && !last.is_empty() => format!("{count} ({} ago)", age::since(last, now)),
        _ => count.to_string(),
    }
}

fn readiness(pod: &Object, gates: &[Value]) -> String {
    let conditions = items(pod, &["status", "conditions"]);
    let holds = |gate: &&Value| {
        conditions
            .iter()
            .any(|condition| condition["type"] == gate["conditionType"] && condition["status"] == "True")
    };
    format!("{}/{}", gates.iter().filter(holds).count(), gates.len())
}

fn status(pod: &Object) -> String {
    let status = &pod["status"];
    let mut reason = match text(status, &["reason"]) {
        "" => text(status, &["phase"]).to_owned(),
        reason => reason.to_owned(),
    };
    let gated = items(status, &["conditions"])
        .iter()
        .any(|condition| condition["type"] == "PodScheduled" && condition["reason"] == "SchedulingGated");
    if gated {
        reason = "SchedulingGated".to_owned();
    }
    match init_status(pod) {
        Some(init) => reason = init,
        None => container_status(pod, &mut reason),
    }
    if meta::is_deleting(pod) {
        let lost = text(status, &["reason"]) == "NodeLost";
        return if lost { "Unknown" } else { "Terminating" }.to_owned();
    }
    reason
}

/// What the first init container that is not done makes of the pod.
fn init_status(pod: &Object) -> Option<String> {
    let statuses = items(pod, &["status", "initContainerStatuses"]);
    let total = items(pod, &["spec", "initContainers"]).len();
    for (index, status) in statuses.iter().enumerate() {
        let terminated = &status["state"]["terminated"];
        if terminated["exitCode"] == 0 || (status["started"] == true && status["ready"] == true) {
            continue;
        }
        let waiting = text(status, &["state", "waiting", "reason"]);
        return Some(if !terminated.is_null() {
            format!("Init:{}", ended(terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{index}/{total}")
        });
    }
    None
}

fn container_status(pod: &Object, reason: &mut String) {
    let mut running = false;
    for status in items(pod, &["status", "containerStatuses"]).iter().rev() {
        let waiting = text(status, &["state", "waiting", "reason"]);
        let terminated = &status["state"]["terminated"];
        if !waiting.is_empty() {
            *reason = waiting.to_owned();
        } else if !terminated.is_null() {
            *reason = ended(terminated);
        } else if status["ready"] == true && !status["state"]["running"].is_null() {
            running = true;
        }
    }
    if *reason == "Completed" && running {
        let ready = items(pod, &["status", "conditions"])
            .iter()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
        *reason = if ready { "Running" } else { "NotReady" }.to_owned();
    }
}

fn ended(terminated: &Value) -> String {
    match (text(terminated, &["reason"]), terminated["signal"].as_i64().unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::cells;

    fn row(pod: &Value) -> Vec<Value> {
        cells(pod, "p".into(), "1s".into(), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn statuses() {
        let pod =
            |status: Value| json!({"spec": {"containers": [{}], "initContainers": [{}]}, "status": status});
        let waiting = json!([{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]);
        for (status, shown) in [
            (json!({"phase": "Pending"}), "Pending"),
            (
                json!({"phase": "Running", "containerStatuses": [{"ready": true, "state": {"running": {}}}]}),
                "Running",
            ),
            (json!({"phase": "Running", "containerStatuses": waiting}), "CrashLoopBackOff"),
            (json!({"phase": "Failed", "reason": "Evicted"}), "Evicted"),
            (json!({"phase": "Pending", "initContainerStatuses": [{"state": {"running": {}}}]}), "Init:0/1"),
            (
                json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 2}}}]}),
                "ExitCode:2",
            ),
        ] {
            assert_eq!(row(&pod(status))[2], shown);
        }
    }

    #[test]
    fn a_deleted_pod_is_terminating() {
        let pod = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Running"}});
        assert_eq!(row(&pod)[2], "Terminating");
    }
}
