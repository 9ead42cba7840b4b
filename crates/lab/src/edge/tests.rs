//! The load balancer with real packets: two nodes that answer for themselves, no cluster. Needs root.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use model::{Family, Plane, Port, Protocol};

use super::*;
use crate::{build, plan::LabName, remove, state::State};

const TIMING: HealthCheckTiming = HealthCheckTiming {
    interval: Duration::from_millis(50),
    // On a busy machine an answer takes its time; no test here waits for one that does not come.
    timeout: Duration::from_secs(10),
    healthy_threshold: 1,
    unhealthy_threshold: 2,
};

const HEALTH_PORT: u16 = 10256;

/// The wires of a lab; gone with this value, on panic too.
struct Wires {
    state: State,
    healthy: Vec<Arc<AtomicBool>>,
}

impl Drop for Wires {
    fn drop(&mut self) {
        if let Err(error) = remove::remove(&self.state.topology.name) {
            eprintln!("{error}");
        }
    }
}

impl Wires {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = LabName::new(format!("edge-{}-{count}", std::process::id())).expect("name");
        let topology = Topology::new(name, Plane::Ebpf, 2).expect("size");
        let wires = Self {
            healthy: topology.nodes.iter().map(|_| Arc::new(AtomicBool::new(true))).collect(),
            state: State::new(topology, None, TIMING, None),
        };
        wires.state.claim().expect("claim the name");
        build::build(&wires.state).expect("build");
        for (node, healthy) in wires.state.topology.nodes.iter().zip(&wires.healthy) {
            let namespace = NetNs::open(&node.namespace).expect("node");
            let listen =
                |port| namespace.run(|| TcpListener::bind(("::", port))).expect("enter").expect("bind");
            let (letter, healthy) = (node.name.as_bytes()[5], Arc::clone(healthy));
            let (health, web) = (listen(HEALTH_PORT), listen(80));
            thread::spawn(move || serve_health(&health, &healthy));
            thread::spawn(move || serve_letters(&web, letter));
        }
        wires
    }

    fn edge(&self) -> Edge {
        Edge::new(self.state.topology.clone(), TIMING).expect("edge")
    }

    /// From the machine outside.
    fn connect(&self, to: SocketAddr) -> std::io::Result<TcpStream> {
        let client = NetNs::open(&self.state.topology.client_namespace()).expect("client");
        let stream =
            client.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(500))).expect("enter")?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        Ok(stream)
    }

    fn routes(&self) -> String {
        let edge = NetNs::open(&self.state.topology.edge_namespace()).expect("edge");
        let output = edge.command("ip").args(["route", "show"]).output().expect("ip");
        // Links come up a moment after they were made.
        String::from_utf8(output.stdout).expect("text").replace("linkdown ", "")
    }
}

/// Answers like a node's health port, one request per connection.
fn serve_health(listener: &TcpListener, healthy: &AtomicBool) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { return };
        let _ = stream.read(&mut [0; 1024]);
        let status = if healthy.load(Ordering::Relaxed) { "200 OK" } else { "503 Service Unavailable" };
        let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}");
    }
}

/// Answers every byte with the node's letter.
fn serve_letters(listener: &TcpListener, letter: u8) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { return };
        thread::spawn(
            move || while matches!(stream.read(&mut [0]), Ok(1)) && stream.write_all(&[letter]).is_ok() {},
        );
    }
}

fn ask(stream: &mut TcpStream) -> u8 {
    let mut answer = [0];
    stream.write_all(b"?").and_then(|()| stream.read_exact(&mut answer)).expect("an answer");
    answer[0]
}

fn spec() -> ForwardingRuleSpec {
    ForwardingRuleSpec {
        uid: "c973ff85-4367-44bf-a586-378db41283ef".into(),
        service: ServiceName { namespace: "netflow-test".into(), name: "nginx".into() },
        families: vec![Family::V4],
        requested_ips: vec![],
        ports: vec![(Protocol::Tcp, Port::new(80).expect("port"))],
        health_check: HealthCheckTarget {
            port: Port::new(HEALTH_PORT).expect("port"),
            path: "/healthz".into(),
        },
    }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until every node is healthy and the kernel knows: a node's second check is sent when what its first one
/// changed is programmed.
async fn settled(edge: &Edge) {
    until("both nodes healthy and programmed", || {
        let pool = edge.status().target_pools.remove(0);
        let checks = |member: &Member| pool.history.iter().filter(|probe| probe.node == member.node).count();
        pool.members.iter().all(|member| member.health == Health::Healthy && checks(member) >= 2)
    })
    .await;
}

fn receiving(edge: &Edge) -> Vec<bool> {
    edge.status().target_pools[0].members.iter().map(|member| member.receives_traffic).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flows_keep_their_node_while_others_leave_and_return() {
    let wires = Wires::new();
    let edge = wires.edge();
    let vip = SocketAddr::new(edge.ensure(spec()).await.expect("ensure")[0], 80);
    assert_eq!(edge.ensure(spec()).await.expect("again"), [vip.ip()], "idempotent");
    settled(&edge).await;

    let mut flows: Vec<_> = (0..40).map(|_| wires.connect(vip).expect("connect")).collect();
    let first: Vec<_> = flows.iter_mut().map(ask).collect();
    let count = |letters: &[u8]| {
        letters.iter().fold(BTreeMap::<u8, usize>::new(), |mut counts, letter| {
            *counts.entry(*letter).or_default() += 1;
            counts
        })
    };
    // Each of 40 flows takes either node: fewer than five on one has a chance below one in ten million.
    assert!(
        count(&first).values().all(|flows| *flows >= 5) && count(&first).len() == 2,
        "{:?}",
        count(&first)
    );
    for flow in &flows {
        assert_eq!(flow.peer_addr().expect("peer"), vip, "nothing is rewritten");
    }

    wires.healthy[1].store(false, Ordering::Relaxed);
    until("node-b leaves", || receiving(&edge) == [true, false]).await;
    let newcomers: Vec<_> = (0..20).map(|_| ask(&mut wires.connect(vip).expect("connect"))).collect();
    assert_eq!(count(&newcomers), BTreeMap::from([(b'a', 20)]));
    let mut on_a: Vec<_> = flows.iter_mut().zip(&first).filter(|(_, letter)| **letter == b'a').collect();
    assert!(on_a.iter_mut().all(|(flow, _)| ask(flow) == b'a'), "node-a's flows notice nothing");

    wires.healthy[1].store(true, Ordering::Relaxed);
    until("node-b returns", || receiving(&edge) == [true, true]).await;
    assert!(on_a.iter_mut().all(|(flow, _)| ask(flow) == b'a'), "node-a's flows stay");
    until("node-b gets new flows", || ask(&mut wires.connect(vip).expect("connect")) == b'b').await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_of_both_families_has_an_address_a_rule_and_a_pool_in_each() {
    let wires = Wires::new();
    let edge = wires.edge();
    let both = ForwardingRuleSpec { families: vec![Family::V6, Family::V4], ..spec() };
    let vips = edge.ensure(both.clone()).await.expect("ensure");
    assert_eq!(vips.iter().map(|vip| Family::of(*vip)).collect::<Vec<_>>(), both.families, "in order");
    let status = edge.status();
    let names: Vec<_> = status.target_pools.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!(names, ["ac973ff85436744bfa586378db41283e", "ac973ff85436744bfa586378db41283e-ipv6"]);
    assert_eq!(status.forwarding_rules.len(), 2);
    until("nodes are asked in both families", || {
        let healthy = |member: &Member| member.health == Health::Healthy;
        edge.status().target_pools.iter().all(|pool| pool.members.iter().all(healthy))
    })
    .await;
    for vip in &vips {
        let mut letters: Vec<_> =
            (0..40).map(|_| ask(&mut wires.connect(SocketAddr::new(*vip, 80)).expect("connect"))).collect();
        letters.sort_unstable();
        letters.dedup();
        assert_eq!(letters, *b"ab", "{vip}");
        let silent = wires.connect(SocketAddr::new(*vip, 22)).expect_err("not the Service's");
        assert_eq!(silent.kind(), ErrorKind::TimedOut, "{vip}");
    }
    assert_eq!(edge.ensure(spec()).await.expect("one family less"), vips[1..]);
    let gone = wires.connect(SocketAddr::new(vips[0], 80)).expect_err("withdrawn");
    assert_eq!(gone.kind(), ErrorKind::TimedOut);
}

/// Each socket gives its packets another hash of its own: what the load balancer goes by must be the packet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_five_tuple_has_one_node_whatever_socket_sends_it() {
    let wires = Wires::new();
    let edge = wires.edge();
    let mut wanted = spec();
    wanted.ports = vec![(Protocol::Udp, Port::new(53).expect("port"))];
    let vip = SocketAddr::new(edge.ensure(wanted).await.expect("ensure")[0], 53);
    settled(&edge).await;
    for node in &wires.state.topology.nodes {
        let namespace = NetNs::open(&node.namespace).expect("node");
        let socket =
            namespace.run(|| UdpSocket::bind(vip)).expect("enter").expect("the address is the node's");
        let letter = node.name.as_bytes()[5];
        thread::spawn(move || {
            while let Ok((_, from)) = socket.recv_from(&mut [0]) {
                let _ = socket.send_to(&[letter], from);
            }
        });
    }
    let client = NetNs::open(&wires.state.topology.client_namespace()).expect("client");
    let ask = |port: u16| {
        let deadline = Instant::now() + Duration::from_secs(10);
        let socket = loop {
            match client.run(|| UdpSocket::bind(("0.0.0.0", port))).expect("enter") {
                Ok(socket) => break socket,
                // A process that another test starts holds the last socket until its exec.
                Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {}
                Err(error) => panic!("bind port {port}: {error}"),
            }
        };
        socket.set_read_timeout(Some(Duration::from_secs(2))).expect("timeout");
        socket.connect(vip).expect("connect");
        let mut answer = [0];
        socket.send(b"?").and_then(|_| socket.recv(&mut answer)).expect("an answer");
        answer[0]
    };
    let mut seen = vec![];
    for port in 40_000..40_020 {
        let letter = ask(port);
        assert!((0..5).all(|_| ask(port) == letter), "port {port} changes its node");
        seen.push(letter);
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, *b"ab");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_ports_of_a_rule_pass_and_nothing_is_left_of_a_removed_one() {
    let wires = Wires::new();
    let before = wires.routes();
    let edge = wires.edge();
    let vip = edge.ensure(spec()).await.expect("ensure")[0];
    wires.connect(SocketAddr::new(vip, 80)).expect("the Service's port");
    for port in [HEALTH_PORT, 22] {
        let error = wires.connect(SocketAddr::new(vip, port)).expect_err("not the Service's");
        assert_eq!(error.kind(), ErrorKind::TimedOut, "port {port} is dropped at the edge: {error}");
    }
    let other = ForwardingRuleSpec { uid: "other".into(), requested_ips: vec![vip], ..spec() };
    assert!(matches!(edge.ensure(other.clone()).await, Err(Error::Taken { address, .. }) if address == vip));
    let outside: IpAddr = "192.0.2.1".parse().expect("address");
    let outside = ForwardingRuleSpec { requested_ips: vec![outside], ..other };
    assert!(matches!(edge.ensure(outside).await, Err(Error::OutOfRange { .. })));

    edge.remove(&spec().uid).await.expect("remove");
    edge.remove(&spec().uid).await.expect("twice");
    assert_eq!(edge.status(), EdgeStatus::default());
    assert_eq!(wires.routes(), before);
    assert_eq!(
        wires.connect(SocketAddr::new(vip, 80)).expect_err("gone").kind(),
        ErrorKind::TimedOut,
        "an address without a rule is silent"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_answer_is_unhealthy_and_all_unhealthy_get_everything() {
    let wires = Wires::new();
    let edge = wires.edge();
    let mut wanted = spec();
    wanted.health_check.port = Port::new(30001).expect("nobody listens there");
    let vip = SocketAddr::new(edge.ensure(wanted).await.expect("ensure")[0], 80);
    until("checks were made", || edge.status().target_pools[0].history.len() >= 4).await;
    let pool = edge.status().target_pools.remove(0);
    assert!(
        pool.history
            .iter()
            .all(|probe| matches!(&probe.answer, ProbeAnswer::Failed { error } if error.contains("refused")))
    );
    assert_eq!(receiving(&edge), [true, true]);
    let mut letters: Vec<_> = (0..40).map(|_| ask(&mut wires.connect(vip).expect("connect"))).collect();
    letters.sort_unstable();
    letters.dedup();
    assert_eq!(letters, *b"ab");

    // The Service's health moves to a port that answers.
    edge.ensure(spec()).await.expect("update");
    until("both healthy", || {
        edge.status().target_pools[0].members.iter().all(|member| member.health == Health::Healthy)
    })
    .await;
}
