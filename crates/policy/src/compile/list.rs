//! The rows of one list of rules: whom it speaks of, and what it says to each. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ipnet::IpNet;
use model::{
    IdentityId, Reserved,
    policy::{Action, Direction, L4Match, Peer, PolicyName, PortAction, PortMap, Rank, Tier},
};

use super::{
    intern::Interner,
    matchers::Matchers,
    pods::Pods,
    policies::{Compiled, CompiledRule, Source},
    ports::{self, ContainerPorts},
    prefixes::Prefixes,
};
use crate::mutation::{Bug, made};

/// What makes two endpoints share a list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ListKey {
    pub(super) direction: Direction,
    pub(super) tier: Tier,
    /// Strongest first; with its revision where the tier is ranked, so that such a list's rules never change.
    pub(super) policies: Vec<(PolicyName, u64)>,
    /// Of the endpoint, where a rule for what comes to it names ports.
    pub(super) ports: Option<ContainerPorts>,
}

/// What a list is made of at the moment.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) peers: BTreeMap<Peer, u32>,
    /// Addresses of pods that have rows of their own, because others of their identity have other ports.
    pub(super) pods: BTreeSet<IpNet>,
    /// Whom it names ports of: there its rows depend on pods, not just on identities.
    pub(super) naming: Vec<Source>,
}

/// What rows are made from.
pub(super) struct Making<'a> {
    pub(super) policies: &'a BTreeMap<PolicyName, Compiled>,
    pub(super) matchers: &'a Matchers,
    pub(super) prefixes: &'a mut Prefixes,
    pub(super) pods: &'a Pods,
    pub(super) ports: &'a mut Interner<PortMap>,
}

/// Rules with the ports that they mean to someone.
type Sayings = Vec<(PortAction, Vec<L4Match>)>;

impl Making<'_> {
    /// All rows. Whatever prefix the caller does not need any more is the caller's to release.
    pub(super) fn all(&mut self, key: &ListKey) -> Rows {
        let mut rows = Rows::default();
        let mut said: HashMap<Peer, Vec<u32>> = HashMap::new();
        let mut sayings: Sayings = vec![];
        let rules: Vec<(Rank, &CompiledRule)> = rules(self.policies, key).collect();
        for (rank, rule) in rules {
            let action = PortAction { rank, action: rule.action, rule: rule.id };
            let matches = static_matches(key, rule);
            if !matches.is_empty() {
                let index = sayings.len() as u32;
                sayings.push((action, matches));
                let mut say = |peer| {
                    let said = said.entry(peer).or_default();
                    if said.last() != Some(&index) {
                        said.push(index);
                    }
                };
                if key.tier != Tier::NetworkPolicy && denies_pods(rule) {
                    UNKNOWN.map(|reserved| Peer::Identity(reserved.id())).into_iter().for_each(&mut say);
                }
                for source in &rule.sources {
                    match source {
                        Source::Anyone => say(Peer::Anyone),
                        Source::Pods => say(Peer::Pods),
                        Source::Selected(matcher) => {
                            self.matchers.members(*matcher).map(Peer::Identity).for_each(&mut say);
                        }
                        Source::Block(block) => {
                            self.prefixes.members(*block).map(Peer::Identity).for_each(&mut say);
                        }
                    }
                }
            }
            if key.direction == Direction::Egress && rule.ports.has_names() {
                for (peer, matches) in self.named(rule, &mut rows) {
                    said.entry(peer).or_default().push(sayings.len() as u32);
                    sayings.push((action, matches));
                }
            }
        }
        let mut memo = HashMap::new();
        for (peer, said) in said {
            let number = *memo.entry(said).or_insert_with_key(|said| self.port_map(said, &sayings));
            rows.peers.insert(peer, number);
        }
        rows
    }

    /// The row of one peer, in a list without ports by name in egress.
    pub(super) fn one(&mut self, key: &ListKey, peer: Peer) -> Option<u32> {
        let mut sayings: Sayings = vec![];
        for (rank, rule) in rules(self.policies, key) {
            let matches = static_matches(key, rule);
            if !matches.is_empty() && rule.sources.iter().any(|source| self.is_for(*source, peer)) {
                sayings.push((PortAction { rank, action: rule.action, rule: rule.id }, matches));
            }
        }
        let said: Vec<u32> = (0..sayings.len() as u32).collect();
        (!said.is_empty()).then(|| self.port_map(&said, &sayings))
    }

    fn is_for(&self, source: Source, peer: Peer) -> bool {
        match (source, peer) {
            (Source::Anyone, Peer::Anyone) | (Source::Pods, Peer::Pods) => true,
            (Source::Selected(matcher), Peer::Identity(id)) => self.matchers.matches(matcher, id),
            (Source::Block(block), Peer::Identity(id)) => self.prefixes.matches(block, id),
            _ => false,
        }
    }

    fn port_map(&mut self, said: &[u32], sayings: &Sayings) -> u32 {
        let said = said.iter().filter_map(|index| sayings.get(*index as usize));
        let matches = said.flat_map(|(action, matches)| matches.iter().map(|l4| (*l4, *action)));
        self.ports.number(PortMap::new(matches))
    }

    /// What a rule that names ports of destination pods says to whom: an identity whose pods have all the same ports is one
    /// peer, of others each pod's addresses are.
    fn named(&mut self, rule: &CompiledRule, rows: &mut Rows) -> Vec<(Peer, Vec<L4Match>)> {
        let names = ports::names(&rule.ports);
        let mut said = vec![];
        let mut identities: BTreeSet<IdentityId> = BTreeSet::new();
        rows.naming.extend(&rule.sources);
        for source in &rule.sources {
            match source {
                Source::Anyone | Source::Pods => identities.extend(self.pods.identities()),
                Source::Selected(matcher) => identities.extend(self.matchers.members(*matcher)),
                Source::Block(block) => {
                    let Some(block) = self.prefixes.block(*block).cloned() else { continue };
                    for (address, pod) in self.pods.within(&block.cidr) {
                        let address = IpNet::from(address);
                        if block.contains(&address) {
                            let matches = ports::matches(&names, Some(&pod.ports));
                            said.extend(of_address(self.prefixes, address, matches, rows));
                        }
                    }
                }
            }
        }
        for identity in identities {
            let Some(kinds) = self.pods.kinds(identity) else { continue };
            if let Some((ports, _)) = kinds.first_key_value()
                && (kinds.len() == 1 || made(Bug::NamedPortOfOnePodForAll))
            {
                said.push((Peer::Identity(identity), ports::matches(&names, Some(ports))));
                continue;
            }
            for (ports, pods) in kinds {
                let addresses = pods.iter().filter_map(|pod| self.pods.get(pod));
                for address in addresses.flat_map(|pod| &pod.addresses) {
                    let matches = ports::matches(&names, Some(ports));
                    said.extend(of_address(self.prefixes, IpNet::from(*address), matches, rows));
                }
            }
        }
        said.retain(|(_, matches)| !matches.is_empty());
        said
    }
}

fn of_address(
    prefixes: &mut Prefixes,
    address: IpNet,
    matches: Vec<L4Match>,
    rows: &mut Rows,
) -> Option<(Peer, Vec<L4Match>)> {
    if matches.is_empty() {
        return None;
    }
    let id = prefixes.acquire_prefix(address);
    if !rows.pods.insert(address) {
        prefixes.release_prefix(&address);
    }
    Some((Peer::Identity(id), matches))
}

/// Pods of which it is not known yet who they are: whatever denies pods may be about them, and nothing else is.
const UNKNOWN: [Reserved; 2] = [Reserved::Unmanaged, Reserved::Init];

fn denies_pods(rule: &CompiledRule) -> bool {
    let of_pods = |source: &Source| matches!(source, Source::Pods | Source::Selected(_));
    rule.action == Action::Deny && rule.sources.iter().any(of_pods)
}

/// In order of precedence, with their ranks.
fn rules<'a>(
    policies: &'a BTreeMap<PolicyName, Compiled>,
    key: &ListKey,
) -> impl Iterator<Item = (Rank, &'a CompiledRule)> {
    let (direction, tier) = (key.direction, key.tier);
    let compiled = key.policies.iter().filter_map(|(name, _)| policies.get(name)).enumerate();
    compiled.flat_map(move |(place, policy)| {
        let rules = policy.direction(direction).into_iter().flat_map(|direction| &direction.rules);
        rules.map(move |rule| match tier {
            Tier::NetworkPolicy => (Rank(0), rule),
            // More than 256 rules are never equally strong: the API allows 25, and all others are closed.
            Tier::Admin | Tier::Baseline => (Rank((place as u32) << 8 | rule.number.min(255) as u32), rule),
        })
    })
}

/// What does not depend on the peer.
fn static_matches(key: &ListKey, rule: &CompiledRule) -> Vec<L4Match> {
    match key.direction {
        Direction::Egress if !made(Bug::NamedPortOfTheWrongEnd) => ports::matches(&rule.ports, None),
        Direction::Ingress | Direction::Egress => ports::matches(&rule.ports, key.ports.as_ref()),
    }
}
