//! An EndpointSlice object, read once. Pure.

use std::net::IpAddr;

use k8s_openapi::api::discovery::v1 as discovery;
use model::{Family, Port, Protocol, ServiceName};

use crate::{
    address::{parse_ip, refused_as_endpoint},
    problem::{ObjectRef, Problem, Report},
};

/// Names the Service that a slice belongs to.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Set on the slices of headless Services: no proxy serves them.
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// What of an EndpointSlice concerns this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    pub(crate) service: ServiceName,
    pub(crate) family: Family,
    pub(crate) ports: Vec<SlicePort>,
    pub(crate) endpoints: Vec<SliceEndpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SlicePort {
    /// Empty for an unnamed one.
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    pub(crate) port: Port,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SliceEndpoint {
    pub(crate) address: IpAddr,
    pub(crate) ready: bool,
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
    pub(crate) local: bool,
    /// Zones whose clients should come here; empty where the endpoint has no zone hint.
    pub(crate) zone_hints: Vec<String>,
    pub(crate) node_hint: NodeHint,
}

/// What an endpoint's node hints say of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeHint {
    Absent,
    ThisNode,
    OtherNodes,
}

/// Reads `object` as `node` sees it. `None` where no Service of this proxy is concerned: no Service's label,
/// a headless Service, or not IP addresses.
pub(crate) fn read(object: &discovery::EndpointSlice, node: &str) -> Option<(Slice, Vec<Problem>)> {
    let namespace = object.metadata.namespace.as_deref()?;
    let labels = object.metadata.labels.as_ref()?;
    let service = labels.get(SERVICE_LABEL).filter(|name| !name.is_empty())?;
    if labels.contains_key(HEADLESS_LABEL) {
        return None;
    }
    let family = match object.address_type.as_str() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        _ => return None,
    };
    let mut report = Report::of(ObjectRef::slice(namespace, object.metadata.name.as_deref()?));
    let slice = Slice {
        service: ServiceName { namespace: namespace.to_owned(), name: service.clone() },
        family,
        ports: ports(object, &mut report),
        endpoints: object
            .endpoints
            .iter()
            .enumerate()
            .filter_map(|(i, endpoint)| read_endpoint(i, endpoint, family, node, &mut report))
            .collect(),
    };
    Some((slice, report.finish()))
}

/// A port without a name field or without a number means nothing to a proxy and is passed over.
fn ports(object: &discovery::EndpointSlice, report: &mut Report) -> Vec<SlicePort> {
    let mut ports = vec![];
    for (i, port) in object.ports.iter().flatten().enumerate() {
        let (Some(name), Some(number)) = (&port.name, port.port.filter(|number| *number != 0)) else {
            continue;
        };
        let protocol = port.protocol.as_deref().unwrap_or("TCP").parse::<Protocol>();
        let protocol = report.take(|| format!("ports[{i}].protocol"), protocol);
        let number = report.take(|| format!("ports[{i}].port"), Port::try_from(number));
        if let (Some(protocol), Some(port)) = (protocol, number) {
            ports.push(SlicePort { name: name.clone(), protocol, port });
        }
    }
    ports
}

/// Only the first address counts: the others are unused since the API exists (KEP-752).
fn read_endpoint(
    index: usize,
    object: &discovery::Endpoint,
    family: Family,
    node: &str,
    report: &mut Report,
) -> Option<SliceEndpoint> {
    let text = object.addresses.first()?;
    let field = || format!("endpoints[{index}].addresses[0]");
    let address = report.take(field, parse_ip(text))?;
    if Family::of(address) != family {
        report.add(field(), format!("{text:?} is not of the slice's address type"));
        return None;
    }
    if let Some(reason) = refused_as_endpoint(address) {
        report.add(field(), format!("{text:?} {reason}"));
        return None;
    }
    let conditions = object.conditions.as_ref();
    let condition = |read: fn(&discovery::EndpointConditions) -> Option<bool>, default| {
        conditions.and_then(read).unwrap_or(default)
    };
    let hints = object.hints.as_ref();
    let zones = hints.and_then(|hints| hints.for_zones.as_ref()).into_iter().flatten();
    let nodes = hints.and_then(|hints| hints.for_nodes.as_deref()).unwrap_or_default();
    Some(SliceEndpoint {
        address,
        ready: condition(|conditions| conditions.ready, true),
        serving: condition(|conditions| conditions.serving, true),
        terminating: condition(|conditions| conditions.terminating, false),
        local: object.node_name.as_deref() == Some(node),
        zone_hints: zones.map(|zone| zone.name.clone()).collect(),
        node_hint: match nodes {
            [] => NodeHint::Absent,
            nodes if nodes.iter().any(|hint| hint.name == node) => NodeHint::ThisNode,
            _ => NodeHint::OtherNodes,
        },
    })
}
