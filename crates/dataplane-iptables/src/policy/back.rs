//! One pod's policy as the kernel has it, as a neutral table: chains and sets are read, what was written is not asked. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use model::{
    Family, IdentityId, PodName, PolicyTable,
    policy::{
        Action, Direction, DirectionPolicy, EndpointPolicy, L4Match, ListId, Mode, Peer, PeerKey, PortAction,
        PortMap, PortPrefix, PortsId, Rank, RuleId, RuleList, Tier,
    },
};

use super::{
    clause::{Clause, Foreign, Layer4, Target},
    named::{self, RuleNames},
    sets::{Member, Members, SetName},
    text,
};
use crate::{
    names::{self, ChainName},
    parse::Saved,
    ruleset::Table,
};

/// What one family has in the kernel.
pub(crate) struct Kernel<'a> {
    pub saved: &'a Saved,
    pub sets: &'a BTreeMap<SetName, Members>,
}

/// Gives numbers to what has none in the kernel, and knows those of rules.
pub(crate) struct Reader<'a> {
    names: &'a RuleNames,
    wanted: &'a PolicyTable,
    /// Rules that nobody knows: from the highest number down.
    strangers: BTreeMap<String, RuleId>,
    ports: u32,
    prefixes: u32,
}

/// A family's part, and whom its sets of prefixes stand for.
struct Reading<'a> {
    kernel: &'a Kernel<'a>,
    blocks: BTreeMap<SetName, Peer>,
}

/// One list.
#[derive(Default)]
struct Read {
    rows: BTreeMap<Peer, Vec<(L4Match, PortAction)>>,
    isolation: Option<RuleId>,
    audits: bool,
    next: Option<ChainName>,
}

impl<'a> Reader<'a> {
    /// Rules have the names that `wanted` gives them.
    pub(crate) fn new(names: &'a RuleNames, wanted: &'a PolicyTable) -> Self {
        Self { names, wanted, strangers: BTreeMap::new(), ports: 0, prefixes: 0 }
    }

    /// What one family's rules say of `pod` behind `interface`; without it where they let nothing through.
    ///
    /// # Errors
    /// A rule that none of ours looks like.
    pub(crate) fn table(
        &mut self,
        kernel: &Kernel<'_>,
        pod: &PodName,
        interface: &str,
    ) -> Result<PolicyTable, Foreign> {
        let mut table = PolicyTable::default();
        let mut policy = EndpointPolicy::default();
        let reading = Reading { kernel, blocks: self.prefixes(kernel.sets, &mut table) };
        for (direction, target) in entry(kernel.saved, interface)? {
            match target {
                Target::Jump(first) => {
                    let (lists, mode) = self.lists(&reading, direction, first, &mut table)?;
                    match direction {
                        Direction::Ingress => policy.ingress = lists,
                        Direction::Egress => policy.egress = lists,
                    }
                    policy.mode = policy.mode.max(mode);
                }
                Target::Drop => return Ok(PolicyTable::default()),
                Target::Return | Target::Log { .. } | Target::Goto(_) => {}
            }
        }
        table.endpoints.insert(pod.clone(), policy);
        Ok(table)
    }

    /// The lists from the chain `next` on; audited, where one of their denials is.
    fn lists(
        &mut self,
        reading: &Reading<'_>,
        direction: Direction,
        next: ChainName,
        table: &mut PolicyTable,
    ) -> Result<(DirectionPolicy, Mode), Foreign> {
        let mut mode = Mode::Enforce;
        let mut lists = DirectionPolicy::default();
        let mut next = Some(next);
        while let Some(chain) = next {
            // A tier leads to a later one only.
            let Some(tier) = named::tier(chain.as_str()) else { break };
            let list = ListId(1 + direction as u32 * Tier::ALL.len() as u32 + tier as u32);
            let read = self.chain(reading, &chain, tier)?;
            if read.audits {
                mode = Mode::Audit;
            }
            table.lists.insert(list, RuleList { direction, tier, isolation: read.isolation });
            for (peer, said) in read.rows {
                self.ports += 1;
                table.ports.insert(PortsId(self.ports), PortMap::new(said).into());
                table.peers.insert(PeerKey { list, peer }, PortsId(self.ports));
            }
            for id in rules_of(table, list).collect::<Vec<_>>() {
                table.rules.extend(self.wanted.rules.get(&id).map(|rule| (id, Arc::clone(rule))));
            }
            match tier {
                Tier::Admin => lists.admin = Some(list),
                Tier::NetworkPolicy => lists.network_policy = Some(list),
                Tier::Baseline => lists.baseline = Some(list),
            }
            next = read.next.filter(|next| named::tier(next.as_str()).is_some_and(|next| next > tier));
        }
        Ok((lists, mode))
    }

    fn chain(&mut self, reading: &Reading<'_>, chain: &ChainName, tier: Tier) -> Result<Read, Foreign> {
        let mut read = Read::default();
        let rules = reading.kernel.saved.chain(Table::Mangle, chain.as_str()).unwrap_or_default();
        for (position, rule) in (0..).zip(rules) {
            let clause = Clause::read(&rule.text)?;
            let is_for_all = clause.set.is_none() && clause.l4 == Layer4::Any;
            let action = match &clause.target {
                Some(Target::Goto(to)) if named::tier(to.as_str()).is_some() && clause.comment.is_none() => {
                    read.next = Some(to.clone());
                    continue;
                }
                Some(Target::Goto(to)) if to.as_str() == names::POLICY_AUDIT => {
                    read.audits = true;
                    Action::Deny
                }
                Some(Target::Goto(_)) => Action::Pass,
                Some(Target::Return) => Action::Allow,
                Some(Target::Drop) => Action::Deny,
                Some(Target::Log { .. }) => continue,
                Some(Target::Jump(_)) | None => {
                    let problem = "it leads nowhere".to_owned();
                    return Err(Foreign { rule: rule.text.clone(), problem });
                }
            };
            let id = clause.comment.as_deref().map(|comment| self.rule(comment));
            if tier == Tier::NetworkPolicy && action == Action::Deny && is_for_all {
                read.isolation = id;
                continue;
            }
            let rank = if tier == Tier::NetworkPolicy { Rank(0) } else { Rank(position) };
            let peer = match &clause.set {
                None => Peer::Anyone,
                Some((name, _)) => match name.peer().or_else(|| reading.blocks.get(name).copied()) {
                    Some(peer) => peer,
                    // A set that is not there has no members.
                    None => continue,
                },
            };
            let said = PortAction { rank, action, rule: id.unwrap_or(RuleId(0)) };
            let matches = matches(clause.l4);
            read.rows.entry(peer).or_default().extend(matches.into_iter().map(|l4| (l4, said)));
        }
        Ok(read)
    }

    fn rule(&mut self, comment: &str) -> RuleId {
        let known = self.names.commented(comment).filter(|id| self.wanted.rules.contains_key(id));
        known.unwrap_or_else(|| {
            let free = RuleId(u32::MAX - self.strangers.len() as u32);
            *self.strangers.entry(comment.to_owned()).or_insert(free)
        })
    }

    /// The number of a rule by its comment, without giving it one.
    pub(crate) fn number(&self, comment: &str) -> Option<RuleId> {
        let known = self.names.commented(comment).filter(|id| self.wanted.rules.contains_key(id));
        known.or_else(|| self.strangers.get(comment).copied())
    }

    /// Numbers the sets of prefixes, and says whose which prefix is: its member's, or nobody's where it is a hole only.
    fn prefixes(
        &mut self,
        sets: &BTreeMap<SetName, Members>,
        table: &mut PolicyTable,
    ) -> BTreeMap<SetName, Peer> {
        let mut free = || {
            self.prefixes += 1;
            IdentityId::local(self.prefixes - 1)
        };
        let named = sets.iter().filter(|(name, _)| !name.is_of_addresses());
        let mut peers = BTreeMap::new();
        for (name, members) in named.clone() {
            let id = free();
            peers.insert(name.clone(), Peer::Identity(id));
            let own = members.iter().filter(|(_, member)| **member == Member::Match);
            table.prefixes.extend(own.map(|(net, _)| (*net, id)));
        }
        let holes: BTreeSet<IpNet> = named
            .flat_map(|(_, members)| members.iter().filter(|(_, member)| **member == Member::Hole))
            .map(|(net, _)| *net)
            .collect();
        for hole in holes {
            table.prefixes.entry(hole).or_insert_with(&mut free);
        }
        Family::ALL.iter().for_each(|family| join_halves(&mut table.prefixes, *family));
        peers
    }
}

/// Everything that rules of a list are called.
fn rules_of(table: &PolicyTable, list: ListId) -> impl Iterator<Item = RuleId> {
    let peers = table.peers.iter().filter(move |(key, _)| key.list == list);
    let ports = peers.filter_map(|(_, ports)| table.ports.get(ports));
    let said = ports.flat_map(|ports| ports.iter().map(|(_, said)| said.rule));
    said.chain(table.lists.get(&list).and_then(|list| list.isolation))
}

/// Where packets from and to an interface go first; nowhere, where not all of them come to our chains.
fn entry(saved: &Saved, interface: &str) -> Result<Vec<(Direction, Target)>, Foreign> {
    let jumps = text::jumps(saved);
    let mut found = vec![];
    if text::JUMPS.iter().any(|(from, _)| !jumps.contains(from)) {
        return Ok(found);
    }
    for rule in saved.chain(Table::Mangle, names::POLICY).unwrap_or_default() {
        let clause = Clause::read(&rule.text)?;
        let direction = match (clause.input.as_deref(), clause.output.as_deref()) {
            (Some(input), None) if input == interface => Direction::Egress,
            (None, Some(output)) if output == interface => Direction::Ingress,
            _ => continue,
        };
        found.extend(clause.target.map(|target| (direction, target)));
    }
    Ok(found)
}

fn matches(l4: Layer4) -> Vec<L4Match> {
    match l4 {
        Layer4::Any => vec![L4Match::Any],
        Layer4::Ports(protocol, first, last) => PortPrefix::of_range(first, last)
            .into_iter()
            .map(|ports| L4Match::Ports(protocol, ports))
            .collect(),
        // No policy names it.
        Layer4::IcmpV6 => vec![],
    }
}

/// Both halves of everything are everything: a set has no prefix of length 0.
fn join_halves(prefixes: &mut BTreeMap<IpNet, IdentityId>, family: Family) {
    let all = match family {
        Family::V4 => IpNet::V4(Ipv4Net::default()),
        Family::V6 => IpNet::V6(Ipv6Net::default()),
    };
    let halves: Vec<IpNet> = all.subnets(1).into_iter().flatten().collect();
    let owners: BTreeSet<_> = halves.iter().map(|half| prefixes.get(half).copied()).collect();
    if let (1, Some(Some(id))) = (owners.len(), owners.first()) {
        let id = *id;
        prefixes.retain(|net, _| !halves.contains(net));
        prefixes.insert(all, id);
    }
}
