//! What a node does with a packet, read off the objects themselves: the second opinion on `cluster` and `model`.
//!
//! Written from the rules of kube-proxy (KEP-1669, 2086, 2433, 3015), as naively as possible: no index, no snapshot, one
//! Service port at a time. Shares no code with what it checks but the types of question and answer.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use model::{
    Family, Masquerade, NodePortAddresses,
    oracle::{Choice, Origin, Outcome, Packet},
};
use scenarios::places::{self, Node};

use crate::state::Case;

/// An endpoint of one Service port, as slices list it.
#[derive(Clone, Debug)]
struct Candidate<'a> {
    ready: bool,
    serving: bool,
    terminating: bool,
    local: bool,
    object: &'a discovery::Endpoint,
}

/// What kind of address the client used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Frontend {
    ClusterIp,
    ExternalIp,
    LoadBalancer,
    NodePort,
}

/// What `node` does with `packet` in the state that `case` ends in.
pub fn forward(case: &Case, node: Node, packet: &Packet) -> Outcome {
    let mut services: Vec<_> = case.objects.services.iter().filter(|service| is_ours(service)).collect();
    services.sort_by_key(|service| &service.metadata.name);
    let find = |kinds: &[Frontend]| {
        services.iter().find_map(|service| {
            let ports = service.spec.as_ref()?.ports.as_ref()?;
            ports.iter().find_map(|port| {
                let kind = kinds.iter().find(|kind| is_at(case, node, packet, (service, port), **kind))?;
                Some((*service, port, *kind))
            })
        })
    };
    // An address of its own wins over a node port, and the Service first by name over the others.
    let exact = find(&[Frontend::ClusterIp, Frontend::ExternalIp, Frontend::LoadBalancer]);
    let Some((service, port, kind)) = exact.or_else(|| find(&[Frontend::NodePort])) else {
        return host_port(case, node, packet).unwrap_or(Outcome::Untouched);
    };
    let candidates = candidates(case, node, (service, port), Family::of(packet.destination.ip()));
    decide((service, kind), &candidates, zone(case, node), (packet, node))
}

/// As the portmap plugin maps it: to the pod, masqueraded only for the node itself and the pod's own requests.
fn host_port(case: &Case, node: Node, packet: &Packet) -> Option<Outcome> {
    let (ip, number) = (packet.destination.ip(), i32::from(packet.destination.port()));
    let matches = |port: &&core::ContainerPort| {
        let at = port.host_ip.as_ref().map(|text| text.parse::<IpAddr>().expect("a generated address"));
        let here = at.is_none_or(|at| at == ip || at.is_unspecified() && at.is_ipv4() == ip.is_ipv4());
        here && port.host_port == Some(number)
            && port.protocol.as_deref() == Some(&packet.protocol.to_string())
    };
    let pods = case.objects.pods.iter().filter(|pod| {
        let spec = pod.spec.as_ref().expect("a pod has a spec");
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        spec.node_name.as_deref() == Some(node.name()) && phase == Some("Running")
    });
    let (pod, port) = pods.filter(|_| node.addresses().contains(ip)).find_map(|pod| {
        let containers = &pod.spec.as_ref()?.containers;
        let port = containers.iter().flat_map(|c| c.ports.iter().flatten()).find(matches)?;
        Some((places::Pod::named(pod.metadata.name.as_deref()?)?, port))
    })?;
    let number = u16::try_from(port.container_port).expect("a port");
    let backend = SocketAddr::new(pod.address(Family::of(ip)), number);
    let masquerade = origin(packet, node) == Origin::Node || backend.ip() == packet.source.ip();
    let masquerade = if masquerade { Masquerade::Yes } else { Masquerade::No };
    Some(Outcome::Forwarded { choices: vec![Choice { backend, masquerade }] })
}

fn is_ours(service: &core::Service) -> bool {
    let labels = service.metadata.labels.as_ref();
    let spec = service.spec.as_ref().expect("a Service has a spec");
    !labels.is_some_and(|labels| labels.contains_key("service.kubernetes.io/service-proxy-name"))
        && spec.type_.as_deref() != Some("ExternalName")
        && spec.cluster_ip.as_deref().is_some_and(|ip| ip != "None")
}

/// Whether `packet` is addressed to this port of this Service as a frontend of that kind.
fn is_at(
    case: &Case,
    node: Node,
    packet: &Packet,
    (service, port): (&core::Service, &core::ServicePort),
    kind: Frontend,
) -> bool {
    let spec = service.spec.as_ref().expect("a Service has a spec");
    let (ip, number) = (packet.destination.ip(), i32::from(packet.destination.port()));
    let is = |text: &String| text.parse() == Ok(ip);
    let cluster_ips = spec.cluster_ips.iter().flatten();
    let has_family = cluster_ips.clone().any(|text| text.contains(':') == ip.is_ipv6());
    let protocol = port.protocol.as_deref() == Some(&packet.protocol.to_string());
    let number_is = |wanted: i32| wanted == number;
    has_family
        && protocol
        && match kind {
            Frontend::ClusterIp => number_is(port.port) && cluster_ips.clone().any(is),
            Frontend::ExternalIp => number_is(port.port) && spec.external_ips.iter().flatten().any(is),
            Frontend::LoadBalancer => {
                let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
                let ingress = balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
                let mut direct = ingress.filter(|entry| entry.ip_mode.as_deref() != Some("Proxy"));
                number_is(port.port) && direct.any(|entry| entry.ip.as_ref().is_some_and(is))
            }
            Frontend::NodePort => port.node_port.is_some_and(number_is) && serves_node_ports(case, node, ip),
        }
}

fn serves_node_ports(case: &Case, node: Node, ip: IpAddr) -> bool {
    let own = node.addresses().contains(ip);
    match &case.node_ports {
        // Each node has one address of a family here.
        NodePortAddresses::All | NodePortAddresses::Primary => own,
        NodePortAddresses::Within(prefixes) => {
            let same = |prefix: &&IpNet| prefix.addr().is_ipv6() == ip.is_ipv6();
            own && (!prefixes.iter().any(|prefix| same(&prefix))
                || prefixes.iter().any(|prefix| prefix.contains(&ip)))
        }
    }
}

fn zone(case: &Case, node: Node) -> Option<&str> {
    let object =
        case.objects.nodes.iter().find(|object| object.metadata.name.as_deref() == Some(node.name()))?;
    object.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone").map(String::as_str)
}

fn candidates<'a>(
    case: &'a Case,
    node: Node,
    (service, port): (&core::Service, &core::ServicePort),
    family: Family,
) -> BTreeMap<SocketAddr, Candidate<'a>> {
    let mut found: BTreeMap<SocketAddr, Candidate<'a>> = BTreeMap::new();
    for slice in case.objects.endpoint_slices.iter().filter(|slice| belongs(slice, service, family)) {
        let name = port.name.as_deref().unwrap_or_default();
        let ports = slice.ports.iter().flatten();
        let ports = ports.filter(|p| p.name.as_deref() == Some(name) && p.protocol == port.protocol);
        for number in ports.filter_map(|port| port.port) {
            for object in &slice.endpoints {
                let candidate = Candidate::read(object, node);
                let address = object.addresses[0].parse().expect("a generated address");
                let address = SocketAddr::new(address, u16::try_from(number).expect("a port"));
                let known = found.entry(address).or_insert_with(|| candidate.clone());
                if candidate.health() > known.health() {
                    *known = candidate;
                }
            }
        }
    }
    found
}

fn belongs(slice: &discovery::EndpointSlice, service: &core::Service, family: Family) -> bool {
    let Some(labels) = slice.metadata.labels.as_ref() else { return false };
    labels.get("kubernetes.io/service-name") == service.metadata.name.as_ref()
        && !labels.contains_key("service.kubernetes.io/headless")
        && slice.address_type == if family == Family::V4 { "IPv4" } else { "IPv6" }
}

impl<'a> Candidate<'a> {
    fn read(object: &'a discovery::Endpoint, node: Node) -> Self {
        let conditions = object.conditions.clone().unwrap_or_default();
        Self {
            ready: conditions.ready.unwrap_or(true),
            serving: conditions.serving.unwrap_or(true),
            terminating: conditions.terminating.unwrap_or(false),
            local: object.node_name.as_deref() == Some(node.name()),
            object,
        }
    }

    /// Of duplicates, one that does not terminate wins; then a ready, a serving, a local one.
    fn health(&self) -> [bool; 4] {
        [!self.terminating, self.ready, self.serving, self.local]
    }

    fn drains(&self) -> bool {
        !self.ready && self.serving && self.terminating
    }

    fn zones(&self) -> Vec<&str> {
        let zones = self.object.hints.as_ref().and_then(|hints| hints.for_zones.as_ref());
        zones.into_iter().flatten().map(|zone| zone.name.as_str()).collect()
    }

    fn nodes(&self) -> Vec<&str> {
        let nodes = self.object.hints.as_ref().and_then(|hints| hints.for_nodes.as_ref());
        nodes.into_iter().flatten().map(|node| node.name.as_str()).collect()
    }
}

type Candidates<'a> = BTreeMap<SocketAddr, Candidate<'a>>;

fn decide(
    (service, kind): (&core::Service, Frontend),
    candidates: &Candidates<'_>,
    zone: Option<&str>,
    (packet, node): (&Packet, Node),
) -> Outcome {
    if !candidates.values().any(|candidate| candidate.ready || candidate.drains()) {
        return Outcome::NoEndpoints;
    }
    let spec = service.spec.as_ref().expect("a Service has a spec");
    let origin = origin(packet, node);
    if kind == Frontend::LoadBalancer && !passes_ranges(spec, packet, node, origin) {
        return Outcome::SourceDenied;
    }
    let internal = kind == Frontend::ClusterIp;
    let policy = if internal { &spec.internal_traffic_policy } else { &spec.external_traffic_policy };
    let local_policy = policy.as_deref() == Some("Local");
    // A cluster IP's policy binds everyone, the others' only those outside.
    let local_only = local_policy && (internal || origin == Origin::External);
    let usable = if local_only { local(candidates) } else { cluster(candidates, zone, node) };
    if usable.is_empty() {
        return Outcome::NoLocalEndpoints;
    }
    let masquerade = match (internal, local_policy, origin) {
        (_, _, Origin::Node) => true,
        (true, _, Origin::Pod) => false,
        (true, _, Origin::External) => true,
        (false, local_policy, _) => !local_policy,
    };
    let choice = |backend: SocketAddr| {
        // What this node's own stack receives does not leave it, and is not masqueraded.
        let stays = origin != Origin::Node && node.addresses().contains(backend.ip());
        let hairpin = packet.source.ip() == backend.ip();
        let masquerade = if (masquerade || hairpin) && !stays { Masquerade::Yes } else { Masquerade::No };
        Choice { backend, masquerade }
    };
    Outcome::Forwarded { choices: usable.into_iter().map(choice).collect() }
}

fn origin(packet: &Packet, node: Node) -> Origin {
    let source = packet.source.ip();
    if node.addresses().contains(source) || source == packet.destination.ip() {
        Origin::Node
    } else if places::cluster_cidr(Family::of(source)).contains(&source) {
        Origin::Pod
    } else {
        Origin::External
    }
}

fn passes_ranges(spec: &core::ServiceSpec, packet: &Packet, node: Node, origin: Origin) -> bool {
    let source = packet.source.ip();
    let ranges = spec.load_balancer_source_ranges.iter().flatten();
    let ranges: Vec<IpNet> =
        ranges.map(|text| without_zeros(text.trim()).parse().expect("a prefix")).collect();
    let own: Vec<_> = ranges.iter().filter(|range| range.addr().is_ipv6() == source.is_ipv6()).collect();
    let admits = |ip: IpAddr| own.iter().any(|range| range.contains(&ip));
    // The address is local to the node, which then has it as its source.
    let own_address = node.address(Family::of(source));
    own.is_empty() || admits(source) || origin == Origin::Node && admits(own_address)
}

/// Leading zeros are decimal to Kubernetes.
fn without_zeros(prefix: &str) -> String {
    if prefix.contains(':') {
        return prefix.to_owned();
    }
    let (address, length) = prefix.split_once('/').expect("a prefix");
    let parts = address.split('.').map(|part| part.parse::<u8>().expect("a number").to_string());
    format!("{}/{length}", parts.collect::<Vec<_>>().join("."))
}

/// Ready ones of this node; with none, those that still serve while they terminate.
fn local(candidates: &Candidates<'_>) -> Vec<SocketAddr> {
    let of = |pick: fn(&Candidate<'_>) -> bool| -> Vec<_> {
        candidates.iter().filter(|(_, c)| c.local && pick(c)).map(|(address, _)| *address).collect()
    };
    let ready = of(|candidate| candidate.ready);
    if ready.is_empty() { of(|candidate| candidate.drains()) } else { ready }
}

/// Ready ones that hints admit; with none ready anywhere, those that still serve while they terminate.
fn cluster(candidates: &Candidates<'_>, zone: Option<&str>, node: Node) -> Vec<SocketAddr> {
    let ready: Vec<_> = candidates.iter().filter(|(_, candidate)| candidate.ready).collect();
    if ready.is_empty() {
        let draining = candidates.iter().filter(|(_, candidate)| candidate.drains());
        return draining.map(|(address, _)| *address).collect();
    }
    let here: Vec<_> = ready.iter().filter(|(_, c)| c.nodes().contains(&node.name())).collect();
    if ready.iter().all(|(_, c)| !c.nodes().is_empty()) && !here.is_empty() {
        return here.into_iter().map(|(address, _)| **address).collect();
    }
    if let Some(zone) = zone.filter(|zone| !zone.is_empty()) {
        let near: Vec<_> = ready.iter().filter(|(_, c)| c.zones().contains(&zone)).collect();
        if ready.iter().all(|(_, c)| !c.zones().is_empty()) && !near.is_empty() {
            return near.into_iter().map(|(address, _)| **address).collect();
        }
    }
    ready.into_iter().map(|(address, _)| *address).collect()
}
