//! A node with one pod, and everybody else outside of it: every address of [`tables::peers`] is at the other end of its uplink.

use std::{
    collections::BTreeMap,
    io::Write as _,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use dataplane::Dataplane as _;
use dataplane_iptables::{Config, Heard, IptablesDataplane, Telling, TellingConfig};
use ipnet::IpNet;
use model::{
    Changed, Endpoint, Family, IdentityId, L7Visibility, MacAddress, NodeConfig, PolicyTable, Protocol,
    Reserved, Snapshot,
    told::{Stopped, Told},
};
use netns::Owned;

use crate::{
    common::{cidr, ip, namespace},
    tables,
};

/// A first SYN is tried again after 1 s.
const SILENCE: Duration = Duration::from_millis(700);
pub(super) const SOON: Duration = Duration::from_secs(10);

pub(super) struct Yard {
    pub(super) node: Owned,
    pub(super) pod: Owned,
    pub(super) outside: Owned,
    pub(super) plane: IptablesDataplane,
    pub(super) snapshot: Snapshot,
    /// By who has them: the pod, everybody else.
    sockets: [Vec<UdpSocket>; 2],
}

/// The pod's.
pub(super) fn own(family: Family) -> IpAddr {
    ip(if family == Family::V4 { "10.20.0.2" } else { "fd00:20::2" })
}

/// The node's first and second.
pub(super) fn node(family: Family) -> [IpAddr; 2] {
    let both =
        if family == Family::V4 { ["192.168.50.2", "192.168.60.2"] } else { ["fd00:50::2", "fd00:60::2"] };
    both.map(ip)
}

const NODE: &str = "link set lo up
link add uplink address 06:00:00:00:00:02 type veth peer name eth0 address 02:00:00:00:00:02 netns OUTSIDE
link set uplink up
addr add 192.168.50.2/24 dev uplink
addr add 192.168.60.2/32 dev uplink
neigh add 192.168.50.1 lladdr 02:00:00:00:00:02 dev uplink nud permanent
neigh add fd00:50::1 lladdr 02:00:00:00:00:02 dev uplink nud permanent
addr add fd00:50::2/64 dev uplink nodad
addr add fd00:60::2/128 dev uplink nodad
route add default via 192.168.50.1
route add default via fd00:50::1
link add tpweb address 06:00:00:00:00:01 type veth peer name eth0 address 02:00:00:00:00:01 netns POD
link set tpweb up
route add 10.20.0.2/32 dev tpweb
route add fd00:20::2/128 dev tpweb
neigh add 10.20.0.2 lladdr 02:00:00:00:00:01 dev tpweb nud permanent
neigh add fd00:20::2 lladdr 02:00:00:00:00:01 dev tpweb nud permanent
";

const POD: &str = "link set lo up
link set eth0 up
addr add 10.20.0.2/32 dev eth0
addr add fd00:20::2/128 dev eth0 nodad
neigh add 169.254.1.1 lladdr 06:00:00:00:00:01 dev eth0 nud permanent
neigh add fe80::1 lladdr 06:00:00:00:00:01 dev eth0 nud permanent
route add default via 169.254.1.1 dev eth0 onlink
route add default via fe80::1 dev eth0 onlink
";

const OUTSIDE: &str = "link set lo up
link set eth0 up
addr add 192.168.50.1/24 dev eth0
addr add fd00:50::1/64 dev eth0 nodad
neigh add 192.168.50.2 lladdr 06:00:00:00:00:02 dev eth0 nud permanent
neigh add fd00:50::2 lladdr 06:00:00:00:00:02 dev eth0 nud permanent
route add default via 192.168.50.2
route add default via fd00:50::2
";

impl Yard {
    /// Everybody listens on [`tables::PORTS`].
    pub(super) fn new(tag: &str, told: bool) -> Self {
        let [node, pod, outside] = ["node", "pod", "out"].map(|end| namespace(&format!("{tag}-{end}")));
        batch(&node, &NODE.replace("OUTSIDE", outside.name()).replace("POD", pod.name()));
        batch(&pod, POD);
        let peers = Family::ALL.into_iter().flat_map(tables::peers);
        let peers = peers.map(|peer| {
            let nodad = if peer.is_ipv6() { " nodad" } else { "" };
            format!("addr add {} dev lo{nodad}\n", IpNet::from(peer))
        });
        batch(&outside, &(OUTSIDE.to_owned() + &peers.collect::<String>()));
        let telling = told.then(TellingConfig::default);
        let open = || {
            for name in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{name}"), "1").expect("forwarding");
            }
            IptablesDataplane::open(Config { policy: true, telling, ..Config::default() }).expect("open")
        };
        let plane = node.run(open).expect("enter namespace");
        let sockets = [&pod, &outside].map(|end| end.run(listen).expect("enter namespace"));
        let mut yard = Self { node, pod, outside, plane, snapshot: Snapshot::default(), sockets };
        yard.snapshot = start();
        yard
    }

    /// What is told of flows from now on.
    pub(super) fn telling(&self) -> Telling {
        let open = || self.plane.telling().expect("the kernel tells").expect("wanted");
        self.node.run(open).expect("enter namespace")
    }

    pub(super) fn enforce(&mut self, table: PolicyTable, addresses: &BTreeMap<IpNet, IdentityId>) {
        let mut next = self.snapshot.clone();
        next.policy = table;
        next.addresses.clone_from(addresses);
        self.apply(next);
    }

    pub(super) fn apply(&mut self, next: Snapshot) {
        let changed = match self.snapshot.policy.endpoints.is_empty() {
            true => Changed::all(&next),
            false => next.changed_since(&self.snapshot),
        };
        self.snapshot = next;
        let Self { node, plane, snapshot, .. } = self;
        let applied = node.run(|| plane.apply(snapshot, &changed)).expect("enter namespace").expect("apply");
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    }

    pub(super) fn on_node<T: Send>(
        &mut self,
        work: impl FnOnce(&mut IptablesDataplane, &Snapshot) -> T + Send,
    ) -> T {
        let Self { node, plane, snapshot, .. } = self;
        node.run(|| work(plane, snapshot)).expect("enter namespace")
    }

    /// Which of `packets` get through; UDP and TCP only. Those that are wanted are waited for.
    pub(super) fn send(&self, packets: &[(tables::Packet, bool)]) -> Vec<bool> {
        let mut arrived: Vec<bool> = vec![false; packets.len()];
        for end in [model::policy::Direction::Ingress, model::policy::Direction::Egress] {
            let sender = match end {
                model::policy::Direction::Ingress => &self.outside,
                model::policy::Direction::Egress => &self.pod,
            };
            let of = || packets.iter().enumerate().filter(|(_, (packet, _))| packet.direction == end);
            let opened = sender.run(|| {
                let connecting: Vec<_> =
                    of().filter_map(|(number, (packet, wanted))| knock(number, packet, *wanted)).collect();
                connecting
                    .into_iter()
                    .map(|(number, thread)| (number, thread.join().expect("a thread")))
                    .collect::<Vec<_>>()
            });
            for (number, is_open) in opened.expect("enter namespace") {
                arrived[number] = is_open;
            }
        }
        let udp = |packet: &tables::Packet| matches!(packet.l4, model::policy::L4::Port(Protocol::Udp, _));
        let deadline = Instant::now() + SOON;
        loop {
            for socket in self.sockets.iter().flatten() {
                let mut bytes = [0; 8];
                while let Ok(8) = socket.recv(&mut bytes) {
                    arrived[u64::from_be_bytes(bytes) as usize] = true;
                }
            }
            let lacks =
                packets.iter().zip(&arrived).any(|((packet, wanted), is)| udp(packet) && *wanted && !is);
            if !lacks || Instant::now() > deadline {
                return arrived;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The first packet that a rule stopped, or would have, that `is` right.
pub(super) fn stopped(telling: &mut Telling, is: impl Fn(&Stopped) -> bool) -> Stopped {
    let deadline = Instant::now() + SOON;
    loop {
        match telling.take().expect("a socket") {
            Some(Heard::Told(Told::Stopped(stopped))) if is(&stopped) => return stopped,
            Some(_) => {}
            None => {
                assert!(Instant::now() < deadline, "not told");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

fn start() -> Snapshot {
    let endpoint = Endpoint {
        pod: tables::pod(),
        addresses: Family::ALL.map(own).to_vec(),
        interface: "tpweb".into(),
        ifindex: 3,
        mac: MacAddress([2, 0, 0, 0, 0, 1]),
        host_mac: MacAddress([6, 0, 0, 0, 0, 1]),
        netns: None,
        l7: L7Visibility::default(),
    };
    let mut snapshot = Snapshot {
        node: NodeConfig {
            name: "n1".into(),
            addresses: Family::ALL.into_iter().flat_map(node).collect(),
            cluster_cidrs: vec![cidr("10.20.0.0/16"), cidr("fd00:20::/32")],
            ..NodeConfig::default()
        },
        ..Snapshot::default()
    };
    snapshot.endpoints.insert(tables::pod(), Arc::new(endpoint));
    snapshot
}

/// Whose the node's addresses and the pod's are.
pub(super) fn ours() -> BTreeMap<IpNet, IdentityId> {
    let host = Family::ALL.into_iter().flat_map(node).map(|ip| (IpNet::from(ip), Reserved::Host.id()));
    let pod = Family::ALL.map(|family| (IpNet::from(own(family)), IdentityId::from_raw(310)));
    let world = ["0.0.0.0/0", "::/0"].map(|net| (cidr(net), Reserved::World.id()));
    host.chain(pod).chain(world).collect()
}

/// Sends a packet that has its number in it, or begins to connect.
fn knock(
    number: usize,
    packet: &tables::Packet,
    wanted: bool,
) -> Option<(usize, std::thread::JoinHandle<bool>)> {
    let (from, to) = match packet.direction {
        model::policy::Direction::Ingress => (packet.peer, own(Family::of(packet.peer))),
        model::policy::Direction::Egress => (own(Family::of(packet.peer)), packet.peer),
    };
    let model::policy::L4::Port(protocol, port) = packet.l4 else { panic!("a port") };
    let to = SocketAddr::new(to, port);
    if protocol == Protocol::Udp {
        let socket = UdpSocket::bind((from, 0)).expect("bind");
        socket.connect(to).expect("a route");
        socket.send(&(number as u64).to_be_bytes()).expect("send");
        return None;
    }
    Some((number, std::thread::spawn(move || connects(from, to, wanted))))
}

/// Whether a connection from an address is opened. Signals that others' children send interrupt nothing of it.
pub(super) fn connects(from: IpAddr, to: SocketAddr, wanted: bool) -> bool {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};
    use std::os::fd::AsRawFd as _;
    let family = if from.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).expect("a socket");
    bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(from, 0))).expect("bind");
    let begun = connect(fd.as_raw_fd(), &SockaddrStorage::from(to));
    assert!(matches!(begun, Ok(()) | Err(nix::Error::EINPROGRESS)), "{begun:?}");
    let stream = TcpStream::from(fd);
    let deadline = Instant::now() + if wanted { SOON } else { SILENCE };
    while Instant::now() < deadline {
        if stream.peer_addr().is_ok() {
            return true;
        }
        if stream.take_error().expect("a socket").is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

/// Of this namespace: answers connections, and leaves datagrams to be read.
fn listen() -> Vec<UdpSocket> {
    let ports = tables::PORTS.map(|port| {
        let any = (std::net::Ipv6Addr::UNSPECIFIED, port);
        let listener = TcpListener::bind(any).expect("bind");
        std::thread::spawn(move || listener.incoming().flatten().for_each(answer));
        let socket = UdpSocket::bind(any).expect("bind");
        socket.set_nonblocking(true).expect("no waiting");
        socket
    });
    ports.into()
}

/// Sends back what comes, until the other end is closed.
fn answer(mut stream: TcpStream) {
    std::thread::spawn(move || {
        let mut reader = stream.try_clone().expect("a handle");
        let _closed = std::io::copy(&mut reader, &mut stream);
    });
}

fn batch(namespace: &Owned, text: &str) {
    let mut command = namespace.command("ip");
    let mut child = command.args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("run ip");
    child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("write to ip");
    assert!(child.wait().expect("wait for ip").success(), "{text}");
}
