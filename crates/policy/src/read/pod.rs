//! What of a pod object matters to policies: addresses, named ports, whether it is one at all. Pure.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::api::core::v1 as core;
use model::{Protocol, policy::Mode};

use super::mode;
use crate::compile::{ContainerPort, ContainerPorts};

/// A pod as policies see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodReading {
    pub labels: BTreeMap<String, String>,
    /// All of them, both families; none before it has one.
    pub addresses: Vec<IpAddr>,
    pub ports: ContainerPorts,
    pub node: String,
    /// It has its node's addresses, and neither is a subject nor matches a selector.
    pub host_network: bool,
    /// It succeeded or failed: its addresses may be others' by now. One that is being deleted is not finished.
    pub finished: bool,
    /// What its own annotation asks for.
    pub mode: Option<Mode>,
}

/// What of `object` matters.
pub fn pod(object: &core::Pod) -> PodReading {
    let status = object.status.as_ref();
    let spec = object.spec.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
    let ips = status.and_then(|status| status.pod_ips.as_ref()).into_iter().flatten();
    let mut addresses: Vec<IpAddr> = ips.filter_map(|ip| ip.ip.parse().ok()).collect();
    if addresses.is_empty() {
        addresses.extend(status.and_then(|status| status.pod_ip.as_ref()?.parse::<IpAddr>().ok()));
    }
    PodReading {
        labels: object.metadata.labels.clone().unwrap_or_default(),
        addresses,
        ports: spec.map(container_ports).unwrap_or_default(),
        node: spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        host_network: spec.and_then(|spec| spec.host_network).unwrap_or_default(),
        finished: matches!(phase, Some("Succeeded" | "Failed")),
        mode: mode(object.metadata.annotations.as_ref()).map(Result::unwrap_or_default),
    }
}

/// The ports of its containers that have a name; of two by one name and protocol the first, as Services find them
/// (`FindPort` in Kubernetes' pkg/api/v1/pod). Init containers that go on running come after the others.
pub fn container_ports(spec: &core::PodSpec) -> ContainerPorts {
    let sidecar = |container: &&core::Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(sidecar);
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    let named = ports.filter_map(|port| {
        let protocol: Protocol = port.protocol.as_deref().unwrap_or("TCP").parse().ok()?;
        let number = u16::try_from(port.container_port).ok().filter(|number| *number != 0)?;
        Some(ContainerPort { name: port.name.clone()?, protocol, number })
    });
    ContainerPorts::new(named)
}
