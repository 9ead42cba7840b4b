//! Metrics as they are scraped.

use std::{net::SocketAddr, sync::Arc};

use dataplane::{Counter as PlaneCounter, MapFill};
use model::{
    Backend, Family as IpFamily, Frontend, FrontendAddress, Plane, Port, Protocol, ServicePort,
    ServicePortId, TrafficPolicy,
};

use super::*;

pub(super) fn view(maps: &[(&str, u64)], counters: &[(&str, u64)]) -> View {
    let fill = |(name, entries): &(&str, u64)| MapFill {
        name: (*name).to_owned(),
        entries: *entries,
        capacity: 0,
        bytes: 0,
        refused: 0,
    };
    let counter = |(name, packets): &(&str, u64)| PlaneCounter {
        name: (*name).to_owned(),
        packets: *packets,
        bytes: 0,
    };
    let status = PlaneStatus {
        plane: Plane::Iptables,
        features: vec![],
        maps: maps.iter().map(fill).collect(),
        counters: counters.iter().map(counter).collect(),
        unseen: vec![],
    };
    View {
        status,
        no_local_endpoints: NoLocalEndpoints::default(),
        objects: vec![(ObjectState::Failed, 2)],
        full_in_seconds: [("nf_conntrack".to_owned(), 720)].into(),
    }
}

/// The value of the line that begins with `name`, labels included.
fn value(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn fact_20_programming_is_timed_from_the_trigger_and_never_from_before_the_start() {
    let metrics = Metrics::default();
    let ago = |seconds| Timestamp::now() - jiff::SignedDuration::from_secs(seconds);
    let triggers = vec![ago(3600), Timestamp::now()];
    metrics.synced(Duration::from_millis(3), Some(Causes { services: 1, slices: 2, triggers }));
    let text = metrics.render(&view(&[], &[]), &Registry::default());
    assert_eq!(value(&text, "kubeproxy_network_programming_duration_seconds_count"), Some(1.0), "{text}");
    assert_eq!(value(&text, "kubeproxy_network_programming_duration_seconds_bucket{le=\"0.25\"}"), Some(1.0));
    assert_eq!(value(&text, "kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"0.004\"}"), Some(1.0));
    assert_eq!(value(&text, "kubeproxy_sync_proxy_rules_service_changes_total"), Some(1.0));
    assert_eq!(value(&text, "kubeproxy_sync_proxy_rules_endpoint_changes_total"), Some(2.0));
}

#[test]
fn changes_are_pending_until_they_are_programmed() {
    let metrics = Metrics::default();
    let pending = || {
        value(
            &metrics.render(&view(&[], &[]), &Registry::default()),
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
        )
    };
    let causes = Causes { services: 0, slices: 5, triggers: vec![] };
    metrics.queued(&causes);
    metrics.synced(Duration::ZERO, None);
    assert_eq!(pending(), Some(5.0), "the dataplane refused");
    metrics.synced(Duration::ZERO, Some(causes));
    assert_eq!(pending(), Some(0.0));
}

#[test]
fn facts_60_99_112_a_planes_own_counts_have_kube_proxys_names() {
    let maps = [("rules nat ipv4", 40), ("rules filter ipv6", 7), ("nf_conntrack", 3)];
    let counters = [
        ("dropped_invalid", 4),
        ("accepted_localhost_node_port", 5),
        ("deleted_stale_udp_flows", 6),
        ("rejected_no_endpoints", 7),
    ];
    let text = Metrics::default().render(&view(&maps, &counters), &Registry::default());
    for (name, expected) in [
        ("kubeproxy_sync_proxy_rules_iptables_total{table=\"nat\",ip_family=\"ipv4\"}", 40.0),
        ("twinplane_map_full_in_seconds{map=\"nf_conntrack\"}", 720.0),
        ("kubeproxy_sync_proxy_rules_iptables_total{table=\"filter\",ip_family=\"ipv6\"}", 7.0),
        ("kubeproxy_iptables_ct_state_invalid_dropped_packets_total", 4.0),
        ("kubeproxy_iptables_localhost_nodeports_accepted_packets_total", 5.0),
        ("kubeproxy_conntrack_reconciler_deleted_entries_total", 6.0),
        ("twinplane_datapath_packets_total{counter=\"rejected_no_endpoints\"}", 7.0),
        ("twinplane_map_entries{map=\"nf_conntrack\"}", 3.0),
        ("twinplane_objects{state=\"failed\"}", 2.0),
    ] {
        assert_eq!(value(&text, name), Some(expected), "{name} in {text}");
    }
}

fn service(name: &str, internal: TrafficPolicy, external: TrafficPolicy, local: bool) -> Arc<ServicePort> {
    let backend = |local: bool| Backend {
        address: SocketAddr::from(([10, 20, u8::from(!local), 1], 80)),
        local,
        terminating: false,
    };
    let frontend = |kind, last, policy| Frontend {
        kind,
        address: FrontendAddress::Ip([10, 24, 0, last].into()),
        port: Port::new(80).expect("port"),
        policy,
        source_ranges: vec![],
    };
    Arc::new(ServicePort {
        id: ServicePortId {
            service: ServiceName { namespace: "ns".into(), name: name.into() },
            port: String::new(),
            protocol: Protocol::Tcp,
            family: IpFamily::V4,
        },
        frontends: vec![
            frontend(FrontendKind::ClusterIp, 1, internal),
            frontend(FrontendKind::LoadBalancer, 2, external),
            frontend(FrontendKind::ExternalIp, 3, external),
        ],
        cluster: vec![backend(local)],
        local: if local { vec![backend(true)] } else { vec![] },
        usable_anywhere: true,
        endpoints: vec![],
        affinity_seconds: None,
        health_check_port: None,
    })
}

#[test]
fn fact_113_services_that_drop_count_once_by_policy() {
    use TrafficPolicy::{Cluster, Local};
    let services = [
        service("both", Local, Local, false),
        service("external", Cluster, Local, false),
        service("served", Local, Local, true),
        service("neither", Cluster, Cluster, false),
    ];
    let count = |services: &[Arc<ServicePort>]| {
        let services = services.iter().map(|service| (service.id.clone(), Arc::clone(service))).collect();
        NoLocalEndpoints::of(&Snapshot { services, ..Snapshot::default() })
    };
    assert_eq!(count(&services), NoLocalEndpoints { internal: 1, external: 2 });
    assert_eq!(count(&services[2..]), NoLocalEndpoints::default());
    let view = View { no_local_endpoints: count(&services), ..view(&[], &[]) };
    let text = Metrics::default().render(&view, &Registry::default());
    let name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total";
    assert_eq!(value(&text, &format!("{name}{{traffic_policy=\"internal\"}}")), Some(1.0), "{text}");
    assert_eq!(value(&text, &format!("{name}{{traffic_policy=\"external\"}}")), Some(2.0), "{text}");
}
