//! One pod behind one Service: its endpoint, its conditions, its ports. Pure.

use std::net::IpAddr;

use k8s_openapi::{
    api::{
        core::v1::{Container, ObjectReference, Pod, Service, ServicePort},
        discovery::v1::{Endpoint, EndpointConditions, EndpointHints, EndpointPort, ForNode, ForZone},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{
    super::meta::{is_finished, is_ready, is_terminating, node_of},
    topology::Zones,
};

/// The address of the family that `address_type` names, if the pod takes part at all.
pub(super) fn address(pod: &Pod, address_type: &str) -> Option<IpAddr> {
    if is_finished(pod) {
        return None;
    }
    addresses(pod).find(|address| address_type == self::address_type(*address))
}

pub(super) fn address_type(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

pub(super) fn addresses(pod: &Pod) -> impl Iterator<Item = IpAddr> {
    let status = pod.status.as_ref();
    let several = status.and_then(|status| status.pod_ips.as_deref()).unwrap_or_default();
    let one = status.and_then(|status| status.pod_ip.as_deref()).filter(|_| several.is_empty());
    several.iter().map(|entry| entry.ip.as_str()).chain(one).filter_map(|ip| ip.parse().ok())
}

/// The pod as an endpoint of `service`.
pub(super) fn endpoint(service: &Service, pod: &Pod, address: IpAddr, zones: &Zones) -> Endpoint {
    let spec = service.spec.as_ref();
    let publish = spec.and_then(|spec| spec.publish_not_ready_addresses) == Some(true);
    let (serving, terminating) = (is_ready(pod), is_terminating(&pod.metadata));
    let ready = publish || (serving && !terminating);
    let node = node_of(pod).map(str::to_owned);
    let zone = node.as_ref().and_then(|node| zones.of_node(node)).cloned();
    let pod_spec = pod.spec.as_ref();
    let subdomain = pod_spec.and_then(|spec| spec.subdomain.as_ref());
    let hostname = pod_spec
        .and_then(|spec| spec.hostname.clone())
        .filter(|_| subdomain.is_some() && subdomain == service.metadata.name.as_ref());
    let distribution = spec.and_then(|spec| spec.traffic_distribution.as_deref());
    Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hints: hints(distribution.filter(|_| ready), node.as_ref(), zone.as_ref()),
        hostname,
        node_name: node,
        target_ref: Some(target(pod)),
        zone,
        ..Endpoint::default()
    }
}

/// `trafficDistribution`: every ready endpoint is for its own zone, and for its own node if asked.
fn hints(distribution: Option<&str>, node: Option<&String>, zone: Option<&String>) -> Option<EndpointHints> {
    let distribution = distribution?;
    let for_zones = zone.map(|zone| vec![ForZone { name: zone.clone() }]);
    let for_nodes =
        node.filter(|_| distribution == "PreferSameNode").map(|node| vec![ForNode { name: node.clone() }]);
    let known = matches!(distribution, "PreferClose" | "PreferSameZone" | "PreferSameNode");
    (known && (for_zones.is_some() || for_nodes.is_some())).then_some(EndpointHints { for_nodes, for_zones })
}

pub(super) fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The Service's ports as this pod has them; a named port that the pod lacks is left out.
pub(super) fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let resolved = ports.iter().filter_map(|port| {
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(resolve(port, pod)?),
            protocol: Some(protocol(port).to_owned()),
            app_protocol: port.app_protocol.clone(),
        })
    });
    resolved.collect()
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

fn resolve(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => serving_containers(pod)
            .flat_map(|container| container.ports.iter().flatten())
            .find(|entry| {
                entry.name.as_deref() == Some(name)
                    && entry.protocol.as_deref().unwrap_or("TCP") == protocol(port)
            })
            .map(|entry| entry.container_port),
    }
}

/// Containers that live as long as the pod: init containers that restart always do too.
fn serving_containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.as_ref();
    let sidecars = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    let sidecars = sidecars.iter().filter(|container| container.restart_policy.as_deref() == Some("Always"));
    spec.map_or(&[][..], |spec| spec.containers.as_slice()).iter().chain(sidecars)
}
