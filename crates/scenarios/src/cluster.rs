//! Services as a case describes them, and each node's [`Snapshot`] of them.
//!
//! Stands in for the `cluster` crate with the least that cases need, so that a mistake there shows as a
//! difference and not as agreement.

use std::{net::SocketAddr, sync::Arc};

use ipnet::IpNet;
use model::{
    Backend, Family, Frontend, FrontendAddress, FrontendKind, KnownEndpoint, NodeConfig, Peer, PodName, Port,
    Protocol, ServiceName, ServicePort, ServicePortId, Snapshot, TrafficPolicy,
};

use crate::places::{self, Node, Pair, Pod, VIP};

/// A Service with one or several ports.
#[derive(Clone, Debug)]
pub struct Service {
    name: &'static str,
    families: Vec<Family>,
    cluster_ip: Pair,
    ports: Vec<ServicePortSpec>,
    load_balancer: bool,
    external_ip: Option<Pair>,
    internal: TrafficPolicy,
    external: TrafficPolicy,
    source_ranges: Vec<&'static str>,
    affinity_seconds: Option<u32>,
    backends: Vec<(Pod, State)>,
}

#[derive(Clone, Copy, Debug)]
struct ServicePortSpec {
    name: &'static str,
    protocol: Protocol,
    port: u16,
    target: Target,
    node_port: Option<u16>,
}

/// Which port of a backend a Service's port means.
#[derive(Clone, Copy, Debug)]
enum Target {
    Number(u16),
    /// A named port that the pods of the two nodes define differently.
    PerNode(u16, u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    /// Serving while it terminates.
    Terminating,
}

/// A port of a pod that its node serves.
#[derive(Clone, Copy, Debug)]
pub struct HostPort {
    pod: Pod,
    protocol: Protocol,
    number: u16,
    target: u16,
    /// At one address instead of all of the node.
    at: Option<Pair>,
}

impl HostPort {
    /// At every address of the pod's node.
    pub const fn new(pod: Pod, protocol: Protocol, number: u16, target: u16) -> Self {
        Self { pod, protocol, number, target, at: None }
    }

    /// At the node's first address only.
    #[must_use]
    pub const fn at_first(self) -> Self {
        Self { at: Some(self.pod.node().addresses()), ..self }
    }

    /// At the node's second address only.
    #[must_use]
    pub const fn at_second(self) -> Self {
        Self { at: Some(self.pod.node().second_addresses()), ..self }
    }

    /// The pod alone stands behind it, and its own node alone has it.
    fn service_port(self, family: Family) -> ServicePort {
        let port = Port::new(self.number).expect("a case's port");
        let pod = PodName { namespace: "scenario".into(), name: self.pod.name().into() };
        let at = self.at.map(|at| at.of(family));
        let address = SocketAddr::new(self.pod.address(family), self.target);
        let backend = Backend { address, local: true, terminating: false };
        ServicePort {
            id: ServicePortId::of_host_port(&pod, (at, port), self.protocol, family),
            frontends: vec![Frontend {
                kind: FrontendKind::HostPort,
                address: at.map_or(FrontendAddress::Node, FrontendAddress::Ip),
                port,
                policy: TrafficPolicy::Local,
                source_ranges: vec![],
            }],
            cluster: vec![backend.clone()],
            local: vec![backend],
            usable_anywhere: true,
            endpoints: vec![KnownEndpoint { address, serving: true }],
            affinity_seconds: None,
            health_check_port: None,
        }
    }
}

impl Service {
    /// Dual stack, cluster IP number `last`; Cluster policy, no ports, no backends.
    pub fn new(name: &'static str, last: u8) -> Self {
        Self {
            name,
            families: Family::ALL.to_vec(),
            cluster_ip: places::cluster_ip(last),
            ports: vec![],
            load_balancer: false,
            external_ip: None,
            internal: TrafficPolicy::Cluster,
            external: TrafficPolicy::Cluster,
            source_ranges: vec![],
            affinity_seconds: None,
            backends: vec![],
        }
    }

    /// TCP port 80 to 8080, node port 30080, on the load-balancer address.
    pub fn web(backends: &[Pod]) -> Self {
        Self::new("web", 1).port("http", Protocol::Tcp, 80, 8080).node_port(30080).on_vip().backends(backends)
    }

    #[must_use]
    pub fn port(mut self, name: &'static str, protocol: Protocol, port: u16, target: u16) -> Self {
        let target = Target::Number(target);
        self.ports.push(ServicePortSpec { name, protocol, port, target, node_port: None });
        self
    }

    /// A port whose number on a backend depends on the backend's node.
    #[must_use]
    pub fn named_port(mut self, name: &'static str, port: u16, on_a: u16, on_b: u16) -> Self {
        let target = Target::PerNode(on_a, on_b);
        self.ports.push(ServicePortSpec { name, protocol: Protocol::Tcp, port, target, node_port: None });
        self
    }

    /// Gives the port added last a node port.
    #[must_use]
    pub fn node_port(mut self, number: u16) -> Self {
        if let Some(port) = self.ports.last_mut() {
            port.node_port = Some(number);
        }
        self
    }

    #[must_use]
    pub fn on_vip(mut self) -> Self {
        self.load_balancer = true;
        self
    }

    #[must_use]
    pub fn external_ip(mut self, last: u8) -> Self {
        self.external_ip = Some(places::external_ip(last));
        self
    }

    /// externalTrafficPolicy: Local.
    #[must_use]
    pub fn external_local(mut self) -> Self {
        self.external = TrafficPolicy::Local;
        self
    }

    /// internalTrafficPolicy: Local.
    #[must_use]
    pub fn internal_local(mut self) -> Self {
        self.internal = TrafficPolicy::Local;
        self
    }

    /// Single stack.
    #[must_use]
    pub fn only(mut self, family: Family) -> Self {
        self.families = vec![family];
        self
    }

    /// Of both families; those of one guard its addresses only.
    #[must_use]
    pub fn source_ranges(mut self, ranges: &[&'static str]) -> Self {
        self.source_ranges = ranges.to_vec();
        self
    }

    #[must_use]
    pub fn affinity(mut self, seconds: u32) -> Self {
        self.affinity_seconds = Some(seconds);
        self
    }

    #[must_use]
    pub fn backends(mut self, pods: &[Pod]) -> Self {
        self.backends.extend(pods.iter().map(|pod| (*pod, State::Ready)));
        self
    }

    #[must_use]
    pub fn terminating(mut self, pods: &[Pod]) -> Self {
        self.backends.extend(pods.iter().map(|pod| (*pod, State::Terminating)));
        self
    }

    fn service_ports(&self, node: Node) -> impl Iterator<Item = ServicePort> {
        let families = self.families.iter();
        families
            .flat_map(move |family| self.ports.iter().map(move |port| self.service_port(node, *family, port)))
    }

    fn service_port(&self, node: Node, family: Family, port: &ServicePortSpec) -> ServicePort {
        ServicePort {
            id: ServicePortId {
                service: ServiceName { namespace: "scenario".into(), name: self.name.into() },
                port: port.name.into(),
                protocol: port.protocol,
                family,
            },
            frontends: self.frontends(family, port),
            cluster: self.usable(node, family, port, |_| true),
            local: self.usable(node, family, port, |pod| pod.node() == node),
            usable_anywhere: !self.backends.is_empty(),
            endpoints: self.known(node, family, port),
            affinity_seconds: self.affinity_seconds,
            health_check_port: None,
        }
    }

    fn frontends(&self, family: Family, spec: &ServicePortSpec) -> Vec<Frontend> {
        let port = Port::new(spec.port).expect("a case's port");
        let prefixes = |ranges: &[&str]| -> Vec<IpNet> {
            let all = ranges.iter().map(|range| range.parse().expect("a case's prefix"));
            all.filter(|range: &IpNet| Family::of(range.addr()) == family).collect()
        };
        let at = |kind, address: Pair, policy, ranges: &[&str]| Frontend {
            kind,
            address: FrontendAddress::Ip(address.of(family)),
            port,
            policy,
            source_ranges: prefixes(ranges),
        };
        let mut frontends = vec![at(FrontendKind::ClusterIp, self.cluster_ip, self.internal, &[])];
        frontends.extend(self.external_ip.map(|ip| at(FrontendKind::ExternalIp, ip, self.external, &[])));
        if self.load_balancer {
            frontends.push(at(FrontendKind::LoadBalancer, VIP, self.external, &self.source_ranges));
        }
        frontends.extend(spec.node_port.map(|number| Frontend {
            kind: FrontendKind::NodePort,
            address: FrontendAddress::Node,
            port: Port::new(number).expect("a case's port"),
            policy: self.external,
            source_ranges: vec![],
        }));
        frontends
    }

    fn known(&self, node: Node, family: Family, port: &ServicePortSpec) -> Vec<KnownEndpoint> {
        let address = |(pod, state): &(Pod, State)| backend(*pod, family, port, node, *state).address;
        let known = |of| KnownEndpoint { address: address(of), serving: true };
        let mut known: Vec<_> = self.backends.iter().map(known).collect();
        known.sort();
        known
    }

    /// Ready backends among those wanted, or else those that terminate.
    fn usable(
        &self,
        node: Node,
        family: Family,
        port: &ServicePortSpec,
        wanted: impl Fn(Pod) -> bool,
    ) -> Vec<Backend> {
        let of = |state: State| {
            let pods = self.backends.iter().filter(|(pod, is)| wanted(*pod) && *is == state);
            let mut backends: Vec<_> =
                pods.map(|(pod, _)| backend(*pod, family, port, node, state)).collect();
            backends.sort();
            backends
        };
        let ready = of(State::Ready);
        if ready.is_empty() { of(State::Terminating) } else { ready }
    }
}

fn backend(pod: Pod, family: Family, port: &ServicePortSpec, node: Node, state: State) -> Backend {
    let number = match port.target {
        Target::Number(number) => number,
        Target::PerNode(on_a, on_b) => [on_a, on_b][pod.node() as usize],
    };
    Backend {
        address: SocketAddr::new(pod.address(family), number),
        local: pod.node() == node,
        terminating: state == State::Terminating,
    }
}

/// What `node` is to program; endpoints are the topology's to add.
pub fn snapshot(services: &[Service], node: Node) -> Snapshot {
    let services = services.iter().flat_map(|service| service.service_ports(node));
    let peer = peer(node.other());
    Snapshot {
        node: config(node),
        services: services.map(|service| (service.id.clone(), Arc::new(service))).collect(),
        peers: [(peer.name.clone(), Arc::new(peer))].into(),
        ..Default::default()
    }
}

/// The host ports that `node` is to serve besides.
pub fn host_ports(all: &[HostPort], node: Node) -> impl Iterator<Item = ServicePort> {
    let own = all.iter().filter(move |port| port.pod.node() == node);
    own.flat_map(|port| Family::ALL.map(|family| port.service_port(family)))
}

pub(crate) fn config(node: Node) -> NodeConfig {
    NodeConfig {
        name: node.name().into(),
        addresses: [node.addresses(), node.second_addresses()]
            .into_iter()
            .flat_map(|pair| in_both(|family| pair.of(family)))
            .collect(),
        pod_cidrs: in_both(|family| node.pod_cidr(family)),
        cluster_cidrs: in_both(places::cluster_cidr),
        ..NodeConfig::default()
    }
}

pub(crate) fn peer(node: Node) -> Peer {
    let NodeConfig { name, addresses, pod_cidrs, .. } = config(node);
    Peer { name, addresses, pod_cidrs }
}

fn in_both<T>(of: impl Fn(Family) -> T) -> Vec<T> {
    Family::ALL.map(of).into()
}
