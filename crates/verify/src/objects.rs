//! A [`Plan`] as Kubernetes objects, with the names, addresses and numbers that its slots have. Pure.

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use model::Family;
use scenarios::places::{self, Node, Place, Pod};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    generate::{Endpoint, HostIp, HostPort, Ingress, Kind, Label, Plan, Service, Slice, TargetPort, Zone},
    state::{Case, Objects},
};

/// Who may be an endpoint: pods, and processes of the nodes themselves (hostNetwork).
pub const SERVERS: [Place; 6] = [
    Place::Pod(Pod::A1),
    Place::Pod(Pod::A2),
    Place::Pod(Pod::B1),
    Place::Pod(Pod::B2),
    Place::Host(Node::A),
    Place::Host(Node::B),
];

/// Last parts of the external IPs that no machine has.
pub const EXTERNAL_IPS: [u8; 2] = [77, 78];

impl Plan {
    /// The objects.
    pub fn case(&self) -> Case {
        let objects = |state: usize, pick: fn(&crate::generate::Slot) -> Option<&Service>| {
            let zones = self.zones[state];
            let services =
                || self.slots.iter().enumerate().filter_map(move |(i, slot)| Some((i, pick(slot)?)));
            Objects {
                nodes: Node::ALL.map(|n| node(n, zones)).into(),
                services: services().map(|(i, plan)| service(i, plan)).collect(),
                endpoint_slices: services().flat_map(|(i, plan)| slices(i, plan)).collect(),
                pods: self.host_ports[state].iter().map(pod).collect(),
            }
        };
        Case {
            node_ports: self.node_ports.clone(),
            before: self.stepwise.then(|| objects(0, |slot| slot.before.as_ref())),
            objects: objects(1, |slot| slot.after.as_ref()),
            ..Case::default()
        }
    }
}

fn read<K: DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).expect("an object of this file")
}

fn node(node: Node, zones: [Zone; 2]) -> core::Node {
    let labels = match zones[node as usize] {
        Zone::Unlabelled => json!({}),
        Zone::Empty => json!({"topology.kubernetes.io/zone": ""}),
        Zone::One => json!({"topology.kubernetes.io/zone": "z1"}),
        Zone::Two => json!({"topology.kubernetes.io/zone": "z2"}),
    };
    let address = |family| json!({"type": "InternalIP", "address": node.address(family)});
    read(json!({
        "metadata": {"name": node.name(), "labels": labels},
        "spec": {"podCIDRs": Family::ALL.map(|family| node.pod_cidr(family))},
        "status": {"addresses": Family::ALL.map(address)},
    }))
}

/// Its number tells host ports apart, and from every other port here.
fn pod(plan: &HostPort) -> core::Pod {
    let pod = Pod::ALL[plan.pod];
    let mut port = json!({
        "hostPort": 8000 + plan.pod,
        "containerPort": plan.target,
        "protocol": plan.protocol,
    });
    match plan.at {
        HostIp::None => {}
        HostIp::Unspecified(v6) => port["hostIP"] = json!(if v6 { "::" } else { "0.0.0.0" }),
        HostIp::Node(v6) => port["hostIP"] = json!(pod.node().address(family(v6))),
    }
    let ips = Family::ALL.map(|family| json!({"ip": pod.address(family)}));
    read(json!({
        "metadata": {"name": pod.name(), "namespace": "verify"},
        "spec": {"nodeName": pod.node().name(), "containers": [{"name": "c", "ports": [port]}]},
        "status": {"phase": if plan.finished { "Succeeded" } else { "Running" }, "podIPs": ips},
    }))
}

fn family(v6: bool) -> Family {
    if v6 { Family::V6 } else { Family::V4 }
}

fn name(slot: usize) -> String {
    format!("s{slot}")
}

/// The only port may be unnamed.
fn port_name(plan: &Service, index: usize) -> String {
    if plan.ports.len() == 1 { String::new() } else { format!("p{index}") }
}

fn service(slot: usize, plan: &Service) -> core::Service {
    let mut object = json!({
        "metadata": {"name": name(slot), "namespace": "verify"},
        "spec": spec(slot, plan),
    });
    if plan.foreign {
        object["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"});
    }
    if is_load_balancer(plan) {
        object["status"] = json!({"loadBalancer": {"ingress": ingress(plan)}});
    }
    read(object)
}

fn is_load_balancer(plan: &Service) -> bool {
    matches!(plan.kind, Kind::LoadBalancer | Kind::LoadBalancerOnly)
}

fn spec(slot: usize, plan: &Service) -> Value {
    let mut spec = json!({
        "type": match plan.kind {
            Kind::ClusterIp | Kind::Headless => "ClusterIP",
            Kind::NodePort => "NodePort",
            Kind::LoadBalancer | Kind::LoadBalancerOnly => "LoadBalancer",
            Kind::ExternalName => "ExternalName",
        },
        "ports": (0..plan.ports.len()).map(|i| port(slot, plan, i)).collect::<Vec<_>>(),
        "internalTrafficPolicy": policy(plan.internal_local),
        "publishNotReadyAddresses": plan.publish_not_ready,
    });
    match plan.kind {
        Kind::ExternalName => spec["externalName"] = json!("elsewhere.example"),
        Kind::Headless => (spec["clusterIP"], spec["clusterIPs"]) = (json!("None"), json!(["None"])),
        _ => {
            let ips = plan.families.iter().map(|v6| places::cluster_ip(slot as u8 + 1).of(family(*v6)));
            let ips: Vec<_> = ips.collect();
            (spec["clusterIP"], spec["clusterIPs"]) = (json!(ips[0]), json!(ips));
        }
    }
    // External IPs are single stack by nature: both families of each are listed.
    let external = plan
        .external_ips
        .iter()
        .flat_map(|i| Family::ALL.map(|family| places::external_ip(EXTERNAL_IPS[*i]).of(family).to_string()));
    let external: Vec<_> = external.collect();
    let reachable = !external.is_empty() || matches!(plan.kind, Kind::NodePort) || is_load_balancer(plan);
    if !external.is_empty() {
        spec["externalIPs"] = json!(external);
    }
    if reachable {
        spec["externalTrafficPolicy"] = policy(plan.external_local);
    }
    if is_load_balancer(plan) {
        spec["loadBalancerSourceRanges"] = json!(plan.source_ranges);
        spec["allocateLoadBalancerNodePorts"] = json!(plan.kind == Kind::LoadBalancer);
        if plan.external_local {
            spec["healthCheckNodePort"] = json!(31_000 + slot);
        }
    }
    if let Some(timeout) = plan.affinity {
        spec["sessionAffinity"] = json!("ClientIP");
        if let Some(seconds) = timeout {
            spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": seconds}});
        }
    }
    spec
}

fn policy(local: bool) -> Value {
    json!(if local { "Local" } else { "Cluster" })
}

/// One number under several protocols has one node port.
fn port(slot: usize, plan: &Service, index: usize) -> Value {
    let port = plan.ports[index];
    let mut object = json!({"name": port_name(plan, index), "port": port.number, "protocol": port.protocol});
    if matches!(plan.kind, Kind::NodePort | Kind::LoadBalancer) {
        object["nodePort"] = json!(30_000 + slot * 1000 + usize::from(port.number));
    }
    object
}

fn ingress(plan: &Service) -> Vec<Value> {
    let entry = |entry: &Ingress| match *entry {
        Ingress::HostName => json!({"hostname": "balancer.example"}),
        Ingress::Address(vip, v6, mode) => {
            let mut object = json!({"ip": places::VIPS[vip].of(family(v6))});
            if let Some(mode) = mode {
                object["ipMode"] = json!(mode);
            }
            object
        }
    };
    plan.ingress.iter().map(entry).collect()
}

fn slices(slot: usize, plan: &Service) -> Vec<discovery::EndpointSlice> {
    plan.slices
        .iter()
        .enumerate()
        .map(|(number, slice)| read(slice_object((slot, plan), number, slice)))
        .collect()
}

fn slice_object((slot, plan): (usize, &Service), number: usize, slice: &Slice) -> Value {
    let labels = match slice.label {
        Label::None => json!({}),
        Label::Service => json!({"kubernetes.io/service-name": name(slot)}),
        Label::Headless => {
            json!({"kubernetes.io/service-name": name(slot), "service.kubernetes.io/headless": ""})
        }
    };
    let family = family(slice.family);
    let ports = plan.ports.iter().zip(&slice.ports).enumerate();
    let ports = ports.filter_map(|(index, (port, target))| {
        let (name, protocol) = (port_name(plan, index), port.protocol);
        match *target {
            TargetPort::Missing => None,
            TargetPort::Number(number) => Some(json!({"name": name, "protocol": protocol, "port": number})),
            TargetPort::Nameless => Some(json!({"protocol": protocol, "port": 9090})),
            TargetPort::Numberless => Some(json!({"name": name, "protocol": protocol})),
        }
    });
    json!({
        "metadata": {"name": format!("s{slot}-{number}"), "namespace": "verify", "labels": labels},
        "addressType": if family == Family::V4 { "IPv4" } else { "IPv6" },
        "ports": ports.collect::<Vec<_>>(),
        "endpoints": slice.endpoints.iter().map(|e| endpoint(e, family)).collect::<Vec<_>>(),
    })
}

fn endpoint(plan: &Endpoint, family: Family) -> Value {
    let server = SERVERS[plan.server];
    let mut addresses = vec![server.address(family)];
    if plan.second_address {
        addresses.push(SERVERS[(plan.server + 1) % SERVERS.len()].address(family));
    }
    let mut object = json!({
        "addresses": addresses,
        "conditions": {"ready": plan.ready, "serving": plan.serving, "terminating": plan.terminating},
    });
    if plan.names_node {
        object["nodeName"] = json!(node_of(server).name());
    }
    let names = |names: &[&str]| names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>();
    if !plan.zones.is_empty() {
        object["hints"]["forZones"] = json!(names(&plan.zones));
    }
    if !plan.nodes.is_empty() {
        object["hints"]["forNodes"] = json!(names(&plan.nodes));
    }
    object
}

fn node_of(server: Place) -> Node {
    match server {
        Place::Pod(pod) => pod.node(),
        Place::Host(node) => node,
        Place::Client => unreachable!("no server"),
    }
}
