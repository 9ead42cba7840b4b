//! Host ports of this node's pods, as the portmap plugin of CNI maps them. Pure.
//!
//! Never looks at Services; [`crate::claims`] decides where both want one place.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::api::core::v1 as core;
use model::{
    Backend, Family, Frontend, FrontendAddress, FrontendKind, KnownEndpoint, PodName, Port, Protocol,
    ServicePort, ServicePortId, TrafficPolicy,
};

use crate::{
    address::parse_ip,
    claims::Claim,
    owner::Owner,
    problem::{ObjectRef, Problem, Report},
};

/// A pod of this node that has host ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) owner: Owner,
    name: PodName,
    /// One address per family at most: the first counts.
    addresses: BTreeMap<Family, IpAddr>,
    ports: Vec<HostPort>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct HostPort {
    /// Path in the object.
    field: String,
    protocol: Protocol,
    port: Port,
    at: At,
    container_port: Port,
}

/// Where a host port is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Anywhere,
    /// An unspecified address means every address of its family.
    AllOf(Family),
    Only(IpAddr),
}

impl At {
    fn address(self, family: Family) -> Option<FrontendAddress> {
        match self {
            Self::Anywhere => Some(FrontendAddress::Node),
            Self::AllOf(of) => (of == family).then_some(FrontendAddress::Node),
            Self::Only(ip) => (Family::of(ip) == family).then_some(FrontendAddress::Ip(ip)),
        }
    }
}

pub(crate) fn name_of(object: &core::Pod) -> Option<PodName> {
    Some(PodName { namespace: object.metadata.namespace.clone()?, name: object.metadata.name.clone()? })
}

/// Reads `object`. `None` where no host port is to be mapped to it: on another node, in the host's own network, not
/// started yet, finished, or without host ports.
pub(crate) fn read(object: &core::Pod, node: &str) -> Option<(Pod, Vec<Problem>)> {
    let name = name_of(object)?;
    let (spec, status) = (object.spec.as_ref()?, object.status.as_ref()?);
    let finished = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if finished || spec.host_network == Some(true) || spec.node_name.as_deref() != Some(node) {
        return None;
    }
    let mut report = Report::of(ObjectRef::pod(&name));
    let ports = ports(spec, &mut report);
    let addresses = addresses(status, &mut report);
    let since = object.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let owner = Owner::Pod { since, name: name.clone() };
    let problems = report.finish();
    let none = problems.is_empty() && (ports.is_empty() || addresses.is_empty());
    (!none).then_some((Pod { owner, name, addresses, ports }, problems))
}

fn addresses(status: &core::PodStatus, report: &mut Report) -> BTreeMap<Family, IpAddr> {
    let several = status.pod_ips.as_deref().unwrap_or_default().iter().enumerate();
    let mut listed: Vec<_> =
        several.map(|(i, entry)| (format!("status.podIPs[{i}].ip"), entry.ip.as_str())).collect();
    if listed.is_empty() {
        listed.extend(status.pod_ip.as_deref().map(|ip| ("status.podIP".to_owned(), ip)));
    }
    let mut addresses = BTreeMap::new();
    for (field, text) in listed.into_iter().filter(|(_, text)| !text.is_empty()) {
        if let Some(address) = report.take(|| field, parse_ip(text)) {
            addresses.entry(Family::of(address)).or_insert(address);
        }
    }
    addresses
}

/// Of the containers that live as long as the pod: init containers that restart always do too (KEP-753).
fn ports(spec: &core::PodSpec, report: &mut Report) -> Vec<HostPort> {
    let containers = spec.containers.iter().enumerate().map(|(i, c)| (format!("spec.containers[{i}]"), c));
    let sidecars = spec.init_containers.iter().flatten().enumerate();
    let sidecars = sidecars
        .filter(|(_, c)| c.restart_policy.as_deref() == Some("Always"))
        .map(|(i, c)| (format!("spec.initContainers[{i}]"), c));
    let mut ports = vec![];
    for (path, container) in containers.chain(sidecars) {
        for (i, port) in container.ports.iter().flatten().enumerate() {
            if port.host_port.is_some_and(|number| number != 0) {
                ports.extend(host_port(format!("{path}.ports[{i}]"), port, report));
            }
        }
    }
    ports
}

fn host_port(field: String, object: &core::ContainerPort, report: &mut Report) -> Option<HostPort> {
    let protocol = object.protocol.as_deref().unwrap_or("TCP").parse::<Protocol>();
    let protocol = report.take(|| format!("{field}.protocol"), protocol)?;
    let port = report.take(|| format!("{field}.hostPort"), Port::try_from(object.host_port?))?;
    let container_port =
        report.take(|| format!("{field}.containerPort"), Port::try_from(object.container_port))?;
    let at = match object.host_ip.as_deref().filter(|ip| !ip.is_empty()) {
        None => At::Anywhere,
        Some(text) => match report.take(|| format!("{field}.hostIP"), parse_ip(text))? {
            ip if ip.is_unspecified() => At::AllOf(Family::of(ip)),
            ip => At::Only(ip),
        },
    };
    Some(HostPort { field: format!("{field}.hostPort"), protocol, port, at, container_port })
}

impl Pod {
    /// What the pod claims, whether it gets it or not.
    pub(crate) fn claims(&self) -> BTreeSet<Claim> {
        self.mappings().map(|(claim, ..)| claim).collect()
    }

    /// Each host port in each family that the pod has an address in.
    fn mappings(&self) -> impl Iterator<Item = (Claim, &HostPort, IpAddr)> {
        self.addresses.iter().flat_map(move |(family, pod)| {
            self.ports.iter().filter_map(move |port| {
                let address = port.at.address(*family)?;
                let claim = Claim { address, family: *family, port: port.port, protocol: port.protocol };
                Some((claim, port, *pod))
            })
        })
    }

    /// The pod's host ports, in order of identity. `places` says where a claim may be served, or why it may not.
    pub(crate) fn compile(
        &self,
        places: impl Fn(&Claim) -> Result<Vec<FrontendAddress>, String>,
    ) -> (Vec<ServicePort>, Vec<Problem>) {
        let (mut compiled, mut conflicts) = (BTreeMap::new(), vec![]);
        for (claim, port, address) in self.mappings() {
            match places(&claim) {
                Ok(places) => {
                    let compiled_port = compile(&self.name, &claim, places, port.container_port, address);
                    // A port that is listed twice counts once, as first listed.
                    compiled.entry(compiled_port.id.clone()).or_insert(compiled_port);
                }
                Err(reason) => conflicts.push(Problem {
                    object: ObjectRef::pod(&self.name),
                    field: port.field.clone(),
                    reason,
                }),
            }
        }
        (compiled.into_values().collect(), conflicts)
    }
}

/// The pod alone stands behind its host port, for as long as it runs.
fn compile(
    pod: &PodName,
    claim: &Claim,
    places: Vec<FrontendAddress>,
    container_port: Port,
    address: IpAddr,
) -> ServicePort {
    let at = match claim.address {
        FrontendAddress::Ip(ip) => Some(ip),
        FrontendAddress::Node => None,
    };
    let address = SocketAddr::new(address, container_port.get());
    let backend = Backend { address, local: true, terminating: false };
    let frontend = |address| Frontend {
        kind: FrontendKind::HostPort,
        address,
        port: claim.port,
        policy: TrafficPolicy::Local,
        source_ranges: vec![],
    };
    ServicePort {
        id: ServicePortId::of_host_port(pod, (at, claim.port), claim.protocol, claim.family),
        frontends: places.into_iter().map(frontend).collect(),
        cluster: vec![backend.clone()],
        local: vec![backend],
        usable_anywhere: true,
        endpoints: vec![KnownEndpoint { address, serving: true }],
        affinity_seconds: None,
        health_check_port: None,
    }
}
