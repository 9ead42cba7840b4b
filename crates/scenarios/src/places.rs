//! Who is who in the two-node cluster: names and addresses. Never touches a kernel.

use std::net::{IpAddr, Ipv4Addr};

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

/// The gateway address that every pod has, and that no machine has.
pub const POD_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
pub const EDGE_CLIENT_SIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub const EDGE_NODE_SIDE: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 1);
/// The load-balancer address, local on every node.
pub const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

impl Node {
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    pub const fn name(self) -> &'static str {
        match self {
            Self::A => "node-a",
            Self::B => "node-b",
        }
    }

    pub const fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 128, 0, 11 + self as u8)
    }

    pub const fn pod_cidr(self) -> &'static str {
        match self {
            Self::A => "10.20.0.0/24",
            Self::B => "10.20.1.0/24",
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

    pub const fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 20, self.node() as u8, 11 + self as u8 % 2)
    }

    /// The pod of that name or with that address.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|pod| pod.name() == name)
    }

    pub fn at(address: IpAddr) -> Option<Self> {
        Self::ALL.into_iter().find(|pod| IpAddr::V4(pod.address()) == address)
    }
}

impl Place {
    pub const fn address(self) -> Ipv4Addr {
        match self {
            Self::Client => CLIENT,
            Self::Pod(pod) => pod.address(),
            Self::Host(node) => node.address(),
        }
    }
}
