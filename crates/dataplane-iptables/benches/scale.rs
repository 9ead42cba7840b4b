//! How long changes take among many services. Needs root; works in a namespace of its own.
//!
//! `cargo bench -p twinplane-dataplane-iptables [-- SERVICES]`

use std::{
    io::Write as _,
    net::SocketAddr,
    process::{Command, Stdio},
    sync::Arc,
    time::Instant,
};

use dataplane::Dataplane as _;
use dataplane_iptables::{Config, IptablesDataplane};
use model::{
    Backend, Changed, Family, Frontend, FrontendAddress, FrontendKind, KnownEndpoint, NodeConfig, Port,
    Protocol, ServiceName, ServicePort, ServicePortId, Snapshot, TrafficPolicy,
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
    measure_flows(&mut plane, &snapshot);
    let start = Instant::now();
    plane.clean_up().expect("clean up");
    println!("clean up: {:?}", start.elapsed());
}

/// Tracked UDP flows that a busy resolver's clients leave; every second one loses its endpoint.
const FLOWS: u32 = 100_000;

fn measure_flows(plane: &mut IptablesDataplane, snapshot: &Snapshot) {
    let resolver = |endpoints: u32| {
        let mut service = service(20_000, endpoints);
        service.id.protocol = Protocol::Udp;
        Arc::new(service)
    };
    let next = |before: &Snapshot, endpoints| {
        let mut next = before.clone();
        let service = resolver(endpoints);
        next.services.insert(service.id.clone(), service);
        next
    };
    let (two, one) = (next(snapshot, 2), next(snapshot, 1));
    plane.apply(&two, &two.changed_since(snapshot)).expect("apply");
    track(&two.services[&resolver(2).id]);
    let start = Instant::now();
    plane.apply(&one, &one.changed_since(&two)).expect("apply");
    let deleted = plane.status().counters.into_iter().find(|c| c.name == "deleted_stale_udp_flows");
    println!(
        "endpoint of {FLOWS} tracked flows removed: {:?} ({} flows deleted)",
        start.elapsed(),
        deleted.map_or(0, |counter| counter.packets)
    );
    plane.apply(snapshot, &snapshot.changed_since(&one)).expect("apply");
}

/// Makes entries as forwarded packets of [`FLOWS`] clients would.
fn track(service: &ServicePort) {
    let FrontendAddress::Ip(to) = service.frontends[0].address else { unreachable!("a cluster IP") };
    let mut load = Command::new("conntrack")
        .args(["-R", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("conntrack");
    let mut input = load.stdin.take().expect("stdin");
    for (client, backend) in (0..FLOWS).zip(service.cluster.iter().cycle()) {
        let source = std::net::Ipv4Addr::from(0x0a1e_0000 + client);
        let (by, port) = (backend.address.ip(), backend.address.port());
        writeln!(
            input,
            "-I -p udp -s {source} -d {to} --sport 5000 --dport 80 -r {by} -q {source} --reply-port-src {port} \
             --reply-port-dst 5000 -t 600 -u SEEN_REPLY"
        )
        .expect("write");
    }
    drop(input);
    assert!(load.wait().expect("conntrack").success());
}

fn node() -> NodeConfig {
    NodeConfig {
        name: "n".into(),
        addresses: vec!["10.128.0.11".parse().expect("address")],
        pod_cidrs: vec![],
        cluster_cidrs: vec!["10.20.0.0/16".parse().expect("prefix")],
        ..NodeConfig::default()
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
        endpoints: (0..endpoints)
            .map(|k| KnownEndpoint { address: backend(k).address, serving: true })
            .collect(),
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
