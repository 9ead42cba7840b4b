//! Network policies of both families, as the plane drives them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU16,
};

use dataplane::{Counter, Enforced, Error, Key, MapFill, RuleTraffic};
use ipnet::IpNet;
use model::{
    Changed, Family, IdentityId, PodName, PolicyTable, Snapshot,
    policy::{Peer, PortMap, RuleId},
};

use crate::{
    kernel::{
        Programs, Rules as _,
        ipset::{self, Ipset},
        version,
    },
    parse::Saved,
    plane::cannot,
    policy::{
        Policies,
        back::{self, Reader},
        named::RuleNames,
        sets,
    },
    ruleset::Table,
};

type Kernel = Policies<Programs, Ipset>;

/// What enforces policies, once there is something to enforce.
#[derive(Debug, Default)]
pub(crate) struct Enforcement {
    families: BTreeMap<Family, Kernel>,
    /// What an agent with policies left behind was looked for.
    left: bool,
    names: RuleNames,
    /// Devices of the node's pods.
    interfaces: BTreeMap<PodName, String>,
    /// Whose addresses are, for those that no set tells.
    addresses: BTreeMap<IpNet, IdentityId>,
}

/// # Errors
/// What is missing.
pub(crate) fn probe() -> Result<(), Error> {
    ipset::probe().map_err(|error| {
        let help = format!("{error}\n\ninstall the package ipset, or leave out --network-policy on");
        Error::new("use", "ipset", help)
    })
}

impl Enforcement {
    /// Programs what a change may have moved, and judges flows by it.
    pub(crate) fn apply(
        &mut self,
        families: impl Iterator<Item = Family>,
        log: Option<NonZeroU16>,
        snapshot: &Snapshot,
        changed: &Changed,
    ) -> BTreeMap<Key, Error> {
        let mut new = false;
        for family in families {
            self.families.entry(family).or_insert_with(|| {
                new = true;
                Policies::new(family, Programs::new(family), Ipset { family }, log)
            });
        }
        self.learn(snapshot, changed, new);
        let moved =
            !changed.policy.is_empty() || !changed.addresses.is_empty() || !changed.endpoints.is_empty();
        let mut failed = BTreeMap::new();
        if !(new || moved || changed.node) {
            return failed;
        }
        for (family, policies) in &mut self.families {
            let applied =
                policies.apply(snapshot).map_err(|error| cannot("enforce policies by", *family, error));
            let judged = applied.and_then(|_| judge(policies, *family, snapshot));
            if let Err(error) = judged {
                failed.insert(Key::Policy, error);
            }
        }
        failed
    }

    pub(crate) fn repair(&mut self, snapshot: &Snapshot) -> Result<Vec<String>, Error> {
        let mut repaired = vec![];
        for (family, policies) in &mut self.families {
            let found = policies.repair(snapshot);
            repaired.extend(found.map_err(|error| cannot("repair policies in", *family, error))?);
            judge(policies, *family, snapshot)?;
        }
        Ok(repaired)
    }

    /// Takes away what an agent that enforced policies has left, once.
    pub(crate) fn leave(&mut self) {
        if std::mem::replace(&mut self.left, true) {
            return;
        }
        for family in Family::ALL {
            let saved = Programs::new(family).save(Some(Table::Mangle));
            let there = saved.is_ok_and(|saved| Kernel::is_there(&saved));
            if let Some(problem) = there.then(|| clean_up(family)).flatten() {
                tracing::warn!(problem, "cannot remove policies of an earlier agent");
            }
        }
    }

    /// Returns what could not be removed.
    pub(crate) fn clean_up(&mut self) -> Vec<String> {
        self.families.clear();
        let programs = Family::ALL.into_iter().filter(|family| version(*family).is_ok());
        let there = programs.filter(|family| {
            let saved = Programs::new(*family).save(Some(Table::Mangle));
            saved.is_ok_and(|saved| Kernel::is_there(&saved))
        });
        there.flat_map(clean_up).collect()
    }

    /// Remembers what reading back needs and the kernel does not have.
    fn learn(&mut self, snapshot: &Snapshot, changed: &Changed, everything: bool) {
        let rules = &snapshot.policy.rules;
        if everything {
            self.names.learn(rules.iter().map(|(id, rule)| (*id, Some(rule))));
            let interfaces = snapshot.endpoints.iter().map(|(pod, of)| (pod.clone(), of.interface.clone()));
            self.interfaces = interfaces.collect();
            self.addresses.clone_from(&snapshot.addresses);
            return;
        }
        self.names.learn(changed.policy.rules.iter().map(|id| (*id, rules.get(id))));
        for pod in &changed.endpoints {
            match snapshot.endpoints.get(pod) {
                Some(endpoint) => _ = self.interfaces.insert(pod.clone(), endpoint.interface.clone()),
                None => _ = self.interfaces.remove(pod),
            }
        }
        for net in &changed.addresses {
            match snapshot.addresses.get(net) {
                Some(id) => _ = self.addresses.insert(*net, *id),
                None => _ = self.addresses.remove(net),
            }
        }
    }

    /// The numbers of rules by what they are called in logs.
    pub(crate) fn names(&self) -> &RuleNames {
        &self.names
    }

    /// What the kernel has for a pod; empty where it has nothing.
    pub(crate) fn enforced(&self, pod: &PodName, wanted: &PolicyTable) -> Result<Enforced, Error> {
        let mut enforced = Enforced::default();
        let Some(interface) = self.interfaces.get(pod) else { return Ok(enforced) };
        let mut reader = Reader::new(&self.names, wanted);
        let mut counts: BTreeMap<String, RuleTraffic> = BTreeMap::new();
        for (family, policies) in &self.families {
            let read = policies.read();
            let (saved, sets) = read.map_err(|error| cannot("read policies of", *family, error))?;
            let kernel = back::Kernel { saved: &saved, sets: &sets };
            let table = reader.table(&kernel, pod, interface);
            let table =
                table.map_err(|error| Error::new("read back", format!("policies of pod {pod}"), error))?;
            for (comment, traffic) in policies.totals(&saved).rules {
                let sum = counts.entry(comment).or_default();
                sum.packets += traffic.packets;
                sum.bytes += traffic.bytes;
            }
            join(&mut enforced.table, &table);
            enforced.families.insert(*family, table);
        }
        let said = enforced.table.ports.values().flat_map(|ports| ports.iter()).map(|(_, said)| said.rule);
        let isolations = enforced.table.lists.values().filter_map(|list| list.isolation);
        let rules: BTreeSet<RuleId> = said.chain(isolations).collect();
        enforced.counts = rules.into_iter().map(|rule| (rule, RuleTraffic::default())).collect();
        for (comment, traffic) in counts {
            if let Some(count) = reader.number(&comment).and_then(|rule| enforced.counts.get_mut(&rule)) {
                *count = traffic;
            }
        }
        Ok(enforced)
    }

    /// Whose `address` is: by the sets of identities that rules name, and for others by what this agent was told.
    pub(crate) fn identity_of(&self, address: IpAddr) -> Result<Option<IdentityId>, Error> {
        let told = sets::longest(&self.addresses, address);
        let family = Family::of(address);
        let Some(policies) = self.families.get(&family) else { return Ok(told) };
        let (_, sets) = policies.read().map_err(|error| cannot("read sets for", family, error))?;
        let holding = |peer: &Peer| {
            sets.iter().any(|(name, members)| name.peer() == Some(*peer) && sets::holds(members, address))
        };
        let named: Vec<IdentityId> = sets
            .keys()
            .filter_map(|name| match name.peer() {
                Some(Peer::Identity(id)) => Some(id),
                Some(Peer::Pods | Peer::Anyone) | None => None,
            })
            .collect();
        let holder = named.iter().find(|id| holding(&Peer::Identity(**id)));
        // An identity that has a set has no other addresses.
        Ok(holder.copied().or_else(|| told.filter(|id| !named.contains(id))))
    }

    /// What policies have stopped, or would have.
    pub(crate) fn counters(&self, family: Family, saved: &Saved) -> Vec<Counter> {
        let totals = self.families.get(&family).map(|policies| policies.totals(saved));
        let stops = totals.into_iter().flat_map(|totals| totals.stops);
        stops
            .map(|(stop, RuleTraffic { packets, bytes })| Counter {
                name: stop.name().to_owned(),
                packets,
                bytes,
            })
            .collect()
    }

    pub(crate) fn fill(&self) -> Vec<MapFill> {
        self.families.values().flat_map(Policies::fill).collect()
    }

    pub(crate) fn counts(&self) -> Result<BTreeMap<RuleId, RuleTraffic>, Error> {
        let mut all: BTreeMap<RuleId, RuleTraffic> = BTreeMap::new();
        for (family, policies) in &self.families {
            let read = policies.read();
            let (saved, _) = read.map_err(|error| cannot("read counts of", *family, error))?;
            for (comment, traffic) in policies.totals(&saved).rules {
                let Some(rule) = self.names.commented(&comment) else { continue };
                let sum = all.entry(rule).or_default();
                sum.packets += traffic.packets;
                sum.bytes += traffic.bytes;
            }
        }
        Ok(all)
    }
}

/// Adds what the other family has: rows of its own blocks, and what both have once.
fn join(table: &mut PolicyTable, other: &PolicyTable) {
    for (key, ports) in &other.peers {
        let Some(said) = other.ports.get(ports) else { continue };
        let both = match table.peers.get(key).and_then(|ports| table.ports.get(ports)) {
            Some(own) => PortMap::new(own.iter().chain(said.iter()).map(|(l4, said)| (*l4, *said))).into(),
            None => said.clone(),
        };
        table.peers.insert(*key, *ports);
        table.ports.insert(*ports, both);
    }
    for (pod, policy) in &other.endpoints {
        table.endpoints.entry(pod.clone()).or_insert(*policy);
    }
    table.lists.extend(other.lists.iter().map(|(id, list)| (*id, *list)));
    table.rules.extend(other.rules.iter().map(|(id, rule)| (*id, rule.clone())));
    table.prefixes.extend(other.prefixes.iter().map(|(net, id)| (*net, *id)));
}

fn judge(policies: &mut Kernel, family: Family, snapshot: &Snapshot) -> Result<(), Error> {
    let judged = policies.judge(snapshot);
    let moved = judged.map_err(|error| Error::new("judge", format!("tracked {family:?} flows"), error))?;
    if moved > 0 {
        tracing::debug!(flows = moved, ?family, "policies decide differently about tracked flows");
    }
    Ok(())
}

fn clean_up(family: Family) -> Option<String> {
    let mut policies: Kernel = Policies::new(family, Programs::new(family), Ipset { family }, None);
    policies.clean_up().err().map(|error| error.to_string())
}
