//! The prefixes of a lab's address families, and who has which address in them. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use model::Family;
use serde::{Deserialize, Serialize};

/// The prefixes of one address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Addressing {
    pub clients: IpNet,
    pub nodes: IpNet,
    pub pods: IpNet,
    pub services: IpNet,
    /// Load-balancer addresses, given out by the edge.
    pub vips: IpNet,
}

impl Addressing {
    /// Documentation ranges outside, private ones inside.
    pub const V4: Self = Self {
        clients: v4([198, 51, 100, 0], 24),
        nodes: v4([10, 128, 0, 0], 24),
        pods: v4([10, 20, 0, 0], 16),
        services: v4([10, 24, 0, 0], 16),
        vips: v4([203, 0, 113, 0], 24),
    };

    /// Documentation ranges outside, unique local ones inside (RFC 3849, RFC 4193).
    pub const V6: Self = Self {
        clients: v6([0x2001, 0xdb8, 0x198], 64),
        nodes: v6([0xfd00, 0x10, 0x128], 64),
        pods: v6([0xfd00, 0x10, 0x20], 56),
        services: v6([0xfd00, 0x10, 0x24], 112),
        vips: v6([0x2001, 0xdb8, 0x203], 112),
    };

    pub fn family(&self) -> Family {
        Family::of(self.nodes.addr())
    }

    /// The machine outside.
    pub fn client(&self) -> IpAddr {
        host(self.clients, 10)
    }

    /// The edge as the client sees it.
    pub fn client_gateway(&self) -> IpAddr {
        host(self.clients, 1)
    }

    /// The edge as the nodes see it; health checks come from here.
    pub fn node_gateway(&self) -> IpAddr {
        host(self.nodes, 1)
    }

    /// The embedded API.
    pub fn api(&self) -> IpAddr {
        host(self.nodes, 2)
    }

    /// The node of this index, from 0.
    pub fn node(&self, index: u8) -> IpAddr {
        host(self.nodes, 11 + u32::from(index))
    }

    /// The pods of the node of this index, from 0: the pods' prefix has room for 256.
    pub fn pod_cidr(&self, index: u8) -> IpNet {
        let length = self.pods.prefix_len() + 8;
        self.pods
            .subnets(length)
            .ok()
            .and_then(|mut subnets| subnets.nth(index.into()))
            .expect("the pods' prefix is long enough by construction")
    }
}

const fn v4([a, b, c, d]: [u8; 4], length: u8) -> IpNet {
    match ipnet::Ipv4Net::new(Ipv4Addr::new(a, b, c, d), length) {
        Ok(net) => IpNet::V4(net),
        Err(_) => panic!("a prefix length within the family"),
    }
}

const fn v6([a, b, c]: [u16; 3], length: u8) -> IpNet {
    match ipnet::Ipv6Net::new(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), length) {
        Ok(net) => IpNet::V6(net),
        Err(_) => panic!("a prefix length within the family"),
    }
}

/// The address `offset` above the prefix.
fn host(net: IpNet, offset: u32) -> IpAddr {
    match net.network() {
        IpAddr::V4(address) => (u32::from(address) + offset).to_be_bytes().into(),
        IpAddr::V6(address) => (u128::from(address) + u128::from(offset)).to_be_bytes().into(),
    }
}
