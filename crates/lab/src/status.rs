//! What the supervisor tells of its lab on `lab.sock`. Serialised as the CLI shows it.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use jiff::Timestamp;
use model::Plane;
use serde::{Deserialize, Serialize};

use crate::{
    plan::{LabName, NodePlan},
    state::State,
};

/// The answer of `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub name: LabName,
    pub plane: Plane,
    pub created: Timestamp,
    pub phase: Phase,
    /// The embedded API on this host's loopback, as soon as it listens.
    pub api: Option<SocketAddr>,
    pub nodes: Vec<NodeStatus>,
    /// Only an ebpf cluster has one.
    #[serde(default)]
    pub relay: Option<RelayStatus>,
}

/// How far the supervisor is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "phase")]
pub enum Phase {
    /// Named by what is being done.
    Starting { step: String },
    /// Everything runs; agents may still be on their way.
    Running,
    /// It gave up and is about to end.
    Failed { step: String, message: String },
}

/// One node and its agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    pub name: String,
    pub address: IpAddr,
    pub pod_cidr: String,
    pub zone: String,
    pub agent: AgentStatus,
}

/// Where all nodes' flows are served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RelayStatus {
    /// Within the lab, with certificates.
    pub address: SocketAddr,
    /// On this machine.
    pub socket: PathBuf,
    pub process: AgentStatus,
}

/// A process that is started again when it ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentStatus {
    /// `None` between an exit and the next start.
    pub pid: Option<u32>,
    /// It answers on its socket.
    pub ready: bool,
    /// Starts after the first.
    pub restarts: u32,
    /// How the last one ended: "exit status: 1", "signal: 9 (SIGKILL)".
    pub last_exit: Option<String>,
    /// It was told to end, and stays down until it is started.
    #[serde(default)]
    pub stopped: bool,
}

/// A pod that has a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodInfo {
    pub namespace: String,
    pub name: String,
    pub node: String,
    /// `None` until the CNI plugin gave it one.
    pub ip: Option<IpAddr>,
    /// Its network namespace.
    pub netns: String,
    pub ready: bool,
}

impl Status {
    /// What is known before anything runs.
    pub(crate) fn initial(state: &State) -> Self {
        let node = |plan: &NodePlan| NodeStatus {
            name: plan.name.clone(),
            address: plan.address(),
            pod_cidr: plan.pod_cidrs[0].to_string(),
            zone: plan.zone.clone(),
            agent: AgentStatus::default(),
        };
        Self {
            name: state.topology.name.clone(),
            plane: state.topology.plane,
            created: state.created,
            phase: Phase::Starting { step: "start the supervisor".to_owned() },
            api: None,
            nodes: state.topology.nodes.iter().map(node).collect(),
            relay: state.topology.relay_address().map(|address| RelayStatus {
                address,
                socket: state.paths().relay_socket(),
                process: AgentStatus::default(),
            }),
        }
    }
}
