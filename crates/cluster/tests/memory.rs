//! What a large cluster takes: an index of 10,000 Services with 25,000 endpoints, and the update that tells of them. Counted
//! by the allocator, so that it does not depend on the machine.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

use cluster::{Index, Settings};
use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::runtime::watcher::Event;
use model::NodePortAddresses;
use serde_json::json;

/// Bytes that are in use, as they were asked for.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: hands everything to the system's allocator, and counts beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are those that `System` wants.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SERVICES: usize = 10_000;
/// A quarter above what it is.
const LIMIT: usize = 36_000_000;

fn object<K: serde::de::DeserializeOwned>(json: serde_json::Value) -> K {
    serde_json::from_value(json).expect("an object")
}

/// A Service as the benchmark's cluster has it, with two or three endpoints.
fn service(index: &mut Index, number: usize) {
    let name = format!("s{number:05}");
    let address = |net: u32, offset: usize| std::net::Ipv4Addr::from(net + offset as u32);
    index.observe(Event::InitApply(object::<Service>(json!({
        "metadata": {"name": name, "namespace": "bench", "labels": {"app": name}},
        "spec": {"clusterIP": address(0x0a18_1000, number), "clusterIPs": [address(0x0a18_1000, number)],
            "ipFamilies": ["IPv4"], "type": "ClusterIP", "selector": {"app": name},
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}]}
    }))));
    let endpoint = |slot| {
        json!({"addresses": [address(0x0a64_0000, number * 3 + slot)], "nodeName": "node-b", "zone": "zone-b",
            "conditions": {"ready": true, "serving": true, "terminating": false}})
    };
    let endpoints: Vec<_> = (0..2 + number % 2).map(endpoint).collect();
    index.observe(Event::InitApply(object::<EndpointSlice>(json!({
        "metadata": {"name": format!("{name}-x2k4f"), "namespace": "bench",
            "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}]
    }))));
}

#[test]
fn ten_thousand_services_take_what_they_hold() {
    let mut index = Index::new(Settings {
        node: "node-a".into(),
        cluster_cidrs: vec!["10.20.0.0/16".parse().expect("a prefix")],
        node_ports: NodePortAddresses::All,
    });
    index.observe(Event::<Node>::Init);
    index.observe(Event::InitApply(object::<Node>(json!({
        "metadata": {"name": "node-a"}, "spec": {"podCIDR": "10.20.0.0/24", "podCIDRs": ["10.20.0.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.128.0.11"}]}
    }))));
    index.observe(Event::<Node>::InitDone);
    index.observe(Event::<Pod>::Init);
    index.observe(Event::<Pod>::InitDone);
    let before = IN_USE.load(Ordering::Relaxed);
    index.observe(Event::<Service>::Init);
    index.observe(Event::<EndpointSlice>::Init);
    (0..SERVICES).for_each(|number| service(&mut index, number));
    index.observe(Event::<Service>::InitDone);
    index.observe(Event::<EndpointSlice>::InitDone);
    let raw = IN_USE.load(Ordering::Relaxed) - before;
    let update = index.take_update().expect("news");
    assert_eq!(update.services.len(), SERVICES);
    let all = IN_USE.load(Ordering::Relaxed) - before;
    println!("{raw} bytes of objects, {all} bytes with what they compile to");
    assert!(all < LIMIT, "{all} bytes, of which {raw} are objects");
}
