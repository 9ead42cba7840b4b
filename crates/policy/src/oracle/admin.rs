//! ClusterNetworkPolicies, as the API's documentation tells what they mean.

use model::{
    Protocol,
    policy::{Action, Direction, PolicyKind, PolicyName, RuleRef, Tier},
};

use super::{Asked, Miss, PolicyWalk, RuleWalk, parts};
use crate::{v1alpha2 as api, world::Written};

/// Those of the tier that are about the subject, in order of priority, then name.
pub(super) fn policies(asked: &Asked<'_>, tier: Tier) -> Vec<PolicyWalk> {
    let of_tier = |written: &&Written<api::ClusterNetworkPolicy>| {
        let baseline = written.object.spec.tier == "Baseline";
        baseline == (tier == Tier::Baseline)
    };
    let mut all: Vec<_> = asked.world.cluster_network_policies.values().filter(of_tier).collect();
    all.sort_by_key(|written| (written.object.spec.priority, written.object.metadata.name.clone()));
    all.into_iter().filter_map(|written| policy(asked, written)).collect()
}

fn policy(asked: &Asked<'_>, written: &Written<api::ClusterNetworkPolicy>) -> Option<PolicyWalk> {
    let spec = &written.object.spec;
    let mut doubt = subject(asked, &spec.subject)?;
    if !matches!(spec.tier.as_str(), "Admin" | "Baseline") || !(0..=1000).contains(&spec.priority) {
        doubt = Some("tier or priority has no meaning".into());
    }
    let rules = match asked.direction {
        Direction::Ingress => &spec.ingress,
        Direction::Egress => &spec.egress,
    };
    if rules.is_empty() {
        return None;
    }
    let policy = PolicyName {
        kind: PolicyKind::ClusterNetworkPolicy,
        namespace: String::new(),
        name: written.object.metadata.name.clone().unwrap_or_default(),
    };
    let rules = rules.iter().enumerate().map(|(number, rule)| {
        let reference = RuleRef {
            policy: policy.clone(),
            direction: asked.direction,
            rule: Some(number),
            name: Some(rule.name.clone()).filter(|name| !name.is_empty()),
            line: written.lines.as_ref().and_then(|lines| lines.of(asked.direction, number)),
        };
        let meant = match &doubt {
            Some(doubt) => Err(doubt.clone()),
            None => rule_misses(asked, number, rule),
        };
        let (action, misses) = match (rule.action.as_str(), meant) {
            ("Accept", Ok(misses)) => (Action::Allow, misses),
            ("Deny", Ok(misses)) => (Action::Deny, misses),
            ("Pass", Ok(misses)) => (Action::Pass, misses),
            ("Accept", Err(doubt)) => (Action::Allow, vec![Miss::Closed(doubt)]),
            (_, _) => (Action::Deny, vec![]),
        };
        RuleWalk { rule: reference, action, misses }
    });
    let rules = rules.collect();
    Some(PolicyWalk { policy, rules })
}

/// Whether the subject is one: with a doubt about it, if there is one.
fn subject(asked: &Asked<'_>, subject: &api::Subject) -> Option<Option<String>> {
    let namespace = asked.world.namespaces.get(&asked.subject.namespace)?;
    let found = match (&subject.namespaces, &subject.pods) {
        (Some(namespaces), None) => vec![parts::lacks(namespaces, namespace, false)],
        (None, Some(pods)) => vec![
            parts::lacks(&pods.namespace_selector, namespace, false),
            parts::lacks(&pods.pod_selector, &asked.pod.labels, true),
        ],
        _ => return None,
    };
    let mut doubt = None;
    for found in found {
        let lacking = match found {
            Ok(lacking) => lacking,
            Err((lacking, why)) => {
                doubt = Some(why);
                lacking
            }
        };
        if !lacking.is_empty() {
            return None;
        }
    }
    Some(doubt)
}

/// `Err`: something in it has no meaning.
fn rule_misses(asked: &Asked<'_>, number: usize, rule: &api::Rule) -> Result<Vec<Miss>, String> {
    let (peers, wrong) = match asked.direction {
        Direction::Ingress => (&rule.from, &rule.to),
        Direction::Egress => (&rule.to, &rule.from),
    };
    if number >= 25 || peers.is_empty() || !wrong.is_empty() {
        return Err("too many rules, or no peers, or peers of the other direction".into());
    }
    let mut misses = vec![];
    let (mut lacking, mut is_one) = (vec![], false);
    for peer in peers {
        match peer_miss(asked, peer)? {
            None => is_one = true,
            Some(why) => lacking.push(why),
        }
    }
    if !is_one {
        misses.push(Miss::Peer(lacking));
    }
    if let Some(protocols) = &rule.protocols {
        let (mut lacking, mut is_one) = (vec![], false);
        for protocol in protocols {
            match protocol_miss(asked, protocol)? {
                None => is_one = true,
                Some(why) => lacking.push(why),
            }
        }
        if protocols.is_empty() {
            return Err("protocols is there, but empty".into());
        }
        if !is_one {
            misses.push(Miss::Ports(lacking));
        }
    }
    Ok(misses)
}

fn peer_miss(asked: &Asked<'_>, peer: &api::Peer) -> Result<Option<String>, String> {
    let known = [peer.namespaces.is_some(), peer.pods.is_some(), peer.networks.is_some()];
    if !peer.other.is_empty() || known.iter().filter(|known| **known).count() != 1 {
        return Err("no known kind of peer".into());
    }
    if let Some(networks) = &peer.networks {
        if asked.direction == Direction::Ingress {
            return Err("networks are for egress".into());
        }
        let mut why = vec![];
        let mut inside = false;
        for network in networks {
            match parts::in_block(asked.other().address, network, &[])? {
                None => inside = true,
                Some(reason) => why.push(reason),
            }
        }
        return Ok((!inside).then(|| why.join("; ")));
    }
    match (&peer.namespaces, &peer.pods) {
        (Some(namespaces), _) => parts::selected(asked, Some(namespaces), None, ""),
        (_, Some(pods)) => {
            parts::selected(asked, Some(&pods.namespace_selector), Some(&pods.pod_selector), "")
        }
        _ => Err("no known kind of peer".into()),
    }
}

fn protocol_miss(asked: &Asked<'_>, protocol: &api::Protocol) -> Result<Option<String>, String> {
    let l4 = asked.connection.l4;
    let transports =
        [(&protocol.tcp, Protocol::Tcp), (&protocol.udp, Protocol::Udp), (&protocol.sctp, Protocol::Sctp)];
    let mut set = transports.iter().filter_map(|(transport, of)| Some((transport.as_ref()?, *of)));
    let (first, second) = (set.next(), set.next());
    if !protocol.other.is_empty() || second.is_some() {
        return Err("no known kind of protocol".into());
    }
    match (first, &protocol.destination_named_port) {
        (None, Some(name)) if !name.is_empty() => Ok(parts::named(asked.destination_pod(), name, l4, None)),
        (Some((transport, of)), None) => {
            let Some(port) = &transport.destination_port else {
                return match transport.other.is_empty() {
                    true => Ok(parts::in_range(l4, of, None)),
                    false => Err("unknown field of a protocol".into()),
                };
            };
            let (first, last) = match (port.number, &port.range) {
                (Some(number), None) => (number, number),
                (None, Some(range)) => (range.start, range.end),
                _ => return Err("want either a number or a range".into()),
            };
            match 1 <= first && first <= last && last <= 65_535 {
                true => Ok(parts::in_range(l4, of, Some((first, last)))),
                false => Err(format!("{first}-{last} is no range of ports")),
            }
        }
        _ => Err("no known kind of protocol".into()),
    }
}
