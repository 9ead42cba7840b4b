//! What a lab consists of: names, namespaces and addresses, all derived from its name, plane and size.
//!
//! Pure: never looks at the machine. Two labs of equal size have equal addresses, so that only the plane differs.
//!
//! ```text
//!  client ──── edge ──┬── node-a ── pods 10.20.0.0/24, fd00:10:20::/64
//!  198.51.100.10      ├── node-b ── pods 10.20.1.0/24, fd00:10:20:1::/64
//!  2001:db8:198::a    └── API 10.128.0.2:6443, relay 10.128.0.2:4245
//! ```

mod addressing;
mod name;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use ipnet::IpNet;
use model::{Family, Plane};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use addressing::Addressing;
pub use name::{InvalidName, LabName};

/// Where the agents of a lab find its API.
pub const API_PORT: u16 = 6443;

/// Where an ebpf lab's agents serve flows, each at its node's address.
pub const OBSERVER_PORT: u16 = 4244;

/// Where its relay does, at the API's address.
pub const RELAY_PORT: u16 = 4245;

/// Most nodes a lab can have: node names end in one letter.
pub const MAX_NODES: u8 = 8;

/// What a lab has in place of a cloud's region.
pub const REGION: &str = "lab";

/// A number of nodes that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} nodes: want 1 to {MAX_NODES}")]
pub struct InvalidSize(u8);

/// Everything about a lab that is known before it exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Topology {
    pub name: LabName,
    pub plane: Plane,
    /// One per address family, the primary one first.
    pub addressing: Vec<Addressing>,
    pub nodes: Vec<NodePlan>,
    /// How packets get from node to node.
    #[serde(default)]
    pub routing: Routing,
}

/// Which address families a lab has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum IpFamilies {
    /// Both; IPv4 is the primary one
    #[default]
    Dual,
    Ipv4,
    Ipv6,
}

/// How packets get to other nodes' pods. What the edge sends to pods, and they to it, is routed natively in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Routing {
    /// The nodes route each other's pod addresses
    #[default]
    Native,
    /// Packets between nodes' pods travel in VXLAN
    Vxlan,
}

impl IpFamilies {
    fn addressing(self) -> Vec<Addressing> {
        match self {
            Self::Dual => vec![Addressing::V4, Addressing::V6],
            Self::Ipv4 => vec![Addressing::V4],
            Self::Ipv6 => vec![Addressing::V6],
        }
    }
}

impl Routing {
    /// As `twinplane agent --routing` takes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Vxlan => "vxlan",
        }
    }
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodePlan {
    /// `node-a`, `node-b`, …
    pub name: String,
    /// Its network namespace.
    pub namespace: String,
    /// One per address family, the primary one first.
    pub addresses: Vec<IpAddr>,
    pub pod_cidrs: Vec<IpNet>,
    pub zone: String,
}

/// Somewhere in a lab where a command can run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The machine outside the cluster.
    Client,
    /// The router and load balancer.
    Edge,
    /// By name.
    Node(String),
    /// `name`, or `namespace/name` where names alone are not unique.
    Pod { namespace: Option<String>, name: String },
}

impl Topology {
    /// The plan of a dual-stack lab with `size` nodes and native routing.
    ///
    /// # Errors
    /// No node, or more than [`MAX_NODES`].
    pub fn new(name: LabName, plane: Plane, size: u8) -> Result<Self, InvalidSize> {
        Self::with_families(name, plane, size, IpFamilies::default())
    }

    /// As [`Self::new`], with these address families.
    ///
    /// # Errors
    /// No node, or more than [`MAX_NODES`].
    pub fn with_families(
        name: LabName,
        plane: Plane,
        size: u8,
        families: IpFamilies,
    ) -> Result<Self, InvalidSize> {
        if !(1..=MAX_NODES).contains(&size) {
            return Err(InvalidSize(size));
        }
        let addressing = families.addressing();
        let nodes = (0..size).map(|index| NodePlan::new(&name, index, &addressing)).collect();
        Ok(Self { name, plane, addressing, nodes, routing: Routing::default() })
    }

    pub fn client_namespace(&self) -> String {
        self.name.namespace("client")
    }

    pub fn edge_namespace(&self) -> String {
        self.name.namespace("edge")
    }

    /// The namespace of the pod with this uid. Short, and the same however often it is asked for.
    pub fn pod_namespace(&self, uid: &str) -> String {
        let digest = Sha256::digest(uid.as_bytes());
        let id: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        self.name.namespace(&format!("pod-{id}"))
    }

    /// Where agents and pods reach the API.
    pub fn api_address(&self) -> SocketAddr {
        SocketAddr::new(self.primary().api(), API_PORT)
    }

    /// Where the relay serves the flows of all nodes, within the lab; only the ebpf plane has one.
    pub fn relay_address(&self) -> Option<SocketAddr> {
        (self.plane == Plane::Ebpf).then(|| SocketAddr::new(self.primary().api(), RELAY_PORT))
    }

    /// The API's URL as a node sees it.
    pub fn api_url(&self) -> String {
        format!("http://{}", self.api_address())
    }

    pub fn node(&self, name: &str) -> Option<&NodePlan> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The addresses of the primary family.
    pub fn primary(&self) -> &Addressing {
        &self.addressing[0]
    }

    /// The prefixes of a family, where the lab has it.
    pub fn of(&self, family: Family) -> Option<&Addressing> {
        self.addressing.iter().find(|addressing| addressing.family() == family)
    }
}

impl NodePlan {
    fn new(lab: &LabName, index: u8, addressing: &[Addressing]) -> Self {
        let letter = char::from(b'a' + index);
        let name = format!("node-{letter}");
        Self {
            namespace: lab.namespace(&name),
            addresses: addressing.iter().map(|family| family.node(index)).collect(),
            pod_cidrs: addressing.iter().map(|family| family.pod_cidr(index)).collect(),
            zone: format!("{REGION}-{letter}"),
            name,
        }
    }

    /// The address of the primary family: the node's first InternalIP.
    pub fn address(&self) -> IpAddr {
        self.addresses[0]
    }

    /// Where its agent serves flows.
    pub fn observer_address(&self) -> SocketAddr {
        SocketAddr::new(self.address(), OBSERVER_PORT)
    }

    /// The address of a family, where the lab has it.
    pub fn address_of(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| Family::of(*address) == family)
    }
}

impl FromStr for Place {
    type Err = std::convert::Infallible;

    /// Never fails: what is no fixed place and no node's name is taken for a pod's.
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let is_node = |rest: &str| rest.len() == 1 && rest.chars().all(|c| c.is_ascii_lowercase());
        Ok(match s {
            "client" => Self::Client,
            "edge" => Self::Edge,
            _ if s.strip_prefix("node-").is_some_and(is_node) => Self::Node(s.to_owned()),
            _ => match s.split_once('/') {
                Some((namespace, name)) => {
                    Self::Pod { namespace: Some(namespace.to_owned()), name: name.to_owned() }
                }
                None => Self::Pod { namespace: None, name: s.to_owned() },
            },
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client => f.write_str("client"),
            Self::Edge => f.write_str("edge"),
            Self::Node(name) | Self::Pod { namespace: None, name } => f.write_str(name),
            Self::Pod { namespace: Some(namespace), name } => write!(f, "{namespace}/{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(name: &str, size: u8) -> Topology {
        Topology::new(LabName::new(name).expect("name"), Plane::Ebpf, size).expect("size")
    }

    #[test]
    fn addresses_are_those_of_the_plan() {
        let lab = topology("x", 2);
        assert_eq!(lab.api_url(), "http://10.128.0.2:6443");
        assert_eq!(lab.primary().client().to_string(), "198.51.100.10");
        assert_eq!(lab.primary().client_gateway().to_string(), "198.51.100.1");
        assert_eq!(lab.primary().node_gateway().to_string(), "10.128.0.1");
        let [a, b] = &lab.nodes[..] else { panic!("two nodes") };
        assert_eq!((a.name.as_str(), a.address().to_string()), ("node-a", "10.128.0.11".into()));
        assert_eq!(
            (b.namespace.as_str(), b.pod_cidrs[0].to_string()),
            ("tpl-x-node-b", "10.20.1.0/24".into())
        );
    }

    #[test]
    fn a_lab_has_the_families_that_were_asked_for_the_primary_one_first() {
        let of = |families| {
            let name = LabName::new("x").expect("name");
            let lab = Topology::with_families(name, Plane::Ebpf, 2, families).expect("size");
            let node = &lab.nodes[1];
            let addresses: Vec<_> = node.addresses.iter().map(ToString::to_string).collect();
            let cidrs: Vec<_> = node.pod_cidrs.iter().map(ToString::to_string).collect();
            (lab.api_url(), addresses.join(" "), cidrs.join(" "))
        };
        let own = |url: &str, addresses: &str, cidrs: &str| (url.into(), addresses.into(), cidrs.into());
        let (v4, v6) = ("http://10.128.0.2:6443", "http://[fd00:10:128::2]:6443");
        assert_eq!(
            of(IpFamilies::Dual),
            own(v4, "10.128.0.12 fd00:10:128::c", "10.20.1.0/24 fd00:10:20:1::/64")
        );
        assert_eq!(of(IpFamilies::Ipv4), own(v4, "10.128.0.12", "10.20.1.0/24"));
        assert_eq!(of(IpFamilies::Ipv6), own(v6, "fd00:10:128::c", "fd00:10:20:1::/64"));
    }

    #[test]
    fn sizes_and_names_that_cannot_be_are_refused() {
        let name = LabName::new("x").expect("name");
        assert_eq!(Topology::new(name.clone(), Plane::Ebpf, 0), Err(InvalidSize(0)));
        assert_eq!(Topology::new(name, Plane::Ebpf, 9), Err(InvalidSize(9)));
        for name in ["", "-a", "a-", "A", "a/b", "..", &"a".repeat(33)] {
            assert!(LabName::new(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_lab_owns_its_namespaces_and_no_other_labs() {
        let labs = ["x", "x-node-b", "x-pod", "x-ebpf", "x-pod-0011aabb"].map(|name| topology(name, 8));
        for lab in &labs {
            let mut namespaces = vec![lab.client_namespace(), lab.edge_namespace(), lab.pod_namespace("u")];
            namespaces.extend(lab.nodes.iter().map(|node| node.namespace.clone()));
            for namespace in namespaces {
                let owners: Vec<_> = labs.iter().filter(|l| l.name.owns_namespace(&namespace)).collect();
                assert_eq!(owners, [lab], "{namespace}");
            }
        }
    }

    #[test]
    fn places_read_back_as_they_print() {
        for text in ["client", "edge", "node-b", "nginx-0", "netflow-test/nginx-0"] {
            let place: Place = text.parse().expect("never fails");
            assert_eq!(place.to_string(), text);
        }
        assert_eq!("node-b".parse(), Ok(Place::Node("node-b".into())));
        assert!(matches!("node-bc".parse(), Ok(Place::Pod { .. })));
    }
}
