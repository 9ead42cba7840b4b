//! Who sends and who receives: a number for each set of labels, so that the kernel compares numbers, not labels.
//!
//! The numbers are Cilium's, so that Hubble's clients read them as they stand.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The number of an identity. 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IdentityId(u32);

/// Identities whose meaning is fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Reserved {
    /// This node.
    Host = 1,
    /// Whatever is outside of the cluster, where it has one address family.
    World = 2,
    /// An address of the cluster's pods of which nothing is known.
    Unmanaged = 3,
    /// What checks the network between nodes.
    Health = 4,
    /// A pod of this node whose labels are not known yet.
    Init = 5,
    /// Another node.
    RemoteNode = 6,
    /// The Kubernetes API server, unless it runs on this node.
    KubeApiserver = 7,
    /// The cluster's ingress.
    Ingress = 8,
    /// [`Self::World`] in IPv4, where the cluster has both families.
    WorldIpv4 = 9,
    /// [`Self::World`] in IPv6, where the cluster has both families.
    WorldIpv6 = 10,
}

impl Reserved {
    pub const ALL: [Self; 10] = [
        Self::Host,
        Self::World,
        Self::Unmanaged,
        Self::Health,
        Self::Init,
        Self::RemoteNode,
        Self::KubeApiserver,
        Self::Ingress,
        Self::WorldIpv4,
        Self::WorldIpv6,
    ];

    pub const fn id(self) -> IdentityId {
        IdentityId(self as u32)
    }

    pub fn from_id(id: IdentityId) -> Option<Self> {
        Self::ALL.into_iter().find(|reserved| reserved.id() == id)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::World => "world",
            Self::Unmanaged => "unmanaged",
            Self::Health => "health",
            Self::Init => "init",
            Self::RemoteNode => "remote-node",
            Self::KubeApiserver => "kube-apiserver",
            Self::Ingress => "ingress",
            Self::WorldIpv4 => "world-ipv4",
            Self::WorldIpv6 => "world-ipv6",
        }
    }

    /// Its only label.
    pub fn labels(self) -> Labels {
        Labels::from_iter([(format!("reserved:{}", self.name()), String::new())])
    }
}

/// No identity of the whole cluster has this number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid identity {0:?}: want a number from 256 to 65535")]
pub struct InvalidIdentity(pub String);

impl IdentityId {
    /// The first number that stands for a set of labels in the whole cluster.
    pub const FIRST: u32 = 256;
    /// How many of them there are.
    pub const COUNT: u32 = 65_536 - Self::FIRST;
    /// The first number that stands for a prefix on one node only.
    pub const FIRST_LOCAL: u32 = 1 << 24;
    /// How many of those there are.
    pub const LOCAL_COUNT: u32 = 1 << 24;

    /// An identity as the kernel numbers it.
    pub const fn from_raw(number: u32) -> Self {
        Self(number)
    }

    pub const fn get(self) -> u32 {
        self.0
    }

    /// The number at `offset` (modulo [`Self::COUNT`]) among those of the cluster.
    pub const fn of_cluster(offset: u32) -> Self {
        Self(Self::FIRST + offset % Self::COUNT)
    }

    /// Whether it stands for a set of labels in the whole cluster.
    pub const fn is_of_cluster(self) -> bool {
        self.0 >= Self::FIRST && self.0 < Self::FIRST + Self::COUNT
    }

    /// The number at `offset` (modulo [`Self::LOCAL_COUNT`]) among those of one node.
    pub const fn local(offset: u32) -> Self {
        Self(Self::FIRST_LOCAL + offset % Self::LOCAL_COUNT)
    }

    /// Whether it stands for a prefix on one node only.
    pub const fn is_local(self) -> bool {
        self.0 >= Self::FIRST_LOCAL && self.0 - Self::FIRST_LOCAL < Self::LOCAL_COUNT
    }

    /// How far it is behind `first`, counting round.
    pub const fn distance_from(self, first: Self) -> u32 {
        (self.0 + Self::COUNT - first.0) % Self::COUNT
    }
}

impl fmt::Display for IdentityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Of the whole cluster.
impl FromStr for IdentityId {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, InvalidIdentity> {
        let canonical = |id: &Self| id.is_of_cluster() && id.to_string() == text;
        let id = text.parse().ok().map(Self).filter(canonical);
        id.ok_or_else(|| InvalidIdentity(text.to_owned()))
    }
}

/// What an identity stands for: values by key, the key with its source, as `k8s:app` or `reserved:host`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Key and value, in order of key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Each label as Hubble spells it: `source:key=value`, without `=` where there is no value.
    pub fn texts(&self) -> impl Iterator<Item = String> {
        self.iter().map(|(key, value)| match value {
            "" => key.to_owned(),
            value => format!("{key}={value}"),
        })
    }
}

impl FromIterator<(String, String)> for Labels {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(labels: T) -> Self {
        Self(labels.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_numbers_are_hubbles() {
        let all: Vec<_> = Reserved::ALL.iter().map(|r| (r.id().get(), r.name())).collect();
        let expected = [
            (1, "host"),
            (2, "world"),
            (3, "unmanaged"),
            (4, "health"),
            (5, "init"),
            (6, "remote-node"),
            (7, "kube-apiserver"),
            (8, "ingress"),
            (9, "world-ipv4"),
            (10, "world-ipv6"),
        ];
        assert_eq!(all, expected);
        assert!(Reserved::ALL.iter().all(|r| Reserved::from_id(r.id()) == Some(*r)));
        assert_eq!(Reserved::Host.labels().texts().collect::<Vec<_>>(), ["reserved:host"]);
    }

    #[test]
    fn numbers_of_the_cluster_go_round() {
        let last = IdentityId::of_cluster(IdentityId::COUNT - 1);
        assert_eq!(last, IdentityId::from_raw(65_535));
        assert_eq!(IdentityId::of_cluster(IdentityId::COUNT), IdentityId::from_raw(256));
        assert_eq!(IdentityId::from_raw(256).distance_from(last), 1);
        assert_eq!(last.distance_from(last), 0);
    }

    #[test]
    fn only_a_canonical_number_of_the_cluster_is_one() {
        assert_eq!("256".parse(), Ok(IdentityId::from_raw(256)));
        assert_eq!("65535".parse(), Ok(IdentityId::from_raw(65_535)));
        for text in ["", "255", "65536", "0256", "+256", "-1", "x"] {
            assert_eq!(text.parse::<IdentityId>(), Err(InvalidIdentity(text.into())), "{text}");
        }
    }
}
