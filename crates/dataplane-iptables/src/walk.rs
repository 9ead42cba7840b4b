//! Which rules a packet walks through. Evaluates rules as the kernel would; pure.
//!
//! Three ways through the hooks: from the wire to the wire, from the wire to a process of the node, and from a process
//! of the node, whose packets to its own addresses come back in by loopback.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use model::oracle::Packet;

use crate::{
    names::{self, ChainName},
    parse::{Saved, SavedRule},
    rule::{ConnState, Match, Rule, Target},
    ruleset::Table,
};

/// Chains of a walk end; a kernel refuses deeper ones (`NFT_JUMP_STACK_SIZE`).
const MAX_DEPTH: usize = 16;

/// A packet of a new flow, and what is known of the node it arrives at.
#[derive(Clone, Debug)]
pub struct Journey {
    pub packet: Packet,
    /// The endpoint that chance is made to choose.
    pub endpoint: SocketAddr,
    /// The endpoint that this client was given last, where affinity still remembers it.
    pub remembered: Option<SocketAddr>,
    /// Addresses that the node's routing calls local.
    pub local: BTreeSet<IpAddr>,
}

/// Every rule looked at, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    pub steps: Vec<Step>,
    pub end: End,
}

/// One rule that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub table: Table,
    pub chain: ChainName,
    /// Position in its chain, from 1.
    pub number: usize,
    pub rule: String,
    /// Packets it has counted so far.
    pub packets: u64,
    pub matched: bool,
}

/// How a walk ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// Goes where it was addressed.
    #[default]
    Untranslated,
    Translated {
        to: SocketAddr,
        masqueraded: bool,
    },
    Rejected,
    Dropped,
}

/// What one chain does with the packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The next rule of the calling chain.
    Continue,
    Accept,
    Drop,
    Reject,
}

/// Walks one packet; see [`Terrain::walk`].
pub fn walk(saved: &Saved, journey: &Journey) -> Walk {
    Terrain::of(saved).walk(journey)
}

/// A rule as it is read, `None` where it is not one of ours, and as the kernel has it.
type Ground<'a> = (Option<Rule>, &'a SavedRule);

/// Rules as they are walked through: read once, for many packets.
#[derive(Debug)]
pub struct Terrain<'a> {
    chains: HashMap<(Table, &'a str), Vec<Ground<'a>>>,
    /// The chains that translate to an endpoint.
    leads: HashMap<SocketAddr, HashSet<&'a str>>,
}

impl<'a> Terrain<'a> {
    pub fn of(saved: &'a Saved) -> Self {
        let mut terrain = Self { chains: HashMap::new(), leads: HashMap::new() };
        for table in [Table::Filter, Table::Nat] {
            for (name, rules) in saved.chains(table) {
                let rules: Vec<_> = rules.iter().map(|rule| (rule.rule().ok(), rule)).collect();
                for target in rules.iter().filter_map(|(rule, _)| rule.as_ref()?.target.as_ref()) {
                    if let Target::Dnat(endpoint) = target {
                        terrain.leads.entry(*endpoint).or_default().insert(name.as_str());
                    }
                }
                terrain.chains.insert((table, name.as_str()), rules);
            }
        }
        terrain
    }

    /// Walks the first packet of a flow through the nat and filter tables. Its source tells whether the node sends it.
    pub fn walk(&self, journey: &Journey) -> Walk {
        let mut walker = Walker {
            terrain: self,
            journey,
            destination: journey.packet.destination,
            mark: 0,
            masqueraded: false,
            steps: vec![],
        };
        let end = walker.cross().unwrap_or(match walker.destination {
            to if to == journey.packet.destination => End::Untranslated,
            to => End::Translated { to, masqueraded: walker.masqueraded },
        });
        Walk { steps: walker.steps, end }
    }

    /// Whether `chain` translates to `endpoint`.
    fn leads(&self, chain: &str, endpoint: SocketAddr) -> bool {
        self.leads.get(&endpoint).is_some_and(|chains| chains.contains(chain))
    }
}

impl Walk {
    /// Rules that applied, in order.
    pub fn matched(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| step.matched)
    }

    /// How many rules the packet was compared with.
    pub fn evaluated(&self) -> usize {
        self.steps.len()
    }
}

struct Walker<'a> {
    terrain: &'a Terrain<'a>,
    journey: &'a Journey,
    destination: SocketAddr,
    mark: u32,
    masqueraded: bool,
    steps: Vec<Step>,
}

impl Walker<'_> {
    /// All hooks on the packet's way; `None` where it gets through.
    fn cross(&mut self) -> Option<End> {
        if self.is_local(self.journey.packet.source.ip()) {
            self.chain(Table::Nat, "OUTPUT", 0);
            if let Some(end) = self.filter("OUTPUT") {
                return Some(end);
            }
            self.chain(Table::Nat, "POSTROUTING", 0);
            // Loopback leads it back in; translation is settled by then.
            return if self.is_local(self.destination.ip()) { self.filter("INPUT") } else { None };
        }
        self.chain(Table::Nat, "PREROUTING", 0);
        // What the node itself receives is never masqueraded, marked or not.
        if self.is_local(self.destination.ip()) {
            return self.filter("INPUT");
        }
        let end = self.filter("FORWARD");
        if end.is_none() {
            self.chain(Table::Nat, "POSTROUTING", 0);
        }
        end
    }

    fn is_local(&self, address: IpAddr) -> bool {
        self.journey.local.contains(&address)
    }

    /// The end that a filter chain puts to the walk, if it does.
    fn filter(&mut self, chain: &str) -> Option<End> {
        match self.chain(Table::Filter, chain, 0) {
            Verdict::Drop => Some(End::Dropped),
            Verdict::Reject => Some(End::Rejected),
            Verdict::Accept | Verdict::Continue => None,
        }
    }

    fn chain(&mut self, table: Table, chain: &str, depth: usize) -> Verdict {
        let terrain = self.terrain;
        let rules = terrain.chains.get(&(table, chain)).map(Vec::as_slice).unwrap_or_default();
        for (number, (rule, saved)) in (1..).zip(rules) {
            let matched = rule.as_ref().is_some_and(|rule| self.matches(rule));
            self.note(table, chain, number, saved, matched);
            let target = rule.as_ref().filter(|_| matched).and_then(|rule| rule.target.as_ref());
            let Some(target) = target else { continue };
            if let Some(verdict) = self.execute(table, target, depth) {
                return verdict;
            }
        }
        Verdict::Continue
    }

    /// `None`: the next rule.
    fn execute(&mut self, table: Table, target: &Target, depth: usize) -> Option<Verdict> {
        match target {
            Target::Jump(chain) if depth < MAX_DEPTH => match self.chain(table, chain.as_str(), depth + 1) {
                Verdict::Continue => None,
                verdict => Some(verdict),
            },
            Target::Jump(_) => None,
            Target::Log { .. } => None,
            Target::Return => Some(Verdict::Continue),
            Target::Accept => Some(Verdict::Accept),
            Target::Drop => Some(Verdict::Drop),
            Target::Reject => Some(Verdict::Reject),
            Target::SetMark { value, mask } => {
                // The kernel clears the mask's bits, then flips the value's (`mark_tg`).
                self.mark = (self.mark & !mask) ^ value;
                None
            }
            Target::Masquerade { .. } => {
                self.masqueraded = true;
                Some(Verdict::Accept)
            }
            Target::Dnat(to) => {
                self.destination = *to;
                Some(Verdict::Accept)
            }
        }
    }

    fn matches(&self, rule: &Rule) -> bool {
        rule.source.is_none_or(|prefix| prefix.holds(self.journey.packet.source.ip()))
            && rule.destination.is_none_or(|prefix| prefix.holds(self.destination.ip()))
            && rule.protocol.is_none_or(|protocol| protocol == self.journey.packet.protocol)
            && rule.matches.iter().all(|condition| self.holds(condition, rule))
    }

    fn holds(&self, condition: &Match, rule: &Rule) -> bool {
        let translated = self.destination != self.journey.packet.destination;
        match condition {
            Match::Comment(_) | Match::RecentSet { .. } | Match::Account(_) => true,
            Match::Transport { destination, .. } => {
                destination.is_none_or(|port| port.get() == self.destination.port())
            }
            Match::ConnState { negated, states } => {
                let new = states.contains(&ConnState::New);
                (new || translated && states.contains(&ConnState::Dnat)) != *negated
            }
            Match::Mark { negated, value, mask } => (self.mark & mask == *value) != *negated,
            Match::SourceLocal => self.is_local(self.journey.packet.source.ip()),
            Match::DestinationLocal => self.is_local(self.destination.ip()),
            Match::Statistic(_) => {
                rule.jumps_to().is_some_and(|chain| self.terrain.leads(chain.as_str(), self.journey.endpoint))
            }
            Match::RecentCheck { list, .. } => {
                self.journey.remembered.is_some_and(|had| self.terrain.leads(list.as_str(), had))
            }
        }
    }

    fn note(&mut self, table: Table, chain: &str, number: usize, saved: &SavedRule, matched: bool) {
        self.steps.push(Step {
            table,
            chain: chain.into(),
            number,
            rule: saved.text.clone(),
            packets: saved.packets,
            matched,
        });
    }
}

/// The rules of one service port in the kernel: its lines in shared chains, then its own chains.
pub(crate) fn rules_of(saved: &Saved, name: &str, own: &[ChainName]) -> Vec<Step> {
    let named = |rule: &SavedRule| {
        let rule = rule.rule().ok();
        let comment = rule.as_ref().and_then(Rule::comment_text);
        comment.is_some_and(|text| {
            text == name || text.strip_prefix(name).is_some_and(|rest| rest.starts_with(' '))
        })
    };
    let mut steps = Vec::new();
    for table in [Table::Filter, Table::Nat] {
        for (chain, rules) in saved.chains(table) {
            let shared = names::FIXED.contains(&chain.as_str());
            let mine = table == Table::Nat && own.contains(chain);
            for (number, rule) in (1..).zip(rules).filter(|(_, rule)| mine || shared && named(rule)) {
                steps.push(Step {
                    table,
                    chain: chain.clone(),
                    number,
                    rule: rule.text.clone(),
                    packets: rule.packets,
                    matched: true,
                });
            }
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use model::Protocol;

    use super::*;
    use crate::ruleset::RuleSet;

    /// A new flow from outside to the recorded load-balancer address or a node port.
    fn end(rules: &str, source: &str, destination: &str, endpoint: &str) -> End {
        let saved = RuleSet::parse(rules).expect("rules of ours").saved();
        let packet = Packet {
            source: source.parse().expect("address"),
            destination: destination.parse().expect("address"),
            protocol: Protocol::Tcp,
        };
        let endpoint = endpoint.parse().expect("address");
        let local = ["192.168.50.2".parse().expect("address")].into();
        walk(&saved, &Journey { packet, endpoint, remembered: None, local }).end
    }

    const OUTSIDE: &str = "198.51.100.10:40000";
    const POD: &str = "10.128.2.5:40000";
    const VIP: &str = "192.0.2.10:80";

    fn to(endpoint: &str, masqueraded: bool) -> End {
        End::Translated { to: endpoint.parse().expect("address"), masqueraded }
    }

    #[test]
    fn chance_is_led_to_any_endpoint() {
        let rules = include_str!("../tests/golden/01-lb-etp-cluster-3ep.rules");
        for endpoint in ["10.128.1.10:8080", "10.128.2.10:8080", "10.128.3.10:8080"] {
            assert_eq!(end(rules, OUTSIDE, VIP, endpoint), to(endpoint, true));
            assert_eq!(end(rules, OUTSIDE, "192.168.50.2:31452", endpoint), to(endpoint, true));
            assert_eq!(end(rules, POD, "10.99.97.164:80", endpoint), to(endpoint, false));
        }
        assert_eq!(end(rules, OUTSIDE, "192.0.2.11:80", "10.128.1.10:8080"), End::Untranslated);
    }

    #[test]
    fn local_policy_and_refusals_end_as_in_the_kernel() {
        let local = include_str!("../tests/golden/02-lb-etp-local-1local-of-3.rules");
        assert_eq!(end(local, OUTSIDE, VIP, "10.128.1.10:8080"), to("10.128.1.10:8080", false));
        let elsewhere = include_str!("../tests/golden/03-lb-etp-local-0local-of-3.rules");
        assert_eq!(end(elsewhere, OUTSIDE, VIP, "10.128.1.10:8080"), End::Dropped);
        assert_eq!(end(elsewhere, POD, VIP, "10.128.3.10:8080"), to("10.128.3.10:8080", false));
        let nowhere = include_str!("../tests/golden/04-lb-no-endpoints.rules");
        assert_eq!(end(nowhere, OUTSIDE, VIP, "10.128.1.10:8080"), End::Rejected);
        let guarded = include_str!("../tests/golden/05-lb-sourceranges-affinity-externalip.rules");
        assert_eq!(end(guarded, OUTSIDE, VIP, "10.128.2.10:8080"), End::Dropped);
        assert_eq!(end(guarded, "203.0.113.5:40000", VIP, "10.128.2.10:8080"), to("10.128.2.10:8080", true));
    }
}
