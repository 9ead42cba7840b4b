//! What holds of every outcome, whatever the state.

use std::{net::SocketAddr, sync::Arc};

use model::{
    Backend, Family, Frontend, FrontendAddress, FrontendKind, Masquerade, NodeConfig, Port, Protocol,
    ServiceName, ServicePort, ServicePortId, Snapshot, TrafficPolicy,
    oracle::{Origin, Outcome, Packet, forward},
};
use proptest::{collection::vec, prelude::*, sample::select};

const NODE: [u8; 4] = [10, 128, 0, 11];

fn policy() -> impl Strategy<Value = TrafficPolicy> {
    select(vec![TrafficPolicy::Cluster, TrafficPolicy::Local])
}

/// Pods 10.20.0.x are local, 10.20.1.x remote. Few, so that clients are backends, too.
fn backend() -> impl Strategy<Value = Backend> {
    (0..2u8, 1..5u8).prop_map(|(node, last)| Backend {
        address: SocketAddr::new([10, 20, node, last].into(), 8080),
        local: node == 0,
        terminating: false,
    })
}

/// Every service has addresses of its own, made from its number.
fn service(number: u8) -> impl Strategy<Value = ServicePort> {
    let ranges = select(vec![vec![], vec!["10.20.0.0/16"], vec!["198.51.100.0/25"], vec!["10.128.0.0/24"]]);
    (vec(backend(), 0..4), policy(), policy(), ranges).prop_map(
        move |(mut cluster, internal, external, ranges)| {
            cluster.sort();
            cluster.dedup();
            let at = |kind, address, port, policy| Frontend {
                kind,
                address,
                port: Port::new(port).expect("port"),
                policy,
                source_ranges: vec![],
            };
            let ip = |bytes: [u8; 4]| FrontendAddress::Ip(bytes.into());
            let mut vip = at(FrontendKind::LoadBalancer, ip([203, 0, 113, number]), 80, external);
            vip.source_ranges = ranges.iter().map(|range| range.parse().expect("prefix")).collect();
            ServicePort {
                id: ServicePortId {
                    service: ServiceName { namespace: "d".into(), name: format!("s{number}") },
                    port: String::new(),
                    protocol: Protocol::Tcp,
                    family: Family::V4,
                },
                frontends: vec![
                    at(FrontendKind::ClusterIp, ip([10, 24, 0, number]), 80, internal),
                    vip,
                    at(FrontendKind::NodePort, FrontendAddress::Node, 30000 + u16::from(number), external),
                ],
                local: cluster.iter().filter(|backend| backend.local).cloned().collect(),
                usable_anywhere: !cluster.is_empty(),
                endpoints: vec![],
                cluster,
                affinity_seconds: None,
                health_check_port: None,
            }
        },
    )
}

fn snapshot() -> impl Strategy<Value = Snapshot> {
    (service(1), service(2), service(3)).prop_map(|(a, b, c)| Snapshot {
        node: NodeConfig {
            name: "node-a".into(),
            addresses: vec![NODE.into()],
            pod_cidrs: vec!["10.20.0.0/24".parse().expect("prefix")],
            cluster_cidrs: vec!["10.20.0.0/16".parse().expect("prefix")],
            ..NodeConfig::default()
        },
        services: [a, b, c].into_iter().map(|service| (service.id.clone(), Arc::new(service))).collect(),
        ..Default::default()
    })
}

/// From a pod, the node or outside; to some service's frontend.
fn packet() -> impl Strategy<Value = Packet> {
    let source = prop_oneof![
        (1..5u8).prop_map(|last| [10, 20, 0, last]),
        Just(NODE),
        Just([198, 51, 100, 10]),
        Just([198, 51, 100, 200]),
    ];
    let destination = (1..4u8).prop_flat_map(|number| {
        let frontends =
            [([10, 24, 0, number], 80), ([203, 0, 113, number], 80), (NODE, 30000 + u16::from(number))];
        select(frontends.to_vec())
    });
    (source, destination).prop_map(|(source, (destination, port))| Packet {
        source: SocketAddr::new(source.into(), 40_000),
        destination: SocketAddr::new(destination.into(), port),
        protocol: Protocol::Tcp,
    })
}

/// The service and frontend that a generated packet is for.
fn addressed<'a>(packet: &Packet, snapshot: &'a Snapshot) -> (&'a ServicePort, &'a Frontend) {
    let matches = |frontend: &Frontend| {
        frontend.port.get() == packet.destination.port()
            && match frontend.address {
                FrontendAddress::Ip(address) => address == packet.destination.ip(),
                FrontendAddress::Node => snapshot.node.addresses.contains(&packet.destination.ip()),
            }
    };
    let all =
        snapshot.services.values().flat_map(|service| service.frontends.iter().map(move |f| (&**service, f)));
    all.into_iter().find(|(_, frontend)| matches(frontend)).expect("generated packets are for a frontend")
}

proptest! {
    #[test]
    fn a_packet_goes_to_backends_of_its_service_in_order((snapshot, packet) in (snapshot(), packet())) {
        let (service, _) = addressed(&packet, &snapshot);
        match forward(&packet, &snapshot) {
            Outcome::Forwarded { choices } => {
                prop_assert!(!choices.is_empty());
                prop_assert!(choices.is_sorted_by_key(|choice| choice.backend));
                for choice in choices {
                    prop_assert!(service.cluster.iter().any(|backend| backend.address == choice.backend));
                }
            }
            Outcome::NoEndpoints => prop_assert!(!service.usable_anywhere),
            Outcome::NoLocalEndpoints => prop_assert!(service.usable_anywhere && service.local.is_empty()),
            Outcome::SourceDenied => prop_assert!(service.usable_anywhere),
            Outcome::Untouched => prop_assert!(false, "every generated packet is for a frontend"),
        }
    }

    #[test]
    fn under_local_policy_outside_clients_keep_their_address((snapshot, packet) in (snapshot(), packet())) {
        let (_, frontend) = addressed(&packet, &snapshot);
        let outside = snapshot.node.origin(packet.source.ip()) == Origin::External;
        if outside && frontend.kind != FrontendKind::ClusterIp && frontend.policy == TrafficPolicy::Local
            && let Outcome::Forwarded { choices } = forward(&packet, &snapshot)
        {
            for choice in choices {
                prop_assert_eq!(choice.masquerade, Masquerade::No);
                prop_assert!(choice.backend.ip().to_string().starts_with("10.20.0."));
            }
        }
    }

    #[test]
    fn nobody_is_shown_itself_as_its_client((snapshot, packet) in (snapshot(), packet())) {
        if let Outcome::Forwarded { choices } = forward(&packet, &snapshot) {
            for choice in choices {
                prop_assert!(choice.backend.ip() != packet.source.ip() || choice.masquerade == Masquerade::Yes);
            }
        }
    }

    #[test]
    fn other_services_do_not_matter((snapshot, packet) in (snapshot(), packet())) {
        let (service, _) = addressed(&packet, &snapshot);
        let mut alone = snapshot.clone();
        alone.services.retain(|id, _| *id == service.id);
        prop_assert_eq!(forward(&packet, &alone), forward(&packet, &snapshot));
    }

    #[test]
    fn only_guarded_frontends_deny((snapshot, packet) in (snapshot(), packet())) {
        let (_, frontend) = addressed(&packet, &snapshot);
        if forward(&packet, &snapshot) == Outcome::SourceDenied {
            prop_assert_eq!(frontend.kind, FrontendKind::LoadBalancer);
            prop_assert!(!frontend.source_ranges.iter().any(|range| range.contains(&packet.source.ip())));
        }
    }
}
