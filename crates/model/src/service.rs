//! Services as a dataplane sees them: frontends and the backends each kind of client may reach.
//!
//! All Service semantics (readiness, terminating fallback, topology, traffic policy, who is masqueraded,
//! what happens with no backend) are decided before these types exist. [`ServicePort::target`] is the one
//! place that says what a client of a given origin gets; both planes and the oracle follow it.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Port, ServicePortId, oracle::Origin};

/// One port of one Service in one family, ready to be programmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    pub id: ServicePortId,
    /// In kube-proxy's order: cluster IP, external IPs, load-balancer IPs, node port. A host port is alone.
    pub frontends: Vec<Frontend>,
    /// What a client under Cluster policy may reach, sorted by address, without duplicates.
    pub cluster: Vec<Backend>,
    /// What a client under Local policy may reach: backends of this node only, sorted by address.
    pub local: Vec<Backend>,
    /// Some node has a usable backend, even where neither list above holds one.
    ///
    /// Tells "no endpoints" (rejected) from "no local endpoints" (dropped by kube-proxy).
    pub usable_anywhere: bool,
    /// Every endpoint that the Service's slices list, on any node and in whatever state, sorted by address, each once.
    ///
    /// Flows keep a backend that left both lists above for as long as it is here: UDP while it serves, TCP until it is
    /// gone altogether (kube-proxy's conntrack clean-up; a draining pod finishes what it has).
    pub endpoints: Vec<KnownEndpoint>,
    /// ClientIP affinity and its timeout in seconds, 1 to 86400.
    pub affinity_seconds: Option<u32>,
    /// Node port on which the health of this Service's local endpoints is served (policy Local only).
    pub health_check_port: Option<Port>,
}

/// Where a Service is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frontend {
    pub kind: FrontendKind,
    pub address: FrontendAddress,
    pub port: Port,
    /// internalTrafficPolicy for a cluster IP, Local for a host port, externalTrafficPolicy for every other kind.
    pub policy: TrafficPolicy,
    /// Sources allowed; empty means every source. Only load-balancer frontends carry them.
    pub source_ranges: Vec<IpNet>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FrontendKind {
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    #[serde(rename = "ExternalIP")]
    ExternalIp,
    LoadBalancer,
    NodePort,
    /// A port of one pod of this node, as the portmap plugin of CNI maps it: the pod is the only backend, its policy is
    /// Local, and only what the node itself sends is masqueraded.
    HostPort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FrontendAddress {
    Ip(IpAddr),
    /// The addresses of this node in the Service's family (a node port, or a host port without an address of its own).
    /// The concrete ones are [`crate::NodeConfig::addresses_at`].
    Node,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TrafficPolicy {
    Cluster,
    Local,
}

/// A pod (or host process) that serves a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Backend {
    pub address: SocketAddr,
    /// On this node.
    pub local: bool,
    /// Serving while its pod terminates; listed only where no ready backend is left.
    pub terminating: bool,
}

/// An endpoint of a Service, chosen or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KnownEndpoint {
    pub address: SocketAddr,
    /// Its condition `serving`: it answers, ready or terminating.
    pub serving: bool,
}

/// Whether the source address is replaced by the node's own on the way to the backend.
///
/// A backend that is chosen for its own request (hairpin) is masqueraded under either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Masquerade {
    Yes,
    No,
}

/// What a client gets from a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// One of these, each with equal chance.
    Backends(&'a [Backend], Masquerade),
    /// No usable backend on any node: refused at once by every plane.
    NoEndpoints,
    /// Usable backends exist, but none on this node and the policy is Local.
    /// Where planes answer this differently, [`crate::DIVERGENCES`] says so.
    NoLocalEndpoints,
}

impl ServicePort {
    /// What a client of `origin` gets at `frontend`, source ranges aside.
    ///
    /// Local policy binds outside clients only: this node's pods reach every backend unmasqueraded, its host
    /// every backend masqueraded (KEP-2086 for internal policy; kube-proxy's KUBE-EXT chain for external).
    pub fn target(&self, frontend: &Frontend, origin: Origin) -> Target<'_> {
        if !self.usable_anywhere {
            return Target::NoEndpoints;
        }
        let internal = frontend.kind == FrontendKind::ClusterIp;
        let (backends, masquerade) = match (frontend.policy, origin) {
            (TrafficPolicy::Local, _) if internal => (&self.local, Self::internal_masquerade(origin)),
            (TrafficPolicy::Cluster, _) if internal => (&self.cluster, Self::internal_masquerade(origin)),
            (TrafficPolicy::Local, Origin::Pod) => (&self.cluster, Masquerade::No),
            (TrafficPolicy::Local, Origin::Node) => (&self.cluster, Masquerade::Yes),
            (TrafficPolicy::Local, Origin::External) => (&self.local, Masquerade::No),
            (TrafficPolicy::Cluster, _) => (&self.cluster, Masquerade::Yes),
        };
        if backends.is_empty() { Target::NoLocalEndpoints } else { Target::Backends(backends, masquerade) }
    }

    fn internal_masquerade(origin: Origin) -> Masquerade {
        match origin {
            Origin::Pod => Masquerade::No,
            Origin::Node | Origin::External => Masquerade::Yes,
        }
    }
}

impl Frontend {
    /// Whether `source` passes this frontend's source ranges.
    pub fn allows(&self, source: IpAddr) -> bool {
        self.source_ranges.is_empty() || self.source_ranges.iter().any(|range| range.contains(&source))
    }
}
