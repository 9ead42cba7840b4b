//! The same objects, through our own index and plane, in a namespace of its own.

use std::collections::BTreeMap;

use cluster::{Index, Kind, Settings};
use dataplane::Dataplane as _;
use dataplane_iptables::{Config, IptablesDataplane, parse::Saved, rendered_text};
use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::runtime::watcher::Event;
use model::{Changed, Family, Snapshot};
use serde_json::Value;

use crate::{
    api::{Api, NODE, node_namespace},
    states::{CLUSTER_CIDRS, NODE_ADDRESSES},
};

/// What our plane makes of a state.
pub(crate) struct Ours {
    pub snapshot: Snapshot,
    /// As the kernel has it.
    pub saved: BTreeMap<Family, Saved>,
    /// As it is rendered, for a stand-in to write.
    pub restore: BTreeMap<Family, String>,
}

pub(crate) fn program(api: &Api) -> Ours {
    let snapshot = snapshot(api);
    let namespace = node_namespace("ours");
    apply(&namespace, &snapshot);
    Ours {
        saved: Family::ALL.map(|family| (family, saved(&namespace, family))).into(),
        restore: Family::ALL.map(|family| (family, rendered_text(&snapshot, family))).into(),
        snapshot,
    }
}

fn apply(namespace: &netns::NetNs, snapshot: &Snapshot) {
    let apply = || {
        let mut plane = IptablesDataplane::open(Config::default()).expect("open");
        let applied = plane.apply(snapshot, &Changed::all(snapshot)).expect("apply");
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    };
    namespace.run(apply).expect("enter namespace");
}

/// Makes the counters that rules name, which restore text alone cannot; leaves no rule behind.
pub(crate) fn make_counters(api: &Api) {
    apply(&api.namespace, &snapshot(api));
    for (program, table) in
        ["iptables", "ip6tables"].iter().flat_map(|p| ["mangle", "filter", "nat"].map(|t| (p, t)))
    {
        for command in ["-F", "-X"] {
            let status = api.namespace.command(program).args(["-t", table, command]).status().expect(program);
            assert!(status.success(), "{program} -t {table} {command}");
        }
    }
}

/// The rules of a namespace.
pub(crate) fn saved(namespace: &netns::NetNs, family: Family) -> Saved {
    let program = if family == Family::V4 { "iptables-save" } else { "ip6tables-save" };
    let output = namespace.command(program).output().expect(program);
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Saved::parse(&String::from_utf8_lossy(&output.stdout))
}

/// Selected as kube-proxy and our watches select.
fn snapshot(api: &Api) -> Snapshot {
    let mut index = Index::new(Settings {
        node: NODE.into(),
        cluster_cidrs: CLUSTER_CIDRS.map(|cidr| cidr.parse().expect("prefix")).into(),
        node_ports: model::NodePortAddresses::All,
    });
    list::<Node>(&mut index, api.list("/api/v1/nodes"));
    list::<Pod>(&mut index, vec![]);
    let services = "/api/v1/services?fieldSelector=spec.clusterIP%21%3DNone&labelSelector=%21service.kubernetes.io%2F\
                    service-proxy-name";
    list::<Service>(&mut index, api.list(services));
    let slices = "/apis/discovery.k8s.io/v1/endpointslices?labelSelector=%21service.kubernetes.io%2Fheadless";
    list::<EndpointSlice>(&mut index, api.list(slices));
    index.set_local_addresses(NODE_ADDRESSES.map(|address| address.parse().expect("address")).into());
    let mut snapshot = Snapshot::default();
    snapshot.advance(index.take_update().unwrap_or_else(|| panic!("waits for {:?}", index.waiting_for())));
    let problems: Vec<_> = index.problems().map(ToString::to_string).collect();
    assert_eq!(problems, [""; 0], "states are legal");
    snapshot
}

fn list<K: Kind + serde::de::DeserializeOwned>(index: &mut Index, objects: Vec<Value>) {
    index.observe(Event::<K>::Init);
    for object in objects {
        let read = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}: {object}"));
        index.observe(Event::<K>::InitApply(read));
    }
    index.observe(Event::<K>::InitDone);
}
