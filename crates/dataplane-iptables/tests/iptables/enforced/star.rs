//! A node with pods around it, which serve and ask; their policies are those of a [`World`], compiled.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use dataplane::Dataplane as _;
use dataplane_iptables::{Config, IptablesDataplane};
use ipnet::IpNet;
use model::{
    Backend, Changed, Endpoint, Family, FrontendKind, L7Visibility, MacAddress, NodeConfig, PodName,
    Protocol, Reserved, ServicePort, Snapshot,
};
use netns::Owned;
use policy::{offline::Offline, world::World};

use crate::common::{cidr, frontend, id, namespace, service};

/// Long enough for an answer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is not answered by then is not answered: a first SYN is tried again after 1 s.
const SILENCE: Duration = Duration::from_millis(600);

/// 192.168.50.2 and fd00:50::2.
const NODE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 168, 50, 2)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, 2))];

pub(super) struct Star {
    node: Owned,
    pods: BTreeMap<PodName, Owned>,
    pub(super) plane: IptablesDataplane,
    offline: Offline,
    pub(super) world: World,
    snapshot: Snapshot,
}

/// The port that a pod listens on, and what it is asked by.
pub(super) type Listens = (Protocol, u16);

impl Star {
    /// Every pod of `world` listens on every port.
    pub(super) fn new(tag: &str, world: World, ports: &[Listens]) -> Self {
        Self::with(tag, world, ports, Config::default())
    }

    pub(super) fn with(tag: &str, world: World, ports: &[Listens], config: Config) -> Self {
        let node = namespace(tag);
        ip(&node, "link set lo up\nlink add uplink type bridge\nlink set uplink up\n");
        for address in NODE {
            ip(
                &node,
                &format!(
                    "addr add {address}/{} dev uplink{}\n",
                    IpNet::from(address).max_prefix_len(),
                    nodad(address)
                ),
            );
        }
        let forward = || {
            for name in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{name}"), "1").expect("forwarding");
            }
        };
        node.run(forward).expect("enter namespace");
        let open = || IptablesDataplane::open(Config { policy: true, ..config }).expect("open");
        let plane = node.run(open).expect("enter namespace");
        let mut star = Self {
            node,
            pods: BTreeMap::new(),
            plane,
            offline: Offline::default(),
            world,
            snapshot: Snapshot::default(),
        };
        star.snapshot.node = NodeConfig {
            name: "n1".into(),
            addresses: NODE.to_vec(),
            cluster_cidrs: vec![cidr("10.244.0.0/16"), cidr("fd00:244::/32")],
            ..NodeConfig::default()
        };
        for (number, name) in star.world.pods.keys().cloned().collect::<Vec<_>>().into_iter().enumerate() {
            star.attach(&name, number, ports);
        }
        star.program();
        star
    }

    fn attach(&mut self, name: &PodName, number: usize, ports: &[Listens]) {
        let addresses = self.world.pods[name].addresses.clone();
        let pod = namespace(&format!("pod{number}"));
        let interface = format!("tp{number}");
        let (mac, host_mac) =
            (MacAddress([2, 0, 0, 0, 0, number as u8]), MacAddress([6, 0, 0, 0, 0, number as u8]));
        ip(
            &self.node,
            &format!(
                "link add {interface} address {host_mac} type veth peer name eth0 address {mac} netns {}\n\
                 link set {interface} up\n",
                pod.name()
            ),
        );
        ip(&pod, "link set lo up\nlink set eth0 up\n");
        for address in &addresses {
            let whole = IpNet::from(*address);
            ip(
                &self.node,
                &format!(
                    "route add {whole} dev {interface}\nneigh add {address} lladdr {mac} dev {interface} nud permanent\n"
                ),
            );
            let gateway = if address.is_ipv4() { "169.254.1.1" } else { "fe80::1" };
            ip(
                &pod,
                &format!(
                    "addr add {whole} dev eth0{}\nneigh add {gateway} lladdr {host_mac} dev eth0 nud permanent\n\
                     route add default via {gateway} dev eth0 onlink\n",
                    nodad(*address)
                ),
            );
        }
        for (protocol, port) in ports {
            pod.run(|| listen(*protocol, *port)).expect("enter namespace");
        }
        let endpoint = Endpoint {
            pod: name.clone(),
            addresses,
            interface,
            ifindex: number as u32,
            mac,
            host_mac,
            netns: None,
            l7: L7Visibility::default(),
        };
        self.snapshot.endpoints.insert(name.clone(), Arc::new(endpoint));
        self.pods.insert(name.clone(), pod);
    }

    /// Compiles what `world` says now, and programs it.
    pub(super) fn program(&mut self) {
        self.offline.sync(&self.world);
        let mut next = self.snapshot.clone();
        next.policy = self.offline.table().clone();
        next.addresses = NODE.into_iter().map(|node| (IpNet::from(node), Reserved::Host.id())).collect();
        next.addresses.extend([cidr("0.0.0.0/0"), cidr("::/0")].map(|net| (net, Reserved::World.id())));
        for (name, identity) in self.offline.identities() {
            let nets = self.world.pods[name].addresses.iter().map(|ip| (IpNet::from(*ip), *identity));
            next.addresses.extend(nets);
        }
        let changed = match self.snapshot.addresses.is_empty() {
            true => Changed::all(&next),
            false => next.changed_since(&self.snapshot),
        };
        self.snapshot = next;
        let Self { node, plane, snapshot, .. } = self;
        let applied = node.run(|| plane.apply(snapshot, &changed)).expect("enter namespace").expect("apply");
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    }

    /// Gives every pod a cluster IP that leads to it, on every port.
    pub(super) fn serve(&mut self, ports: &[Listens]) {
        for (number, name) in self.pods.keys().enumerate() {
            for (protocol, port) in ports {
                let address = self.world.pods[name].addresses[0];
                let service = cluster_ip(number, address, (*protocol, *port));
                self.snapshot.services.insert(service.id.clone(), Arc::new(service));
            }
        }
        let changed =
            Changed { services: self.snapshot.services.keys().cloned().collect(), ..Changed::default() };
        let Self { node, plane, snapshot, .. } = self;
        let applied = node.run(|| plane.apply(snapshot, &changed)).expect("enter namespace").expect("apply");
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    }

    /// The address of a pod, or the one of its Service.
    pub(super) fn address(&self, name: &PodName, family: Family, by_service: bool) -> IpAddr {
        if by_service {
            let number = self.pods.keys().position(|other| other == name).expect("a pod");
            return service_address(number);
        }
        let mut addresses = self.world.pods[name].addresses.iter();
        *addresses.find(|address| Family::of(**address) == family).expect("an address of the family")
    }

    /// Whether `from` is answered; `wanted` says how long to wait.
    pub(super) fn ask(&self, from: &PodName, to: SocketAddr, protocol: Protocol, wanted: bool) -> bool {
        self.pods[from].run(|| ask(to, protocol, wanted)).expect("enter namespace")
    }

    /// Whether the node itself is answered.
    pub(super) fn ask_from_node(&self, to: SocketAddr) -> bool {
        self.node.run(|| ask(to, Protocol::Tcp, true)).expect("enter namespace")
    }

    pub(super) fn connect(&self, from: &PodName, to: SocketAddr) -> TcpStream {
        let connect = || TcpStream::connect_timeout(&to, PATIENCE).expect("connect");
        self.pods[from].run(connect).expect("enter namespace")
    }

    pub(super) fn on_node<T: Send>(
        &mut self,
        work: impl FnOnce(&mut IptablesDataplane, &Snapshot) -> T + Send,
    ) -> T {
        let Self { node, plane, snapshot, .. } = self;
        node.run(|| work(plane, snapshot)).expect("enter namespace")
    }
}

/// Whether a connection still carries something.
pub(super) fn carries(stream: &mut TcpStream, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    stream.set_read_timeout(Some(Duration::from_millis(50))).expect("timeout");
    stream.write_all(b"?").expect("a byte has room");
    while Instant::now() < deadline {
        if stream.read(&mut [0; 64]).is_ok_and(|length| length > 0) {
            return true;
        }
    }
    false
}

fn service_address(number: usize) -> IpAddr {
    Ipv4Addr::new(10, 96, 0, number as u8 + 1).into()
}

fn cluster_ip(number: usize, pod: IpAddr, (protocol, port): Listens) -> ServicePort {
    let name = format!("s{number}");
    let at = service_address(number).to_string();
    let backend = Backend { address: SocketAddr::new(pod, port), local: true, terminating: false };
    let port_name = format!("p{port}");
    service(
        id("t", &name, &port_name, protocol),
        vec![frontend(FrontendKind::ClusterIp, &at, port)],
        vec![backend],
    )
}

/// Answers whatever comes.
fn listen(protocol: Protocol, port: u16) {
    let any = (Ipv6Addr::UNSPECIFIED, port);
    if protocol == Protocol::Udp {
        let socket = UdpSocket::bind(any).expect("bind");
        std::thread::spawn(move || {
            while let Ok((_, client)) = socket.recv_from(&mut [0; 64]) {
                let _ = socket.send_to(b"!", client);
            }
        });
        return;
    }
    let listener = TcpListener::bind(any).expect("bind");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                while stream.read(&mut [0; 64]).is_ok_and(|length| length > 0)
                    && stream.write_all(b"!").is_ok()
                {}
            });
        }
    });
}

fn ask(to: SocketAddr, protocol: Protocol, wanted: bool) -> bool {
    let patience = if wanted { PATIENCE } else { SILENCE };
    if protocol != Protocol::Udp {
        return TcpStream::connect_timeout(&to, patience).is_ok();
    }
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).expect("bind");
    socket.connect(to).expect("connect");
    socket.set_read_timeout(Some(patience)).expect("timeout");
    socket.send(b"?").is_ok() && socket.recv(&mut [0; 8]).is_ok()
}

fn nodad(address: IpAddr) -> &'static str {
    if address.is_ipv6() { " nodad" } else { "" }
}

fn ip(namespace: &Owned, batch: &str) {
    let mut command = namespace.command("ip");
    let mut child = command.args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("run ip");
    child.stdin.take().expect("piped").write_all(batch.as_bytes()).expect("write to ip");
    assert!(child.wait().expect("wait for ip").success(), "{batch}");
}
