//! NetworkPolicy of `networking.k8s.io/v1`, with the defaults that the API server would fill in.

use k8s_openapi::{
    api::networking::v1::{self as api, NetworkPolicyPeer, NetworkPolicyPort},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use model::{
    Protocol,
    policy::{Action, Direction, PolicyKind, PolicyName, Tier},
};

use super::{Lines, Reading, parts};
use crate::{
    problem::Report,
    spec::{Block, NamespaceScope, PeerMatch, Peers, PodSelector, Policy, PortMatch, Ports, Rule},
};

/// What `object` says.
pub fn network_policy(object: &api::NetworkPolicy, lines: Option<&Lines>) -> Reading {
    let name = PolicyName {
        kind: PolicyKind::NetworkPolicy,
        namespace: object.metadata.namespace.clone().unwrap_or_else(|| "default".into()),
        name: object.metadata.name.clone().unwrap_or_default(),
    };
    let mut reader = Reader { report: Report { object: name.clone(), problems: vec![] }, lines };
    let spec = object.spec.clone().unwrap_or_default();
    let everyone = LabelSelector::default();
    let selector = spec.pod_selector.as_ref().unwrap_or(&everyone);
    let (pods, certain) = parts::pods(selector, "spec.podSelector", &mut reader.report);
    let (ingress, egress) = reader.directions(&spec);
    let scope = NamespaceScope::Named(name.namespace.clone());
    let mut policy = Policy {
        name,
        tier: Tier::NetworkPolicy,
        priority: 0,
        subject: Some(PodSelector { scope, pods }),
        ingress: ingress.then(|| reader.ingress(&spec)),
        egress: egress.then(|| reader.egress(&spec)),
    };
    if !certain {
        // Whoever may be meant is isolated, and gets nothing that was meant for others.
        for rules in [&mut policy.ingress, &mut policy.egress].into_iter().flatten() {
            *rules = std::mem::take(rules).into_iter().map(Rule::closed).collect();
        }
    }
    Reading { policy, problems: reader.report.problems }
}

struct Reader<'a> {
    report: Report,
    lines: Option<&'a Lines>,
}

impl Reader<'_> {
    /// Which directions it speaks about.
    fn directions(&mut self, spec: &api::NetworkPolicySpec) -> (bool, bool) {
        let types = spec.policy_types.as_deref().unwrap_or_default();
        let unknown: Vec<_> = types.iter().filter(|t| !matches!(t.as_str(), "Ingress" | "Egress")).collect();
        for unknown in &unknown {
            self.report.add("spec.policyTypes", format!("unknown type {unknown:?}"));
        }
        let by_default = types.is_empty() || !unknown.is_empty();
        let has = |name: &str| types.iter().any(|t| t == name);
        let with_egress = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
        (by_default || has("Ingress"), (by_default && with_egress) || has("Egress"))
    }

    fn ingress(&mut self, spec: &api::NetworkPolicySpec) -> Vec<Rule> {
        let rules = spec.ingress.iter().flatten().enumerate();
        let rule = |(number, rule): (usize, &api::NetworkPolicyIngressRule)| {
            let at = format!("spec.ingress[{number}]");
            let peers = self.peers(rule.from.as_deref(), &format!("{at}.from"));
            let ports = self.ports(rule.ports.as_deref(), &at);
            self.rule(Direction::Ingress, number, peers, ports)
        };
        rules.map(rule).collect()
    }

    fn egress(&mut self, spec: &api::NetworkPolicySpec) -> Vec<Rule> {
        let rules = spec.egress.iter().flatten().enumerate();
        let rule = |(number, rule): (usize, &api::NetworkPolicyEgressRule)| {
            let at = format!("spec.egress[{number}]");
            let peers = self.peers(rule.to.as_deref(), &format!("{at}.to"));
            let ports = self.ports(rule.ports.as_deref(), &at);
            self.rule(Direction::Egress, number, peers, ports)
        };
        rules.map(rule).collect()
    }

    fn rule(&self, direction: Direction, number: usize, peers: Peers, ports: Ports) -> Rule {
        let line = self.lines.and_then(|lines| lines.of(direction, number));
        Rule { number, name: None, line, action: Action::Allow, peers, ports }
    }

    fn peers(&mut self, peers: Option<&[NetworkPolicyPeer]>, field: &str) -> Peers {
        let Some(peers @ [_, ..]) = peers else { return Peers::Anyone };
        let all = peers.iter().enumerate();
        Peers::Of(all.filter_map(|(i, peer)| self.peer(peer, &format!("{field}[{i}]"))).collect())
    }

    fn peer(&mut self, peer: &NetworkPolicyPeer, field: &str) -> Option<PeerMatch> {
        match (&peer.ip_block, &peer.namespace_selector, &peer.pod_selector) {
            (None, None, None) => {
                self.report.add(field, "neither selector nor ipBlock: matches nobody");
                None
            }
            (Some(block), None, None) => self.block(block, &format!("{field}.ipBlock")),
            (Some(_), _, _) => {
                self.report.add(field, "ipBlock beside a selector: matches nobody");
                None
            }
            (None, namespaces, pods) => {
                let mut certain = true;
                let scope = match namespaces {
                    None => NamespaceScope::Named(self.report.object.namespace.clone()),
                    Some(selector) => {
                        let at = format!("{field}.namespaceSelector");
                        let (selector, whole) = parts::namespaces(selector, &at, &mut self.report);
                        certain &= whole;
                        NamespaceScope::Selected(selector)
                    }
                };
                let everyone = LabelSelector::default();
                let at = format!("{field}.podSelector");
                let (pods, whole) = parts::pods(pods.as_ref().unwrap_or(&everyone), &at, &mut self.report);
                (certain && whole).then_some(PeerMatch::Pods(PodSelector { scope, pods }))
            }
        }
    }

    fn block(&mut self, block: &api::IPBlock, field: &str) -> Option<PeerMatch> {
        let cidr = parts::prefix(&block.cidr);
        let cidr = cidr.map_err(|reason| self.report.add(format!("{field}.cidr"), reason)).ok();
        let (mut holes, mut certain) = (vec![], true);
        for (index, text) in block.except.iter().flatten().enumerate() {
            let at = format!("{field}.except[{index}]");
            match parts::prefix(text) {
                Err(reason) => {
                    self.report.add(at, reason);
                    certain = false;
                }
                Ok(hole) => match cidr {
                    Some(cidr) if !cidr.contains(&hole) && !hole.contains(&cidr) => {
                        self.report.add(at, format!("{hole} is not in {cidr}: takes nothing out"));
                    }
                    _ => holes.push(hole),
                },
            }
        }
        holes.sort_unstable();
        holes.dedup();
        let cidr = cidr.filter(|_| certain)?;
        Some(PeerMatch::Block(Block { cidr, except: holes }))
    }

    fn ports(&mut self, ports: Option<&[NetworkPolicyPort]>, rule: &str) -> Ports {
        let Some(ports @ [_, ..]) = ports else { return Ports::Any };
        let mut read = vec![];
        for (index, port) in ports.iter().enumerate() {
            match port_match(port) {
                Ok(port) => read.push(port),
                Err((part, reason)) => self.report.add(format!("{rule}.ports[{index}].{part}"), reason),
            }
        }
        Ports::Of(read)
    }
}

fn port_match(port: &NetworkPolicyPort) -> Result<PortMatch, (&'static str, String)> {
    let protocol: Protocol =
        port.protocol.as_deref().unwrap_or("TCP").parse().map_err(|reason| ("protocol", reason))?;
    let number = |part, number| parts::port(number).map_err(|reason| (part, reason));
    match (&port.port, port.end_port) {
        (None, None) => Ok(PortMatch::Range { protocol, first: 0, last: u16::MAX }),
        (Some(IntOrString::Int(first)), None) => {
            let first = number("port", *first)?;
            Ok(PortMatch::Range { protocol, first, last: first })
        }
        (Some(IntOrString::Int(first)), Some(last)) => {
            let (first, last) = (number("port", *first)?, number("endPort", last)?);
            match first <= last {
                true => Ok(PortMatch::Range { protocol, first, last }),
                false => Err(("endPort", format!("{last} is below port {first}"))),
            }
        }
        (Some(IntOrString::String(name)), None) => match name.bytes().any(|b| b.is_ascii_alphabetic()) {
            true => Ok(PortMatch::Named { protocol: Some(protocol), name: name.clone() }),
            false => Err(("port", format!("{name:?} is no name of a port"))),
        },
        (None, Some(_)) => Err(("endPort", "needs a port".into())),
        (Some(IntOrString::String(_)), Some(_)) => Err(("endPort", "needs a port by number".into())),
    }
}
