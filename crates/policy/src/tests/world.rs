//! Clusters in a few words, and questions about them that have one answer only.

use std::collections::BTreeMap;

use model::{
    Family, PodName, Protocol,
    policy::{Decision, Direction, L4, Verdict},
};
use serde_json::{Value, json};

use crate::{
    compile::{ContainerPort, ContainerPorts},
    explain::{self, Agreement},
    offline::Offline,
    oracle::{self, Judgement, Walk},
    read::PodReading,
    world::{Connection, Party, World},
};

pub(super) fn name(text: &str) -> PodName {
    let (namespace, name) = text.split_once('/').expect("namespace/name");
    PodName { namespace: namespace.into(), name: name.into() }
}

/// `a=b,c=d`.
pub(super) fn labels(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split(',').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').expect("key=value")).map(|(k, v)| (k.into(), v.into())).collect()
}

/// `http=80,dns=53/UDP`.
pub(super) fn ports(text: &str) -> ContainerPorts {
    let ports = text.split(',').filter(|port| !port.is_empty()).map(|port| {
        let (name, rest) = port.split_once('=').expect("name=port");
        let (number, protocol) = rest.split_once('/').unwrap_or((rest, "TCP"));
        let (number, protocol) = (number.parse().expect("port"), protocol.parse().expect("protocol"));
        ContainerPort { name: name.into(), protocol, number }
    });
    ContainerPorts::new(ports)
}

impl World {
    /// A pod on node "n1"; `addresses` by spaces.
    pub(super) fn with_pod(mut self, pod: &str, of: &str, addresses: &str, named: &str) -> Self {
        let name = name(pod);
        if !self.namespaces.contains_key(&name.namespace) {
            self.set_namespace(&name.namespace, BTreeMap::new());
        }
        let addresses = addresses.split_whitespace().map(|ip| ip.parse().expect("address")).collect();
        let (labels, ports, node) = (labels(of), ports(named), "n1".into());
        let pod = PodReading { labels, addresses, ports, node, ..PodReading::default() };
        self.pods.insert(name, pod);
        self
    }

    pub(super) fn with_namespace(mut self, name: &str, of: &str) -> Self {
        self.set_namespace(name, labels(of));
        self
    }

    /// A NetworkPolicy by its spec.
    pub(super) fn with_policy(mut self, policy: &str, spec: Value) -> Self {
        let at = name(policy);
        let metadata = json!({"namespace": at.namespace, "name": at.name});
        let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": metadata, "spec": spec});
        self.set_network_policy(serde_json::from_value(object).expect("NetworkPolicy"), None);
        self
    }

    /// A ClusterNetworkPolicy by its spec.
    pub(super) fn with_cluster_policy(mut self, name: &str, spec: Value) -> Self {
        let object = json!({"metadata": {"name": name}, "spec": spec});
        self.set_cluster_network_policy(serde_json::from_value(object).expect("policy"), None);
        self
    }

    /// `ns/pod` (its first address), `node:name`, or an address.
    pub(super) fn end(&self, text: &str, family: Family) -> Party {
        if let Some(node) = text.strip_prefix("node:") {
            let of_family = |ip: &&std::net::IpAddr| Family::of(**ip) == family;
            let address = *self.nodes[node].iter().find(of_family).expect("node's address");
            return self.party(address).expect("party");
        }
        match text.parse() {
            Ok(address) => self.party(address).expect("party"),
            Err(_) => self.pod_party(&name(text), family).expect("pod"),
        }
    }

    pub(super) fn connection(&self, from: &str, to: &str, l4: L4) -> Connection {
        let of = |text: &str| text.parse().ok().map(Family::of);
        let family = of(from).or(of(to)).unwrap_or(Family::V4);
        Connection { source: self.end(from, family), destination: self.end(to, family), l4 }
    }
}

pub(super) fn tcp(port: u16) -> L4 {
    L4::Port(Protocol::Tcp, port)
}

pub(super) fn udp(port: u16) -> L4 {
    L4::Port(Protocol::Udp, port)
}

pub(super) fn sctp(port: u16) -> L4 {
    L4::Port(Protocol::Sctp, port)
}

/// Both engines' answer, which is one.
pub(super) fn ask(world: &World, offline: &Offline, connection: &Connection) -> Judgement {
    let judged = oracle::judge(world, connection).expect("decidable");
    for (direction, walk) in [(Direction::Egress, &judged.egress), (Direction::Ingress, &judged.ingress)] {
        let decision = offline.decide(connection, direction);
        assert_eq!(decision.is_some(), walk.is_some(), "{connection:?}");
        if let (Some(decision), Some(walk)) = (decision, walk) {
            compare(offline, connection, decision, walk);
        }
    }
    judged
}

/// The same verdict for a reason that holds.
fn compare(offline: &Offline, connection: &Connection, decision: Decision, walk: &Walk) {
    let agreement = explain::agreement(walk, offline.table(), decision);
    assert_eq!(agreement, Agreement::Same, "{connection:?}\n{walk}\n{walk:#?}");
}

/// What becomes of a connection; both engines agree.
pub(super) fn verdict(world: &World, from: &str, to: &str, l4: L4) -> Verdict {
    ask(world, &Offline::of(world), &world.connection(from, to, l4)).verdict()
}

#[track_caller]
pub(super) fn allowed(world: &World, from: &str, to: &str, l4: L4) {
    assert_eq!(verdict(world, from, to, l4), Verdict::Allow, "{from} -> {to} {l4}");
}

#[track_caller]
pub(super) fn denied(world: &World, from: &str, to: &str, l4: L4) {
    assert_eq!(verdict(world, from, to, l4), Verdict::Deny, "{from} -> {to} {l4}");
}

/// Fields at fault.
pub(super) fn faults(world: &World) -> Vec<String> {
    Offline::of(world).problems().iter().map(|problem| problem.field.clone()).collect()
}
