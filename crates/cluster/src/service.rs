//! A Service object, read once: what of it concerns a dataplane, and what of it is wrong. Pure.
//!
//! Never looks at endpoints or at other Services.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use model::{Family, Port, Protocol, ServiceName, TrafficPolicy};

use crate::{
    address::{parse_cidr, parse_ip},
    few::Few,
    problem::{ObjectRef, Problem, Report},
};

/// Services with this label belong to another proxy (KEP-2447).
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// The API server's default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;

/// What a Service asks of a node, endpoints aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) name: ServiceName,
    /// Only families that the Service has a cluster IP in.
    pub(crate) families: Few<Family, Addresses>,
    /// In the object's order; no two with the same name and protocol, or the same port and protocol.
    pub(crate) ports: Vec<ServicePort>,
    pub(crate) internal_policy: TrafficPolicy,
    pub(crate) external_policy: TrafficPolicy,
    pub(crate) affinity_seconds: Option<u32>,
    pub(crate) health_check_port: Option<Port>,
}

/// Where a Service is reached in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) cluster_ip: IpAddr,
    pub(crate) external_ips: Vec<IpAddr>,
    pub(crate) load_balancer_ips: Vec<IpAddr>,
    /// For the load-balancer addresses; empty means every source.
    pub(crate) source_ranges: Vec<IpNet>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServicePort {
    /// Its place in the object, for field paths.
    pub(crate) index: usize,
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    pub(crate) port: Port,
    pub(crate) node_port: Option<Port>,
}

/// The Service's name, where the object has one.
pub(crate) fn name_of(object: &core::Service) -> Option<ServiceName> {
    Some(ServiceName { namespace: object.metadata.namespace.clone()?, name: object.metadata.name.clone()? })
}

/// Reads `object`. `None` where it is none of this proxy's business: headless, an external name, or another
/// proxy's.
pub(crate) fn read(object: &core::Service) -> Option<(Service, Vec<Problem>)> {
    let name = name_of(object)?;
    let spec = object.spec.as_ref()?;
    let foreign = object.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(PROXY_NAME_LABEL));
    let cluster_ips = cluster_ips(spec);
    if foreign || spec.type_.as_deref() == Some("ExternalName") || cluster_ips.is_empty() {
        return None;
    }
    let mut report = Report::of(ObjectRef::service(&name));
    let service = Service {
        families: families(object, spec, &cluster_ips, &mut report),
        ports: ports(spec, &mut report),
        internal_policy: policy("internal", spec.internal_traffic_policy.as_deref(), &mut report),
        external_policy: policy("external", spec.external_traffic_policy.as_deref(), &mut report),
        affinity_seconds: affinity(spec, &mut report),
        health_check_port: health_check_port(spec, &mut report),
        name,
    };
    Some((service, report.finish()))
}

/// Every cluster IP with its field path; none for a headless Service.
fn cluster_ips(spec: &core::ServiceSpec) -> Vec<(String, &str)> {
    let listed = spec.cluster_ips.iter().flatten().enumerate();
    let mut all: Vec<_> = listed.map(|(i, ip)| (format!("spec.clusterIPs[{i}]"), ip.as_str())).collect();
    if all.is_empty() {
        all.extend(spec.cluster_ip.as_deref().map(|ip| ("spec.clusterIP".to_owned(), ip)));
    }
    all.retain(|(_, ip)| !ip.is_empty() && *ip != "None");
    all
}

fn families(
    object: &core::Service,
    spec: &core::ServiceSpec,
    cluster_ips: &[(String, &str)],
    report: &mut Report,
) -> Few<Family, Addresses> {
    let mut families = Few::default();
    for (field, text) in cluster_ips {
        let Some(cluster_ip) = report.take(|| field.clone(), parse_ip(text)) else { continue };
        let family = Family::of(cluster_ip);
        if families.get(&family).is_none() {
            let (external_ips, load_balancer_ips, source_ranges) = (vec![], vec![], vec![]);
            families.insert(family, Addresses { cluster_ip, external_ips, load_balancer_ips, source_ranges });
        }
    }
    for (i, text) in spec.external_ips.iter().flatten().enumerate() {
        let Some(ip) = report.take(|| format!("spec.externalIPs[{i}]"), parse_ip(text)) else { continue };
        if let Some(addresses) = families.get_mut(&Family::of(ip)) {
            addresses.external_ips.push(ip);
        }
    }
    if is_load_balancer(spec) {
        add_load_balancer(object, spec, &mut families, report);
    }
    families
}

fn add_load_balancer(
    object: &core::Service,
    spec: &core::ServiceSpec,
    families: &mut Few<Family, Addresses>,
    report: &mut Report,
) {
    let Some(ranges) = source_ranges(spec, report) else {
        report.add("status.loadBalancer", "withheld, because none of spec.loadBalancerSourceRanges is valid");
        return;
    };
    for (family, addresses) in families.iter_mut() {
        let own: BTreeSet<_> = ranges.iter().filter(|range| Family::of(range.addr()) == *family).collect();
        if own.iter().all(|range| range.prefix_len() > 0) {
            addresses.source_ranges = own.into_iter().copied().collect();
        }
    }
    let status = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    for (i, ingress) in
        status.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten().enumerate()
    {
        let Some(text) = ingress.ip.as_deref().filter(|ip| !ip.is_empty()) else { continue };
        // In Proxy mode packets arrive addressed to the node, and the VIP is the balancer's alone.
        if ingress.ip_mode.as_deref() == Some("Proxy") {
            continue;
        }
        let field = || format!("status.loadBalancer.ingress[{i}].ip");
        let Some(ip) = report.take(field, parse_ip(text)) else { continue };
        if let Some(addresses) = families.get_mut(&Family::of(ip)) {
            addresses.load_balancer_ips.push(ip);
        }
    }
}

/// The valid ranges; `None` where some were given and none is valid, so that a typing error never opens
/// to everyone what was meant for a few.
fn source_ranges(spec: &core::ServiceSpec, report: &mut Report) -> Option<Vec<IpNet>> {
    let given = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    let ranges: Vec<_> = given
        .iter()
        .enumerate()
        .filter_map(|(i, text)| {
            report.take(|| format!("spec.loadBalancerSourceRanges[{i}]"), parse_cidr(text))
        })
        .collect();
    (given.is_empty() || !ranges.is_empty()).then_some(ranges)
}

fn ports(spec: &core::ServiceSpec, report: &mut Report) -> Vec<ServicePort> {
    let has_node_ports = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
    let mut ports: Vec<ServicePort> = vec![];
    for (index, object) in spec.ports.iter().flatten().enumerate() {
        let field = |name: &str| format!("spec.ports[{index}].{name}");
        let protocol = object.protocol.as_deref().unwrap_or("TCP").parse::<Protocol>();
        let protocol = report.take(|| field("protocol"), protocol);
        let number = report.take(|| field("port"), Port::try_from(object.port));
        let (Some(protocol), Some(port)) = (protocol, number) else { continue };
        let name = object.name.clone().unwrap_or_default();
        let mut others = ports.iter().filter(|other| other.protocol == protocol);
        if others.clone().any(|other| other.name == name) {
            report.add(field("name"), format!("duplicate of another {protocol} port's name {name:?}"));
            continue;
        }
        if others.any(|other| other.port == port) {
            report.add(field("port"), format!("duplicate of another port {port}/{protocol}"));
            continue;
        }
        let node_port = object.node_port.filter(|port| *port != 0 && has_node_ports);
        let node_port = node_port.and_then(|port| report.take(|| field("nodePort"), Port::try_from(port)));
        ports.push(ServicePort { index, name, protocol, port, node_port });
    }
    ports
}

fn policy(which: &str, value: Option<&str>, report: &mut Report) -> TrafficPolicy {
    match value {
        None | Some("" | "Cluster") => TrafficPolicy::Cluster,
        Some("Local") => TrafficPolicy::Local,
        Some(other) => {
            report.add(
                format!("spec.{which}TrafficPolicy"),
                format!("unsupported value {other:?}: want Cluster or Local; taken as Cluster"),
            );
            TrafficPolicy::Cluster
        }
    }
}

fn affinity(spec: &core::ServiceSpec, report: &mut Report) -> Option<u32> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return None,
        Some("ClientIP") => {}
        Some(other) => {
            report.add("spec.sessionAffinity", format!("unsupported value {other:?}: want ClientIP or None"));
            return None;
        }
    }
    let client_ip = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let Some(seconds) = client_ip.and_then(|config| config.timeout_seconds) else {
        return Some(DEFAULT_AFFINITY_SECONDS);
    };
    let valid = u32::try_from(seconds).ok().filter(|seconds| (1..=86_400).contains(seconds));
    valid.or_else(|| {
        report.add(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            format!("must be between 1 and 86400, not {seconds}; taken as {DEFAULT_AFFINITY_SECONDS}"),
        );
        Some(DEFAULT_AFFINITY_SECONDS)
    })
}

/// Kept only where a load balancer asks each node for its own endpoints.
fn health_check_port(spec: &core::ServiceSpec, report: &mut Report) -> Option<Port> {
    let local = spec.external_traffic_policy.as_deref() == Some("Local");
    let port = spec.health_check_node_port.filter(|port| *port != 0 && local && is_load_balancer(spec))?;
    report.take(|| "spec.healthCheckNodePort".to_owned(), Port::try_from(port))
}

fn is_load_balancer(spec: &core::ServiceSpec) -> bool {
    spec.type_.as_deref() == Some("LoadBalancer")
}
