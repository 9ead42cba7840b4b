//! Start, restart, drift, refusal, the end.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use aya::programs::{SchedClassifier, TcAttachType};
use dataplane::{Dataplane as _, Key};
use dataplane_ebpf::{Attach, Config, EbpfDataplane};
use model::{
    Changed, FrontendAddress, FrontendKind, Protocol, ServicePort, Snapshot,
    TrafficPolicy::Cluster as ByCluster,
};

use crate::{
    model_of::{address, cluster_ip, frontend, node, service, snapshot, with_backends},
    sockets::{
        cluster::{Cluster, Setting, USUAL},
        talk::ask_tcp,
    },
    space::{self, PinFolder},
};

fn at(text: &str) -> SocketAddr {
    text.parse().expect("socket address")
}

fn web(backends: &[&str]) -> ServicePort {
    let frontends = vec![
        cluster_ip(address("10.24.0.10"), 80),
        frontend(FrontendKind::LoadBalancer, FrontendAddress::Ip(address("203.0.113.10")), 80, ByCluster),
    ];
    let backends: Vec<_> = backends.iter().map(|text| (at(text), false)).collect();
    with_backends(service("web", Protocol::Tcp, frontends), &backends)
}

#[test]
fn a_restart_under_traffic_breaks_no_connection_and_leaves_no_gap() {
    for attach in [Attach::Auto, Attach::Clsact] {
        let mut cluster = Cluster::new(Setting { attach, ..USUAL });
        cluster.serve();
        cluster.program(&[web(&["10.20.1.7:8080"])]);
        let connect = || TcpStream::connect(at("203.0.113.10:80")).expect("connect");
        let mut stream = cluster.client.run(connect).expect("enter");
        stream.set_nodelay(true).expect("option");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
        greeting(&mut stream);
        let (stop, rounds, worst) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            scope.spawn(|| ping_pong(&mut stream, &stop, &rounds, &worst));
            for _ in 0..2 {
                wait_for(|| rounds.fetch_and(0, Ordering::SeqCst) > 10);
                cluster.a.open();
                let before = rounds.load(Ordering::SeqCst);
                wait_for(|| rounds.load(Ordering::SeqCst) > before + 10);
            }
            stop.store(true, Ordering::SeqCst);
        });
        // A lost packet would take a retransmission timeout of 200 ms; this machine may be busy.
        assert!(worst.load(Ordering::SeqCst) < 200, "{attach:?}: a gap of {worst:?} ms");
        let answer = ask_tcp(&cluster.client, at("203.0.113.10:80"), b"after");
        assert_eq!(answer.server, "b1");
        cluster.clean_up();
    }
}

fn greeting(stream: &mut TcpStream) {
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte).expect("greeting");
    }
}

/// One byte there and back, over and over; the longest round in milliseconds.
fn ping_pong(stream: &mut TcpStream, stop: &AtomicBool, rounds: &AtomicU64, worst: &AtomicU64) {
    let mut byte = [7];
    while !stop.load(Ordering::SeqCst) {
        let start = Instant::now();
        stream.write_all(&byte).expect("send");
        stream.read_exact(&mut byte).expect("receive");
        worst.fetch_max(start.elapsed().as_millis() as u64, Ordering::SeqCst);
        rounds.fetch_add(1, Ordering::SeqCst);
    }
}

fn wait_for(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited for ten seconds");
        thread::yield_now();
    }
}

/// A node without pods, in a namespace of its own; gone with its pins when it ends.
pub(crate) fn on_a_node(test: impl FnOnce(&netns::NetNs, &PinFolder) + Send) {
    let (space, pins) = (space::namespace("node"), PinFolder::new());
    space::ip(&space, "link add wire0 type veth peer name far\nlink set wire0 up\nlink set far up\n");
    space.run(|| test(&space, &pins)).expect("enter");
}

pub(crate) fn config(pins: &PinFolder) -> Config {
    Config {
        bpffs: pins.path().to_owned(),
        uplinks: vec!["wire0".into()],
        conntrack_entries: 1024,
        ..Config::default()
    }
}

pub(crate) fn open(config: Config) -> EbpfDataplane {
    EbpfDataplane::open(config).unwrap_or_else(|error| panic!("{error}: {:?}", error.source))
}

fn desired(services: Vec<ServicePort>) -> Snapshot {
    snapshot(node("node-a", &["10.128.0.11"]), services, vec![])
}

fn named(name: &str, ip: &str) -> ServicePort {
    let frontends = vec![cluster_ip(address(ip), 80)];
    with_backends(service(name, Protocol::Tcp, frontends), &[(at("10.20.1.7:8080"), false)])
}

#[test]
fn clean_up_leaves_nothing() {
    on_a_node(|space, pins| {
        for attach in [Attach::Auto, Attach::Clsact] {
            let mut plane = open(Config { attach, ..config(pins) });
            let snapshot = desired(vec![web(&["10.20.1.7:8080"])]);
            plane.apply(&snapshot, &Changed::all(&snapshot)).expect("apply");
            plane.clean_up().expect("clean up");
            assert!(!pins.path().exists(), "the pin folder");
            for direction in ["ingress", "egress"] {
                let filters = space::run(space, "tc", &["filter", "show", "dev", "wire0", direction]);
                assert_eq!(filters.trim(), "", "{attach:?} {direction}");
            }
        }
    });
}

#[test]
fn services_that_went_while_no_agent_ran_are_removed_and_the_others_untouched() {
    on_a_node(|_, pins| {
        let both = desired(vec![named("kept", "10.24.0.10"), named("gone", "10.24.0.11")]);
        let mut plane = open(config(pins));
        plane.apply(&both, &Changed::all(&both)).expect("apply");
        drop(plane);
        let mut plane = open(config(pins));
        assert_eq!(plane.services().expect("services").len(), 2, "the kernel still has both");
        let one = desired(vec![named("kept", "10.24.0.10")]);
        plane.apply(&one, &Changed::all(&one)).expect("apply");
        let services = plane.services().expect("services");
        assert_eq!(services.len(), 1);
        assert_eq!(services[0].service.as_ref().expect("known").name, "kept");
        assert_eq!(services[0].backends.len(), 1);
        plane.clean_up().expect("clean up");
    });
}

#[test]
fn drift_is_repaired_and_reported() {
    on_a_node(|_, pins| {
        let snapshot = desired(vec![named("web", "10.24.0.10")]);
        let mut plane = open(config(pins));
        plane.apply(&snapshot, &Changed::all(&snapshot)).expect("apply");
        assert_eq!(plane.repair(&snapshot).expect("repair"), [""; 0]);
        // Somebody else's agent, with other ideas.
        let mut other = open(config(pins));
        let wrong = desired(vec![named("web", "10.24.0.99")]);
        other.apply(&wrong, &Changed::all(&wrong)).expect("apply");
        drop(other);
        let repaired = plane.repair(&snapshot).expect("repair");
        assert_eq!(repaired, ["repaired 2 drifted rows in FRONTENDS_V4"]);
        let services = plane.services().expect("services");
        assert_eq!(services.iter().map(|row| row.frontend).collect::<Vec<_>>(), [at("10.24.0.10:80")]);
        assert_eq!(plane.repair(&snapshot).expect("repair"), [""; 0]);
        plane.clean_up().expect("clean up");
    });
}

/// Its maps are of another layout and are left alone until they are of no use.
#[test]
fn an_agent_of_another_version_is_replaced_and_leaves_nothing() {
    on_a_node(|_, pins| {
        let snapshot = desired(vec![named("web", "10.24.0.10")]);
        let mut plane = open(config(pins));
        plane.apply(&snapshot, &Changed::all(&snapshot)).expect("apply");
        drop(plane);
        let folders = || -> Vec<String> {
            let entries = std::fs::read_dir(pins.path()).expect("pins");
            entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect()
        };
        let own = folders().into_iter().find(|name| name.starts_with('v')).expect("a version");
        let other = pins.path().join("v1");
        std::fs::rename(pins.path().join(&own), &other).expect("rename");

        let mut plane = open(config(pins));
        assert!(other.exists(), "pods still use its maps");
        assert!(plane.services().expect("services").is_empty(), "no row of its");
        plane.apply(&snapshot, &Changed::all(&snapshot)).expect("apply");
        assert_eq!(plane.services().expect("services").len(), 1);
        assert!(!other.exists());
        for (direction, name) in [(TcAttachType::Ingress, "from_wire"), (TcAttachType::Egress, "to_wire")] {
            let (_, programs) = SchedClassifier::query_tcx("wire0", direction).expect("query");
            let names: Vec<_> = programs.iter().filter_map(|program| program.name_as_str()).collect();
            assert_eq!(names, [name]);
        }
        plane.clean_up().expect("clean up");
    });
}

#[test]
fn one_services_refusal_leaves_the_others_programmed() {
    on_a_node(|_, pins| {
        let mut mixed = named("mixed", "10.24.0.12");
        mixed.frontends.push(cluster_ip(address("fd00:24::12"), 80));
        let taken = named("late", "10.24.0.10");
        let snapshot = desired(vec![named("early", "10.24.0.10"), mixed.clone(), taken.clone()]);
        let mut plane = open(config(pins));
        let applied = plane.apply(&snapshot, &Changed::all(&snapshot)).expect("apply");
        let failed: Vec<_> = applied.failed.keys().collect();
        assert_eq!(failed, [&Key::Service(taken.id), &Key::Service(mixed.id)]);
        assert_eq!(plane.services().expect("services").len(), 1);
        plane.clean_up().expect("clean up");
    });
}

#[test]
fn a_missing_uplink_is_named() {
    on_a_node(|_, pins| {
        let error = EbpfDataplane::open(Config { uplinks: vec!["nope0".into()], ..config(pins) })
            .expect_err("no such");
        assert_eq!(error.to_string(), "find uplink nope0");
        open(config(pins)).clean_up().expect("clean up");
    });
}

#[test]
fn ten_thousand_services_are_programmed_and_one_endpoint_costs_what_changed() {
    on_a_node(|_, pins| {
        let mut snapshot = desired(vec![]);
        for index in 0..10_000u32 {
            let ip = std::net::Ipv4Addr::from(u32::from(std::net::Ipv4Addr::new(10, 24, 0, 1)) + index);
            let backends: Vec<_> = (0..5)
                .map(|b| (SocketAddr::new(address(&format!("10.20.{}.{}", b, index % 250)), 8080), false))
                .collect();
            let count = 2 + (index % 2) as usize;
            let frontends = vec![cluster_ip(ip.into(), 80)];
            let port =
                with_backends(service(&format!("s{index}"), Protocol::Tcp, frontends), &backends[..count]);
            snapshot.services.insert(port.id.clone(), port.into());
        }
        let mut plane = open(config(pins));
        let start = Instant::now();
        let applied = plane.apply(&snapshot, &Changed::all(&snapshot)).expect("apply");
        println!("10,000 services, 25,000 endpoints: {:?}", start.elapsed());
        assert!(applied.failed.is_empty());
        let mut next = snapshot.clone();
        let id = snapshot.services.keys().nth(5000).expect("there").clone();
        let mut port = (*snapshot.services[&id]).clone();
        port.cluster.pop();
        next.services.insert(id, port.into());
        let changed = next.changed_since(&snapshot);
        let start = Instant::now();
        plane.apply(&next, &changed).expect("apply");
        println!("one endpoint less: {:?}", start.elapsed());
        assert_eq!(plane.services().expect("services").len(), 10_000);
        plane.clean_up().expect("clean up");
    });
}

#[test]
fn without_privileges_it_says_so() {
    let pins = PinFolder::new();
    std::fs::create_dir(pins.path()).expect("folder");
    let error = thread::scope(|scope| {
        let work = || {
            drop_capabilities();
            EbpfDataplane::open(Config { bpffs: pins.path().to_owned(), ..Config::default() })
                .expect_err("refused")
        };
        scope.spawn(work).join().expect("thread")
    });
    let text = format!("{error}: {}", error.source);
    assert!(text.contains("root") || text.contains("permitted"), "{text}");
    assert!(!Path::new("/sys/fs/bpf/twinplane").join("v1").exists());
}

/// Of this thread only.
fn drop_capabilities() {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    // `_LINUX_CAPABILITY_VERSION_3`.
    let header = Header { version: 0x2008_0522, pid: 0 };
    let none = [0u32; 6];
    // SAFETY: the layouts of capset(2), version 3.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    assert_eq!(result, 0, "capset");
}
