//! What the agent's local API speaks: the types of its requests and answers, shared by server and client.

use std::{collections::BTreeMap, path::PathBuf};

use dataplane::{ObjectStatus, PlaneStatus};
use ipnet::IpNet;
use model::{
    Endpoint, Generation, IdentityId, NodeConfig, Peer, Plane, PodName, Protocol, ServicePort,
    policy::{self, Action, Decision, Direction, Mode, RuleRef, Tier},
};
use serde::{Deserialize, Serialize};

/// `GET /v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentStatus {
    pub node: String,
    /// Of the agent.
    pub version: String,
    pub plane: Plane,
    /// What is missing before anything can be programmed.
    pub waiting_for: Option<String>,
    /// Of the snapshot that is wanted.
    pub generation: Generation,
    /// Of the snapshot that the plane accepted last.
    pub programmed: Generation,
    pub objects: ObjectCounts,
    /// Objects that are not programmed as they were asked for.
    pub problems: Vec<ObjectStatus>,
    /// Watches on the API server that are interrupted now.
    pub interruptions: Vec<Interruption>,
    pub dataplane: PlaneStatus,
    /// Seconds until a kernel table is full if it goes on filling as it does, by its name; tables that do not fill are not
    /// here.
    #[serde(default)]
    pub full_in_seconds: BTreeMap<String, u64>,
}

/// How many objects are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectCounts {
    pub programmed: usize,
    pub pending: usize,
    pub failed: usize,
    pub refused: usize,
}

/// A watch that does not reach the API server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interruption {
    /// Of the objects watched.
    pub kind: String,
    pub error: String,
}

/// `GET /v1/snapshot`: what the dataplane was asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotView {
    pub generation: Generation,
    pub node: NodeConfig,
    pub services: Vec<ServicePort>,
    pub endpoints: Vec<Endpoint>,
    pub peers: Vec<Peer>,
}

/// `GET /v1/addresses`: whose the addresses of a prefix are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressIdentity {
    pub prefix: IpNet,
    pub identity: IdentityId,
}

/// `GET /v1/policy?namespace=N&pod=P`: what the kernel has for a pod of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyView {
    pub pod: PodName,
    /// `None`: the kernel has nothing for the pod, which gets and sends nothing.
    pub mode: Option<Mode>,
    /// In order of evaluation; what is denied because nothing allows it comes last in its direction.
    pub rows: Vec<PolicyRow>,
}

/// One thing that the kernel allows, denies or passes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRow {
    pub action: Action,
    pub direction: Direction,
    pub tier: Tier,
    pub peer: policy::Peer,
    /// Of the peer's identity, or its prefixes as `cidr:PREFIX`; none for all pods and for anyone.
    pub labels: Vec<String>,
    /// `None`: any, ICMP among them.
    pub protocol: Option<Protocol>,
    /// The first and the last, in host order.
    pub ports: [u16; 2],
    /// Of the rule, which other rows may share: first packets of flows, first packets after a change, drops.
    pub packets: u64,
    pub bytes: u64,
    /// `None` where the agent does not know what the kernel's number stands for.
    pub rule: Option<RuleRef>,
}

/// Answer to [`PolicyQuestion`]: what the kernel's tables say of the first packet of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyDecision {
    pub decision: Decision,
    /// Of the decision, where a rule decided.
    pub rule: Option<RuleRef>,
    /// What the kernel takes the other end for.
    pub identity: IdentityId,
    /// Whether a denial drops; `None`: the kernel has nothing for the pod.
    #[serde(default)]
    pub mode: Option<Mode>,
}

/// `POST /v1/policy/decision`: the first packet of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyQuestion {
    pub namespace: String,
    pub pod: String,
    pub direction: Direction,
    /// The other end.
    pub peer: std::net::IpAddr,
    /// `None`: a packet without ports.
    pub protocol: Option<Protocol>,
    /// In host order.
    #[serde(default)]
    pub port: u16,
    /// The pod talks to itself.
    #[serde(default)]
    pub loopback: bool,
}

/// One interface of one container, as the container runtime names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    #[serde(rename = "containerID")]
    pub container_id: String,
    pub ifname: String,
}

/// `POST /v1/cni/add`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddRequest {
    pub attachment: Attachment,
    pub netns: PathBuf,
    pub pod: PodName,
    /// Of both ends of the veth pair; where none is given, what the way to other nodes' pods takes.
    pub mtu: Option<u32>,
}

/// Answer to [`AddRequest`]: the pod is attached and the dataplane has programmed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Added {
    pub endpoint: Endpoint,
    /// The address with its prefix length, and the gateway that the pod was given for it.
    pub addresses: Vec<AddedAddress>,
    /// Of both ends of the veth pair.
    #[serde(default)]
    pub mtu: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddedAddress {
    pub address: IpNet,
    pub gateway: std::net::IpAddr,
}

/// `POST /v1/cni/check`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckRequest {
    pub attachment: Attachment,
    /// Addresses that the runtime believes the pod to have.
    pub addresses: Vec<std::net::IpAddr>,
}

/// `POST /v1/cni/gc`: every attachment that is not listed is removed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CollectRequest {
    pub valid: Vec<Attachment>,
}

/// Every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    pub kind: FailureKind,
    /// Operation and object, with causes.
    pub message: String,
}

/// What the caller can do about a [`Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FailureKind {
    /// Nothing, without another request.
    Invalid,
    /// Try again: the agent waits for something.
    Unavailable,
    /// Look into it: the kernel or the disk refused.
    Internal,
    /// There is no such thing.
    NotFound,
}
