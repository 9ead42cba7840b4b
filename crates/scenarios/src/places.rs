//! Who is who in the two-node cluster: names and addresses in both families. Never touches a kernel.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ipnet::IpNet;
use model::Family;

/// A node of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    A,
    B,
}

/// A pod that serves and asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pod {
    A1,
    A2,
    B1,
    B2,
}

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// Outside the cluster, behind the edge router.
    Client,
    Pod(Pod),
    /// A process of the node itself.
    Host(Node),
}

/// An address and port that a case asks, in whichever family it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct To {
    address: Spot,
    pub port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spot {
    ClusterIp(u8),
    Vip,
    ExternalIp(u8),
    Node(Node),
    Second(Node),
    Loopback,
}

/// The same address in both families.
#[derive(Clone, Copy, Debug)]
pub struct Pair(Ipv4Addr, Ipv6Addr);

/// The gateway address that every pod has, and that no machine has.
pub const POD_GATEWAY: Pair = Pair(Ipv4Addr::new(169, 254, 1, 1), Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
const CLIENT: Pair = Pair(Ipv4Addr::new(198, 51, 100, 10), client(0x10));
pub const EDGE_CLIENT_SIDE: Pair = Pair(Ipv4Addr::new(198, 51, 100, 1), client(1));
pub const EDGE_NODE_SIDE: Pair = Pair(Ipv4Addr::new(10, 128, 0, 1), node(1));
/// The load-balancer addresses, local on every node.
pub const VIPS: [Pair; 2] = [external_ip(10), external_ip(11)];
/// The one that cases use.
pub const VIP: Pair = VIPS[0];

const fn client(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, last)
}

const fn node(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x128, 0, 0, 0, 0, 0, last)
}

impl Pair {
    pub(crate) const fn new([a, b, c, d]: [u8; 4], v6: [u16; 8]) -> Self {
        let [e, f, g, h, i, j, k, l] = v6;
        Self(Ipv4Addr::new(a, b, c, d), Ipv6Addr::new(e, f, g, h, i, j, k, l))
    }

    pub const fn of(self, family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::V4(self.0),
            Family::V6 => IpAddr::V6(self.1),
        }
    }

    pub fn contains(self, address: IpAddr) -> bool {
        self.of(Family::of(address)) == address
    }
}

/// All pods of the cluster.
pub fn cluster_cidr(family: Family) -> IpNet {
    match family {
        Family::V4 => "10.20.0.0/16",
        Family::V6 => "fd00:20::/32",
    }
    .parse()
    .expect("prefix")
}

/// Where load-balancer addresses and external IPs are from: the edge routes all of it to one node.
pub fn external_cidr(family: Family) -> IpNet {
    match family {
        Family::V4 => "203.0.113.0/24",
        Family::V6 => "2001:db8:f::/64",
    }
    .parse()
    .expect("prefix")
}

/// Address number `last` of the Services' range.
pub const fn cluster_ip(last: u8) -> Pair {
    Pair(Ipv4Addr::new(10, 24, 0, last), Ipv6Addr::new(0xfd00, 0x24, 0, 0, 0, 0, 0, last as u16))
}

/// Address number `last` of the outside range; no machine has it unless it is one of [`VIPS`].
pub const fn external_ip(last: u8) -> Pair {
    Pair(Ipv4Addr::new(203, 0, 113, last), Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, last as u16))
}

impl Node {
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    pub const fn name(self) -> &'static str {
        match self {
            Self::A => "node-a",
            Self::B => "node-b",
        }
    }

    pub const fn addresses(self) -> Pair {
        Pair(Ipv4Addr::new(10, 128, 0, 11 + self as u8), node(0x11 + self as u16))
    }

    pub const fn address(self, family: Family) -> IpAddr {
        self.addresses().of(family)
    }

    /// Of the node's end of the tunnel between the nodes, where there is one: the first of its pods' range, which is no pod's.
    pub fn tunnel_address(self, family: Family) -> IpAddr {
        self.pod_cidr(family).network()
    }

    /// Further ones on the same device, never the source of what the node sends of its own accord.
    pub const fn second_addresses(self) -> Pair {
        Pair(Ipv4Addr::new(10, 128, 0, 21 + self as u8), node(0x21 + self as u16))
    }

    /// The node whose first address or end of the tunnel that is.
    pub fn at(address: IpAddr) -> Option<Self> {
        let own = |node: &Self| {
            node.addresses().contains(address) || node.tunnel_address(Family::of(address)) == address
        };
        Self::ALL.into_iter().find(own)
    }

    /// The node that has that address.
    pub fn owner(address: IpAddr) -> Option<Self> {
        let second = |node: &Self| node.second_addresses().contains(address);
        Self::at(address).or_else(|| Self::ALL.into_iter().find(second))
    }

    pub fn pod_cidr(self, family: Family) -> IpNet {
        match (self, family) {
            (Self::A, Family::V4) => "10.20.0.0/24",
            (Self::B, Family::V4) => "10.20.1.0/24",
            (Self::A, Family::V6) => "fd00:20::/64",
            (Self::B, Family::V6) => "fd00:20:0:1::/64",
        }
        .parse()
        .expect("prefix")
    }

    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    pub fn pods(self) -> impl Iterator<Item = Pod> {
        Pod::ALL.into_iter().filter(move |pod| pod.node() == self)
    }
}

impl Pod {
    pub const ALL: [Self; 4] = [Self::A1, Self::A2, Self::B1, Self::B2];

    pub const fn name(self) -> &'static str {
        match self {
            Self::A1 => "a1",
            Self::A2 => "a2",
            Self::B1 => "b1",
            Self::B2 => "b2",
        }
    }

    pub const fn node(self) -> Node {
        match self {
            Self::A1 | Self::A2 => Node::A,
            Self::B1 | Self::B2 => Node::B,
        }
    }

    pub const fn addresses(self) -> Pair {
        let (node, last) = (self.node() as u8, 11 + self as u8 % 2);
        Pair(
            Ipv4Addr::new(10, 20, node, last),
            Ipv6Addr::new(0xfd00, 0x20, 0, node as u16, 0, 0, 0, last as u16),
        )
    }

    pub const fn address(self, family: Family) -> IpAddr {
        self.addresses().of(family)
    }

    /// The pod of that name or with that address.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|pod| pod.name() == name)
    }

    pub fn at(address: IpAddr) -> Option<Self> {
        Self::ALL.into_iter().find(|pod| pod.addresses().contains(address))
    }
}

impl Place {
    /// The node that a client runs on.
    pub const fn node(self) -> Option<Node> {
        match self {
            Self::Client => None,
            Self::Pod(pod) => Some(pod.node()),
            Self::Host(node) => Some(node),
        }
    }

    pub const fn addresses(self) -> Pair {
        match self {
            Self::Client => CLIENT,
            Self::Pod(pod) => pod.addresses(),
            Self::Host(node) => node.addresses(),
        }
    }

    pub const fn address(self, family: Family) -> IpAddr {
        self.addresses().of(family)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Pod(pod) => pod.name(),
            Self::Host(node) => node.name(),
        })
    }
}

impl To {
    pub const fn cluster_ip(last: u8, port: u16) -> Self {
        Self { address: Spot::ClusterIp(last), port }
    }

    pub const fn vip(port: u16) -> Self {
        Self { address: Spot::Vip, port }
    }

    /// The machine that asks, by its loopback interface.
    pub const fn loopback(port: u16) -> Self {
        Self { address: Spot::Loopback, port }
    }

    pub const fn external_ip(last: u8, port: u16) -> Self {
        Self { address: Spot::ExternalIp(last), port }
    }

    /// A port of a node's own address.
    pub const fn node(node: Node, port: u16) -> Self {
        Self { address: Spot::Node(node), port }
    }

    /// A port of a node's second address.
    pub const fn second(node: Node, port: u16) -> Self {
        Self { address: Spot::Second(node), port }
    }

    pub const fn of(self, family: Family) -> SocketAddr {
        let pair = match self.address {
            Spot::ClusterIp(last) => cluster_ip(last),
            Spot::Vip => VIP,
            Spot::ExternalIp(last) => external_ip(last),
            Spot::Node(node) => node.addresses(),
            Spot::Second(node) => node.second_addresses(),
            Spot::Loopback => Pair(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST),
        };
        SocketAddr::new(pair.of(family), self.port)
    }
}
