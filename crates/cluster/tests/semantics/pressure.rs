//! Bad input and bursts: whatever happened on the way, the end is the state that was told last.

use std::collections::BTreeMap;

use crate::support::*;
use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::runtime::watcher::Event;
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Value, json};

#[test]
fn a_half_written_slice_adds_nothing_and_harms_nobody_and_counts_once_it_is_whole() {
    let whole = slice("s", json!([endpoint("10.20.0.1", NODE, "rs")]), json!({}));
    let neighbour = slice("n", json!([endpoint("10.20.0.2", NODE, "rs")]), json!({}));
    for (why, patch) in [
        ("no ports", json!({"ports": null})),
        ("a port without number", json!({"ports": [{"name": ""}]})),
        ("no endpoints", json!({"endpoints": []})),
        ("endpoints without addresses", json!({"endpoints": [{"addresses": []}]})),
        ("an address that is none", json!({"endpoints": [{"addresses": ["10.20.0."]}]})),
        ("another address type", json!({"addressType": "FQDN"})),
        ("no address type", json!({"addressType": ""})),
        ("no Service", json!({"metadata": {"labels": {"kubernetes.io/service-name": ""}}})),
        ("no labels", json!({"metadata": {"labels": null}})),
    ] {
        let half = merged(whole.clone(), &patch);
        let mut cluster = Cluster::with(&service("web", json!({})), &[neighbour.clone(), half.clone()]);
        assert_eq!(addresses(&cluster.only().cluster), "10.20.0.2:8080", "{why}");
        cluster.apply::<EndpointSlice>(&whole).settle();
        assert_eq!(addresses(&cluster.only().cluster), "10.20.0.1:8080 10.20.0.2:8080", "{why}: whole");
        assert_eq!(cluster.problems(), [""; 0], "{why}: whole");
        cluster.apply::<EndpointSlice>(&half).settle();
        assert_eq!(addresses(&cluster.only().cluster), "10.20.0.2:8080", "{why}: again");
    }
}

#[test]
fn an_address_that_is_listed_a_thousand_times_counts_once() {
    let endpoints: Value = (0..1000).map(|_| endpoint("10.20.0.1", NODE, "rs")).collect();
    let slices = [slice("a", endpoints.clone(), json!({})), slice("b", endpoints, json!({}))];
    let cluster = Cluster::with(&load_balancer(json!({"spec": {"externalTrafficPolicy": "Local"}})), &slices);
    let port = cluster.only();
    assert_eq!((port.cluster.len(), port.local.len(), port.endpoints.len()), (1, 1, 1));
}

#[test]
fn a_service_that_flips_its_family_leaves_nothing_of_the_old_one() {
    let v6 = json!({"spec": {"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]}});
    let neighbour = service("other", json!({"spec": {"clusterIPs": ["10.24.0.2"]}}));
    let slices = [
        slice("four", json!([endpoint("10.20.0.1", NODE, "rs")]), json!({})),
        slice("six", json!([endpoint("fd20::1", NODE, "rs")]), json!({"addressType": "IPv6"})),
    ];
    let mut cluster = Cluster::with(&service("web", json!({})), &slices);
    cluster.apply::<Service>(&neighbour).settle();
    for (patch, frontend, backend) in [
        (v6, "ns/web ClusterIp [fd00::1]:80/TCP", "[fd20::1]:8080"),
        (json!({}), "ns/web ClusterIp 10.24.0.1:80/TCP", "10.20.0.1:8080"),
    ] {
        let moved = cluster.apply::<Service>(&service("web", patch)).settle();
        assert_eq!(moved, ["ns/web/TCP", "ns/web/TCP"], "one goes, one comes, the neighbour stays");
        assert!(cluster.frontends().contains(&frontend.to_owned()), "{:?}", cluster.frontends());
        assert_eq!(cluster.frontends().len(), 2);
        let web = cluster.snapshot.services.values().find(|port| port.id.service.name == "web").expect("web");
        assert_eq!(addresses(&web.cluster), backend);
    }
}

#[test]
fn ten_thousand_updates_of_one_service_are_one_update_of_one_key() {
    let mut cluster = Cluster::with(&service("web", json!({})), &[]);
    for number in 0..10_000u32 {
        let address = format!("10.20.{}.{}", number / 250 % 250, number % 250 + 1);
        cluster.apply::<EndpointSlice>(&slice("s", json!([endpoint(&address, NODE, "rs")]), json!({})));
    }
    assert_eq!(cluster.settle(), ["ns/web/TCP"]);
    assert_eq!(addresses(&cluster.only().cluster), "10.20.39.250:8080");
}

/// Everything that a history may name. An object is one of a few versions, or absent.
type World = BTreeMap<(Kind, u8), u8>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Service,
    Slice,
    Pod,
}

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    Apply(Kind, u8, u8),
    Delete(Kind, u8),
    /// The watch breaks, the server lists everything anew.
    Relist(Kind),
    /// The server was set back, and lists only what it had before: these.
    Restore(Kind, Vec<u8>),
    /// The dataplane takes what there is.
    Settle,
}

/// Versions differ in addresses, families, types, labels and validity; several Services want one external IP.
fn object(kind: Kind, name: u8, version: u8) -> Value {
    match kind {
        Kind::Service => {
            let ip = format!("10.24.0.{}", name + 1);
            let patch = match version {
                0 => json!({}),
                1 => json!({"spec": {"externalIPs": ["198.51.100.9"]}}),
                2 => json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}}),
                3 => {
                    json!({"spec": {"clusterIP": format!("fd00::{}", name + 1), "clusterIPs": [format!("fd00::{}", name + 1)]}})
                }
                _ => json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": "x"}}}),
            };
            let base = service(&format!("s{name}"), json!({"spec": {"clusterIP": ip, "clusterIPs": [ip]}}));
            merged(base, &patch)
        }
        Kind::Slice => {
            let owner = format!("s{}", (name + version / 4) % 3);
            let labels = json!({"metadata": {"labels": {"kubernetes.io/service-name": owner}}});
            let endpoints = match version {
                0 => json!([]),
                1 => json!([endpoint("10.20.0.1", NODE, "rs")]),
                2 => json!([endpoint("10.20.0.1", NODE, "st"), endpoint("10.20.0.2", "node-b", "rs")]),
                3 => json!([endpoint("10.20.0.", NODE, "rs")]),
                _ => json!([endpoint("10.20.0.3", NODE, "rs")]),
            };
            slice(&format!("slice-{name}"), endpoints, labels)
        }
        Kind::Pod => json!({
            "metadata": {"namespace": "ns", "name": format!("pod-{name}"), "creationTimestamp": format!("2026-01-01T00:00:0{name}Z")},
            "spec": {"nodeName": NODE, "containers": [{"name": "c", "ports": [
                {"containerPort": 80, "hostPort": 30_080, "hostIP": if version.is_multiple_of(2) { "10.128.0.11" } else { "" }}]}]},
            "status": {"phase": if version == 4 { "Failed" } else { "Running" },
                       "podIPs": [{"ip": format!("10.20.0.{}", version + 1)}]},
        }),
    }
}

fn step() -> impl Strategy<Value = Step> {
    let kind = select(vec![Kind::Service, Kind::Slice, Kind::Pod]);
    prop_oneof![
        6 => (kind.clone(), 0..3u8, 0..5u8).prop_map(|(kind, name, version)| Step::Apply(kind, name, version)),
        2 => (kind.clone(), 0..3u8).prop_map(|(kind, name)| Step::Delete(kind, name)),
        1 => kind.clone().prop_map(Step::Relist),
        1 => (kind, vec(0..3u8, 0..3)).prop_map(|(kind, kept)| Step::Restore(kind, kept)),
        2 => Just(Step::Settle),
    ]
}

fn observe(cluster: &mut Cluster, kind: Kind, object: &Value, delete: bool) {
    match (kind, delete) {
        (Kind::Service, false) => cluster.apply::<Service>(object),
        (Kind::Service, true) => cluster.delete::<Service>(object),
        (Kind::Slice, false) => cluster.apply::<EndpointSlice>(object),
        (Kind::Slice, true) => cluster.delete::<EndpointSlice>(object),
        (Kind::Pod, false) => cluster.apply::<Pod>(object),
        (Kind::Pod, true) => cluster.delete::<Pod>(object),
    };
}

fn list(cluster: &mut Cluster, kind: Kind, world: &World) {
    let of_kind = world.iter().filter(|((of, _), _)| *of == kind);
    let objects: Vec<_> = of_kind.map(|((kind, name), version)| object(*kind, *name, *version)).collect();
    match kind {
        Kind::Service => cluster.list::<Service>(&objects),
        Kind::Slice => cluster.list::<EndpointSlice>(&objects),
        Kind::Pod => cluster.list::<Pod>(&objects),
    }
}

proptest! {
    #[test]
    fn however_it_came_about_the_snapshot_is_that_of_the_last_state(history in vec(step(), 0..40)) {
        let (mut cluster, mut world) = (Cluster::new(), World::new());
        for step in history {
            match step {
                Step::Apply(kind, name, version) => {
                    world.insert((kind, name), version);
                    observe(&mut cluster, kind, &object(kind, name, version), false);
                }
                Step::Delete(kind, name) => {
                    if let Some(version) = world.remove(&(kind, name)) {
                        observe(&mut cluster, kind, &object(kind, name, version), true);
                    }
                }
                Step::Relist(kind) => list(&mut cluster, kind, &world),
                Step::Restore(kind, kept) => {
                    world.retain(|(of, name), _| *of != kind || kept.contains(name));
                    list(&mut cluster, kind, &world);
                }
                Step::Settle => _ = cluster.settle(),
            }
        }
        cluster.settle();
        let mut fresh = Cluster::unsynced();
        fresh.index.observe(Event::<Node>::Init);
        fresh.index.observe(Event::InitApply(read::<Node>(&node(NODE, json!({})))));
        fresh.index.observe(Event::<Node>::InitDone);
        for kind in [Kind::Service, Kind::Slice, Kind::Pod] {
            list(&mut fresh, kind, &world);
        }
        fresh.settle();
        prop_assert_eq!(&cluster.snapshot.services, &fresh.snapshot.services);
        prop_assert_eq!(cluster.problems(), fresh.problems());
    }
}
