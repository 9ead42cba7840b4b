//! What the edge's kernel must hold for a set of rules, and the steps from what it holds to that.
//!
//! Pure: renders text for `ip -batch` and `iptables-restore`. The kernel forwards by itself afterwards:
//! - one next hop per node, one *resilient* next-hop group per address: a flow keeps its node as long as the node
//!   stays in the group, whatever happens to the others (Linux `networking/nexthop-group-resilient.rst`);
//! - `fib_multipath_hash_policy=3` picks the group's bucket by the 5-tuple (set with the wires, see `links`);
//! - a filter lets through what a forwarding rule names. Nothing is rewritten.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::IpAddr,
};

use ipnet::IpNet;
use model::{Family, Port, Protocol};

use super::health::receivers;
use crate::plan::Topology;

/// The bridge that the nodes hang on.
pub(crate) const NODE_BRIDGE: &str = "br0";

/// Buckets of one group: a multiple of every pool size up to eight keeps shares even.
const BUCKETS: u32 = 840;

/// Seconds without a packet after which a bucket may move to a node that joined. Shorter than any health-check
/// history that matters, longer than pauses within a request.
const IDLE_SECONDS: u32 = 5;

/// Route protocol number that Google's guest agent gives its local routes.
const GUEST_AGENT_PROTOCOL: u8 = 66;

/// What is forwarded for one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Forwarding {
    pub(super) ports: BTreeSet<(Protocol, Port)>,
    /// Indices of the nodes that get the traffic; never empty.
    pub(super) nodes: BTreeSet<usize>,
}

/// What the edge's kernel holds, by address.
pub(super) type Table = BTreeMap<IpAddr, Forwarding>;

/// The nodes among `members` that get traffic.
pub(super) fn receiving(members: impl Iterator<Item = super::Health> + Clone) -> BTreeSet<usize> {
    receivers(members).iter().enumerate().filter(|(_, receives)| **receives).map(|(index, _)| index).collect()
}

/// One next hop per node and family: `ip -batch` text, once per lab.
pub(super) fn next_hops(topology: &Topology) -> String {
    let mut text = String::new();
    for (index, node) in topology.nodes.iter().enumerate() {
        for address in &node.addresses {
            let id = next_hop(Family::of(*address), index);
            let _ = writeln!(text, "nexthop replace id {id} via {address} dev {NODE_BRIDGE}");
        }
    }
    text
}

/// The id of a node's next hop: a group's members are all of one family.
fn next_hop(family: Family, node: usize) -> usize {
    match family {
        Family::V4 => 1 + node,
        Family::V6 => 101 + node,
    }
}

/// Steps for the edge, as `ip -batch` text: new groups before their routes, routes gone before their groups.
pub(super) fn edge_steps(old: &Table, new: &Table, vips: IpNet) -> String {
    let mut text = String::new();
    for (vip, forwarding) in new {
        let known = old.get(vip);
        if known.is_none_or(|known| known.nodes != forwarding.nodes) {
            let hop = |index: &usize| next_hop(Family::of(*vip), *index).to_string();
            let nodes: Vec<_> = forwarding.nodes.iter().map(hop).collect();
            let _ = writeln!(
                text,
                "nexthop replace id {} group {} type resilient buckets {BUCKETS} idle_timer {IDLE_SECONDS} \
                 unbalanced_timer 0",
                group(*vip, vips),
                nodes.join("/"),
            );
        }
        if known.is_none() {
            let _ = writeln!(text, "route replace {} nhid {}", IpNet::from(*vip), group(*vip, vips));
        }
    }
    for vip in old.keys().filter(|vip| !new.contains_key(vip)) {
        let _ = writeln!(text, "route del {}", IpNet::from(*vip));
        let _ = writeln!(text, "nexthop del id {}", group(*vip, vips));
    }
    text
}

/// Steps for every node, as `ip -batch` text: the address becomes the node's own, as on a cloud's machine.
pub(super) fn node_steps(old: &Table, new: &Table) -> String {
    let mut text = String::new();
    let mut step = |verb: &str, vip: &IpAddr| {
        let prefix = IpNet::from(*vip);
        let _ =
            writeln!(text, "route {verb} local {prefix} dev eth0 table local proto {GUEST_AGENT_PROTOCOL}");
    };
    new.keys().filter(|vip| !old.contains_key(vip)).for_each(|vip| step("replace", vip));
    old.keys().filter(|vip| !new.contains_key(vip)).for_each(|vip| step("del", vip));
    text
}

/// The edge's whole filter table of one family, as `iptables-restore` or `ip6tables-restore` text.
pub(super) fn filter(table: &Table, vips: IpNet) -> String {
    let mut text =
        String::from("*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n");
    for (vip, forwarding) in table {
        let prefix = IpNet::from(*vip);
        for (protocol, port) in &forwarding.ports {
            let protocol = protocol.lowercase();
            let _ = writeln!(text, "-A FORWARD -d {prefix} -p {protocol} --dport {port} -j ACCEPT");
        }
        // Later fragments carry no port; ICMP errors belong to a flow that passed.
        let passing: &[&str] = match Family::of(*vip) {
            Family::V4 => &["-f -j ACCEPT", "-p icmp --icmp-type destination-unreachable -j ACCEPT"],
            Family::V6 => &[
                "-m frag --fragid 0:4294967295 --fragfirst -j DROP",
                "-m frag --fragid 0:4294967295 -j ACCEPT",
                "-p icmpv6 --icmpv6-type destination-unreachable -j ACCEPT",
                "-p icmpv6 --icmpv6-type packet-too-big -j ACCEPT",
            ],
        };
        for rule in passing {
            let _ = writeln!(text, "-A FORWARD -d {prefix} {rule}");
        }
    }
    let _ = writeln!(text, "-A FORWARD -d {vips} -j DROP\nCOMMIT");
    text
}

/// A group's id: above every node's, another one in each family, and the same whenever the address is.
fn group(vip: IpAddr, vips: IpNet) -> u128 {
    let first = match Family::of(vip) {
        Family::V4 => 1000,
        Family::V6 => 100_000,
    };
    first + (number(vip) - number(vips.network()))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Health, *};

    fn vips() -> IpNet {
        "203.0.113.0/24".parse().expect("prefix")
    }

    fn table(entries: &[(&str, &[u16], &[usize])]) -> Table {
        let forwarding = |ports: &[u16], nodes: &[usize]| Forwarding {
            ports: ports.iter().map(|port| (Protocol::Tcp, Port::new(*port).expect("port"))).collect(),
            nodes: nodes.iter().copied().collect(),
        };
        entries.iter().map(|(vip, p, n)| (vip.parse().expect("address"), forwarding(p, n))).collect()
    }

    #[test]
    fn a_new_address_gets_its_group_before_its_route() {
        let steps = edge_steps(&table(&[]), &table(&[("203.0.113.1", &[80], &[0, 1])]), vips());
        let lines: Vec<_> = steps.lines().collect();
        assert!(
            lines[0].starts_with("nexthop replace id 1001 group 1/2 type resilient buckets 840 "),
            "{steps}"
        );
        assert_eq!(lines[1..], ["route replace 203.0.113.1/32 nhid 1001"]);
    }

    #[test]
    fn ipv6_has_next_hops_groups_and_a_filter_of_its_own() {
        let vips = "2001:db8:203::/112".parse().expect("prefix");
        let new = table(&[("2001:db8:203::1", &[80], &[0, 1])]);
        let steps = edge_steps(&table(&[]), &new, vips);
        let lines: Vec<_> = steps.lines().collect();
        assert!(lines[0].starts_with("nexthop replace id 100001 group 101/102 type resilient "), "{steps}");
        assert_eq!(lines[1..], ["route replace 2001:db8:203::1/128 nhid 100001"]);
        let text = filter(&new, vips);
        assert!(text.contains("-A FORWARD -d 2001:db8:203::1/128 -p tcp --dport 80 -j ACCEPT\n"), "{text}");
        assert!(text.contains("--icmpv6-type packet-too-big -j ACCEPT\n"), "{text}");
    }

    #[test]
    fn a_node_that_leaves_touches_its_group_only() {
        let old = table(&[("203.0.113.1", &[80], &[0, 1]), ("203.0.113.2", &[80], &[0, 1])]);
        let new = table(&[("203.0.113.1", &[80], &[1]), ("203.0.113.2", &[80], &[0, 1])]);
        let steps = edge_steps(&old, &new, vips());
        assert_eq!(steps.lines().count(), 1, "{steps}");
        assert!(steps.starts_with("nexthop replace id 1001 group 2 "), "{steps}");
        assert_eq!(node_steps(&old, &new), "");
    }

    #[test]
    fn an_address_that_goes_takes_route_then_group() {
        let (old, new) = (table(&[("203.0.113.7", &[80], &[0])]), table(&[]));
        assert_eq!(edge_steps(&old, &new, vips()), "route del 203.0.113.7/32\nnexthop del id 1007\n");
        assert_eq!(node_steps(&old, &new), "route del local 203.0.113.7/32 dev eth0 table local proto 66\n");
    }

    #[test]
    fn nothing_changed_needs_no_step() {
        let same = table(&[("203.0.113.1", &[80], &[0, 1])]);
        assert_eq!(edge_steps(&same, &same, vips()), "");
    }

    #[test]
    fn the_filter_passes_named_ports_and_drops_the_rest() {
        let text = filter(&table(&[("203.0.113.1", &[80, 443], &[0])]), vips());
        let rules: Vec<_> = text.lines().filter(|line| line.starts_with("-A")).collect();
        assert_eq!(rules.first(), Some(&"-A FORWARD -d 203.0.113.1/32 -p tcp --dport 80 -j ACCEPT"));
        assert_eq!(rules.last(), Some(&"-A FORWARD -d 203.0.113.0/24 -j DROP"));
    }

    #[test]
    fn unhealthy_nodes_get_nothing_unless_all_are() {
        let nodes = |health: &[Health]| receiving(health.iter().copied());
        assert_eq!(nodes(&[Health::Unhealthy, Health::Healthy]), BTreeSet::from([1]));
        assert_eq!(nodes(&[Health::Unhealthy, Health::Unhealthy]), BTreeSet::from([0, 1]));
    }
}
