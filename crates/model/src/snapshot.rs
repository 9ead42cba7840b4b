//! The whole desired state of one node, and which keys of it moved.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    path::PathBuf,
    str::FromStr,
    sync::Arc,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    FrontendAddress, FrontendKind, Generation, IdentityId, NodePortAddresses, PodName, PolicyTable, Port,
    ServicePort, ServicePortId, oracle::Origin, policy::PolicyChanged,
};

/// Everything a dataplane is given. Values are shared, so that a clone costs keys only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub generation: Generation,
    pub node: NodeConfig,
    pub services: BTreeMap<ServicePortId, Arc<ServicePort>>,
    /// Pods of this node that have an interface.
    pub endpoints: BTreeMap<PodName, Arc<Endpoint>>,
    /// The other nodes, by name.
    pub peers: BTreeMap<String, Arc<Peer>>,
    /// Whose each address is; the longest prefix counts. Empty: not known yet, and no reason to forget what was.
    pub addresses: BTreeMap<IpNet, IdentityId>,
    /// Who may talk to whom.
    pub policy: PolicyTable,
}

/// The keys of a [`Snapshot`] that differ from the one programmed before.
///
/// Level-triggered: a key that the snapshot holds is to be programmed, a key it lacks is to be removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    pub services: BTreeSet<ServicePortId>,
    pub endpoints: BTreeSet<PodName>,
    pub peers: BTreeSet<String>,
    pub addresses: BTreeSet<IpNet>,
    pub policy: PolicyChanged,
    /// The node's own configuration: everything that depends on it is to be programmed anew.
    pub node: bool,
}

/// What a dataplane must know of the node it runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeConfig {
    pub name: String,
    /// The node's own addresses, both families; the first of a family is the one that masquerades.
    pub addresses: Vec<IpAddr>,
    /// Prefixes that this node's pods get addresses from.
    pub pod_cidrs: Vec<IpNet>,
    /// Prefixes of all pods of the cluster: sources within are pods, never masqueraded to a cluster IP.
    /// Empty: pods cannot be told from others.
    pub cluster_cidrs: Vec<IpNet>,
    /// The device that other nodes' pods are reached through, where they are not routed natively.
    #[serde(default)]
    pub tunnel: Option<Tunnel>,
    /// Which of `addresses` serve node ports.
    #[serde(default)]
    pub node_ports: NodePortAddresses,
}

/// An overlay device of this node. It exists: while it is being made there is no `Tunnel`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    pub interface: String,
    /// A device that was removed and made again has another one.
    pub ifindex: u32,
    /// The device's own, at most one per family: they masquerade what leaves through it.
    pub addresses: Vec<IpAddr>,
    /// UDP port, both ends, that the encapsulated packets use on the uplinks.
    pub port: Port,
}

/// A pod of this node, as the CNI plugin attached it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub pod: PodName,
    pub addresses: Vec<IpAddr>,
    /// Name and index of the host's end of the veth pair.
    pub interface: String,
    pub ifindex: u32,
    /// Of the pod's end.
    pub mac: MacAddress,
    /// Of the host's end.
    pub host_mac: MacAddress,
    /// The file that names the pod's network namespace, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<PathBuf>,
    /// What its objects in the cluster say of it, and not whoever attached it.
    #[serde(skip)]
    pub l7: L7Visibility,
}

/// Which messages of an endpoint's packets may be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct L7Visibility {
    /// To and from port 53, by UDP or TCP.
    pub dns: bool,
    /// HTTP/1, unencrypted, at any port.
    pub http: bool,
}

/// Another node: where its pods are routed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub name: String,
    pub addresses: Vec<IpAddr>,
    pub pod_cidrs: Vec<IpNet>,
}

/// An Ethernet address, in transmission order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bytes: Vec<u8> = s
            .split(':')
            .map(|byte| u8::from_str_radix(byte, 16))
            .collect::<Result<_, _>>()
            .map_err(|error| format!("invalid Ethernet address {s:?}: {error}"))?;
        let bytes =
            bytes.try_into().map_err(|_| format!("invalid Ethernet address {s:?}: want six bytes"))?;
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for MacAddress {
    type Error = String;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> Self {
        mac.to_string()
    }
}

impl Snapshot {
    /// Whether a load balancer hands packets to this address to its nodes, and it is local there.
    pub fn is_load_balancer(&self, address: IpAddr) -> bool {
        let mut frontends = self.services.values().flat_map(|service| &service.frontends);
        frontends.any(|frontend| {
            frontend.kind == FrontendKind::LoadBalancer && frontend.address == FrontendAddress::Ip(address)
        })
    }

    /// What moved from `old` to `self`.
    pub fn changed_since(&self, old: &Self) -> Changed {
        Changed {
            services: differing(&old.services, &self.services),
            endpoints: differing(&old.endpoints, &self.endpoints),
            peers: differing(&old.peers, &self.peers),
            addresses: differing(&old.addresses, &self.addresses),
            policy: self.policy.changed_since(&old.policy),
            node: old.node != self.node,
        }
    }
}

impl Changed {
    /// Every key of `snapshot`, as after a start.
    pub fn all(snapshot: &Snapshot) -> Self {
        let mut all = snapshot.changed_since(&Snapshot::default());
        all.node = true;
        all
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what `other` names.
    pub fn merge(&mut self, other: Self) {
        self.services.extend(other.services);
        self.endpoints.extend(other.endpoints);
        self.peers.extend(other.peers);
        self.addresses.extend(other.addresses);
        self.policy.merge(other.policy);
        self.node |= other.node;
    }

    /// Whether nothing but identities moved.
    pub fn is_addresses_only(&self) -> bool {
        let nothing_else = self.services.is_empty() && self.endpoints.is_empty() && self.peers.is_empty();
        !self.node && nothing_else && self.policy.is_empty() && !self.addresses.is_empty()
    }
}

impl NodeConfig {
    /// Where a packet with this source comes from, as kube-proxy's local detector sees it.
    pub fn origin(&self, source: IpAddr) -> Origin {
        if self.addresses.contains(&source) {
            Origin::Node
        } else if self.cluster_cidrs.iter().any(|cidr| cidr.contains(&source)) {
            Origin::Pod
        } else {
            Origin::External
        }
    }
}

pub(crate) fn differing<K: Ord + Clone, V: PartialEq>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
) -> BTreeSet<K> {
    let moved = new.iter().filter(|(key, value)| old.get(*key) != Some(*value));
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    moved.map(|(key, _)| key).chain(gone).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Arc<Peer> {
        Arc::new(Peer {
            name: "b".into(),
            addresses: vec![address.parse().expect("address")],
            pod_cidrs: vec![],
        })
    }

    #[test]
    fn changed_names_added_modified_and_removed_keys_only() {
        let old = Snapshot {
            peers: [
                ("gone".into(), peer("10.0.0.1")),
                ("kept".into(), peer("10.0.0.2")),
                ("moved".into(), peer("10.0.0.3")),
            ]
            .into(),
            ..Default::default()
        };
        let new = Snapshot {
            peers: [
                ("new".into(), peer("10.0.0.1")),
                ("kept".into(), peer("10.0.0.2")),
                ("moved".into(), peer("10.0.0.4")),
            ]
            .into(),
            ..Default::default()
        };
        let changed = new.changed_since(&old);
        assert_eq!(changed.peers, ["gone".to_owned(), "moved".into(), "new".into()].into());
        assert!(changed.services.is_empty() && changed.endpoints.is_empty() && !changed.node);
    }

    #[test]
    fn mac_address_round_trips() {
        let mac: MacAddress = "02:00:5e:10:00:ff".parse().expect("valid");
        assert_eq!(mac.to_string(), "02:00:5e:10:00:ff");
        assert!("02:00:5e:10:00".parse::<MacAddress>().is_err());
        assert!("02:00:5e:10:00:zz".parse::<MacAddress>().is_err());
    }
}
