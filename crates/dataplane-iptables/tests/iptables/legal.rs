//! Generated states that a cluster can really be in, from small pools of addresses so that things meet.

use std::net::{IpAddr, SocketAddr};

use dataplane_iptables::rule::{Match, Rule};
use ipnet::IpNet;
use model::{
    Backend, Family, Frontend, FrontendAddress, FrontendKind, KnownEndpoint, NodeConfig, NodePortAddresses,
    Protocol, ServicePort, ServicePortId, Snapshot, TrafficPolicy,
};
use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::{select, subsequence},
};

use crate::common::{cidr, ip, port};

/// Everything that generated states are made of, in one family.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    pub nodes: Vec<IpAddr>,
    /// Of the two prefixes below, in turn; the first two are this node's.
    pub pods: Vec<IpAddr>,
    pub cluster_cidrs: Vec<IpNet>,
    pub cluster_ips: Vec<IpAddr>,
    pub vips: Vec<IpAddr>,
    pub external_ips: Vec<IpAddr>,
    pub outside: Vec<IpAddr>,
    pub ranges: Vec<IpNet>,
}

impl Addresses {
    pub(crate) fn of(family: Family) -> Self {
        let list = |v4: &[&str], v6: &[&str]| {
            let chosen = if family == Family::V4 { v4 } else { v6 };
            chosen.iter().map(|text| ip(text)).collect::<Vec<_>>()
        };
        let nets = |v4: &[&str], v6: &[&str]| {
            let chosen = if family == Family::V4 { v4 } else { v6 };
            chosen.iter().map(|text| cidr(text)).collect::<Vec<_>>()
        };
        Self {
            nodes: list(&["10.128.0.11", "192.168.7.11"], &["fd00:128::11", "fd00:7::11"]),
            pods: list(
                &["10.20.0.1", "10.20.0.2", "10.20.1.1", "10.21.0.1"],
                &["fd00:20::1", "fd00:20::2", "fd00:20:0:1::1", "fd00:21::1"],
            ),
            cluster_cidrs: nets(&["10.20.0.0/16", "10.21.0.0/16"], &["fd00:20::/32", "fd00:21::/32"]),
            cluster_ips: (1..5).map(|n| numbered(family, "10.24.0.", "fd00:24::", n)).collect(),
            vips: (1..9).map(|n| numbered(family, "203.0.113.", "2001:db8:a::", n)).collect(),
            external_ips: (1..5).map(|n| numbered(family, "198.51.100.10", "2001:db8:e::", n)).collect(),
            outside: list(&["198.51.100.7", "192.0.2.9"], &["2001:db8:c::7", "2001:db8:d::9"]),
            ranges: nets(
                &["198.51.100.0/24", "192.0.2.9/32", "10.20.0.0/16", "10.128.0.0/24", "192.168.7.11/32"],
                &["2001:db8:c::/64", "2001:db8:d::9/128", "fd00:20::/32", "fd00:128::/64", "fd00:7::11/128"],
            ),
        }
    }

    /// Clients of every origin.
    pub(crate) fn sources(&self) -> Vec<IpAddr> {
        [&self.nodes[..], &self.pods, &self.outside].concat()
    }
}

/// An outside client of the family of `address`.
pub(crate) fn stranger(address: IpAddr) -> IpAddr {
    Addresses::of(Family::of(address)).outside[0]
}

fn numbered(family: Family, v4: &str, v6: &str, n: u32) -> IpAddr {
    ip(&if family == Family::V4 { format!("{v4}{n}") } else { format!("{v6}{n}") })
}

/// Up to four services on a node that has one or two addresses and knows its pods by up to two prefixes.
pub(crate) fn state() -> impl Strategy<Value = (Family, Snapshot)> {
    select(&Family::ALL[..]).prop_flat_map(|family| {
        let pool = Addresses::of(family);
        let services: Vec<_> = (0..4).map(|n| option::weighted(0.8, service(family, n))).collect();
        let host_ports = vec(host_port(family), 0..3);
        (services, host_ports, 1..=2usize, 0..=2usize, node_ports(family)).prop_map(
            move |(services, host_ports, addresses, cidrs, node_ports)| {
                let node = NodeConfig {
                    name: "n".into(),
                    addresses: pool.nodes[..addresses].to_vec(),
                    cluster_cidrs: pool.cluster_cidrs[..cidrs].to_vec(),
                    node_ports,
                    ..NodeConfig::default()
                };
                // A host port at another node's address concerns that node.
                let here = |service: &ServicePort| match service.frontends[0].address {
                    FrontendAddress::Ip(address) => node.addresses.contains(&address),
                    FrontendAddress::Node => true,
                };
                let host_ports = host_ports.into_iter().filter(here);
                let services: Vec<_> = services.into_iter().flatten().chain(host_ports).collect();
                (family, crate::common::snapshot(node, services))
            },
        )
    })
}

fn node_ports(family: Family) -> impl Strategy<Value = NodePortAddresses> {
    let pool = Addresses::of(family);
    let other = Addresses::of(if family == Family::V4 { Family::V6 } else { Family::V4 });
    let within = |prefixes: &[IpNet]| NodePortAddresses::Within(prefixes.to_vec());
    select(vec![
        NodePortAddresses::All,
        NodePortAddresses::Primary,
        within(&pool.ranges[3..4]),
        within(&pool.ranges[4..5]),
        within(&[pool.ranges[3], other.ranges[4]]),
        within(&other.ranges),
        within(&pool.ranges[..1]),
    ])
}

/// Port 9000 or 9001 of one of this node's pods, at the whole node or at one address.
fn host_port(family: Family) -> impl Strategy<Value = ServicePort> {
    let pool = Addresses::of(family);
    let at = option::of(select(pool.nodes.clone()));
    (0..2usize, at, select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp])).prop_map(
        move |(pod, at, protocol)| {
            let number = port(9000 + pod as u16);
            let name = model::PodName { namespace: "d".into(), name: format!("p{pod}") };
            let backend = SocketAddr::new(pool.pods[pod], 9090);
            let backends = vec![Backend { address: backend, local: true, terminating: false }];
            ServicePort {
                id: ServicePortId::of_host_port(&name, (at, number), protocol, family),
                frontends: vec![Frontend {
                    kind: FrontendKind::HostPort,
                    address: at.map_or(FrontendAddress::Node, FrontendAddress::Ip),
                    port: number,
                    policy: TrafficPolicy::Local,
                    source_ranges: vec![],
                }],
                usable_anywhere: true,
                endpoints: vec![KnownEndpoint { address: backend, serving: true }],
                cluster: backends.clone(),
                local: backends,
                affinity_seconds: None,
                health_check_port: None,
            }
        },
    )
}

/// What is drawn of one service.
#[derive(Clone, Debug)]
struct Drawn {
    protocol: Protocol,
    internal: TrafficPolicy,
    external: TrafficPolicy,
    vips: usize,
    external_ip: bool,
    node_port: bool,
    ranges: Vec<IpNet>,
    endpoints: Vec<SocketAddr>,
    remote_terminating: bool,
    affinity: Option<u32>,
}

fn service(family: Family, n: usize) -> impl Strategy<Value = ServicePort> {
    let pool = Addresses::of(family);
    let policy = || select(vec![TrafficPolicy::Cluster, TrafficPolicy::Local]);
    let backends: Vec<_> =
        pool.pods.iter().chain(&pool.nodes[..1]).map(|a| SocketAddr::new(*a, 8080)).collect();
    let count = backends.len();
    let kinds = (0..=2usize, any::<bool>(), any::<bool>());
    let endpoints = (subsequence(backends, 0..=count), any::<bool>());
    (
        select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp]),
        policy(),
        policy(),
        kinds,
        vec(select(pool.ranges.clone()), 0..3),
        endpoints,
        option::of(1..86400u32),
    )
        .prop_map(move |(protocol, internal, external, kinds, ranges, endpoints, affinity)| {
            let (vips, external_ip, node_port) = kinds;
            let (endpoints, remote_terminating) = endpoints;
            let drawn = Drawn {
                protocol,
                internal,
                external,
                vips,
                external_ip,
                node_port,
                ranges,
                endpoints,
                remote_terminating,
                affinity,
            };
            drawn.service(family, n)
        })
}

impl Drawn {
    fn service(self, family: Family, n: usize) -> ServicePort {
        let pool = Addresses::of(family);
        let (cluster, local) = self.choices(&pool);
        ServicePort {
            id: ServicePortId {
                service: model::ServiceName { namespace: "d".into(), name: format!("s{n}") },
                port: "p".into(),
                protocol: self.protocol,
                family,
            },
            frontends: self.frontends(&pool, n),
            usable_anywhere: !self.endpoints.is_empty(),
            endpoints: self.endpoints.iter().map(|a| KnownEndpoint { address: *a, serving: true }).collect(),
            cluster,
            local,
            affinity_seconds: self.affinity,
            health_check_port: None,
        }
    }

    fn frontends(&self, pool: &Addresses, n: usize) -> Vec<Frontend> {
        let frontend = |kind, address, number: u16, policy| Frontend {
            kind,
            address,
            port: port(number),
            policy,
            source_ranges: vec![],
        };
        let at = FrontendAddress::Ip;
        let mut all = vec![frontend(FrontendKind::ClusterIp, at(pool.cluster_ips[n]), 80, self.internal)];
        if self.external_ip {
            all.push(frontend(FrontendKind::ExternalIp, at(pool.external_ips[n]), 80, self.external));
        }
        for vip in pool.vips[2 * n..].iter().take(self.vips) {
            let vip = frontend(FrontendKind::LoadBalancer, at(*vip), 80, self.external);
            all.push(Frontend { source_ranges: self.ranges.clone(), ..vip });
        }
        if self.node_port {
            all.push(frontend(
                FrontendKind::NodePort,
                FrontendAddress::Node,
                30000 + n as u16,
                self.external,
            ));
        }
        all
    }

    /// What clients under Cluster and Local policy may reach. A terminating backend is chosen only by the policy that
    /// has no ready one: then the lists are not one within the other.
    fn choices(&self, pool: &Addresses) -> (Vec<Backend>, Vec<Backend>) {
        let local = [&pool.pods[..2], &pool.nodes[..1]].concat();
        let all: Vec<_> = self
            .endpoints
            .iter()
            .map(|address| Backend {
                address: *address,
                local: local.contains(&address.ip()),
                terminating: self.remote_terminating && local.contains(&address.ip()),
            })
            .collect();
        let preferred = |backends: Vec<Backend>| {
            let ready: Vec<_> = backends.iter().filter(|backend| !backend.terminating).cloned().collect();
            if ready.is_empty() { backends } else { ready }
        };
        let own = all.iter().filter(|backend| backend.local).cloned().collect();
        let external = self.external_ip || self.node_port || self.vips > 0;
        let internal_only = self.internal == TrafficPolicy::Local && !external;
        (if internal_only { vec![] } else { preferred(all) }, preferred(own))
    }
}

/// The chance of each rule of a policy chain that chooses an endpoint by chance, in order.
pub(crate) fn chances(rules: &[Rule]) -> Vec<f64> {
    let mut left = 1.0;
    let chance = |rule: &Rule| {
        let to = rule.jumps_to().filter(|chain| chain.as_str().starts_with("KUBE-SEP-"))?;
        let mut chance = Some(1.0);
        for condition in &rule.matches {
            match condition {
                Match::Statistic(probability) => chance = Some(probability.fraction()),
                Match::RecentCheck { list, .. } if list == to => chance = None,
                _ => {}
            }
        }
        chance
    };
    let all = rules.iter().filter_map(chance).map(|chance| {
        let here = left * chance;
        left -= here;
        here
    });
    all.collect()
}
