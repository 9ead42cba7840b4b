//! NetworkPolicies, as the API's documentation tells what they mean.

use k8s_openapi::{
    api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use model::{
    Protocol,
    policy::{Action, Direction, PolicyKind, PolicyName, RuleRef},
};

use super::{Asked, Miss, PolicyWalk, RuleWalk, parts};
use crate::world::Written;

/// Those that isolate the subject.
pub(super) fn policies(asked: &Asked<'_>) -> Vec<PolicyWalk> {
    let own =
        asked.world.network_policies.iter().filter(|(name, _)| name.namespace == asked.subject.namespace);
    own.filter_map(|(_, written)| policy(asked, written)).collect()
}

fn policy(asked: &Asked<'_>, written: &Written<NetworkPolicy>) -> Option<PolicyWalk> {
    let metadata = &written.object.metadata;
    let name = PolicyName {
        kind: PolicyKind::NetworkPolicy,
        namespace: asked.subject.namespace.clone(),
        name: metadata.name.clone().unwrap_or_default(),
    };
    let spec = written.object.spec.clone().unwrap_or_default();
    let everyone = LabelSelector::default();
    let selector = spec.pod_selector.as_ref().unwrap_or(&everyone);
    let (lacking, doubt) = match parts::lacks(selector, &asked.pod.labels, true) {
        Ok(lacking) => (lacking, None),
        Err((lacking, doubt)) => (lacking, Some(doubt)),
    };
    if !lacking.is_empty() || !speaks(&spec, asked.direction) {
        return None;
    }
    let rules = match asked.direction {
        Direction::Ingress => {
            let rules = spec.ingress.unwrap_or_default();
            rules.into_iter().map(|rule| (rule.from, rule.ports)).collect::<Vec<_>>()
        }
        Direction::Egress => {
            spec.egress.unwrap_or_default().into_iter().map(|rule| (rule.to, rule.ports)).collect()
        }
    };
    let rules = rules.into_iter().enumerate().map(|(number, (peers, ports))| {
        let line = written.lines.as_ref().and_then(|lines| lines.of(asked.direction, number));
        let (policy, direction) = (name.clone(), asked.direction);
        let rule = RuleRef { policy, direction, rule: Some(number), name: None, line };
        let mut misses = vec![];
        misses.extend(doubt.clone().map(|doubt| Miss::Closed(format!("podSelector: {doubt}"))));
        misses.extend(peers_miss(asked, peers.unwrap_or_default()));
        misses.extend(ports_miss(asked, ports.unwrap_or_default()));
        RuleWalk { rule, action: Action::Allow, misses }
    });
    let rules = rules.collect();
    Some(PolicyWalk { policy: name, rules })
}

fn speaks(spec: &NetworkPolicySpec, direction: Direction) -> bool {
    let types = spec.policy_types.clone().unwrap_or_default();
    let of = |name: &str| types.iter().any(|t| t == name);
    let doubtful = types.iter().any(|t| t != "Ingress" && t != "Egress");
    match direction {
        Direction::Ingress => of("Ingress") || types.is_empty() || doubtful,
        Direction::Egress => {
            let rules = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
            of("Egress") || (rules && (types.is_empty() || doubtful))
        }
    }
}

fn peers_miss(asked: &Asked<'_>, peers: Vec<NetworkPolicyPeer>) -> Option<Miss> {
    if peers.is_empty() {
        return None;
    }
    let mut why = vec![];
    for peer in &peers {
        why.push(peer_miss(asked, peer)?);
    }
    Some(Miss::Peer(why))
}

/// Why the other end is not that peer.
fn peer_miss(asked: &Asked<'_>, peer: &NetworkPolicyPeer) -> Option<String> {
    let selectors = peer.namespace_selector.is_some() || peer.pod_selector.is_some();
    let found = match (&peer.ip_block, selectors) {
        (Some(block), false) => {
            parts::in_block(asked.other().address, &block.cidr, block.except.as_deref().unwrap_or_default())
        }
        (None, true) => {
            let (namespaces, pods) = (peer.namespace_selector.as_ref(), peer.pod_selector.as_ref());
            parts::selected(asked, namespaces, pods, &asked.subject.namespace)
        }
        (Some(_), true) => Err("ipBlock beside a selector".into()),
        (None, false) => Err("no known kind of peer".into()),
    };
    found.unwrap_or_else(Some)
}

fn ports_miss(asked: &Asked<'_>, ports: Vec<NetworkPolicyPort>) -> Option<Miss> {
    if ports.is_empty() {
        return None;
    }
    let mut why = vec![];
    for port in &ports {
        why.push(port_miss(asked, port)?);
    }
    Some(Miss::Ports(why))
}

fn port_miss(asked: &Asked<'_>, port: &NetworkPolicyPort) -> Option<String> {
    let l4 = asked.connection.l4;
    let protocol: Protocol = match port.protocol.as_deref() {
        None | Some("TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(other) => return Some(format!("unknown protocol {other:?}")),
    };
    let valid = 1..=65_535;
    match (&port.port, port.end_port) {
        (None, None) => parts::in_range(l4, protocol, None),
        (Some(IntOrString::Int(first)), last) => {
            let last = last.unwrap_or(*first);
            if !valid.contains(first) || !valid.contains(&last) || last < *first {
                return Some(format!("{first}-{last} is no range of ports"));
            }
            parts::in_range(l4, protocol, Some((*first, last)))
        }
        (Some(IntOrString::String(name)), None) => {
            if !name.chars().any(|c| c.is_ascii_alphabetic()) {
                return Some(format!("{name:?} is no name of a port"));
            }
            parts::named(asked.destination_pod(), name, l4, Some(protocol))
        }
        (_, Some(_)) => Some("endPort needs a port by number".into()),
    }
}
