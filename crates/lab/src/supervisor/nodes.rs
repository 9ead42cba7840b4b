//! Tells the API which nodes there are, as kubelets and a cloud's node controller do.

use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{Node, NodeAddress, NodeCondition, NodeSpec, NodeStatus, NodeSystemInfo},
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{MicroTime, ObjectMeta, Time},
    },
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};

use crate::{
    plan::{NodePlan, REGION, Topology},
    state::State,
    status::{AgentStatus, Phase, Status},
};

/// Where kubelets prove that they live; `kubectl describe node` shows it.
const LEASES: &str = "kube-node-lease";

/// What is known before anything runs.
pub(super) fn initial_status(state: &State) -> Status {
    let node = |plan: &NodePlan| crate::status::NodeStatus {
        name: plan.name.clone(),
        address: plan.address(),
        pod_cidr: plan.pod_cidrs[0].to_string(),
        zone: plan.zone.clone(),
        agent: AgentStatus::default(),
    };
    Status {
        name: state.topology.name.clone(),
        plane: state.topology.plane,
        created: state.created,
        phase: Phase::Starting { step: "start the supervisor".to_owned() },
        api: None,
        nodes: state.topology.nodes.iter().map(node).collect(),
    }
}

/// Creates a Node and a Lease per node.
///
/// # Errors
/// The API's refusal.
pub(super) async fn register(client: &Client, topology: &Topology) -> Result<(), kube::Error> {
    let nodes = Api::<Node>::all(client.clone());
    let leases = Api::<Lease>::namespaced(client.clone(), LEASES);
    let parameters = PostParams::default();
    for plan in &topology.nodes {
        let node = node(topology, plan);
        nodes.create(&parameters, &node).await?;
        // As in a real cluster, status comes through its own door.
        let patch = serde_json::json!({ "status": node.status });
        let merge = kube::api::Patch::Merge(&patch);
        nodes.patch_status(&plan.name, &kube::api::PatchParams::default(), &merge).await?;
        leases.create(&parameters, &lease(plan)).await?;
    }
    Ok(())
}

fn node(topology: &Topology, plan: &NodePlan) -> Node {
    let labels = [
        ("kubernetes.io/hostname", plan.name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("topology.kubernetes.io/region", REGION),
        ("topology.kubernetes.io/zone", &plan.zone),
        ("twinplane.dev/dataplane", topology.plane.as_str()),
    ];
    let cidrs: Vec<_> = plan.pod_cidrs.iter().map(ToString::to_string).collect();
    Node {
        metadata: ObjectMeta {
            name: Some(plan.name.clone()),
            labels: Some(labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            pod_cidr: cidrs.first().cloned(),
            pod_cidrs: Some(cidrs),
            provider_id: Some(format!("twinplane://{REGION}/{}/{}", plan.zone, plan.name)),
            ..NodeSpec::default()
        }),
        status: Some(status(plan)),
    }
}

fn status(plan: &NodePlan) -> NodeStatus {
    let mut addresses: Vec<_> = plan
        .addresses
        .iter()
        .map(|address| NodeAddress { type_: "InternalIP".to_owned(), address: address.to_string() })
        .collect();
    addresses.push(NodeAddress { type_: "Hostname".to_owned(), address: plan.name.clone() });
    let capacity = [("cpu", "2"), ("memory", "4Gi"), ("pods", "110")];
    let capacity: std::collections::BTreeMap<_, _> =
        capacity.iter().map(|(k, v)| ((*k).to_owned(), Quantity((*v).to_owned()))).collect();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    NodeStatus {
        addresses: Some(addresses),
        allocatable: Some(capacity.clone()),
        capacity: Some(capacity),
        conditions: Some(vec![ready()]),
        node_info: Some(NodeSystemInfo {
            architecture: std::env::consts::ARCH.to_owned(),
            container_runtime_version: "twinplane-lab://namespaces".to_owned(),
            kernel_version: kernel.trim().to_owned(),
            kubelet_version: format!("v1.33.0-twinplane.{}", env!("CARGO_PKG_VERSION")),
            operating_system: "linux".to_owned(),
            os_image: "Twinplane lab".to_owned(),
            ..NodeSystemInfo::default()
        }),
        ..NodeStatus::default()
    }
}

fn ready() -> NodeCondition {
    let now = Some(Time(Timestamp::now()));
    NodeCondition {
        type_: "Ready".to_owned(),
        status: "True".to_owned(),
        reason: Some("KubeletReady".to_owned()),
        message: Some("the lab's kubelet posts ready status".to_owned()),
        last_heartbeat_time: now.clone(),
        last_transition_time: now,
    }
}

fn lease(plan: &NodePlan) -> Lease {
    Lease {
        metadata: ObjectMeta { name: Some(plan.name.clone()), ..ObjectMeta::default() },
        spec: Some(LeaseSpec {
            holder_identity: Some(plan.name.clone()),
            lease_duration_seconds: Some(40),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }),
    }
}
