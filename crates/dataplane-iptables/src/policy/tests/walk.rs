//! Walks a packet through chains of policies and sets as the kernel would.

use std::{collections::BTreeMap, net::IpAddr};

use model::policy::L4;

use super::super::{
    clause::{Clause, End, Layer4, Target},
    flows::DENIED,
    named,
    sets::{self, Members, SetName},
};
use crate::{names, parse::Saved, ruleset::Table};

/// What a rule can see.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    pub input: &'a str,
    pub output: &'a str,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub l4: L4,
    /// As `--ctstate` calls it.
    pub state: &'a str,
    pub is_reply: bool,
    pub mark: u32,
}

/// How a walk ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Walked {
    pub dropped: bool,
    /// The comment of the rule that decided, the last of them where both directions are asked.
    pub rule: Option<String>,
    /// What was logged.
    pub logged: Vec<String>,
    /// Denials that were let through.
    pub audited: bool,
}

pub(super) struct Walker<'a> {
    chains: BTreeMap<&'a str, Vec<Clause>>,
    sets: &'a BTreeMap<SetName, Members>,
}

/// What a chain leaves to its caller.
#[derive(PartialEq, Eq)]
enum Left {
    Return,
    Drop,
}

impl<'a> Walker<'a> {
    pub(super) fn new(saved: &'a Saved, sets: &'a BTreeMap<SetName, Members>) -> Self {
        let read = |text: &str| Clause::read(text).unwrap_or_else(|error| panic!("{error}"));
        let own = saved.chains(Table::Mangle).filter(|(name, _)| {
            named::tier(name.as_str()).is_some() || names::POLICY_FIXED.contains(&name.as_str())
        });
        let chains =
            own.map(|(name, rules)| (name.as_str(), rules.iter().map(|rule| read(&rule.text)).collect()));
        Self { chains: chains.collect(), sets }
    }

    /// From the hook on.
    pub(super) fn walk(&self, packet: &Packet<'_>) -> Walked {
        let mut walked = Walked::default();
        walked.dropped = self.chain(names::POLICY, packet, &mut walked, true) == Left::Drop;
        walked
    }

    fn chain(&self, chain: &str, packet: &Packet<'_>, walked: &mut Walked, is_entry: bool) -> Left {
        let rules = self.chains.get(chain).unwrap_or_else(|| panic!("a jump to {chain}, which is not there"));
        for clause in rules.iter().filter(|clause| self.matches(clause, packet)) {
            match &clause.target {
                Some(Target::Log { prefix }) => {
                    walked.logged.push(prefix.clone());
                    continue;
                }
                Some(Target::Jump(to)) => match self.chain(to.as_str(), packet, walked, false) {
                    Left::Return => continue,
                    Left::Drop => return Left::Drop,
                },
                target => {
                    walked.rule.clone_from(&clause.comment);
                    return match target {
                        // One goes back to whoever called this chain, not to this chain.
                        Some(Target::Goto(to)) => {
                            walked.audited |= to.as_str() == names::POLICY_AUDIT;
                            if named::tier(to.as_str()).is_some() {
                                walked.rule = None;
                            }
                            self.chain(to.as_str(), packet, walked, is_entry)
                        }
                        Some(Target::Drop) => Left::Drop,
                        _ => Left::Return,
                    };
                }
            }
        }
        if !is_entry && chain != names::POLICY_HELD && chain != names::POLICY_AUDIT {
            walked.rule = None;
        }
        Left::Return
    }

    fn matches(&self, clause: &Clause, packet: &Packet<'_>) -> bool {
        let l4 = match (clause.l4, packet.l4) {
            (Layer4::Any, _) => true,
            (Layer4::Ports(protocol, first, last), L4::Port(of, port)) => {
                protocol == of && (first..=last).contains(&port)
            }
            // What is asked about here is an echo, tracked like anything else.
            (Layer4::IcmpV6, L4::Other) => packet.destination.is_ipv6(),
            (Layer4::Ports(..), L4::Other) | (Layer4::IcmpV6, L4::Port(..)) => false,
        };
        let set = clause.set.as_ref().is_none_or(|(name, end)| {
            let address = match end {
                End::Source => packet.source,
                End::Destination => packet.destination,
            };
            sets::holds(self.sets.get(name).unwrap_or_else(|| panic!("no set {name}")), address)
        });
        l4 && set
            && clause.input.as_deref().is_none_or(|name| name == packet.input)
            && clause.output.as_deref().is_none_or(|name| name == packet.output)
            && clause.states.as_ref().is_none_or(|states| states.iter().any(|state| state == packet.state))
            && clause.is_reply.is_none_or(|reply| reply == packet.is_reply)
            && clause.mark.is_none_or(|(set, bits)| {
                assert_eq!(bits, DENIED);
                (packet.mark & bits == bits) == set
            })
    }
}
