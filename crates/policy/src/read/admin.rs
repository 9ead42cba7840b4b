//! ClusterNetworkPolicy. A rule with a part that is not known or not supported is closed: an Accept matches nobody, a Deny or
//! Pass denies everybody, as the API's documentation has it.

use model::{
    Protocol,
    policy::{Action, Direction, PolicyKind, PolicyName, Tier},
};

use super::{Lines, Reading, parts};
use crate::{
    problem::Report,
    selector::Selector,
    spec::{Block, NamespaceScope, PeerMatch, Peers, PodSelector, Policy, PortMatch, Ports, Rule},
    v1alpha2 as api,
};

/// The API's limit of rules in a direction.
const MOST_RULES: usize = 25;

/// What `object` says.
pub fn cluster_network_policy(object: &api::ClusterNetworkPolicy, lines: Option<&Lines>) -> Reading {
    let name = PolicyName {
        kind: PolicyKind::ClusterNetworkPolicy,
        namespace: String::new(),
        name: object.metadata.name.clone().unwrap_or_default(),
    };
    let mut reader = Reader { report: Report { object: name.clone(), problems: vec![] }, lines };
    let spec = &object.spec;
    let (tier, known_tier) = match spec.tier.as_str() {
        "Admin" => (Tier::Admin, true),
        "Baseline" => (Tier::Baseline, true),
        other => {
            reader.report.add("spec.tier", format!("unknown tier {other:?}"));
            (Tier::Admin, false)
        }
    };
    let valid_priority = (0..=1000).contains(&spec.priority);
    if !valid_priority {
        reader.report.add("spec.priority", format!("must be between 0 and 1000, not {}", spec.priority));
    }
    let (subject, known_subject) = reader.subject(&spec.subject);
    let certain = known_tier && valid_priority && known_subject;
    let mut rules = |direction, rules: &[api::Rule]| {
        let read = rules.iter().enumerate().map(|(number, rule)| {
            let read = reader.rule(direction, number, rule);
            if certain { read } else { read.closed() }
        });
        (!rules.is_empty()).then(|| read.collect())
    };
    let ingress = rules(Direction::Ingress, &spec.ingress);
    let egress = rules(Direction::Egress, &spec.egress);
    let policy = Policy { name, tier, priority: spec.priority, subject, ingress, egress };
    Reading { policy, problems: reader.report.problems }
}

struct Reader<'a> {
    report: Report,
    lines: Option<&'a Lines>,
}

/// Something that must not be guessed at: the rule is to be closed. It was reported.
struct Unknown;

impl Reader<'_> {
    /// Whom it is about, and whether that is certain.
    fn subject(&mut self, subject: &api::Subject) -> (Option<PodSelector>, bool) {
        match (&subject.namespaces, &subject.pods) {
            (Some(namespaces), None) => {
                let (selector, certain) =
                    parts::namespaces(namespaces, "spec.subject.namespaces", &mut self.report);
                (Some(in_namespaces(selector)), certain)
            }
            (None, Some(pods)) => {
                let (selector, certain) = self.pods(pods, "spec.subject.pods");
                (Some(selector), certain)
            }
            _ => {
                self.report.add("spec.subject", "want either namespaces or pods: is about nobody");
                (None, false)
            }
        }
    }

    fn pods(&mut self, pods: &api::NamespacedPod, field: &str) -> (PodSelector, bool) {
        let at = format!("{field}.namespaceSelector");
        let (scope, certain) = parts::namespaces(&pods.namespace_selector, &at, &mut self.report);
        let at = format!("{field}.podSelector");
        let (pods, also) = parts::pods(&pods.pod_selector, &at, &mut self.report);
        (PodSelector { scope: NamespaceScope::Selected(scope), pods }, certain && also)
    }

    fn rule(&mut self, direction: Direction, number: usize, rule: &api::Rule) -> Rule {
        let (list, side, peers, wrong) = match direction {
            Direction::Ingress => ("ingress", "from", &rule.from, &rule.to),
            Direction::Egress => ("egress", "to", &rule.to, &rule.from),
        };
        let at = format!("spec.{list}[{number}]");
        let mut certain = true;
        let mut doubt = |report: &mut Report, field: &str, reason: String| {
            report.add(format!("{at}{field}"), reason);
            certain = false;
        };
        let action = match rule.action.as_str() {
            "Accept" => Action::Allow,
            "Deny" => Action::Deny,
            "Pass" => Action::Pass,
            other => {
                doubt(&mut self.report, ".action", format!("unknown action {other:?}"));
                Action::Deny
            }
        };
        if number >= MOST_RULES {
            doubt(&mut self.report, "", format!("more than {MOST_RULES} rules"));
        }
        if peers.is_empty() || !wrong.is_empty() {
            doubt(&mut self.report, "", format!("want peers in {side:?}, and only there"));
        }
        let read = peers.iter().enumerate();
        let read: Result<Vec<_>, Unknown> =
            read.map(|(i, peer)| self.peer(direction, peer, &format!("{at}.{side}[{i}]"))).collect();
        let ports = self.ports(rule.protocols.as_deref(), &at);
        let line = self.lines.and_then(|lines| lines.of(direction, number));
        let name = Some(rule.name.clone()).filter(|name| !name.is_empty());
        let bare = Rule { number, name, line, action, peers: Peers::Anyone, ports: Ports::Any };
        match (read, ports, certain) {
            (Ok(peers), Ok(ports), true) => {
                Rule { peers: Peers::Of(peers.into_iter().flatten().collect()), ports, ..bare }
            }
            _ => bare.closed(),
        }
    }

    fn peer(
        &mut self,
        direction: Direction,
        peer: &api::Peer,
        field: &str,
    ) -> Result<Vec<PeerMatch>, Unknown> {
        if let Some(other) = peer.other.keys().next() {
            let reason = match other.as_str() {
                "nodes" | "domainNames" => format!("{other} peers are not supported"),
                _ => format!("unknown kind of peer {other:?}"),
            };
            self.report.add(field, reason);
            return Err(Unknown);
        }
        match (&peer.namespaces, &peer.pods, &peer.networks, direction) {
            (Some(namespaces), None, None, _) => {
                let at = format!("{field}.namespaces");
                let (selector, certain) = parts::namespaces(namespaces, &at, &mut self.report);
                certain.then(|| vec![PeerMatch::Pods(in_namespaces(selector))]).ok_or(Unknown)
            }
            (None, Some(pods), None, _) => {
                let (selector, certain) = self.pods(pods, &format!("{field}.pods"));
                certain.then(|| vec![PeerMatch::Pods(selector)]).ok_or(Unknown)
            }
            (None, None, Some(networks), Direction::Egress) => self.networks(networks, field),
            _ => {
                self.report.add(field, "want exactly one known kind of peer");
                Err(Unknown)
            }
        }
    }

    fn networks(&mut self, networks: &[String], field: &str) -> Result<Vec<PeerMatch>, Unknown> {
        let all = networks.iter().enumerate();
        let mut read = all.map(|(index, text)| {
            let cidr = parts::prefix(text).map_err(|reason| {
                self.report.add(format!("{field}.networks[{index}]"), reason);
                Unknown
            })?;
            Ok(PeerMatch::Block(Block { cidr, except: vec![] }))
        });
        read.by_ref().collect()
    }

    fn ports(&mut self, protocols: Option<&[api::Protocol]>, rule: &str) -> Result<Ports, Unknown> {
        let Some(protocols) = protocols else { return Ok(Ports::Any) };
        let all = protocols.iter().enumerate();
        let read: Result<Vec<_>, Unknown> = all
            .map(|(index, protocol)| {
                port_match(protocol).map_err(|reason| {
                    self.report.add(format!("{rule}.protocols[{index}]"), reason);
                    Unknown
                })
            })
            .collect();
        match read?.as_slice() {
            [] => {
                self.report.add(format!("{rule}.protocols"), "is there, but empty");
                Err(Unknown)
            }
            ports => Ok(Ports::Of(ports.to_vec())),
        }
    }
}

fn in_namespaces(selector: Selector) -> PodSelector {
    PodSelector { scope: NamespaceScope::Selected(selector), pods: Selector::default() }
}

fn port_match(protocol: &api::Protocol) -> Result<PortMatch, String> {
    if let Some(other) = protocol.other.keys().next() {
        return Err(format!("unknown kind of protocol {other:?}"));
    }
    let (transport, of) =
        match (&protocol.tcp, &protocol.udp, &protocol.sctp, &protocol.destination_named_port) {
            (Some(tcp), None, None, None) => (tcp, Protocol::Tcp),
            (None, Some(udp), None, None) => (udp, Protocol::Udp),
            (None, None, Some(sctp), None) => (sctp, Protocol::Sctp),
            (None, None, None, Some(name)) if !name.is_empty() => {
                return Ok(PortMatch::Named { protocol: None, name: name.clone() });
            }
            _ => return Err("want exactly one known kind of protocol".into()),
        };
    let Some(port) = &transport.destination_port else {
        return match transport.other.keys().next() {
            Some(other) => Err(format!("unknown field {other:?}")),
            None => Ok(PortMatch::Range { protocol: of, first: 0, last: u16::MAX }),
        };
    };
    let (first, last) = match (port.number, &port.range) {
        (Some(number), None) => (number, number),
        (None, Some(range)) if range.start <= range.end => (range.start, range.end),
        (None, Some(range)) => return Err(format!("range ends at {}, before {}", range.end, range.start)),
        _ => return Err("want either a number or a range".into()),
    };
    Ok(PortMatch::Range { protocol: of, first: parts::port(first)?, last: parts::port(last)? })
}
