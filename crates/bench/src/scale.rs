//! Many Services: the same 2.5 endpoints on average at any number, as a dataplane sees them. Pure.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use model::{
    Backend, Family, Frontend, FrontendAddress, FrontendKind, Port, Protocol, ServiceName, ServicePort,
    ServicePortId, Snapshot, TrafficPolicy,
};

/// A Service's TCP port 80 at `frontends`, Cluster policy, with backends given as `(address, local)`.
pub(crate) fn service(
    name: &str,
    frontends: &[(FrontendKind, IpAddr)],
    backends: &[(SocketAddr, bool)],
) -> ServicePort {
    let frontend = |(kind, address): &(FrontendKind, IpAddr)| Frontend {
        kind: *kind,
        address: FrontendAddress::Ip(*address),
        port: Port::new(80).expect("a port"),
        policy: TrafficPolicy::Cluster,
        source_ranges: vec![],
    };
    let backend = |(address, local): &(SocketAddr, bool)| Backend {
        address: *address,
        local: *local,
        terminating: false,
    };
    let mut cluster: Vec<_> = backends.iter().map(backend).collect();
    cluster.sort();
    ServicePort {
        id: ServicePortId {
            service: ServiceName { namespace: "bench".into(), name: name.into() },
            port: "http".into(),
            protocol: Protocol::Tcp,
            family: Family::of(frontends[0].1),
        },
        frontends: frontends.iter().map(frontend).collect(),
        local: cluster.iter().filter(|backend| backend.local).cloned().collect(),
        usable_anywhere: !cluster.is_empty(),
        cluster,
        endpoints: vec![],
        affinity_seconds: None,
        health_check_port: None,
    }
}

/// Service number `index` of many: two or three endpoints that no pod of the bench has.
pub(crate) fn filler(index: u32) -> ServicePort {
    let address = |net: u32, offset: u32| Ipv4Addr::from(net + offset);
    let frontend = (FrontendKind::ClusterIp, address(0x0a18_1000, index).into());
    let backends: Vec<_> = (0..2 + index % 2)
        .map(|slot| (SocketAddr::new(address(0x0a64_0000, index * 3 + slot).into(), 8080), false))
        .collect();
    service(&format!("s{index:05}"), &[frontend], &backends)
}

/// The same Service with a load-balancer address of its own, too.
pub(crate) fn with_vip(mut service: ServicePort, index: u32) -> ServicePort {
    let mut vip = service.frontends[0].clone();
    vip.kind = FrontendKind::LoadBalancer;
    vip.address = FrontendAddress::Ip(Ipv4Addr::from(0xc612_0000 + index).into());
    service.frontends.push(vip);
    service
}

/// Makes `snapshot` hold fillers up to `count` Services in all.
pub(crate) fn fill(snapshot: &mut Snapshot, count: u32) {
    let have = snapshot.services.len() as u32;
    for index in 0..count.saturating_sub(have) {
        put(snapshot, filler(index + have));
    }
    snapshot.generation = snapshot.generation.next();
}

pub(crate) fn put(snapshot: &mut Snapshot, service: ServicePort) {
    snapshot.services.insert(service.id.clone(), Arc::new(service));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_services_have_25_000_endpoints_and_their_own_addresses() {
        let mut snapshot = Snapshot::default();
        fill(&mut snapshot, 10_000);
        let services = snapshot.services.values();
        assert_eq!(services.clone().map(|service| service.cluster.len()).sum::<usize>(), 25_000);
        let addresses: std::collections::BTreeSet<_> =
            services.clone().flat_map(|s| &s.cluster).map(|backend| backend.address).collect();
        assert_eq!(addresses.len(), 25_000);
        let frontends: std::collections::BTreeSet<_> = services.map(|s| s.frontends[0].address).collect();
        assert_eq!(frontends.len(), 10_000);
        fill(&mut snapshot, 10_000);
        assert_eq!(snapshot.services.len(), 10_000);
    }
}
