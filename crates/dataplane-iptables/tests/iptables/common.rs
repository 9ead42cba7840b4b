//! States that the real kube-proxy was recorded in, and namespaces to apply them in.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use model::{
    Backend, Family, Frontend, FrontendAddress, FrontendKind, KnownEndpoint, NodeConfig, Port, Protocol,
    ServiceName, ServicePort, ServicePortId, Snapshot, TrafficPolicy,
};

/// The recorded node: 192.168.50.2, pods in 10.128.0.0/9.
pub(crate) fn node() -> NodeConfig {
    NodeConfig {
        name: "node1".into(),
        addresses: vec![ip("192.168.50.2")],
        pod_cidrs: vec![cidr("10.128.1.0/24")],
        cluster_cidrs: vec![cidr("10.128.0.0/9")],
        ..NodeConfig::default()
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

pub(crate) fn cidr(text: &str) -> ipnet::IpNet {
    text.parse().expect("prefix")
}

pub(crate) fn port(number: u16) -> Port {
    Port::new(number).expect("port")
}

pub(crate) fn id(namespace: &str, name: &str, port: &str, protocol: Protocol) -> ServicePortId {
    ServicePortId {
        service: ServiceName { namespace: namespace.into(), name: name.into() },
        port: port.into(),
        protocol,
        family: Family::V4,
    }
}

pub(crate) fn frontend(kind: FrontendKind, address: &str, number: u16) -> Frontend {
    Frontend {
        kind,
        address: FrontendAddress::Ip(ip(address)),
        port: port(number),
        policy: TrafficPolicy::Cluster,
        source_ranges: vec![],
    }
}

pub(crate) fn node_port(number: u16) -> Frontend {
    Frontend { address: FrontendAddress::Node, ..frontend(FrontendKind::NodePort, "0.0.0.0", number) }
}

pub(crate) fn backends(addresses: &[&str], local: bool) -> Vec<Backend> {
    let backend = |address: &&str| Backend {
        address: address.parse::<SocketAddr>().expect("socket address"),
        local,
        terminating: false,
    };
    addresses.iter().map(backend).collect()
}

pub(crate) fn service(id: ServicePortId, frontends: Vec<Frontend>, cluster: Vec<Backend>) -> ServicePort {
    let local = cluster.iter().filter(|backend| backend.local).cloned().collect();
    let usable_anywhere = !cluster.is_empty();
    let serving = |backend: &Backend| KnownEndpoint { address: backend.address, serving: true };
    let endpoints = cluster.iter().map(serving).collect();
    ServicePort {
        id,
        frontends,
        cluster,
        local,
        usable_anywhere,
        endpoints,
        affinity_seconds: None,
        health_check_port: None,
    }
}

pub(crate) fn snapshot(node: NodeConfig, services: impl IntoIterator<Item = ServicePort>) -> Snapshot {
    let services = services.into_iter().map(|service| (service.id.clone(), Arc::new(service))).collect();
    Snapshot { node, services, ..Default::default() }
}

/// A load-balancer service as the recordings have it.
fn recorded(name: &str, cluster_ip: &str, node_port_number: u16, cluster: Vec<Backend>) -> ServicePort {
    let frontends = vec![
        frontend(FrontendKind::ClusterIp, cluster_ip, 80),
        frontend(FrontendKind::LoadBalancer, "192.0.2.10", 80),
        node_port(node_port_number),
    ];
    service(id("d", name, "http", Protocol::Tcp), frontends, cluster)
}

/// Endpoints .1, .2 and .3; only the first may be local.
fn three(first_is_local: bool) -> Vec<Backend> {
    let mut all = backends(&["10.128.1.10:8080", "10.128.2.10:8080", "10.128.3.10:8080"], false);
    all[0].local = first_is_local;
    all
}

fn with_local_policy(mut service: ServicePort, health_check_port: u16) -> ServicePort {
    for frontend in service.frontends.iter_mut().filter(|f| f.kind != FrontendKind::ClusterIp) {
        frontend.policy = TrafficPolicy::Local;
    }
    service.health_check_port = Some(port(health_check_port));
    service
}

/// The recorded states, by the names of their files.
pub(crate) fn states() -> Vec<(&'static str, Snapshot)> {
    let kubernetes = || {
        let id = id("default", "kubernetes", "https", Protocol::Tcp);
        service(id, vec![frontend(FrontendKind::ClusterIp, "10.96.0.1", 443)], vec![])
    };
    let state = |service: Option<ServicePort>| snapshot(node(), [kubernetes()].into_iter().chain(service));
    let mut guarded = recorded("r3", "10.98.90.14", 32265, three(true));
    guarded.affinity_seconds = Some(600);
    guarded.frontends.insert(1, frontend(FrontendKind::ExternalIp, "198.51.100.7", 80));
    guarded.frontends[2].source_ranges = vec![cidr("203.0.113.0/25"), cidr("192.168.50.0/24")];
    vec![
        ("00-baseline", state(None)),
        ("01-lb-etp-cluster-3ep", state(Some(recorded("c3", "10.99.97.164", 31452, three(true))))),
        (
            "02-lb-etp-local-1local-of-3",
            state(Some(with_local_policy(recorded("l3", "10.96.90.226", 31701, three(true)), 32477))),
        ),
        (
            "03-lb-etp-local-0local-of-3",
            state(Some(with_local_policy(recorded("l0", "10.97.142.226", 32134, three(false)), 32394))),
        ),
        ("04-lb-no-endpoints", state(Some(recorded("e0", "10.98.165.52", 32254, vec![])))),
        ("05-lb-sourceranges-affinity-externalip", state(Some(guarded))),
    ]
}

/// A namespace that no other test uses.
pub(crate) fn namespace(tag: &str) -> netns::Owned {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    netns::Owned::create(&format!("tp-ipt-{}-{number}-{tag}", std::process::id())).expect("create namespace")
}
