//! Snapshot → rules, as kube-proxy 1.36 writes them. Pure: no IO, no state, both families from the same code.

mod base;
mod host_port;
mod service;

use std::{collections::BTreeMap, num::NonZeroU16};

use ipnet::IpNet;
use model::{Family, FrontendKind, NodeConfig, ServicePort, ServicePortId, Snapshot, told::Stop};

use crate::{
    names::{self, ChainName},
    rule::{Match, Rule, Target},
    ruleset::{RuleSet, Table},
};

/// The bit that marks packets for masquerading (kube-proxy's `--iptables-masquerade-bit`, default 14).
pub const MASQUERADE_MARK: u32 = 1 << 14;

/// Counts what the INVALID rule dropped.
pub const INVALID_DROPPED: &str = "ct_state_invalid_dropped_pkts";
/// Counts node-port connections over loopback.
pub const LOCALHOST_ACCEPTED: &str = "localhost_nps_accepted_pkts";

/// Above this many endpoints, rules of endpoints carry no comments (kube-proxy's large-cluster mode).
pub const LARGE_CLUSTER_ENDPOINTS: usize = 1000;

/// What rules depend on besides the snapshot: settings, and what this kernel can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Masquerade everything that goes to a cluster IP.
    pub masquerade_all: bool,
    /// Node ports answer on 127.0.0.1 (IPv4 only; needs `route_localnet`).
    pub localhost_node_ports: bool,
    /// `nfacct` counters can be used.
    pub accounting: bool,
    /// `MASQUERADE --random-fully` can be used.
    pub random_fully: bool,
    /// `nf_conntrack_tcp_be_liberal` is set: INVALID packets need not be dropped.
    pub liberal: bool,
    /// What rules stop they log to this group first. kube-proxy has no such rules.
    pub log: Option<NonZeroU16>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            masquerade_all: false,
            localhost_node_ports: true,
            accounting: true,
            random_fully: true,
            liberal: false,
            log: None,
        }
    }
}

/// A service port that no set of rules can express.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("frontends for outside clients differ in traffic policy")]
    MixedPolicies,
    #[error("load-balancer frontends differ in source ranges")]
    MixedSourceRanges,
    #[error("frontend {0} is not of the service's address family")]
    FrontendFamily(std::net::IpAddr),
    #[error("backend {0} is not of the service's address family")]
    BackendFamily(std::net::SocketAddr),
    #[error("host port has {0} pods behind it, not one")]
    HostPort(usize),
    #[error("host port is mixed with frontends of other kinds")]
    MixedHostPort,
    #[error("name has a control character")]
    Name,
    /// iptables cuts longer ones off without a word (`XT_MAX_COMMENT_LEN`).
    #[error("name makes a comment of more than 255 bytes")]
    LongName,
}

/// The chains that hold rules of many services, each after the ones it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Portal {
    FilterServices,
    FilterExternal,
    FilterNodePorts,
    FilterFirewall,
    NatNodePorts,
    NatServices,
    /// There only while the node has host ports.
    NatHostPorts,
}

impl Portal {
    pub const ALL: [Self; 7] = [
        Self::FilterServices,
        Self::FilterExternal,
        Self::FilterNodePorts,
        Self::FilterFirewall,
        Self::NatNodePorts,
        Self::NatServices,
        Self::NatHostPorts,
    ];

    pub const fn table(self) -> Table {
        match self {
            Self::NatServices | Self::NatNodePorts | Self::NatHostPorts => Table::Nat,
            _ => Table::Filter,
        }
    }

    pub const fn chain(self) -> &'static str {
        match self {
            Self::FilterServices | Self::NatServices => names::SERVICES,
            Self::FilterNodePorts | Self::NatNodePorts => names::NODE_PORTS,
            Self::NatHostPorts => names::HOST_PORTS,
            Self::FilterExternal => names::EXTERNAL_SERVICES,
            Self::FilterFirewall => names::PROXY_FIREWALL,
        }
    }
}

/// All rules of one service port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceRules {
    /// What it adds to the chains that services share, by [`Portal`].
    pub portals: [Vec<Rule>; Portal::ALL.len()],
    /// Its own chains, all in the nat table, each after the ones it leads to.
    pub chains: Vec<(ChainName, Vec<Rule>)>,
}

impl ServiceRules {
    pub fn portal(&mut self, portal: Portal) -> &mut Vec<Rule> {
        &mut self.portals[portal as usize]
    }

    /// Those in shared chains, then those of its own chains.
    pub fn all(&self) -> impl Iterator<Item = &Rule> {
        self.portals.iter().flatten().chain(self.chains.iter().flat_map(|(_, rules)| rules))
    }

    /// How many rules there are in all.
    pub fn len(&self) -> usize {
        self.all().count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Renders for one family of one node.
#[derive(Clone, Debug)]
pub struct Renderer<'a> {
    pub node: &'a NodeConfig,
    pub family: Family,
    pub options: Options,
    /// Whether rules of endpoints carry comments.
    pub comments: bool,
    /// Whether the node has host ports.
    pub host_ports: bool,
}

impl<'a> Renderer<'a> {
    /// For all of `snapshot`.
    pub fn new(snapshot: &'a Snapshot, family: Family, options: Options) -> Self {
        let comments = endpoints(snapshot, family) <= LARGE_CLUSTER_ENDPOINTS;
        let host_ports = has_host_ports(snapshot.services.keys(), family);
        Self { node: &snapshot.node, family, options, comments, host_ports }
    }

    /// The shared chains that this node has.
    pub fn portals(&self) -> impl Iterator<Item = Portal> {
        let host_ports = self.host_ports;
        Portal::ALL.into_iter().filter(move |portal| host_ports || *portal != Portal::NatHostPorts)
    }

    /// The rule that stops what `rule` matches, behind the one that logs it, if that is wanted.
    fn stopping(&self, rule: Rule, stop: Stop) -> impl Iterator<Item = Rule> + use<> {
        let log = self.options.log.map(|group| {
            let mut log = rule.clone();
            // A packet counts once.
            log.matches.retain(|condition| !matches!(condition, Match::Account(_)));
            log.then(Target::Log { group, stop })
        });
        let target = match stop {
            Stop::NoEndpoints => Target::Reject,
            Stop::NoLocalEndpoints
            | Stop::SourceRange
            | Stop::Invalid
            | Stop::MartianLoopback
            | Stop::Policy => Target::Drop,
            Stop::Audited => Target::Return,
        };
        log.into_iter().chain([rule.then(target)])
    }

    /// Where this cluster's pods are. kube-proxy's `--cluster-cidr` has at most one prefix per family.
    fn cluster_cidrs(&self) -> impl Iterator<Item = IpNet> {
        self.node.cluster_cidrs.iter().copied().filter(|net| Family::of(net.addr()) == self.family)
    }
}

/// Whether one of `ids` is a host port of the family.
pub fn has_host_ports<'a>(ids: impl IntoIterator<Item = &'a ServicePortId>, family: Family) -> bool {
    ids.into_iter().any(|id| id.family == family && id.is_host_port())
}

/// Endpoints of all services of a family, as kube-proxy counts them for its large-cluster mode.
pub fn endpoints(snapshot: &Snapshot, family: Family) -> usize {
    snapshot.services.values().filter(|service| service.id.family == family).map(|s| reachable(s).len()).sum()
}

/// Backends that have a chain of their own: those of either policy, without duplicates, sorted.
pub fn reachable(service: &ServicePort) -> Vec<std::net::SocketAddr> {
    let mut addresses: Vec<_> = service.cluster.iter().chain(&service.local).map(|b| b.address).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// The rules of `snapshot` in one family, and the services that no rules can express.
pub fn render(
    snapshot: &Snapshot,
    family: Family,
    options: Options,
) -> (RuleSet, BTreeMap<&ServicePortId, Refused>) {
    let renderer = Renderer::new(snapshot, family, options);
    let mut set = renderer.base();
    let mut refused = BTreeMap::new();
    for service in snapshot.services.values().filter(|service| service.id.family == family) {
        match renderer.service(service) {
            Ok(rules) => {
                let portals = Portal::ALL.into_iter().zip(rules.portals);
                for (portal, rules) in portals.filter(|(_, rules)| !rules.is_empty()) {
                    set.insert(portal.table(), portal.chain(), rules);
                }
                for (chain, rules) in rules.chains {
                    set.insert(Table::Nat, chain, rules);
                }
            }
            Err(error) => {
                refused.insert(&service.id, error);
            }
        }
    }
    for portal in renderer.portals() {
        set.insert(portal.table(), portal.chain(), renderer.portal_tail(portal));
    }
    (set, refused)
}

fn of_kind(service: &ServicePort, kind: FrontendKind) -> impl Iterator<Item = &model::Frontend> {
    service.frontends.iter().filter(move |frontend| frontend.kind == kind)
}
