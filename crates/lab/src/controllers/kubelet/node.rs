//! The node's own objects: registration, heartbeats in its Lease, conditions in its status.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{
            Namespace, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus,
            NodeSystemInfo,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{MicroTime, ObjectMeta},
    },
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use tokio_util::sync::CancellationToken;

use super::{NodeContext, Shared, cni::Plugin};
use crate::{
    controllers::meta::api_time,
    plan::{NodePlan, REGION},
};

/// The kubelet's `nodeStatusUpdateFrequency` and lease renewal.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How often an agent that is not there yet is looked for.
const IMPATIENT: Duration = Duration::from_millis(250);
/// A ready node becomes unready after this many refusals in a row: an agent may restart.
const REFUSALS: u32 = 3;
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// `nodeLeaseDurationSeconds`.
const LEASE_SECONDS: i32 = 40;

/// Whether the node can run pods, from the plugin's answers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Readiness {
    refusals: u32,
    refusal: Option<String>,
    ready: bool,
}

impl Readiness {
    const UNKNOWN: Self = Self { refusals: 0, refusal: None, ready: false };

    fn heard(self, answer: Result<(), String>) -> Self {
        match answer {
            Ok(()) => Self { refusals: 0, refusal: None, ready: true },
            Err(refusal) => {
                let refusals = self.refusals + 1;
                Self { refusals, refusal: Some(refusal), ready: self.ready && refusals < REFUSALS }
            }
        }
    }

    fn next_look(&self) -> Duration {
        if self.refusals == 0 { HEARTBEAT } else { IMPATIENT }
    }
}

/// Registers the node and keeps its objects fresh until `shutdown`.
pub(super) async fn heartbeat(
    shared: Arc<Shared>,
    node: Arc<NodeContext>,
    plugin: Plugin,
    shutdown: CancellationToken,
) {
    let mut readiness = Readiness::UNKNOWN;
    let mut reported: Option<(bool, Timestamp)> = None;
    loop {
        let answer = plugin.status().await.map_err(|error| error.to_string());
        readiness = readiness.heard(answer);
        let now = Timestamp::now();
        let due = reported
            .is_none_or(|(ready, at)| ready != readiness.ready || super::plan::between(at, now) >= HEARTBEAT);
        if due {
            match report(&shared, &node.plan, &readiness, now).await {
                Ok(()) => reported = Some((readiness.ready, now)),
                Err(error) => tracing::warn!(node = node.plan.name, %error, "heartbeat"),
            }
        }
        tokio::select! {
            () = tokio::time::sleep(readiness.next_look()) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn report(shared: &Shared, node: &NodePlan, readiness: &Readiness, now: Timestamp) -> kube::Result<()> {
    let nodes = Api::<Node>::all(shared.client.clone());
    let present = match nodes.get_opt(&node.name).await? {
        Some(present) => present,
        None => {
            let registered = registration(node);
            nodes.create(&PostParams::default(), &registered).await?
        }
    };
    let missing = missing_parts(&present, node);
    if !missing.is_null() {
        nodes.patch(&node.name, &PatchParams::default(), &Patch::Merge(missing)).await?;
    }
    let status = status(&present, node, readiness, shared.boot, now);
    let patch = serde_json::json!({"status": status});
    nodes.patch_status(&node.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    renew(&shared.client, &node.name, now).await
}

fn registration(node: &NodePlan) -> Node {
    Node {
        metadata: ObjectMeta {
            name: Some(node.name.clone()),
            labels: Some(labels(node)),
            ..ObjectMeta::default()
        },
        spec: Some(spec(node)),
        status: None,
    }
}

fn labels(node: &NodePlan) -> BTreeMap<String, String> {
    [
        ("kubernetes.io/hostname", node.name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
        ("topology.kubernetes.io/zone", node.zone.as_str()),
        ("topology.kubernetes.io/region", REGION),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

fn spec(node: &NodePlan) -> NodeSpec {
    let cidrs: Vec<_> = node.pod_cidrs.iter().map(ToString::to_string).collect();
    NodeSpec {
        pod_cidr: cidrs.first().cloned(),
        pod_cidrs: Some(cidrs),
        provider_id: Some(format!("lab://{}/{}", node.zone, node.name)),
        ..NodeSpec::default()
    }
}

/// What a node that somebody else registered lacks. Labels that are set otherwise stay.
fn missing_parts(present: &Node, node: &NodePlan) -> serde_json::Value {
    let have = present.metadata.labels.clone().unwrap_or_default();
    let labels: BTreeMap<_, _> =
        labels(node).into_iter().filter(|(key, _)| !have.contains_key(key)).collect();
    let networked = present.spec.as_ref().is_some_and(|spec| spec.pod_cidr.is_some());
    match (labels.is_empty(), networked) {
        (true, true) => serde_json::Value::Null,
        (_, true) => serde_json::json!({"metadata": {"labels": labels}}),
        (_, false) => serde_json::json!({"metadata": {"labels": labels}, "spec": spec(node)}),
    }
}

fn status(
    present: &Node,
    node: &NodePlan,
    readiness: &Readiness,
    boot: Timestamp,
    now: Timestamp,
) -> NodeStatus {
    let internal = node.addresses.iter().map(|ip| ("InternalIP", ip.to_string()));
    let addresses = internal.chain([("Hostname", node.name.clone())]);
    let mut status = NodeStatus {
        addresses: Some(
            addresses.map(|(kind, address)| NodeAddress { type_: kind.to_owned(), address }).collect(),
        ),
        capacity: Some(capacity()),
        allocatable: Some(capacity()),
        conditions: Some(conditions(present, readiness, now)),
        node_info: Some(system(node, boot)),
        ..NodeStatus::default()
    };
    status.daemon_endpoints = Some(NodeDaemonEndpoints::default());
    status
}

fn conditions(present: &Node, readiness: &Readiness, now: Timestamp) -> Vec<NodeCondition> {
    let before = present.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let refusal = readiness.refusal.as_deref().unwrap_or("the plugin has not answered yet");
    let ready = if readiness.ready {
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status".to_owned())
    } else {
        let message = format!(
            "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:{refusal}"
        );
        ("Ready", "False", "KubeletNotReady", message)
    };
    let fine = |kind, reason, message: &str| (kind, "False", reason, message.to_owned());
    let wanted = [
        fine("MemoryPressure", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        fine("DiskPressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        fine("PIDPressure", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ready,
    ];
    let condition = |(kind, status, reason, message): (&str, &str, &str, String)| {
        let same = before.iter().find(|condition| condition.type_ == kind && condition.status == status);
        let since = same.and_then(|condition| condition.last_transition_time.clone());
        NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_heartbeat_time: Some(api_time(now)),
            last_transition_time: since.or_else(|| Some(api_time(now))),
        }
    };
    wanted.map(condition).to_vec()
}

fn capacity() -> BTreeMap<String, Quantity> {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory =
        meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_ascii_whitespace().next());
    [
        ("cpu", processors.to_string()),
        ("memory", format!("{}Ki", memory.unwrap_or("0"))),
        ("pods", "110".to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), Quantity(value)))
    .into()
}

fn system(node: &NodePlan, boot: Timestamp) -> NodeSystemInfo {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let release = read("/etc/os-release");
    let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    NodeSystemInfo {
        architecture: architecture().to_owned(),
        // Every start of the lab is a boot of its nodes.
        boot_id: format!("{}-{}", node.name, boot.as_millisecond()),
        container_runtime_version: format!("twinplane://{}", env!("CARGO_PKG_VERSION")),
        kernel_version: read("/proc/sys/kernel/osrelease"),
        kube_proxy_version: String::new(),
        kubelet_version: "v1.33.0-lab".to_owned(),
        machine_id: read("/etc/machine-id"),
        operating_system: "linux".to_owned(),
        os_image: pretty.unwrap_or("Linux").trim_matches('"').to_owned(),
        system_uuid: read("/etc/machine-id"),
        swap: None,
    }
}

/// As Go names it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

async fn renew(client: &Client, node: &str, now: Timestamp) -> kube::Result<()> {
    let leases = Api::<Lease>::namespaced(client.clone(), LEASE_NAMESPACE);
    let patch = serde_json::json!({"spec": {"renewTime": MicroTime(now)}});
    match leases.patch(node, &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        answer => return answer.map(drop),
    }
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(node.to_owned()),
            namespace: Some(LEASE_NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(node.to_owned()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    };
    match leases.create(&PostParams::default(), &lease).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        answer => return answer.map(drop),
    }
    let namespace = Namespace {
        metadata: ObjectMeta { name: Some(LEASE_NAMESPACE.to_owned()), ..ObjectMeta::default() },
        ..Namespace::default()
    };
    match Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => {}
        answer => drop(answer?),
    }
    leases.create(&PostParams::default(), &lease).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuse() -> Result<(), String> {
        Err("agent is starting".to_owned())
    }

    #[test]
    fn a_node_is_ready_once_its_plugin_is_and_survives_a_restart_of_the_agent() {
        let starting = Readiness::UNKNOWN.heard(refuse());
        assert!(!starting.ready);
        assert_eq!(starting.next_look(), IMPATIENT);
        let up = starting.heard(Ok(()));
        assert!(up.ready);
        assert_eq!(up.next_look(), HEARTBEAT);
        let shaky = up.heard(refuse()).heard(refuse());
        assert!(shaky.ready, "{shaky:?}");
        assert!(!shaky.heard(refuse()).ready);
    }

    #[test]
    fn conditions_keep_their_transition_times() {
        let at = |second| Timestamp::from_second(second).expect("time");
        let mut node = Node::default();
        let unready = Readiness::UNKNOWN.heard(refuse());
        let first = conditions(&node, &unready, at(1));
        assert!(first[3].message.as_deref().is_some_and(|message| message.ends_with("agent is starting")));
        node.status = Some(NodeStatus { conditions: Some(first), ..NodeStatus::default() });
        let second = conditions(&node, &unready.clone().heard(Ok(())), at(2));
        let times: Vec<_> = second.iter().map(|c| c.last_transition_time.clone().expect("time").0).collect();
        assert_eq!(times, [at(1), at(1), at(1), at(2)]);
        assert!(second.iter().all(|condition| condition.last_heartbeat_time == Some(api_time(at(2)))));
    }
}
