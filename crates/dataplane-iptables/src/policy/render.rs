//! What a node's policies are as chains and sets. Pure; never decides: the table is [`model::PolicyTable`], row by row.
//!
//! ```text
//! mangle FORWARD, INPUT ─▶ TWINPLANE-POLICY ─▶ (interface) ─▶ TP-POL-…: a tier, ─goto─▶ the next tier
//! mangle OUTPUT ─▶ TWINPLANE-HELD                                ├─goto─▶ TWINPLANE-AUDIT: denied, and let through
//!                                                                └─goto─▶ TWINPLANE-PASS: passed on, and no tier left
//! ```
//! In the mangle table, because everything in it comes before every rule of the filter table, after destinations were
//! translated and before sources are: no ACCEPT of another program's, and none of KUBE-FORWARD's, is before it, wherever that
//! puts itself. A pod is known by its interface, so that no made-up address helps. What the node itself sends is not asked about.
//!
//! RETURN is "allowed": it leads back behind the jump. Tiers are joined by goto, so that there is one jump to return from. The two
//! chains without rules come to the same, and say why: everything that a table says can be read back from its rules.

use std::{collections::BTreeMap, num::NonZeroU16};

use ipnet::IpNet;
use model::{
    Family, IdentityId, Protocol, Snapshot,
    policy::{
        Action, Direction, DirectionPolicy, L4Match, ListId, Mode, Peer, PeerKey, PortAction, RuleId, Tier,
    },
    told::Stop,
};

use super::{
    flows::DENIED,
    named,
    sets::{self, Members, SetName},
};
use crate::{
    names::{self, ChainName},
    rule::Quoted,
};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rendered {
    pub sets: BTreeMap<SetName, Members>,
    /// Each has a name that follows from its lines, which are what follows `-A CHAIN `.
    pub lists: BTreeMap<ChainName, Vec<String>>,
    /// [`names::POLICY_FIXED`].
    pub fixed: BTreeMap<&'static str, Vec<String>>,
}

/// What a jump leads to: the tiers that are left to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Walk {
    direction: Direction,
    lists: [Option<ListId>; Tier::ALL.len()],
    mode: Mode,
}

/// One row of a list, in the order in which rows are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    said: PortAction,
    peer: Peer,
    l4: Ports,
}

/// What of a packet is compared besides addresses: one or more neighbouring rows of a port map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ports {
    Any,
    Range(Protocol, u16, u16),
}

struct Renderer<'a> {
    snapshot: &'a Snapshot,
    family: Family,
    log: Option<NonZeroU16>,
    identities: BTreeMap<IdentityId, Vec<IpNet>>,
    prefixes: BTreeMap<IdentityId, Vec<IpNet>>,
    walks: BTreeMap<Walk, ChainName>,
    rendered: Rendered,
}

/// The policies of `snapshot` in one family. `log`: the group that is told of what they stop.
pub(crate) fn render(snapshot: &Snapshot, family: Family, log: Option<NonZeroU16>) -> Rendered {
    let mut renderer = Renderer {
        snapshot,
        family,
        log,
        identities: sets::owners(&snapshot.addresses, family),
        prefixes: sets::owners(&snapshot.policy.prefixes, family),
        walks: BTreeMap::new(),
        rendered: Rendered::default(),
    };
    let (held, entry) = (renderer.held(), renderer.entry());
    let fixed = names::POLICY_FIXED.map(|name| (name, vec![]));
    renderer.rendered.fixed =
        fixed.into_iter().chain([(names::POLICY_HELD, held), (names::POLICY, entry)]).collect();
    renderer.rendered
}

impl Renderer<'_> {
    /// Of flows that are denied now: answers and errors. What the client goes on to send is asked about as its first packet was, so that
    /// it is stopped, counted and told of by its rule.
    fn held(&self) -> Vec<String> {
        let mark = format!("-m connmark --mark {DENIED:#x}/{DENIED:#x} -m conntrack");
        let ends = ["--ctdir REPLY ", "--ctstate RELATED "];
        ends.iter().flat_map(|end| self.denying(&format!("{mark} {end}"), None, Mode::Enforce)).collect()
    }

    fn entry(&mut self) -> Vec<String> {
        let mut lines = vec![
            format!(
                "-m conntrack --ctstate RELATED,ESTABLISHED -m connmark ! --mark {DENIED:#x}/{DENIED:#x} -j RETURN"
            ),
            format!("-j {}", names::POLICY_HELD),
        ];
        if self.family == Family::V6 {
            // Neighbour discovery and group membership (`nf_conntrack_icmpv6_error`), without which there is no IPv6.
            lines.push("-p ipv6-icmp -m conntrack --ctstate UNTRACKED -j RETURN".to_owned());
        }
        for endpoint in self.snapshot.endpoints.values() {
            let name = &endpoint.interface;
            let (from, to) = (format!("-i {name} "), format!("-o {name} "));
            let Some(policy) = self.snapshot.policy.endpoints.get(&endpoint.pod).copied() else {
                // Nothing is known of it: it gets and sends nothing.
                let both = [from, to];
                lines.extend(both.iter().flat_map(|interface| self.denying(interface, None, Mode::Enforce)));
                continue;
            };
            let ways = [(Direction::Egress, from), (Direction::Ingress, to)];
            let isolated = |way: &(Direction, _)| policy.direction(way.0).network_policy.is_some();
            if ways.iter().any(isolated) {
                // What a pod sends to itself by way of a Service.
                let both = format!("-i {name} -o {name}");
                for (direction, _) in &ways {
                    let walk = Walk::to_itself(*direction, policy.direction(*direction), policy.mode);
                    lines.extend(self.walk(walk).map(|chain| format!("{both} -j {chain}")));
                }
                lines.push(format!("{both} -j RETURN"));
            }
            for (direction, interface) in &ways {
                let walk = Walk::of(*direction, policy.direction(*direction), policy.mode);
                lines.extend(self.walk(walk).map(|chain| format!("{interface}-j {chain}")));
            }
        }
        lines
    }

    /// The chain that asks what is left to ask; `None`: nothing is, and everything is allowed.
    fn walk(&mut self, walk: Walk) -> Option<ChainName> {
        let (tier, list) =
            Tier::ALL.into_iter().zip(walk.lists).find_map(|(tier, list)| Some((tier, list?)))?;
        if let Some(known) = self.walks.get(&walk) {
            return Some(known.clone());
        }
        let rest = match tier {
            Tier::NetworkPolicy => None,
            Tier::Admin | Tier::Baseline => self.walk(walk.behind(tier)),
        };
        let behind = format!("-g {}", rest.as_ref().map_or(names::POLICY_PASS, ChainName::as_str));
        let mut lines = vec![];
        for row in self.rows(list, tier) {
            let Some(peer) = self.peer(walk.direction, row.peer) else { continue };
            let matches = format!("{}{peer}", row.l4.matches());
            let rule = Some(row.said.rule);
            match row.said.action {
                Action::Allow => lines.push(self.counted(&matches, rule, "-j RETURN")),
                Action::Pass => lines.push(self.counted(&matches, rule, &behind)),
                Action::Deny => lines.extend(self.denying(&matches, rule, walk.mode)),
            }
        }
        match tier {
            Tier::NetworkPolicy => {
                let isolation = self.snapshot.policy.lists.get(&list).and_then(|list| list.isolation);
                lines.extend(self.denying("", isolation, walk.mode));
            }
            Tier::Admin | Tier::Baseline => lines.extend(rest.map(|chain| format!("-g {chain}"))),
        }
        let name = named::chain(tier, &lines);
        self.rendered.lists.insert(name.clone(), lines);
        self.walks.insert(walk, name.clone());
        Some(name)
    }

    /// All rows of a list in the order of [`model::PolicyTable::decide`], neighbouring ports as one.
    fn rows(&self, list: ListId, tier: Tier) -> Vec<Row> {
        let table = &self.snapshot.policy;
        let first = PeerKey { list, peer: Peer::Identity(IdentityId::default()) };
        let peers = table.peers.range(first..=PeerKey { list, peer: Peer::Anyone });
        let rows = peers.filter_map(|(key, ports)| Some((key.peer, table.ports.get(ports)?)));
        let rows = rows.flat_map(|(peer, ports)| ports.iter().map(move |(l4, said)| (peer, *l4, *said)));
        let mut rows: Vec<Row> = rows.map(|(peer, l4, said)| Row { said, peer, l4: l4.into() }).collect();
        match tier {
            // One peer's matches exclude each other: all have one rank.
            Tier::NetworkPolicy => rows.sort_unstable_by_key(|row| (row.peer, row.l4)),
            Tier::Admin | Tier::Baseline => rows.sort_unstable(),
        }
        rows.dedup_by(|next, row| row.take_in(next));
        rows
    }

    /// The match of a peer's addresses, and the set that it needs; `None`: the family has none of them.
    fn peer(&mut self, direction: Direction, peer: Peer) -> Option<String> {
        let (addresses, prefixes) = (&self.snapshot.addresses, &self.snapshot.policy.prefixes);
        let none = vec![];
        let (name, members) = match peer {
            Peer::Anyone => return Some(String::new()),
            Peer::Pods => {
                let own = self.identities.iter().filter(|(id, _)| id.is_of_cluster());
                let own: Vec<_> = own.flat_map(|(_, nets)| nets).copied().collect();
                (SetName::pods(self.family), sets::members(addresses, &own, IdentityId::is_of_cluster))
            }
            Peer::Identity(id) if id.is_local() => {
                let members = sets::members(prefixes, self.prefixes.get(&id)?, |other| other == id);
                (SetName::of(self.family, &members), members)
            }
            Peer::Identity(id) => {
                let own = self.identities.get(&id).unwrap_or(&none);
                (SetName::identity(self.family, id), sets::members(addresses, own, |other| other == id))
            }
        };
        let end = match direction {
            Direction::Ingress => "src",
            Direction::Egress => "dst",
        };
        let text = format!("-m set --match-set {name} {end} ");
        self.rendered.sets.entry(name).or_insert(members);
        Some(text)
    }

    /// `matches` ends with a space, or is empty.
    fn counted(&self, matches: &str, rule: Option<RuleId>, target: &str) -> String {
        let named = rule.and_then(|rule| self.snapshot.policy.rules.get(&rule));
        let comment = named.map_or_else(String::new, |rule| {
            format!("-m comment --comment {} ", Quoted(&named::comment(rule)))
        });
        format!("{matches}{comment}{target}")
    }

    /// The rule that drops, or says that it would, behind the one that logs it, if that is wanted.
    fn denying(&self, matches: &str, rule: Option<RuleId>, mode: Mode) -> Vec<String> {
        let (stop, target) = match mode {
            Mode::Enforce => (Stop::Policy, "-j DROP".to_owned()),
            Mode::Audit => (Stop::Audited, format!("-g {}", names::POLICY_AUDIT)),
        };
        let named = rule.and_then(|rule| self.snapshot.policy.rules.get(&rule));
        let log = self.log.map(|group| {
            let prefix = named::prefix(stop, named.map(|rule| &**rule));
            format!("{matches}-j NFLOG --nflog-prefix {} --nflog-group {group}", Quoted(&prefix))
        });
        log.into_iter().chain([self.counted(matches, rule, &target)]).collect()
    }
}

impl Walk {
    fn of(direction: Direction, lists: &DirectionPolicy, mode: Mode) -> Self {
        Self { direction, lists: Tier::ALL.map(|tier| lists.list(tier)), mode }
    }

    /// A NetworkPolicy allows it either way, and is final: only what comes before one is asked.
    fn to_itself(direction: Direction, lists: &DirectionPolicy, mode: Mode) -> Self {
        match lists.network_policy {
            Some(_) => {
                Self::of(direction, &DirectionPolicy { network_policy: None, baseline: None, ..*lists }, mode)
            }
            None => Self::of(direction, lists, mode),
        }
    }

    fn behind(mut self, tier: Tier) -> Self {
        for (of, list) in Tier::ALL.into_iter().zip(&mut self.lists) {
            if of <= tier {
                *list = None;
            }
        }
        self
    }
}

impl Row {
    /// Takes in the row behind it where that goes on with the next port.
    fn take_in(&mut self, next: &Self) -> bool {
        let (Ports::Range(protocol, first, last), Ports::Range(of, from, to)) = (self.l4, next.l4) else {
            return false;
        };
        let same = (self.said, self.peer, protocol) == (next.said, next.peer, of);
        let goes_on = same && last.checked_add(1) == Some(from);
        if goes_on {
            self.l4 = Ports::Range(protocol, first, to);
        }
        goes_on
    }
}

impl From<L4Match> for Ports {
    fn from(l4: L4Match) -> Self {
        match l4 {
            L4Match::Any => Self::Any,
            L4Match::Ports(protocol, ports) => Self::Range(protocol, ports.first(), ports.last()),
        }
    }
}

impl Ports {
    /// Ends with a space, or is empty.
    fn matches(self) -> String {
        match self {
            Self::Any => String::new(),
            Self::Range(protocol, 0, u16::MAX) => format!("-p {} ", protocol.lowercase()),
            Self::Range(protocol, first, last) => {
                let protocol = protocol.lowercase();
                let ports = if first == last { first.to_string() } else { format!("{first}:{last}") };
                format!("-p {protocol} -m {protocol} --dport {ports} ")
            }
        }
    }
}
