//! What the live rules say of one Service: its own chains, how many rules it costs, and the way of one packet.
//!
//! Reads `iptables-save -c`; parsing and walking are the iptables plane's own, so that both read rules alike.

use std::{collections::BTreeSet, fmt::Write as _};

use dataplane_iptables::{
    names::ChainName,
    parse::{Saved, SavedRule},
    ruleset::Table,
    walk::Walk,
};

/// What chains of one Service are called (kube-proxy, `pkg/proxy/iptables/proxier.go`).
const OWN: [&str; 5] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-"];

/// The rules of one Service among all others.
#[derive(Debug)]
pub struct ServiceRules<'a> {
    saved: &'a Saved,
    /// `namespace/name`, as comments have it.
    name: String,
    pub chains: BTreeSet<ChainName>,
}

impl<'a> ServiceRules<'a> {
    /// Everything that rules naming the Service lead to.
    pub fn find(saved: &'a Saved, namespace: &str, name: &str) -> Self {
        let mut found = Self { saved, name: format!("{namespace}/{name}"), chains: BTreeSet::new() };
        let named = found.all().filter(|(_, rule)| found.names(rule)).filter_map(|(_, rule)| jump(rule));
        let mut open = named.collect::<Vec<_>>();
        while let Some(chain) = open.pop() {
            if OWN.iter().any(|prefix| chain.as_str().starts_with(prefix))
                && found.chains.insert(chain.clone())
            {
                open.extend(
                    saved.chain(Table::Nat, chain.as_str()).unwrap_or_default().iter().filter_map(jump),
                );
            }
        }
        found
    }

    /// Rules in its own chains, and rules elsewhere that name it.
    pub fn count(&self) -> usize {
        self.all().filter(|(chain, rule)| self.chains.contains(*chain) || self.names(rule)).count()
    }

    /// Chains that translate to an endpoint: one per endpoint.
    pub fn endpoints(&self) -> usize {
        self.chains.iter().filter(|chain| chain.as_str().starts_with("KUBE-SEP-")).count()
    }

    /// With which chance each rule that has one takes a packet, in order.
    pub fn probabilities(&self) -> Vec<f64> {
        let choosing = self.chains.iter().filter(|chain| chain.as_str().starts_with("KUBE-SVC-"));
        let rules =
            choosing.flat_map(|chain| self.saved.chain(Table::Nat, chain.as_str()).unwrap_or_default());
        rules
            .filter_map(|rule| rule.text.split_once("--probability ")?.1.split(' ').next()?.parse().ok())
            .collect()
    }

    /// Addresses under which packets enter its chains: cluster IP, load balancer, node port.
    pub fn frontends(&self) -> usize {
        let entry = |(chain, rule): &(&ChainName, &SavedRule)| {
            matches!(chain.as_str(), "KUBE-SERVICES" | "KUBE-NODEPORTS")
                && !rule.text.contains("-d 127.0.0.0/8")
                && jump(rule).is_some_and(|to| self.chains.contains(&to))
        };
        self.all().filter(entry).count()
    }

    fn all(&self) -> impl Iterator<Item = (&'a ChainName, &'a SavedRule)> {
        let saved = self.saved;
        let chains = Table::ALL.into_iter().flat_map(move |table| saved.chains(table));
        chains.flat_map(|(chain, rules)| rules.iter().map(move |rule| (chain, rule)))
    }

    /// Whether a rule's comment is about this Service and no longer-named one.
    fn names(&self, rule: &SavedRule) -> bool {
        let Some(at) = rule.text.find(&self.name) else { return false };
        let (before, rest) = (&rule.text[..at], &rule.text[at + self.name.len()..]);
        before.ends_with(['"', ' ']) && rest.starts_with([' ', '"', ':'])
    }
}

fn jump(rule: &SavedRule) -> Option<ChainName> {
    rule.rule().ok()?.jumps_to().cloned()
}

/// Every rule that was tried, in order; `>` marks those that applied.
pub fn walked(walk: &Walk) -> String {
    let mut text = String::new();
    let mut place = None;
    for step in &walk.steps {
        if place != Some((step.table, &step.chain)) {
            place = Some((step.table, &step.chain));
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{} {}", step.table, step.chain);
        }
        let mark = if step.matched { '>' } else { ' ' };
        let _ = writeln!(text, "  {mark} {:>3}  {}", step.number, step.rule);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two Services whose names begin alike; the first has two endpoints.
    const SAVED: &str = r#"*filter
:FORWARD ACCEPT [0:0]
-A FORWARD -j ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-EXT-A - [0:0]
:KUBE-SVC-A - [0:0]
:KUBE-SEP-A1 - [0:0]
:KUBE-SEP-A2 - [0:0]
:KUBE-SVC-B - [0:0]
:KUBE-SEP-B1 - [0:0]
:KUBE-MARK-MASQ - [0:0]
[9:540] -A PREROUTING -j KUBE-SERVICES
[1:60] -A KUBE-SERVICES -d 10.24.0.5/32 -p tcp -m comment --comment "d/web cluster IP" -m tcp --dport 80 -j KUBE-SVC-A
[1:60] -A KUBE-SERVICES -d 10.24.0.6/32 -p tcp -m comment --comment "d/web2 cluster IP" -m tcp --dport 80 -j KUBE-SVC-B
[1:60] -A KUBE-SERVICES -d 203.0.113.1/32 -p tcp -m comment --comment "d/web loadbalancer IP" -m tcp --dport 80 -j KUBE-EXT-A
[0:0] -A KUBE-NODEPORTS -d 127.0.0.0/8 -p tcp -m comment --comment "d/web" -m tcp --dport 30080 -j KUBE-EXT-A
[0:0] -A KUBE-NODEPORTS -p tcp -m comment --comment "d/web" -m tcp --dport 30080 -j KUBE-EXT-A
[1:60] -A KUBE-EXT-A -m comment --comment "masquerade traffic for d/web external destinations" -j KUBE-MARK-MASQ
[1:60] -A KUBE-EXT-A -j KUBE-SVC-A
[1:60] -A KUBE-SVC-A -m comment --comment "d/web -> 10.20.0.2:80" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-A1
[0:0] -A KUBE-SVC-A -m comment --comment "d/web -> 10.20.1.2:80" -j KUBE-SEP-A2
[1:60] -A KUBE-SEP-A1 -p tcp -m comment --comment "d/web" -m tcp -j DNAT --to-destination 10.20.0.2:80
[0:0] -A KUBE-SEP-A2 -p tcp -m comment --comment "d/web" -m tcp -j DNAT --to-destination 10.20.1.2:80
[0:0] -A KUBE-SVC-B -m comment --comment "d/web2 -> 10.20.0.3:80" -j KUBE-SEP-B1
[0:0] -A KUBE-SEP-B1 -p tcp -m comment --comment "d/web2" -m tcp -j DNAT --to-destination 10.20.0.3:80
COMMIT
"#;

    #[test]
    fn a_services_rules_are_its_own_and_nobody_elses() {
        let saved = Saved::parse(SAVED);
        let web = ServiceRules::find(&saved, "d", "web");
        let chains = web.chains.iter().map(ChainName::as_str).collect::<Vec<_>>();
        assert_eq!(chains, ["KUBE-EXT-A", "KUBE-SEP-A1", "KUBE-SEP-A2", "KUBE-SVC-A"]);
        assert_eq!((web.count(), web.endpoints(), web.frontends()), (10, 2, 3));
        assert_eq!(web.probabilities(), [0.5]);
        let web2 = ServiceRules::find(&saved, "d", "web2");
        assert_eq!((web2.count(), web2.frontends()), (3, 1));
        assert_eq!(ServiceRules::find(&saved, "d", "we").count(), 0);
    }
}
