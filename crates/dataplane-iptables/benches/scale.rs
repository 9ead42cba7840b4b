//! How long changes take among many services. Needs root; works in a namespace of its own.
//!
//! `cargo bench -p twinplane-dataplane-iptables [-- SERVICES]`

use std::{net::SocketAddr, sync::Arc, time::Instant};

use dataplane::Dataplane as _;
use dataplane_iptables::{Config, IptablesDataplane};
use model::{
    Backend, Changed, Family, Frontend, FrontendAddress, FrontendKind, NodeConfig, Port, Protocol,
    ServiceName, ServicePort, ServicePortId, Snapshot, TrafficPolicy,
};

fn main() {
    let count = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(10_000);
    let name = format!("tp-ipt-bench-{}", std::process::id());
    let namespace = netns::Owned::create(&name).expect("create namespace");
    namespace.run(|| measure(count)).expect("enter namespace");
}

fn measure(count: u32) {
    let mut plane = IptablesDataplane::open(Config::default()).expect("open");
    let mut snapshot = Snapshot { node: node(), ..Default::default() };
    snapshot.services =
        (0..count).map(|n| service(n, 2 + n % 2)).map(|s| (s.id.clone(), Arc::new(s))).collect();
    let mut time = |what: &str, snapshot: &Snapshot, changed: &Changed| {
        let start = Instant::now();
        let applied = plane.apply(snapshot, changed).expect("apply");
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        println!("{what}: {:?}", start.elapsed());
    };
    time("everything from nothing", &snapshot, &Changed::all(&snapshot));
    for (what, next) in
        [("one endpoint removed", service(5, 1)), ("its only endpoint removed", service(5, 0))]
    {
        let before = snapshot.clone();
        snapshot.services.insert(next.id.clone(), Arc::new(next));
        time(what, &snapshot, &snapshot.changed_since(&before));
    }
    let start = Instant::now();
    let repaired = plane.repair(&snapshot).expect("repair");
    println!("compare all: {:?} ({} differences)", start.elapsed(), repaired.len());
    println!("resident: {} kB", resident());
    let start = Instant::now();
    plane.clean_up().expect("clean up");
    println!("clean up: {:?}", start.elapsed());
}

fn node() -> NodeConfig {
    NodeConfig {
        name: "n".into(),
        addresses: vec!["10.128.0.11".parse().expect("address")],
        pod_cidrs: vec![],
        cluster_cidrs: vec!["10.20.0.0/16".parse().expect("prefix")],
    }
}

fn service(n: u32, endpoints: u32) -> ServicePort {
    let backend = |k: u32| Backend {
        address: SocketAddr::new((0x0a14_0000 + n * 3 + k).to_be_bytes().into(), 8080),
        local: false,
        terminating: false,
    };
    ServicePort {
        id: ServicePortId {
            service: ServiceName { namespace: "bench".into(), name: format!("s{n}") },
            port: "http".into(),
            protocol: Protocol::Tcp,
            family: Family::V4,
        },
        frontends: vec![Frontend {
            kind: FrontendKind::ClusterIp,
            address: FrontendAddress::Ip((0x0a18_0000 + n).to_be_bytes().into()),
            port: Port::new(80).expect("port"),
            policy: TrafficPolicy::Cluster,
            source_ranges: vec![],
        }],
        cluster: (0..endpoints).map(backend).collect(),
        local: vec![],
        usable_anywhere: endpoints > 0,
        endpoints: vec![],
        affinity_seconds: None,
        health_check_port: None,
    }
}

/// `VmRSS` of this process.
fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()).unwrap_or("?").to_owned()
}
