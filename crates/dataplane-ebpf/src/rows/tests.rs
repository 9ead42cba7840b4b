//! Service ports as rows of the tables.

use std::net::SocketAddr;

use abi::{V4, V6};
use model::{
    Backend as ModelBackend, Family, Frontend as ModelFrontend, FrontendAddress, NodePortAddresses, Port,
    Protocol, ServiceName,
};

use super::*;

fn node() -> NodeConfig {
    NodeConfig {
        addresses: vec!["10.128.0.11".parse().expect("ip"), "fd00:128::11".parse().expect("ip")],
        ..NodeConfig::default()
    }
}

fn frontend(kind: FrontendKind, address: FrontendAddress, policy: TrafficPolicy) -> ModelFrontend {
    ModelFrontend { kind, address, port: Port::new(80).expect("port"), policy, source_ranges: vec![] }
}

fn backend(address: &str, local: bool) -> ModelBackend {
    ModelBackend { address: address.parse().expect("address"), local, terminating: false }
}

fn service(frontends: Vec<ModelFrontend>) -> ServicePort {
    ServicePort {
        id: ServicePortId {
            service: ServiceName { namespace: "n".into(), name: "s".into() },
            port: "http".into(),
            protocol: Protocol::Tcp,
            family: Family::V4,
        },
        frontends,
        cluster: vec![backend("10.20.0.5:8080", true), backend("10.20.1.7:8080", false)],
        local: vec![backend("10.20.0.5:8080", true)],
        usable_anywhere: true,
        endpoints: vec![],
        affinity_seconds: None,
        health_check_port: None,
    }
}

fn ip(text: &str) -> FrontendAddress {
    FrontendAddress::Ip(text.parse().expect("ip"))
}

/// The rows say what the model says, for every kind, policy and origin.
#[test]
fn every_scope_and_mask_follows_the_model() {
    for kind in KINDS {
        for policy in [TrafficPolicy::Cluster, TrafficPolicy::Local] {
            let service = service(vec![frontend(kind, ip("10.24.0.10"), policy)]);
            let rows = rows::<V4>(&service, &node(), &Options::default()).expect("rows");
            let row = rows.frontends.values().next().expect("one frontend");
            for (origin, set, flag) in [
                (Origin::Pod, row.inside, frontend_flags::MASQUERADE_POD),
                (Origin::Node, row.inside, frontend_flags::MASQUERADE_NODE),
                (Origin::External, row.outside, frontend_flags::MASQUERADE_EXTERNAL),
            ] {
                let Target::Backends(expected, masquerade) = service.target(&service.frontends[0], origin)
                else {
                    panic!("{kind:?} {policy:?} {origin:?} has backends");
                };
                let slots: Vec<SocketAddr> = (0..set.len)
                    .map(|slot| rows.backends[&BackendKey { set: set.set, slot }])
                    .map(|row| SocketAddr::new(row.address.to_ip(), row.port.get()))
                    .collect();
                let addresses: Vec<SocketAddr> = expected.iter().map(|backend| backend.address).collect();
                assert_eq!(slots, addresses, "{kind:?} {policy:?} {origin:?}");
                assert_eq!(
                    row.flags & flag != 0,
                    masquerade == Masquerade::Yes,
                    "{kind:?} {policy:?} {origin:?}"
                );
            }
        }
    }
}

#[test]
fn a_node_port_has_a_row_per_node_address_of_the_family() {
    let service =
        service(vec![frontend(FrontendKind::NodePort, FrontendAddress::Node, TrafficPolicy::Cluster)]);
    let rows = rows::<V4>(&service, &node(), &Options::default()).expect("rows");
    let addresses: Vec<IpAddr> = rows.frontends.keys().map(|key| key.address.to_ip()).collect();
    assert_eq!(addresses, ["10.128.0.11".parse::<IpAddr>().expect("ip")]);
}

#[test]
fn without_local_backends_outside_clients_have_an_empty_set() {
    let mut service =
        service(vec![frontend(FrontendKind::LoadBalancer, ip("203.0.113.1"), TrafficPolicy::Local)]);
    service.local.clear();
    let rows = rows::<V4>(&service, &node(), &Options::default()).expect("rows");
    let row = rows.frontends.values().next().expect("one frontend");
    assert_eq!((row.outside.len, row.inside.len), (0, 2));
    assert_ne!(row.flags & frontend_flags::USABLE, 0);
}

#[test]
fn what_cannot_be_programmed_is_said_and_nothing_is_made_up() {
    let mixed = service(vec![frontend(FrontendKind::ClusterIp, ip("10.24.0.10"), TrafficPolicy::Cluster)]);
    assert_eq!(rows::<V6>(&mixed, &node(), &Options::default()), Err(Unsupported::OtherFamily));
}

#[test]
fn source_ranges_of_the_other_family_allow_nobody() {
    let mut only_v6 = frontend(FrontendKind::LoadBalancer, ip("203.0.113.1"), TrafficPolicy::Cluster);
    only_v6.source_ranges = vec!["2001:db8::/32".parse().expect("range")];
    let rows = rows::<V4>(&service(vec![only_v6]), &node(), &Options::default()).expect("rows");
    let row = rows.frontends.values().next().expect("one frontend");
    assert_ne!(row.flags & frontend_flags::SOURCE_RANGES, 0, "still enforced");
    assert!(rows.ranges.is_empty());
}

#[test]
fn names_of_sets_are_stable_and_apart() {
    let id = service(vec![]).id;
    assert_eq!(set_id(&id, "local"), set_id(&id.clone(), "local"));
    let mut others = vec![set_id(&id, "local"), set_id(&id, "cluster")];
    others.push(set_id(&ServicePortId { port: "https".into(), ..id.clone() }, "local"));
    others.push(set_id(&ServicePortId { protocol: Protocol::Udp, ..id.clone() }, "local"));
    others.push(set_id(&ServicePortId { family: Family::V6, ..id }, "local"));
    let distinct: std::collections::BTreeSet<SetId> = others.iter().copied().collect();
    assert_eq!(distinct.len(), others.len());
}

#[test]
fn a_process_of_the_node_as_backend_has_its_answers_in_the_prefilter() {
    let mut host = service(vec![frontend(FrontendKind::ClusterIp, ip("10.24.0.10"), TrafficPolicy::Cluster)]);
    host.cluster = vec![backend("10.128.0.11:8080", true)];
    let rows = rows::<V4>(&host, &node(), &Options::default()).expect("rows");
    let address = V4::from_ip("10.128.0.11".parse().expect("ip")).expect("v4");
    assert!(rows.bits.contains(&abi::prefilter::bit(address, Be16::new(8080), 6)));
}

#[test]
fn node_ports_are_served_where_the_node_says_and_host_ports_everywhere() {
    let filtered = NodeConfig {
        node_ports: NodePortAddresses::Within(vec!["192.0.2.0/24".parse().expect("cidr")]),
        ..node()
    };
    for (kind, expected) in [(FrontendKind::NodePort, 0), (FrontendKind::HostPort, 1)] {
        let service = service(vec![frontend(kind, FrontendAddress::Node, TrafficPolicy::Local)]);
        let rows = rows::<abi::V4>(&service, &filtered, &Options::default()).expect("rows");
        assert_eq!(rows.frontends.len(), expected, "{kind:?}");
        assert!(rows.frontends.values().all(|row| super::kind(row.flags) == kind));
    }
}
