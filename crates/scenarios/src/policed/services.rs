//! Services in front of a mesh's pods, as each node is to program them. Pure.

use std::net::{IpAddr, SocketAddr};

use model::{
    Backend, Family, Frontend, FrontendAddress, FrontendKind, KnownEndpoint, Port, ServiceName, ServicePort,
    ServicePortId, TrafficPolicy,
};

use super::Listens;
use crate::places::{VIP, cluster_ip};

/// One port of a Service.
#[derive(Clone, Debug)]
pub struct Published {
    /// Of its cluster IP, from 1.
    pub number: u8,
    pub port: Listens,
    /// Of the backends.
    pub target: u16,
    /// Also at the load-balancer address and at node port 30000 and [`Self::number`], for clients from outside by this policy.
    pub outside: Option<TrafficPolicy>,
}

impl Published {
    /// The node port, where there is one.
    pub const fn node_port(&self) -> u16 {
        30_000 + self.number as u16
    }

    /// `backends` and whether each is the node's own.
    pub(super) fn service_port(&self, family: Family, backends: &[(IpAddr, bool)]) -> ServicePort {
        let (protocol, number) = self.port;
        let port = Port::new(number).expect("a test's port");
        let name = format!("s{}", self.number);
        let cluster: Vec<Backend> = backends
            .iter()
            .map(|(ip, local)| Backend {
                address: SocketAddr::new(*ip, self.target),
                local: *local,
                terminating: false,
            })
            .collect();
        let at = |kind, ip| (kind, FrontendAddress::Ip(ip), port);
        let mut frontends =
            vec![(at(FrontendKind::ClusterIp, cluster_ip(self.number).of(family)), TrafficPolicy::Cluster)];
        if let Some(policy) = self.outside {
            let node_port = Port::new(self.node_port()).expect("not 0");
            frontends.push((at(FrontendKind::LoadBalancer, VIP.of(family)), policy));
            frontends.push(((FrontendKind::NodePort, FrontendAddress::Node, node_port), policy));
        }
        let frontend =
            |((kind, address, port), policy)| Frontend { kind, address, port, policy, source_ranges: vec![] };
        ServicePort {
            id: ServicePortId {
                service: ServiceName { namespace: "policed".into(), name },
                port: format!("p{number}"),
                protocol,
                family,
            },
            frontends: frontends.into_iter().map(frontend).collect(),
            local: cluster.iter().filter(|backend| backend.local).cloned().collect(),
            usable_anywhere: !cluster.is_empty(),
            endpoints: cluster.iter().map(|b| KnownEndpoint { address: b.address, serving: true }).collect(),
            cluster,
            affinity_seconds: None,
            health_check_port: None,
        }
    }
}
