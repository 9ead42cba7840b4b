//! What is asked of a state: every address that its objects name, and what lies next to it, from every kind of client.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::api::core::v1 as core;
use model::{Family, Protocol, oracle::Packet};
use scenarios::places::{self, Node, Place, Pod};
use serde::Serialize;

use crate::state::{Case, Objects};

/// The first packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probe {
    pub from: Place,
    pub to: SocketAddr,
    pub protocol: Protocol,
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}/{}", self.from, self.to, self.protocol)
    }
}

impl Serialize for Probe {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// At a node: its own clients, the other node's, and the world's.
pub const CLIENTS: [Place; 6] = [
    Place::Pod(Pod::A1),
    Place::Pod(Pod::A2),
    Place::Host(Node::A),
    Place::Pod(Pod::B1),
    Place::Host(Node::B),
    Place::Client,
];

impl Probe {
    /// Sent from `port`.
    pub fn packet(&self, port: u16) -> Packet {
        let source = scenarios::expect::source(self.from, self.to.ip());
        Packet { source: SocketAddr::new(source, port), destination: self.to, protocol: self.protocol }
    }

    /// Whether node-a itself sends it.
    pub fn is_own(&self) -> bool {
        self.from == Place::Host(Node::A)
    }

    /// Whether it never leaves the other node, which has the address itself.
    fn stays_elsewhere(&self) -> bool {
        self.from == Place::Host(Node::B) && is_local(Node::B, self.to.ip())
    }

    /// Whether node-a has the address it goes to.
    pub fn is_to_own_address(&self) -> bool {
        is_local(Node::A, self.to.ip())
    }
}

/// Whether `node`'s routing calls the address local.
pub fn is_local(node: Node, address: IpAddr) -> bool {
    node.addresses().contains(address) || is_vip(address)
}

/// Whether it is one of the addresses that load balancers give.
pub(crate) fn is_vip(address: IpAddr) -> bool {
    places::VIPS.iter().any(|vip| vip.contains(address))
}

/// Whether Services' cluster IPs are from where `address` is.
pub fn is_cluster_ip(address: IpAddr) -> bool {
    (0..=u8::MAX).any(|last| places::cluster_ip(last).contains(address))
}

/// All probes of a case: those of both of its states, since what is gone must be gone.
pub fn probes(case: &Case) -> BTreeSet<Probe> {
    let states = case.before.iter().chain([&case.objects]);
    let targets: BTreeSet<_> = states.flat_map(targets).collect();
    let from = |(to, protocol)| CLIENTS.map(|from| Probe { from, to, protocol });
    targets.into_iter().flat_map(from).filter(|probe| !probe.stays_elsewhere()).collect()
}

fn targets(objects: &Objects) -> BTreeSet<(SocketAddr, Protocol)> {
    let mut all = BTreeSet::new();
    for service in &objects.services {
        let spec = service.spec.as_ref();
        for port in spec.and_then(|spec| spec.ports.as_ref()).into_iter().flatten() {
            let Some(protocol) = port.protocol.as_ref().and_then(|protocol| protocol.parse().ok()) else {
                continue;
            };
            let number = |number: i32| u16::try_from(number).unwrap_or_default();
            for address in addresses(service) {
                all.insert((SocketAddr::new(address, number(port.port)), protocol));
                if let Some(node_port) = port.node_port {
                    all.insert((SocketAddr::new(address, number(node_port)), protocol));
                }
            }
            for (node, node_port) in Node::ALL.into_iter().zip([port.node_port; 2]) {
                let Some(node_port) = node_port else { continue };
                all.extend(
                    Family::ALL
                        .map(|family| (SocketAddr::new(node.address(family), number(node_port)), protocol)),
                );
            }
        }
    }
    for pod in &objects.pods {
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        for port in containers.flat_map(|container| container.ports.iter().flatten()) {
            let protocol = port.protocol.as_ref().and_then(|protocol| protocol.parse().ok());
            let (Some(number), Some(protocol)) = (port.host_port, protocol) else { continue };
            let number = u16::try_from(number).unwrap_or_default();
            let hosts = [Node::A.addresses(), Node::B.addresses(), places::VIP];
            let at = hosts.into_iter().flat_map(|host| Family::ALL.map(|family| host.of(family)));
            all.extend(at.map(|address| (SocketAddr::new(address, number), protocol)));
        }
    }
    near(&all)
}

/// The addresses that a Service's object names, served or not.
fn addresses(service: &core::Service) -> BTreeSet<IpAddr> {
    let spec = service.spec.as_ref();
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    let ingress = ingress.filter_map(|entry| entry.ip.as_ref());
    let listed = |list: fn(&core::ServiceSpec) -> &Option<Vec<String>>| {
        spec.and_then(|spec| list(spec).as_ref()).into_iter().flatten()
    };
    let all = listed(|spec| &spec.cluster_ips).chain(listed(|spec| &spec.external_ips)).chain(ingress);
    all.filter_map(|text| text.parse().ok()).collect()
}

/// With near misses: the next port, another protocol, the next address.
fn near(targets: &BTreeSet<(SocketAddr, Protocol)>) -> BTreeSet<(SocketAddr, Protocol)> {
    let mut all = targets.clone();
    // One of each is as good as all of them, and the first of a family is as good as any.
    for family in Family::ALL {
        let Some((to, protocol)) = targets.iter().find(|(to, _)| Family::of(to.ip()) == family) else {
            continue;
        };
        let other = if *protocol == Protocol::Tcp { Protocol::Udp } else { Protocol::Tcp };
        all.insert((*to, other));
        all.insert((SocketAddr::new(to.ip(), to.port() + 1), *protocol));
        all.insert((SocketAddr::new(places::cluster_ip(200).of(family), to.port()), *protocol));
    }
    all
}
