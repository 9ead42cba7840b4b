//! A Service and its slices, turned into what a dataplane programs. Pure.

use std::collections::BTreeSet;

use model::{Family, Frontend, FrontendAddress, FrontendKind, ServicePortId};

use crate::{
    choose::{Candidates, Wanted},
    claims::Claim,
    service::{Addresses, Service, ServicePort},
    slice::Slice,
};

/// Every port of `service` in every family, for a node in `zone`, in order of identity.
///
/// Frontends that another Service owns are still in: [`crate::claims`] decides about those.
pub(crate) fn compile<'a>(
    service: &Service,
    slices: impl Iterator<Item = &'a Slice> + Clone,
    zone: Option<&str>,
) -> Vec<model::ServicePort> {
    let mut compiled: Vec<_> = pairs(service)
        .map(|(family, addresses, port)| {
            let frontends = frontends(service, addresses, port);
            let wanted = Wanted {
                internal_policy: service.internal_policy,
                external_policy: service.external_policy,
                externally_reachable: frontends.len() > 1,
            };
            let candidates = candidates(slices.clone(), family, port);
            let chosen = candidates.choose(wanted, zone);
            model::ServicePort {
                id: id(service, family, port),
                frontends,
                cluster: chosen.cluster,
                local: chosen.local,
                usable_anywhere: chosen.usable_anywhere,
                endpoints: candidates.known(),
                affinity_seconds: service.affinity_seconds,
                health_check_port: service.health_check_port,
            }
        })
        .collect();
    compiled.sort_by(|a, b| a.id.cmp(&b.id));
    compiled
}

/// What `service` claims, whether it gets it or not.
pub(crate) fn claims(service: &Service) -> BTreeSet<Claim> {
    pairs(service)
        .flat_map(|(family, addresses, port)| {
            let frontends = frontends(service, addresses, port).into_iter();
            frontends.map(move |frontend| Claim {
                address: frontend.address,
                family,
                port: frontend.port,
                protocol: port.protocol,
            })
        })
        .collect()
}

/// The field of `service`'s object that makes it claim `frontend`.
pub(crate) fn field_of(service: &Service, port: &model::ServicePort, frontend: &Frontend) -> String {
    match frontend.kind {
        FrontendKind::ClusterIp => "spec.clusterIPs".to_owned(),
        FrontendKind::ExternalIp => "spec.externalIPs".to_owned(),
        FrontendKind::LoadBalancer => "status.loadBalancer.ingress".to_owned(),
        FrontendKind::NodePort => {
            let same = |p: &&ServicePort| p.name == port.id.port && p.protocol == port.id.protocol;
            let index = service.ports.iter().find(same).map_or(0, |p| p.index);
            format!("spec.ports[{index}].nodePort")
        }
        FrontendKind::HostPort => unreachable!("a Service has no host ports"),
    }
}

fn pairs(service: &Service) -> impl Iterator<Item = (Family, &Addresses, &ServicePort)> {
    let ports = |(family, addresses)| service.ports.iter().map(move |port| (family, addresses, port));
    service.families.iter().map(|(family, addresses)| (*family, addresses)).flat_map(ports)
}

fn id(service: &Service, family: Family, port: &ServicePort) -> ServicePortId {
    ServicePortId { service: service.name.clone(), port: port.name.clone(), protocol: port.protocol, family }
}

/// In kube-proxy's order; an address that is listed twice counts once, under its first kind.
fn frontends(service: &Service, addresses: &Addresses, port: &ServicePort) -> Vec<Frontend> {
    let at = |kind, address, port, policy, source_ranges: &[_]| Frontend {
        kind,
        address,
        port,
        policy,
        source_ranges: source_ranges.to_vec(),
    };
    let cluster_ip = FrontendAddress::Ip(addresses.cluster_ip);
    let mut all = vec![at(FrontendKind::ClusterIp, cluster_ip, port.port, service.internal_policy, &[])];
    let external =
        |kind, address, number, ranges: &[_]| at(kind, address, number, service.external_policy, ranges);
    all.extend(
        addresses
            .external_ips
            .iter()
            .map(|ip| external(FrontendKind::ExternalIp, FrontendAddress::Ip(*ip), port.port, &[])),
    );
    all.extend(addresses.load_balancer_ips.iter().map(|ip| {
        external(FrontendKind::LoadBalancer, FrontendAddress::Ip(*ip), port.port, &addresses.source_ranges)
    }));
    all.extend(
        port.node_port.map(|number| external(FrontendKind::NodePort, FrontendAddress::Node, number, &[])),
    );
    let mut seen = BTreeSet::new();
    all.retain(|frontend| seen.insert((frontend.address, frontend.port)));
    all
}

fn candidates<'a>(
    slices: impl Iterator<Item = &'a Slice>,
    family: Family,
    wanted: &ServicePort,
) -> Candidates<'a> {
    let mut candidates = Candidates::default();
    for slice in slices.filter(|slice| slice.family == family) {
        let ports = slice.ports.iter().filter(|p| p.name == wanted.name && p.protocol == wanted.protocol);
        for port in ports {
            for endpoint in &slice.endpoints {
                candidates.add(endpoint, port.port);
            }
        }
    }
    candidates
}
