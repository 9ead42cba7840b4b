//! The chains that exist whatever the services are, and the jumps into them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};
use model::{Family, NodePortAddresses, told::Stop};

use super::{INVALID_DROPPED, MASQUERADE_MARK, Portal, Renderer};
use crate::{
    names,
    rule::{ConnState, Match, Rule, Target},
    ruleset::{Jump, Place, RuleSet, Table},
};

const LOOPBACK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);

impl Renderer<'_> {
    /// Everything that does not depend on services; the shared chains are there, but empty.
    pub fn base(&self) -> RuleSet {
        let mut set = RuleSet { jumps: self.jumps(), ..Default::default() };
        for table in Table::ALL {
            set.insert(table, names::CANARY, vec![]);
        }
        for portal in self.portals() {
            set.insert(portal.table(), portal.chain(), vec![]);
        }
        set.insert(Table::Filter, names::FORWARD, self.forward());
        if self.blocks_localnet() {
            let stopping = self.stopping(to_localnet(), Stop::MartianLoopback);
            set.insert(Table::Filter, names::FIREWALL, stopping.collect());
        }
        let mark = Target::SetMark { value: MASQUERADE_MARK, mask: MASQUERADE_MARK };
        set.insert(Table::Nat, names::MARK_MASQ, vec![Rule::new().then(mark)]);
        set.insert(Table::Nat, names::POSTROUTING, self.postrouting());
        if self.cluster_cidrs().nth(1).is_some() && !self.options.masquerade_all {
            set.insert(Table::Nat, names::OUTSIDE, self.outside());
        }
        set
    }

    /// Marks every source but pods.
    fn outside(&self) -> Vec<Rule> {
        let pods = self.cluster_cidrs().map(|pods| Rule::new().from(pods).then(Target::Return));
        pods.chain([Rule::new().jump(names::MARK_MASQ)]).collect()
    }

    /// What ends a shared chain, after the rules of all services.
    pub fn portal_tail(&self, portal: Portal) -> Vec<Rule> {
        if portal != Portal::NatServices {
            return vec![];
        }
        let rule = || {
            Rule::new()
                .comment("kubernetes service nodeports; NOTE: this must be the last rule in this chain")
        };
        match self.node_port_addresses() {
            None => vec![self.not_to_loopback(rule().when(Match::DestinationLocal)).jump(names::NODE_PORTS)],
            Some(addresses) => {
                addresses.into_iter().map(|address| rule().to(address).jump(names::NODE_PORTS)).collect()
            }
        }
    }

    /// On IPv6 loopback node ports never work; on IPv4 they need route_localnet.
    fn not_to_loopback(&self, rule: Rule) -> Rule {
        match self.family {
            Family::V6 => rule.not_to(IpAddr::from(Ipv6Addr::LOCALHOST)),
            Family::V4 if !self.options.localhost_node_ports => rule.not_to(LOOPBACK),
            Family::V4 => rule,
        }
    }

    /// The addresses that serve node ports; `None`: whatever is local, as the kernel knows it.
    fn node_port_addresses(&self) -> Option<Vec<IpAddr>> {
        let mut addresses: Vec<_> = self.node.node_port_addresses(self.family).collect();
        let prefixes = match &self.node.node_ports {
            NodePortAddresses::All => return None,
            NodePortAddresses::Primary => return Some(addresses),
            NodePortAddresses::Within(prefixes) => prefixes,
        };
        let mut own = prefixes.iter().filter(|prefix| Family::of(prefix.addr()) == self.family);
        if own.clone().all(|_| false) || own.clone().any(|prefix| prefix.prefix_len() == 0) {
            return None;
        }
        // Loopback is an interface like any other, where its node ports work at all.
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        if self.options.localhost_node_ports && own.any(|prefix| prefix.contains(&loopback)) {
            addresses.push(loopback);
        }
        addresses.sort_unstable();
        addresses.dedup();
        Some(addresses)
    }

    fn blocks_localnet(&self) -> bool {
        self.family == Family::V4 && self.options.localhost_node_ports
    }

    fn forward(&self) -> Vec<Rule> {
        let states = |states: &[ConnState]| Match::ConnState { negated: false, states: states.to_vec() };
        let mut rules = Vec::new();
        if !self.options.liberal {
            let invalid = Rule::new().when(states(&[ConnState::Invalid]));
            let invalid = if self.options.accounting {
                invalid.when(Match::Account(INVALID_DROPPED.to_owned()))
            } else {
                invalid
            };
            rules.extend(self.stopping(invalid, Stop::Invalid));
        }
        let marked = Match::Mark { negated: false, value: MASQUERADE_MARK, mask: MASQUERADE_MARK };
        rules.push(Rule::new().comment("kubernetes forwarding rules").when(marked).then(Target::Accept));
        rules.push(
            Rule::new()
                .comment("kubernetes forwarding conntrack rule")
                .when(states(&[ConnState::Related, ConnState::Established]))
                .then(Target::Accept),
        );
        rules
    }

    fn postrouting(&self) -> Vec<Rule> {
        let unmarked = Match::Mark { negated: true, value: MASQUERADE_MARK, mask: MASQUERADE_MARK };
        vec![
            Rule::new().when(unmarked).then(Target::Return),
            // Unset by xor, so that the packet is not masqueraded again where it passes once more.
            Rule::new().then(Target::SetMark { value: MASQUERADE_MARK, mask: 0 }),
            Rule::new()
                .comment("kubernetes service traffic requiring SNAT")
                .then(Target::Masquerade { random_fully: self.options.random_fully }),
        ]
    }

    /// In the order in which they stand.
    fn jumps(&self) -> Vec<Jump> {
        const LOAD_BALANCER: &str = "kubernetes load balancer firewall";
        const PORTALS: &str = "kubernetes service portals";
        const EXTERNAL: &str = "kubernetes externally-visible service portals";
        let new = |comment: &str| {
            let new = Match::ConnState { negated: false, states: vec![ConnState::New] };
            Rule::new().when(new).comment(comment)
        };
        let any = |comment: &str| Rule::new().comment(comment);
        let jump = |table, from: &str, rule: Rule, to: &str| Jump {
            table,
            from: from.into(),
            rule: rule.jump(to),
            place: Place::First,
        };
        let filter = |from, rule, to| jump(Table::Filter, from, rule, to);
        let nat = |from, rule, to| jump(Table::Nat, from, rule, to);
        let mut jumps = vec![
            filter("INPUT", new(LOAD_BALANCER), names::PROXY_FIREWALL),
            filter("INPUT", any("kubernetes health check service ports"), names::NODE_PORTS),
            filter("INPUT", new(EXTERNAL), names::EXTERNAL_SERVICES),
            filter("FORWARD", new(LOAD_BALANCER), names::PROXY_FIREWALL),
            filter("FORWARD", any("kubernetes forwarding rules"), names::FORWARD),
            filter("FORWARD", new(PORTALS), names::SERVICES),
            filter("FORWARD", new(EXTERNAL), names::EXTERNAL_SERVICES),
            filter("OUTPUT", new(LOAD_BALANCER), names::PROXY_FIREWALL),
            filter("OUTPUT", new(PORTALS), names::SERVICES),
            nat("PREROUTING", any(PORTALS), names::SERVICES),
            nat("OUTPUT", any(PORTALS), names::SERVICES),
            nat("POSTROUTING", any("kubernetes postrouting rules"), names::POSTROUTING),
        ];
        if self.blocks_localnet() {
            for (at, from) in [(0, "INPUT"), (8, "OUTPUT")] {
                jumps.insert(at, filter(from, Rule::new(), names::FIREWALL));
            }
        }
        if self.host_ports {
            // Behind kube-proxy's: a Service's own address wins over a port of the whole node.
            jumps.extend(["PREROUTING", "OUTPUT"].map(|from| {
                let rule = any("kube hostport portals").when(Match::DestinationLocal);
                Jump { place: Place::Last, ..nat(from, self.not_to_loopback(rule), names::HOST_PORTS) }
            }));
        }
        jumps
    }
}

/// `route_localnet` would let neighbours reach services on 127.0.0.0/8; only translated node-port traffic may.
fn to_localnet() -> Rule {
    let translated = vec![ConnState::Related, ConnState::Established, ConnState::Dnat];
    Rule::new()
        .not_from(IpNet::from(LOOPBACK))
        .to(LOOPBACK)
        .comment("block incoming localnet connections")
        .when(Match::ConnState { negated: true, states: translated })
}
