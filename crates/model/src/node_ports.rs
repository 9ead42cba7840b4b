//! Which addresses of a node serve node ports, and which serve host ports.
//!
//! The one place that turns a frontend at [`FrontendAddress::Node`] into addresses: planes and oracle ask here.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Family, Frontend, FrontendAddress, FrontendKind, NodeConfig};

/// The addresses that serve node ports and health-check node ports (kube-proxy's `--nodeport-addresses`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NodePortAddresses {
    /// Every address of the node.
    #[default]
    All,
    /// The first address of each family only.
    Primary,
    /// Addresses within these prefixes. A family that none of them belongs to is served on all its addresses.
    Within(Vec<IpNet>),
}

impl NodeConfig {
    /// The node's addresses of `family`, the one that masquerades first.
    pub fn addresses_of(&self, family: Family) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().copied().filter(move |address| Family::of(*address) == family)
    }

    /// Whether node ports are served at `address`, one of the node's.
    pub fn serves_node_ports(&self, address: IpAddr) -> bool {
        let family = Family::of(address);
        let ours = self.addresses.contains(&address);
        match &self.node_ports {
            NodePortAddresses::All => ours,
            NodePortAddresses::Primary => self.addresses_of(family).next() == Some(address),
            NodePortAddresses::Within(prefixes) => {
                let mut of_family = prefixes.iter().filter(|prefix| Family::of(prefix.addr()) == family);
                let none = of_family.clone().next().is_none();
                ours && (none || of_family.any(|prefix| prefix.contains(&address)))
            }
        }
    }

    /// The addresses of `family` that serve node ports.
    pub fn node_port_addresses(&self, family: Family) -> impl Iterator<Item = IpAddr> {
        self.addresses_of(family).filter(|address| self.serves_node_ports(*address))
    }

    /// Where `frontend`, of a Service port of `family`, is reached at this node.
    pub fn addresses_at(&self, frontend: &Frontend, family: Family) -> Vec<IpAddr> {
        match (frontend.address, frontend.kind) {
            (FrontendAddress::Ip(address), _) => vec![address],
            (FrontendAddress::Node, FrontendKind::NodePort) => self.node_port_addresses(family).collect(),
            (FrontendAddress::Node, _) => self.addresses_of(family).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(node_ports: NodePortAddresses) -> NodeConfig {
        let addresses = ["10.128.0.11", "192.0.2.11", "fd00:128::11", "fd00:129::11"];
        let addresses = addresses.map(|address| address.parse().expect("address")).to_vec();
        NodeConfig { addresses, node_ports, ..NodeConfig::default() }
    }

    fn within(prefixes: &[&str]) -> NodePortAddresses {
        NodePortAddresses::Within(prefixes.iter().map(|prefix| prefix.parse().expect("prefix")).collect())
    }

    fn served(node: &NodeConfig) -> Vec<String> {
        let all = Family::ALL.into_iter().flat_map(|family| node.node_port_addresses(family));
        all.map(|address| address.to_string()).collect()
    }

    #[test]
    fn facts_53_to_55_node_ports_are_served_where_the_filter_says() {
        for (filter, expected) in [
            (NodePortAddresses::All, vec!["10.128.0.11", "192.0.2.11", "fd00:128::11", "fd00:129::11"]),
            (NodePortAddresses::Primary, vec!["10.128.0.11", "fd00:128::11"]),
            (within(&["192.0.2.0/24", "fd00:129::/64"]), vec!["192.0.2.11", "fd00:129::11"]),
            (within(&["192.0.2.0/24"]), vec!["192.0.2.11", "fd00:128::11", "fd00:129::11"]),
            (within(&["fd00:128::/64"]), vec!["10.128.0.11", "192.0.2.11", "fd00:128::11"]),
            (
                within(&["198.51.100.0/24", "0.0.0.0/0"]),
                vec!["10.128.0.11", "192.0.2.11", "fd00:128::11", "fd00:129::11"],
            ),
            (within(&["198.51.100.0/24", "2001:db8::/32"]), vec![]),
        ] {
            assert_eq!(served(&node(filter.clone())), expected, "{filter:?}");
        }
        assert!(!node(NodePortAddresses::All).serves_node_ports("10.128.0.12".parse().expect("address")));
    }

    #[test]
    fn host_ports_are_served_everywhere_whatever_the_filter() {
        let mut frontend = Frontend {
            kind: FrontendKind::HostPort,
            address: FrontendAddress::Node,
            port: crate::Port::new(80).expect("port"),
            policy: crate::TrafficPolicy::Local,
            source_ranges: vec![],
        };
        let node = node(NodePortAddresses::Primary);
        assert_eq!(node.addresses_at(&frontend, Family::V4).len(), 2);
        frontend.kind = FrontendKind::NodePort;
        assert_eq!(node.addresses_at(&frontend, Family::V4), node.addresses[..1]);
    }
}
