//! What a dataplane tells of itself: rows for the CLI, the page and the metrics. Serialised as they stand.

use std::net::SocketAddr;

use model::{FrontendKind, Masquerade, Plane, Protocol, ServiceName, TrafficPolicy};
use serde::{Deserialize, Serialize};

/// One frontend as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRow {
    /// `None` where the kernel holds a frontend that no known Service explains.
    pub service: Option<ServiceName>,
    /// Port name, empty for an unnamed one.
    pub port_name: String,
    pub kind: FrontendKind,
    /// A node port appears once per node address.
    pub frontend: SocketAddr,
    pub protocol: Protocol,
    pub policy: TrafficPolicy,
    /// What an outside client may reach; empty: refused or dropped.
    pub backends: Vec<BackendRow>,
    pub affinity_seconds: Option<u32>,
    pub source_ranges: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendRow {
    pub address: SocketAddr,
    pub state: BackendState,
    pub local: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    Active,
    Terminating,
}

/// One tracked flow, from its first packet's point of view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    pub protocol: Protocol,
    pub source: SocketAddr,
    /// As the client addressed it.
    pub destination: SocketAddr,
    /// Where it really goes; equal to `destination` where nothing was translated.
    pub backend: SocketAddr,
    /// The address the backend sees.
    pub source_seen: SocketAddr,
    pub masquerade: Masquerade,
    /// TCP state or "-", in the plane's own words.
    pub state: String,
    /// Seconds until the entry goes, where the plane knows.
    pub expires_seconds: Option<u64>,
    /// Both directions, where the plane counts.
    pub packets: Option<u64>,
    pub bytes: Option<u64>,
}

/// What a plane says of its own health.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlaneStatus {
    pub plane: Plane,
    pub features: Vec<Feature>,
    pub maps: Vec<MapFill>,
    pub counters: Vec<Counter>,
    /// What flows of this plane never show.
    #[serde(default)]
    pub unseen: Vec<Unseen>,
}

/// Something that a plane's flows do not show, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unseen {
    pub what: String,
    pub why: String,
}

/// A kernel feature, found by trying it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feature {
    pub name: String,
    pub available: bool,
    /// What is used, or what is missing and which kernel has it.
    pub detail: String,
}

/// How full a kernel table is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapFill {
    pub name: String,
    pub entries: u64,
    /// Zero where the kernel sets no limit.
    pub capacity: u64,
    /// Zero where the kernel does not tell.
    pub bytes: u64,
    /// Rows that the kernel did not take since the plane was opened.
    #[serde(default)]
    pub refused: u64,
}

/// A counter kept in the kernel since the plane was first set up. Never reset, never lossy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Counter {
    /// Snake case, the same word in the CLI, the metrics and the documentation.
    pub name: String,
    pub packets: u64,
    pub bytes: u64,
}
