//! One namespace that plays the node: backends listen on addresses of its loopback, its own processes are the clients.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    time::{Duration, Instant},
};

use dataplane::Dataplane as _;
use dataplane_iptables::{Config, IptablesDataplane};
use model::{Changed, FrontendKind, NodeConfig, Protocol, ServicePort, Snapshot};

use crate::common::{backends, cidr, frontend, id, ip, namespace, node_port, service};

pub(crate) const WEB: &str = "10.24.0.1:80";
pub(crate) const ONE: &str = "10.20.0.1:8080";
pub(crate) const TWO: &str = "10.20.0.2:8080";

/// Runs `test` in a namespace that has a node's addresses and two backends' ones.
pub(crate) fn on_a_node(tag: &str, test: impl FnOnce(&mut IptablesDataplane) + Send) {
    on_a_node_with(tag, Config::default(), test);
}

pub(crate) fn on_a_node_with(tag: &str, config: Config, test: impl FnOnce(&mut IptablesDataplane) + Send) {
    let namespace = namespace(tag);
    namespace
        .run(|| {
            for arguments in [
                "link add uplink type veth peer name wire",
                "link set wire up",
                "addr add 10.128.0.11/24 dev uplink",
                "addr add 10.20.0.1/32 dev lo",
                "addr add 10.20.0.2/32 dev lo",
                "link set uplink up",
                "route add default via 10.128.0.1",
            ] {
                run("ip", arguments);
            }
            let mut plane = IptablesDataplane::open(config).expect("open");
            test(&mut plane);
        })
        .expect("enter namespace");
}

pub(crate) fn run(program: &str, arguments: &str) {
    let status = Command::new(program).args(arguments.split(' ')).status().expect(program);
    assert!(status.success(), "{program} {arguments}");
}

pub(crate) fn node() -> NodeConfig {
    NodeConfig {
        name: "node-a".into(),
        addresses: vec![ip("10.128.0.11")],
        pod_cidrs: vec![cidr("10.20.0.0/24")],
        cluster_cidrs: vec![cidr("10.20.0.0/16")],
        ..NodeConfig::default()
    }
}

/// Cluster IP 10.24.0.1:80 and node port 30080.
pub(crate) fn web(protocol: Protocol, endpoints: &[&str]) -> ServicePort {
    let frontends = vec![frontend(FrontendKind::ClusterIp, "10.24.0.1", 80), node_port(30080)];
    service(id("t", "web", "http", protocol), frontends, backends(endpoints, true))
}

pub(crate) fn apply(plane: &mut IptablesDataplane, snapshot: &Snapshot) {
    let applied = plane.apply(snapshot, &Changed::all(snapshot)).expect("apply");
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
}

/// Answers every connection with its own address.
pub(crate) fn serve_tcp(address: &str) {
    let listener = TcpListener::bind(address).expect("bind");
    let name = address.to_owned();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(name.as_bytes());
        }
    });
}

pub(crate) fn serve_udp(address: &str) {
    let socket = UdpSocket::bind(address).expect("bind");
    let name = address.to_owned();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, client)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(name.as_bytes(), client);
        }
    });
}

pub(crate) fn ask(address: &str) -> std::io::Result<String> {
    let address: SocketAddr = address.parse().expect("address");
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Sends until an answer comes: one that was under way when rules changed may be lost.
pub(crate) fn ask_udp(socket: &UdpSocket) -> String {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut buffer = [0; 64];
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("timeout");
    while Instant::now() < deadline {
        // An earlier datagram may have been refused: the error is told here.
        let _ = socket.send(b"?");
        if let Ok(length) = socket.recv(&mut buffer) {
            return String::from_utf8_lossy(&buffer[..length]).into_owned();
        }
    }
    panic!("no answer");
}

pub(crate) fn saved() -> String {
    let output = Command::new("iptables-save").output().expect("iptables-save");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
