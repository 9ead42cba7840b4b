//! Generated states: what is rendered is read back as it was, and leads nowhere that is not there.

use std::net::{IpAddr, SocketAddr};

use dataplane_iptables::{
    TellingConfig,
    render::{Options, render},
    ruleset::RuleSet,
};
use model::{
    Backend, Family, Frontend, FrontendAddress, FrontendKind, NodeConfig, Port, Protocol, ServiceName,
    ServicePort, ServicePortId, Snapshot, TrafficPolicy,
};
use proptest::{collection::vec, option, prelude::*, sample::select};

fn family() -> impl Strategy<Value = Family> {
    select(&Family::ALL[..])
}

fn address(family: Family) -> BoxedStrategy<IpAddr> {
    match family {
        Family::V4 => any::<[u8; 4]>().prop_map(IpAddr::from).boxed(),
        Family::V6 => any::<[u8; 16]>().prop_map(IpAddr::from).boxed(),
    }
}

fn prefix(family: Family) -> impl Strategy<Value = ipnet::IpNet> {
    let longest = if family == Family::V4 { 32u8 } else { 128 };
    (address(family), 0..=longest).prop_map(|(address, length)| {
        ipnet::IpNet::new(address, length).expect("length within the family's").trunc()
    })
}

fn port() -> impl Strategy<Value = Port> {
    (1..=u16::MAX).prop_map(|port| Port::new(port).expect("not zero"))
}

fn policy() -> impl Strategy<Value = TrafficPolicy> {
    select(vec![TrafficPolicy::Cluster, TrafficPolicy::Local])
}

fn frontend(
    family: Family,
    kind: FrontendKind,
    policy: TrafficPolicy,
    source_ranges: Vec<ipnet::IpNet>,
) -> impl Strategy<Value = Frontend> {
    (address(family), port()).prop_map(move |(address, port)| Frontend {
        kind,
        address: if kind == FrontendKind::NodePort {
            FrontendAddress::Node
        } else {
            FrontendAddress::Ip(address)
        },
        port,
        policy,
        source_ranges: source_ranges.clone(),
    })
}

fn frontends(family: Family) -> impl Strategy<Value = Vec<Frontend>> {
    let ranges = vec(prefix(family), 0..3);
    (policy(), policy(), ranges).prop_flat_map(move |(internal, external, ranges)| {
        let some =
            |kind, count, policy, ranges: &Vec<_>| vec(frontend(family, kind, policy, ranges.clone()), count);
        (
            some(FrontendKind::ClusterIp, 1..2, internal, &vec![]),
            some(FrontendKind::ExternalIp, 0..3, external, &vec![]),
            some(FrontendKind::LoadBalancer, 0..3, external, &ranges),
            some(FrontendKind::NodePort, 0..2, external, &vec![]),
        )
            .prop_map(|(a, b, c, d)| [a, b, c, d].concat())
    })
}

fn backends(family: Family, local: bool) -> impl Strategy<Value = Vec<Backend>> {
    let backend = (address(family), port()).prop_map(move |(address, port)| Backend {
        address: SocketAddr::new(address, port.get()),
        local,
        terminating: false,
    });
    vec(backend, 0..5).prop_map(|mut backends| {
        backends.sort();
        backends.dedup();
        backends
    })
}

/// Any combination of lists, also those that no Kubernetes state leads to.
fn service(family: Family) -> impl Strategy<Value = ServicePort> {
    let protocol = select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp]);
    let id = ("[a-z]{1,4}", "[a-z][a-z0-9-]{0,8}", "[a-z]{0,4}", protocol);
    let lists = (backends(family, false), backends(family, true), any::<bool>());
    (id, frontends(family), lists, option::of(1..86400u32), option::of(port())).prop_map(
        move |(
            (namespace, name, port, protocol),
            frontends,
            (remote, local, elsewhere),
            affinity,
            health,
        )| {
            let mut cluster = [remote, local.clone()].concat();
            cluster.sort();
            ServicePort {
                id: ServicePortId { service: ServiceName { namespace, name }, port, protocol, family },
                frontends,
                usable_anywhere: elsewhere || !cluster.is_empty(),
                endpoints: vec![],
                cluster,
                local,
                affinity_seconds: affinity,
                health_check_port: health,
            }
        },
    )
}

fn state() -> impl Strategy<Value = (Family, Snapshot, Options)> {
    family().prop_flat_map(|family| {
        let node = (vec(address(family), 1..3), vec(prefix(family), 0..2));
        let options = any::<[bool; 6]>().prop_map(
            |[masquerade_all, localhost_node_ports, accounting, random_fully, liberal, log]| Options {
                masquerade_all,
                localhost_node_ports,
                accounting,
                random_fully,
                liberal,
                log: log.then_some(TellingConfig::DEFAULT_GROUP),
            },
        );
        (vec(service(family), 0..6), node, options).prop_map(
            move |(services, (addresses, cluster_cidrs), options)| {
                let node = NodeConfig { name: "n".into(), addresses, cluster_cidrs, ..NodeConfig::default() };
                (family, crate::common::snapshot(node, services), options)
            },
        )
    })
}

proptest! {
    #[test]
    fn rendered_rules_are_read_back_as_they_were((family, snapshot, options) in state()) {
        let (set, refused) = render(&snapshot, family, options);
        prop_assert!(refused.is_empty(), "{refused:?}");
        prop_assert_eq!(RuleSet::parse(&set.to_string()), Ok(set));
    }

    #[test]
    fn no_rule_leads_nowhere((family, snapshot, options) in state()) {
        let (set, _) = render(&snapshot, family, options);
        prop_assert_eq!(set.dangling(), None);
    }
}
