//! Chain names as kube-proxy makes them. Never renders a rule.

use std::{borrow::Borrow, fmt, net::SocketAddr};

use model::ServicePortId;
use sha2::{Digest as _, Sha256};

pub const SERVICES: &str = "KUBE-SERVICES";
pub const EXTERNAL_SERVICES: &str = "KUBE-EXTERNAL-SERVICES";
pub const NODE_PORTS: &str = "KUBE-NODEPORTS";
pub const FORWARD: &str = "KUBE-FORWARD";
pub const PROXY_FIREWALL: &str = "KUBE-PROXY-FIREWALL";
/// Shared with the kubelet, which makes an identical one.
pub const FIREWALL: &str = "KUBE-FIREWALL";
pub const POSTROUTING: &str = "KUBE-POSTROUTING";
pub const MARK_MASQ: &str = "KUBE-MARK-MASQ";
pub const CANARY: &str = "KUBE-PROXY-CANARY";
/// Marks what does not come from a pod, where pods have several prefixes and one match cannot tell. kube-proxy takes
/// one prefix per family and has no such chain.
pub const OUTSIDE: &str = "TWINPLANE-OUTSIDE";
/// Made by a kubelet that manages iptables; where it is present, [`FIREWALL`] is not ours to delete.
pub const KUBELET_CANARY: &str = "KUBE-KUBELET-CANARY";

/// The chains that exist once per node.
pub const FIXED: [&str; 9] = [
    SERVICES,
    EXTERNAL_SERVICES,
    NODE_PORTS,
    FORWARD,
    PROXY_FIREWALL,
    FIREWALL,
    POSTROUTING,
    MARK_MASQ,
    CANARY,
];

/// Host ports, one rule each, as the kubelet once wrote them.
///
/// Not the portmap plugin's `CNI-HOSTPORT-*`: where that plugin runs as well, it deletes what it finds in chains of
/// those names and did not make. These share kube-proxy's masquerading, and its marks.
pub const HOST_PORTS: &str = "KUBE-HOSTPORTS";
/// Chains that kube-proxy does not have; each is there only while something leads to it.
const ADDED: [&str; 2] = [OUTSIDE, HOST_PORTS];

/// What is to be asked of policies, in the mangle table: every packet to or from a pod comes here.
pub const POLICY: &str = "TWINPLANE-POLICY";
/// Stops packets of flows that policies have denied since they were opened.
pub const POLICY_HELD: &str = "TWINPLANE-HELD";
/// Whatever comes here would be denied if it were not only audited; it is let through. Has no rules.
pub const POLICY_AUDIT: &str = "TWINPLANE-AUDIT";
/// Whatever comes here is left to tiers that are not there; it is let through. Has no rules.
pub const POLICY_PASS: &str = "TWINPLANE-PASS";
/// The chains of policies that are there as long as policies are enforced.
pub const POLICY_FIXED: [&str; 4] = [POLICY, POLICY_HELD, POLICY_AUDIT, POLICY_PASS];
/// Begins the names of chains that say what policies say; a letter for the tier follows, and a hash of its contents.
pub const POLICY_LIST: &str = "TP-POL-";

const PER_SERVICE: [&str; 6] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-", "KUBE-HP-"];

/// The name of a chain. At most 28 bytes in the kernel (`XT_EXTENSION_MAXNAMELEN`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainName(String);

impl ChainName {
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// One of the chains that exist per Service or endpoint.
    pub fn is_per_service(&self) -> bool {
        PER_SERVICE.iter().any(|prefix| self.0.starts_with(prefix))
    }

    /// One of those kube-proxy does not have.
    pub fn is_added(&self) -> bool {
        ADDED.contains(&self.as_str())
    }

    /// One of the chains that go when nothing leads to them any more.
    pub fn is_temporary(&self) -> bool {
        self.is_per_service() || self.is_added()
    }

    /// A chain this plane makes, per Service or once per node.
    pub fn is_own(&self) -> bool {
        self.is_temporary() || FIXED.contains(&self.as_str())
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for ChainName {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl Borrow<str> for ChainName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The chains of one Service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceChains {
    /// Endpoints under Cluster policy.
    pub svc: ChainName,
    /// Endpoints under Local policy.
    pub svl: ChainName,
    /// What arrives for a node port, an external IP or a load-balancer IP.
    pub ext: ChainName,
    /// Source ranges of the load-balancer IPs.
    pub fw: ChainName,
    /// A pod's host port, which has none of the others.
    pub hp: ChainName,
}

impl ServiceChains {
    pub fn of(id: &ServicePortId) -> Self {
        let hash = hash(&hashed_name(id));
        let named = |prefix: &str| ChainName(format!("{prefix}{hash}"));
        Self {
            svc: named("KUBE-SVC-"),
            svl: named("KUBE-SVL-"),
            ext: named("KUBE-EXT-"),
            fw: named("KUBE-FW-"),
            hp: named("KUBE-HP-"),
        }
    }
}

/// The chain of one endpoint of one Service port.
pub fn endpoint_chain(id: &ServicePortId, endpoint: SocketAddr) -> ChainName {
    ChainName(format!("KUBE-SEP-{}", hash(&format!("{}{endpoint}", hashed_name(id)))))
}

/// kube-proxy hashes the Service port's name with the protocol in lower case appended.
fn hashed_name(id: &ServicePortId) -> String {
    format!("{id}{}", id.protocol.lowercase())
}

/// The first 16 characters of base32 (RFC 4648) over SHA-256.
pub(crate) fn hash(text: &str) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let digest = Sha256::digest(text.as_bytes());
    // Ten bytes are sixteen groups of five bits.
    let bits = digest[..10].iter().fold(0u128, |bits, byte| bits << 8 | u128::from(*byte));
    (0..16).rev().map(|group| char::from(ALPHABET[(bits >> (group * 5) & 31) as usize])).collect()
}

#[cfg(test)]
mod tests {
    use model::{Family, Protocol, ServiceName};

    use super::*;

    fn id(name: &str) -> ServicePortId {
        ServicePortId {
            service: ServiceName { namespace: "d".into(), name: name.into() },
            port: "http".into(),
            protocol: Protocol::Tcp,
            family: Family::V4,
        }
    }

    #[test]
    fn names_are_the_ones_kube_proxy_wrote() {
        assert_eq!(ServiceChains::of(&id("c3")).svc.as_str(), "KUBE-SVC-KYGTGRKTESS6LIJY");
        assert_eq!(ServiceChains::of(&id("r3")).fw.as_str(), "KUBE-FW-7IMMH3ZBZHAVALR5");
        let endpoint = "10.128.2.10:8080".parse().expect("address");
        assert_eq!(endpoint_chain(&id("c3"), endpoint).as_str(), "KUBE-SEP-2MWGD45Y6AMIOJPZ");
    }

    #[test]
    fn own_chains_are_told_from_others() {
        for own in ["KUBE-SVC-KYGTGRKTESS6LIJY", "KUBE-SERVICES", "KUBE-PROXY-CANARY", OUTSIDE] {
            assert!(ChainName::from(own).is_own(), "{own}");
        }
        for other in ["INPUT", "DOCKER", KUBELET_CANARY, "KUBE-ROUTER-INPUT"] {
            assert!(!ChainName::from(other).is_own(), "{other}");
        }
    }
}
