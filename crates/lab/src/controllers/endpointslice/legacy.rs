//! v1 Endpoints of a Service: what kubectl before 1.30 shows in `describe service`. Pure.
//!
//! One family only (the Service's first), terminating pods left out, as the Endpoints controller does.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use k8s_openapi::{
    api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    super::meta::{is_ready, is_terminating, node_of},
    endpoint, plan, selected,
};

/// The Endpoints of `service`, or none if it has no selector.
pub(super) fn of(service: &Service, pods: &[Arc<Pod>]) -> Option<Endpoints> {
    let spec = service.spec.as_ref()?;
    spec.selector.as_ref().filter(|selector| !selector.is_empty())?;
    let family = plan::families(service).into_iter().next()?;
    let publish = spec.publish_not_ready_addresses == Some(true);
    type Key = Vec<(String, i32, String)>;
    let mut subsets = BTreeMap::<Key, EndpointSubset>::new();
    for pod in selected(service, pods).filter(|pod| !is_terminating(&pod.metadata)) {
        let Some(address) = endpoint::address(pod, family) else { continue };
        let ports = endpoint::ports(service, pod);
        let key = ports.iter().map(|port| {
            (
                port.name.clone().unwrap_or_default(),
                port.port.unwrap_or(0),
                port.protocol.clone().unwrap_or_default(),
            )
        });
        let subset = subsets.entry(key.collect()).or_insert_with(|| EndpointSubset {
            ports: Some(ports.iter().map(legacy_port).collect()),
            ..EndpointSubset::default()
        });
        let entry = EndpointAddress {
            ip: address.to_string(),
            node_name: node_of(pod).map(str::to_owned),
            target_ref: Some(endpoint::target(pod)),
            ..EndpointAddress::default()
        };
        let list =
            if publish || is_ready(pod) { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        list.get_or_insert_default().push(entry);
    }
    let mut subsets: Vec<_> = subsets.into_values().collect();
    for subset in &mut subsets {
        for list in [&mut subset.addresses, &mut subset.not_ready_addresses].into_iter().flatten() {
            list.sort_by(|left, right| left.ip.cmp(&right.ip));
        }
    }
    let meta = ObjectMeta {
        name: service.metadata.name.clone(),
        namespace: service.metadata.namespace.clone(),
        labels: service.metadata.labels.clone(),
        ..ObjectMeta::default()
    };
    Some(Endpoints { metadata: meta, subsets: Some(subsets).filter(|subsets| !subsets.is_empty()) })
}

/// The Endpoints of the API itself.
pub(super) fn api(address: SocketAddr) -> Endpoints {
    let (namespace, name) = super::API_SERVICE;
    Endpoints {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        subsets: Some(vec![EndpointSubset {
            addresses: Some(vec![EndpointAddress {
                ip: address.ip().to_string(),
                ..EndpointAddress::default()
            }]),
            ports: Some(vec![EndpointPort {
                name: Some(plan::API_PORT_NAME.to_owned()),
                port: address.port().into(),
                protocol: Some("TCP".to_owned()),
                app_protocol: None,
            }]),
            not_ready_addresses: None,
        }]),
    }
}

fn legacy_port(port: &k8s_openapi::api::discovery::v1::EndpointPort) -> EndpointPort {
    EndpointPort {
        name: port.name.clone().filter(|name| !name.is_empty()),
        port: port.port.unwrap_or(0),
        protocol: port.protocol.clone(),
        app_protocol: port.app_protocol.clone(),
    }
}
