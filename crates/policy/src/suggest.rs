//! Policies that allow what was seen, and no more than a person can read. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use k8s_openapi::{
    api::networking::v1::{
        IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
        NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use model::{
    PodName, Protocol,
    label_keys::PASSED_OVER,
    policy::{Direction, L4, Verdict},
};

use crate::{
    oracle,
    world::{Connection, Owner, Party, World},
};

/// Labels by which people call workloads, the best first.
const NAMES: [&str; 4] = ["app.kubernetes.io/name", "app", "k8s-app", "name"];
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Suggestion {
    pub policies: Vec<NetworkPolicy>,
    /// What was seen and would be denied: a NetworkPolicy cannot say it (ICMP beside ports), or another one denies it.
    pub blocked: Vec<Connection>,
}

type LabelMap = BTreeMap<String, String>;

/// The other end, as a policy names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Peer {
    Pods { namespace: Option<String>, labels: LabelMap },
    Block(IpNet),
}

/// What a workload was seen to do: ports by peer.
type Seen = BTreeMap<Peer, BTreeSet<(Protocol, u16)>>;

/// A policy for each workload of `namespace` that took part in `connections`, which are first packets that got through.
pub fn suggest(world: &World, namespace: &str, connections: &[Connection]) -> Suggestion {
    let mut seen: BTreeMap<LabelMap, [Seen; 2]> = BTreeMap::new();
    for connection in connections {
        let L4::Port(protocol, port) = connection.l4 else { continue };
        let ends =
            [(&connection.destination, &connection.source), (&connection.source, &connection.destination)];
        for (place, (own, other)) in ends.into_iter().enumerate() {
            let Some(labels) = workload(world, own, Some(namespace)) else { continue };
            let seen = &mut seen.entry(labels).or_default()[place];
            if let Some(peer) = peer(world, namespace, own, other, place == 0) {
                seen.entry(peer).or_default().insert((protocol, port));
            }
        }
    }
    let mut policies: Vec<NetworkPolicy> = vec![];
    for (labels, [ingress, egress]) in seen {
        let mut policy = policy(namespace, labels, &ingress, &egress);
        let alike = |other: &&NetworkPolicy| other.metadata.name == policy.metadata.name;
        if let (Some(name), count @ 1..) = (&policy.metadata.name, policies.iter().filter(alike).count()) {
            policy.metadata.name = Some(format!("{name}-{}", count + 1));
        }
        policies.push(policy);
    }
    let mut after = world.clone();
    policies.iter().for_each(|policy| after.set_network_policy(policy.clone(), None));
    let denied = |connection: &&Connection| {
        oracle::judge(&after, connection).is_ok_and(|judged| judged.verdict() == Verdict::Deny)
    };
    let blocked = connections.iter().filter(denied).cloned().collect::<BTreeSet<_>>();
    Suggestion { policies, blocked: blocked.into_iter().collect() }
}

/// The labels that tell a pod's workload from all others of its namespace: the fewest and best known.
fn workload(world: &World, party: &Party, within: Option<&str>) -> Option<LabelMap> {
    let Owner::Pod(name) = &party.owner else { return None };
    if within.is_some_and(|namespace| namespace != name.namespace) {
        return None;
    }
    let own = lasting(&world.pods.get(name)?.labels);
    let others: Vec<LabelMap> = world
        .subjects()
        .filter(|(other, _)| other.namespace == name.namespace)
        .map(|(_, pod)| lasting(&pod.labels))
        .filter(|labels| *labels != own)
        .collect();
    let tells =
        |(key, value): &(&String, &String)| !others.iter().any(|other| other.get(*key) == Some(*value));
    let place = |key: &str| NAMES.iter().position(|name| *name == key).unwrap_or(NAMES.len());
    let best = own.iter().filter(tells).min_by_key(|(key, _)| place(key));
    Some(best.map_or(own.clone(), |(key, value)| LabelMap::from([(key.clone(), value.clone())])))
}

/// Without labels that no policy can select by.
fn lasting(labels: &LabelMap) -> LabelMap {
    let lasting = labels.iter().filter(|(key, _)| !PASSED_OVER.contains(&key.as_str()));
    lasting.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// `None`: needs no rule.
fn peer(world: &World, namespace: &str, own: &Party, other: &Party, ingress: bool) -> Option<Peer> {
    match (&own.owner, &other.owner) {
        (_, Owner::Pod(name)) => {
            let foreign = (name.namespace != namespace).then(|| name.namespace.clone());
            Some(Peer::Pods { namespace: foreign, labels: workload(world, other, None)? })
        }
        // Its own node reaches it in any case.
        (Owner::Pod(pod), Owner::Node(node)) if ingress && is_on(world, pod, node) => None,
        (_, Owner::Node(_) | Owner::Outside) => Some(Peer::Block(IpNet::from(other.address))),
    }
}

fn is_on(world: &World, pod: &PodName, node: &str) -> bool {
    world.pods.get(pod).is_some_and(|pod| pod.node == node)
}

fn policy(namespace: &str, labels: LabelMap, ingress: &Seen, egress: &Seen) -> NetworkPolicy {
    let called = NAMES.iter().find_map(|name| labels.get(*name)).or(labels.values().next());
    let called = called.filter(|value| !value.is_empty()).map_or("all", String::as_str);
    let name: String = called
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    let metadata = ObjectMeta {
        name: Some(format!("allow-{}", name.trim_matches('-'))),
        namespace: Some(namespace.to_owned()),
        ..ObjectMeta::default()
    };
    let rule = |(ports, peers)| (Some(peers), Some(ports));
    let into = |(from, ports)| NetworkPolicyIngressRule { from, ports };
    let out = |(to, ports)| NetworkPolicyEgressRule { to, ports };
    let spec = NetworkPolicySpec {
        pod_selector: Some(selector(labels)),
        policy_types: Some(Direction::ALL.map(|direction| format!("{direction:?}")).into()),
        ingress: Some(rules(ingress).into_iter().map(rule).map(into).collect()),
        egress: Some(rules(egress).into_iter().map(rule).map(out).collect()),
    };
    NetworkPolicy { metadata, spec: Some(spec) }
}

/// One rule for all peers of the same ports.
fn rules(seen: &Seen) -> Vec<(Vec<NetworkPolicyPort>, Vec<NetworkPolicyPeer>)> {
    let mut by_ports: BTreeMap<&BTreeSet<(Protocol, u16)>, Vec<&Peer>> = BTreeMap::new();
    for (peer, ports) in seen {
        by_ports.entry(ports).or_default().push(peer);
    }
    let port = |(protocol, port): &(Protocol, u16)| NetworkPolicyPort {
        protocol: Some(protocol.to_string()),
        port: Some(IntOrString::Int(i32::from(*port))),
        end_port: None,
    };
    let rule = |(ports, peers): (&BTreeSet<(Protocol, u16)>, Vec<&Peer>)| {
        (ports.iter().map(port).collect(), peers.into_iter().map(as_peer).collect())
    };
    by_ports.into_iter().map(rule).collect()
}

fn as_peer(peer: &Peer) -> NetworkPolicyPeer {
    match peer {
        Peer::Pods { namespace, labels } => NetworkPolicyPeer {
            pod_selector: Some(selector(labels.clone())),
            namespace_selector: namespace
                .as_ref()
                .map(|namespace| selector([(NAMESPACE_NAME.to_owned(), namespace.clone())].into())),
            ip_block: None,
        },
        Peer::Block(net) => NetworkPolicyPeer {
            ip_block: Some(IPBlock { cidr: net.to_string(), except: None }),
            ..NetworkPolicyPeer::default()
        },
    }
}

fn selector(labels: LabelMap) -> LabelSelector {
    LabelSelector { match_labels: Some(labels), match_expressions: None }
}
