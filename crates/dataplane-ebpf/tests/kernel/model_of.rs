//! Snapshots for tests, in few words.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use model::{
    Backend, Endpoint, Family, Frontend, FrontendAddress, FrontendKind, MacAddress, NodeConfig, PodName,
    Port, Protocol, ServiceName, ServicePort, ServicePortId, Snapshot, TrafficPolicy,
};

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().expect("address")
}

pub(crate) fn node(name: &str, addresses: &[&str]) -> NodeConfig {
    NodeConfig {
        name: name.into(),
        addresses: addresses.iter().map(|text| address(text)).collect(),
        pod_cidrs: vec![],
        cluster_cidrs: ["10.20.0.0/16", "fd00:20::/32"].map(|cidr| cidr.parse().expect("cidr")).to_vec(),
        ..NodeConfig::default()
    }
}

pub(crate) fn service(name: &str, protocol: Protocol, frontends: Vec<Frontend>) -> ServicePort {
    let family = frontends
        .iter()
        .find_map(|frontend| match frontend.address {
            FrontendAddress::Ip(ip) => Some(Family::of(ip)),
            FrontendAddress::Node => None,
        })
        .unwrap_or(Family::V4);
    ServicePort {
        id: ServicePortId {
            service: ServiceName { namespace: "test".into(), name: name.into() },
            port: String::new(),
            protocol,
            family,
        },
        frontends,
        cluster: vec![],
        local: vec![],
        usable_anywhere: false,
        endpoints: vec![],
        affinity_seconds: None,
        health_check_port: None,
    }
}

pub(crate) fn frontend(
    kind: FrontendKind,
    address: FrontendAddress,
    port: u16,
    policy: TrafficPolicy,
) -> Frontend {
    Frontend { kind, address, port: Port::new(port).expect("port"), policy, source_ranges: vec![] }
}

pub(crate) fn cluster_ip(ip: IpAddr, port: u16) -> Frontend {
    frontend(FrontendKind::ClusterIp, FrontendAddress::Ip(ip), port, TrafficPolicy::Cluster)
}

/// `(address, local)` each.
pub(crate) fn with_backends(mut service: ServicePort, backends: &[(SocketAddr, bool)]) -> ServicePort {
    let backend = |(address, local): &(SocketAddr, bool)| Backend {
        address: *address,
        local: *local,
        terminating: false,
    };
    service.cluster = backends.iter().map(backend).collect();
    service.cluster.sort();
    service.local = service.cluster.iter().filter(|backend| backend.local).cloned().collect();
    service.usable_anywhere = !service.cluster.is_empty();
    service
}

pub(crate) fn endpoint(
    name: &str,
    addresses: &[IpAddr],
    interface: &str,
    ifindex: u32,
    macs: (&str, &str),
) -> Endpoint {
    Endpoint {
        pod: PodName { namespace: "test".into(), name: name.into() },
        addresses: addresses.to_vec(),
        interface: interface.into(),
        ifindex,
        mac: macs.0.parse().unwrap_or(MacAddress::default()),
        host_mac: macs.1.parse().unwrap_or(MacAddress::default()),
        netns: None,
        l7: Default::default(),
    }
}

pub(crate) fn snapshot(node: NodeConfig, services: Vec<ServicePort>, endpoints: Vec<Endpoint>) -> Snapshot {
    Snapshot {
        node,
        services: services.into_iter().map(|service| (service.id.clone(), Arc::new(service))).collect(),
        endpoints: endpoints.into_iter().map(|endpoint| (endpoint.pod.clone(), Arc::new(endpoint))).collect(),
        ..Snapshot::default()
    }
}
