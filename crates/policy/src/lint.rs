//! Policies that probably do not do what was meant. Pure.

use std::fmt;

use model::{
    Family, PodName, Protocol,
    policy::{Direction, L4, PolicyKind, PolicyName, Tier, Verdict},
};
use serde::Serialize;

use crate::{
    PeerMatch, Peers, PodSelector, Policy, PortMatch, Ports, Rule,
    offline::{Offline, readings},
    read::PodReading,
    spec::NamespaceScope,
    world::{Connection, Owner, Party, World},
};

/// What may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Lint {
    /// A part that is not understood or not supported, and closed.
    Invalid,
    /// `egress: []` without `policyTypes`: isolates nobody.
    EgressWithoutType,
    /// A subject or peer that no pod matches.
    SelectsNothing,
    /// A port by name that no destination pod has.
    UnknownPortName,
    /// A block that covers pods, which change their addresses.
    BlockOverPods,
    /// A pod that cannot ask the cluster's resolver.
    DnsBlocked,
    /// The node-local resolver has a link-local address, which no selector matches.
    NodeLocalDnsBlocked,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    pub policy: PolicyName,
    pub lint: Lint,
    /// Path of the field.
    pub field: String,
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.policy, self.field, self.message)
    }
}

/// Where NodeLocal DNSCache listens by default.
const NODE_LOCAL: &str = "169.254.20.10";

/// Everything that stands out, in order of policy.
pub fn lint(world: &World) -> Vec<Finding> {
    let mut linter = Linter { world, findings: vec![] };
    for reading in readings(world) {
        for problem in &reading.problems {
            linter.add(&reading.policy, Lint::Invalid, &problem.field, problem.reason.clone());
        }
        linter.policy(&reading.policy);
    }
    for (name, written) in &world.network_policies {
        let Some(spec) = &written.object.spec else { continue };
        if spec.egress.as_ref().is_some_and(Vec::is_empty)
            && spec.policy_types.as_ref().is_none_or(Vec::is_empty)
        {
            let message = "without policyTypes an empty list does not isolate egress".to_owned();
            let policy = network_policy(name);
            linter.findings.push(Finding {
                policy,
                lint: Lint::EgressWithoutType,
                field: "spec.egress".into(),
                message,
            });
        }
    }
    linter.resolvers();
    linter.findings.sort();
    linter.findings.dedup();
    linter.findings
}

fn network_policy(name: &PodName) -> PolicyName {
    let (namespace, name) = (name.namespace.clone(), name.name.clone());
    PolicyName { kind: PolicyKind::NetworkPolicy, namespace, name }
}

struct Linter<'a> {
    world: &'a World,
    findings: Vec<Finding>,
}

impl Linter<'_> {
    fn add(&mut self, policy: &Policy, lint: Lint, field: &str, message: String) {
        let (policy, field) = (policy.name.clone(), field.to_owned());
        self.findings.push(Finding { policy, lint, field, message });
    }

    fn matching<'w>(world: &'w World, selector: &PodSelector) -> Vec<(&'w PodName, &'w PodReading)> {
        let get = |labels: &'w std::collections::BTreeMap<String, String>| {
            move |key: &str| labels.get(key).map(String::as_str)
        };
        let matches = |(name, pod): &(&PodName, &'w PodReading)| {
            let namespace = match &selector.scope {
                NamespaceScope::Named(wanted) => name.namespace == *wanted,
                NamespaceScope::Selected(namespaces) => {
                    let labels = world.namespaces.get(&name.namespace);
                    labels.is_some_and(|labels| namespaces.matches(get(labels)))
                }
            };
            namespace && selector.pods.matches(get(&pod.labels))
        };
        world.subjects().filter(matches).collect()
    }

    fn policy(&mut self, policy: &Policy) {
        let subjects = policy.subject.as_ref().map(|subject| Self::matching(self.world, subject));
        let subjects = subjects.unwrap_or_default();
        if subjects.is_empty() {
            let field = if policy.tier == Tier::NetworkPolicy { "spec.podSelector" } else { "spec.subject" };
            self.add(policy, Lint::SelectsNothing, field, "no pod matches".into());
        }
        for direction in Direction::ALL {
            for rule in policy.rules(direction).into_iter().flatten() {
                self.rule(policy, direction, rule, &subjects);
            }
        }
    }

    fn rule(
        &mut self,
        policy: &Policy,
        direction: Direction,
        rule: &Rule,
        subjects: &[(&PodName, &PodReading)],
    ) {
        let list = match direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        };
        let field = format!("spec.{list}[{}]", rule.number);
        let mut peers: Vec<(&PodName, &PodReading)> = vec![];
        match &rule.peers {
            Peers::Anyone => peers.extend(self.world.subjects()),
            Peers::Of(all) => {
                for peer in all {
                    let found = match peer {
                        PeerMatch::Pods(selector) => Self::matching(self.world, selector),
                        PeerMatch::Block(block) => {
                            let inside = |pod: &PodReading| {
                                pod.addresses.iter().any(|address| block.contains(&(*address).into()))
                            };
                            self.world.subjects().filter(|(_, pod)| inside(pod)).collect()
                        }
                    };
                    match (peer, found.first()) {
                        (PeerMatch::Pods(_), None) => {
                            self.add(policy, Lint::SelectsNothing, &field, "no pod matches a peer".into());
                        }
                        // Everyone is meant, pods among them.
                        (PeerMatch::Block(block), Some((pod, _))) if block.cidr.prefix_len() > 0 => {
                            let message =
                                format!("{} covers pods ({pod}), whose addresses change", block.cidr);
                            self.add(policy, Lint::BlockOverPods, &field, message);
                        }
                        _ => {}
                    }
                    peers.extend(found);
                }
            }
        }
        let destinations = if direction == Direction::Ingress { subjects } else { &peers };
        let Ports::Of(ports) = &rule.ports else { return };
        for port in ports {
            let PortMatch::Named { protocol, name } = port else { continue };
            let has = |pod: &PodReading| {
                pod.ports
                    .iter()
                    .any(|p| p.name == *name && protocol.is_none_or(|wanted| wanted == p.protocol))
            };
            if !destinations.iter().any(|(_, pod)| has(pod)) {
                let message = format!("no destination pod has a port {name:?} of that protocol");
                self.add(policy, Lint::UnknownPortName, &field, message);
            }
        }
    }

    /// Pods that cannot ask for names.
    fn resolvers(&mut self) {
        let of_app =
            |pod: &PodReading, app: &str| pod.labels.get("k8s-app").is_some_and(|value| value == app);
        let system = |name: &PodName| name.namespace == "kube-system";
        let dns: Vec<_> =
            self.world.subjects().filter(|(name, pod)| system(name) && of_app(pod, "kube-dns")).collect();
        let node_local =
            self.world.pods.iter().any(|(name, pod)| system(name) && of_app(pod, "node-local-dns"));
        let offline = Offline::of(self.world);
        for (name, pod) in self.world.subjects() {
            let Some(address) = pod.addresses.first() else { continue };
            let source = Party { owner: Owner::Pod(name.clone()), address: *address };
            let denies = |destination: &Party| {
                let l4 = L4::Port(Protocol::Udp, 53);
                let connection = Connection { source: source.clone(), destination: destination.clone(), l4 };
                let decision = offline.decide(&connection, Direction::Egress);
                decision.is_some_and(|decision| decision.verdict == Verdict::Deny)
            };
            let servers: Vec<Party> =
                dns.iter().filter_map(|(n, _)| self.world.pod_party(n, Family::of(*address)).ok()).collect();
            if !servers.is_empty() && servers.iter().all(denies) {
                self.of_isolating(name, Lint::DnsBlocked, format!("{name} cannot ask kube-dns (UDP 53)"));
            }
            let local = NODE_LOCAL.parse().ok().filter(|_| node_local && address.is_ipv4());
            if let Some(address) = local
                && denies(&Party { owner: Owner::Outside, address })
            {
                let message = format!(
                    "{name} cannot ask the node-local resolver {NODE_LOCAL}: only an ipBlock allows it"
                );
                self.of_isolating(name, Lint::NodeLocalDnsBlocked, message);
            }
        }
    }

    /// Told of the first policy that isolates the pod.
    fn of_isolating(&mut self, pod: &PodName, lint: Lint, message: String) {
        let policies: Vec<Policy> = readings(self.world).into_iter().map(|reading| reading.policy).collect();
        let isolates = |policy: &&Policy| {
            let selected = policy.subject.as_ref().map(|subject| Self::matching(self.world, subject));
            policy.egress.is_some() && selected.is_some_and(|pods| pods.iter().any(|(name, _)| *name == pod))
        };
        if let Some(policy) = policies.iter().find(isolates) {
            self.add(policy, lint, "spec.egress", message);
        }
    }
}
