//! A node, a pod that asks, a namespace that serves, and the cgroup whose sockets are served.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use dataplane::Dataplane as _;
use dataplane_ebpf::{Config, EbpfDataplane, Refusals, Telling};
use model::{
    Changed, Frontend, FrontendAddress, FrontendKind, KnownEndpoint, Port, Protocol, ServicePort, Snapshot,
    TrafficPolicy,
};
use netns::{NetNs, Owned, ThreadGroup};

use crate::{
    model_of::{address, endpoint, frontend, node, service, snapshot, with_backends},
    space::{self, PinFolder},
};

pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
pub(crate) const SERVED: u16 = 8080;

pub(crate) struct Node {
    pub(crate) plane: Option<EbpfDataplane>,
    pub(crate) host: Owned,
    pub(crate) client: Owned,
    pub(crate) group: ThreadGroup,
    pub(crate) pins: PinFolder,
    pub(crate) refusals: Refusals,
    pub(crate) telling: Telling,
    backends: Owned,
    pub(crate) snapshot: Snapshot,
    ifindex: u32,
}

/// How a client writes the frontend's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    V4,
    V6,
    /// IPv4 over an IPv6 socket.
    Mapped,
}

impl Form {
    pub(crate) const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Mapped];

    fn pick(self, v4: &str, v6: &str) -> IpAddr {
        address(if self == Self::V6 { v6 } else { v4 })
    }

    pub(crate) fn backend(self, number: u8) -> SocketAddr {
        let ip = self.pick(&format!("10.20.0.{number}"), &format!("fd00:20::{number}"));
        SocketAddr::new(ip, SERVED)
    }

    pub(crate) fn cluster_ip(self) -> SocketAddr {
        SocketAddr::new(self.pick("10.24.0.1", "fd00:24::1"), 80)
    }

    pub(crate) fn vip(self) -> SocketAddr {
        SocketAddr::new(self.pick("203.0.113.10", "fd00:203::10"), 80)
    }

    pub(crate) fn node_address(self) -> IpAddr {
        self.pick("10.128.0.11", "fd00:128::11")
    }

    pub(crate) fn pod_address(self) -> IpAddr {
        self.pick("10.20.0.9", "fd00:20::9")
    }

    /// As a program writes it.
    pub(crate) fn written(self, to: SocketAddr) -> SocketAddr {
        match (self, to) {
            (Self::Mapped, SocketAddr::V4(v4)) => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
            _ => to,
        }
    }

    pub(crate) fn unspecified(self) -> SocketAddr {
        if self == Self::V4 { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() }
    }
}

/// Cluster IP, VIP under Cluster policy, node port 30080; backends are ready endpoints.
pub(crate) fn balanced(form: Form, protocol: Protocol, backends: &[u8]) -> ServicePort {
    let vip = frontend(
        FrontendKind::LoadBalancer,
        FrontendAddress::Ip(form.vip().ip()),
        80,
        TrafficPolicy::Cluster,
    );
    let node_port = frontend(FrontendKind::NodePort, FrontendAddress::Node, 30080, TrafficPolicy::Cluster);
    let frontends = vec![cluster_ip(form), vip, node_port];
    let addresses: Vec<_> = backends.iter().map(|number| (form.backend(*number), true)).collect();
    let mut service = with_backends(service("web", protocol, frontends), &addresses);
    service.endpoints = backends.iter().map(|number| known(form, *number, true)).collect();
    service
}

pub(crate) fn known(form: Form, number: u8, serving: bool) -> KnownEndpoint {
    KnownEndpoint { address: form.backend(number), serving }
}

fn cluster_ip(form: Form) -> Frontend {
    Frontend { port: Port::new(80).expect("port"), ..crate::model_of::cluster_ip(form.cluster_ip().ip(), 80) }
}

impl Node {
    pub(crate) fn new() -> Self {
        let [host, client, backends] = ["host", "client", "backends"].map(space::namespace);
        space::forward(&host);
        space::ip(&host, "addr add 10.128.0.11/32 dev lo\naddr add fd00:128::11/128 dev lo nodad\n");
        plug(&host, &client, "tpclient", &["10.20.0.9", "fd00:20::9"]);
        plug(&host, &backends, "tpback", &["10.20.0.5", "10.20.0.6", "fd00:20::5", "fd00:20::6"]);
        for form in [Form::V4, Form::V6] {
            for number in [5, 6] {
                serve_tcp(&backends, form.backend(number));
                serve_udp(&backends, form.backend(number));
            }
        }
        let ifindex = host.run(|| space::ifindex("tpclient")).expect("enter");
        let group = ThreadGroup::create(&space::unique("sock")).expect("threaded cgroups");
        let (pins, snapshot) = (PinFolder::new(), Snapshot::default());
        let (refusals, telling) = (Refusals::Auto, Telling::Nothing);
        let plane = None;
        let mut this =
            Self { plane, host, client, group, pins, refusals, telling, backends, snapshot, ifindex };
        this.open();
        this
    }

    /// Starts the plane, or starts it again over what the last one left.
    pub(crate) fn open(&mut self) {
        self.plane = None;
        self.plane = Some(self.open_at(&self.pins, true));
        self.apply();
    }

    pub(crate) fn open_at(&self, pins: &PinFolder, sockets: bool) -> EbpfDataplane {
        let config = Config {
            bpffs: pins.path().to_owned(),
            conntrack_entries: 1024,
            refusals: self.refusals,
            events: self.telling,
            cgroup: sockets.then(|| self.group.path().to_owned()),
            ..Config::default()
        };
        let open =
            || EbpfDataplane::open(config).unwrap_or_else(|error| panic!("{error}: {:?}", error.source));
        self.host.run(open).expect("enter")
    }

    pub(crate) fn program(&mut self, services: &[ServicePort]) {
        let pod = [Form::V4, Form::V6].map(Form::pod_address);
        let mut client = endpoint("client", &pod, "tpclient", self.ifindex, ("", ""));
        client.netns = Some(self.client.path());
        let config = node("node-a", &["10.128.0.11", "fd00:128::11"]);
        self.snapshot = snapshot(config, services.to_vec(), vec![client]);
        self.apply();
    }

    pub(crate) fn apply(&mut self) {
        let (plane, snapshot) = (self.plane.as_mut().expect("open"), &self.snapshot);
        let applied =
            self.host.run(|| plane.apply(snapshot, &Changed::all(snapshot)).expect("apply")).expect("enter");
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    }

    pub(crate) fn counter(&self, name: &str) -> u64 {
        let counters = self.plane.as_ref().expect("open").status().counters;
        counters.iter().find(|counter| counter.name == name).expect(name).packets
    }

    /// Runs `work` as a process of the host.
    pub(crate) fn on_host<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.inside(&self.host, work)
    }

    /// Runs `work` as a process of the pod.
    pub(crate) fn in_pod<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.inside(&self.client, work)
    }

    pub(crate) fn inside<T: Send>(&self, space: &NetNs, work: impl FnOnce() -> T + Send) -> T {
        let joined = || {
            self.group.join().expect("join the cgroup");
            work()
        };
        space.run(joined).expect("enter")
    }

    pub(crate) fn clean_up(mut self) {
        let mut plane = self.plane.take().expect("open");
        self.host.run(|| plane.clean_up().expect("clean up")).expect("enter");
        drop(self.backends);
    }
}

/// A cable between a router and a machine with these addresses.
fn plug(router: &NetNs, space: &NetNs, port: &str, addresses: &[&str]) {
    let name = space.name();
    space::ip(
        router,
        &format!(
            "link add {port} type veth peer name eth0 netns {name}\nlink set {port} up\naddr add fe80::1/64 dev {port} nodad\n"
        ),
    );
    space::ip(space, "link set eth0 up\n");
    for ip in addresses {
        let length = if address(ip).is_ipv4() { 32 } else { 128 };
        let nodad = if length == 128 { " nodad" } else { "" };
        space::ip(space, &format!("addr add {ip}/{length} dev eth0{nodad}\n"));
        space::ip(router, &format!("route add {ip}/{length} dev {port}\n"));
    }
    // The router answers for everyone, as a node does for its pods.
    space::ip(
        space,
        "route add 169.254.1.1 dev eth0 scope link\nroute add 10.128.0.11/32 via 169.254.1.1\n\
         route add 10.20.0.0/24 via 169.254.1.1\nroute add fd00:128::11/128 via fe80::1 dev eth0\n\
         route add fd00:20::/64 via fe80::1 dev eth0\n",
    );
    let mac = |space: &NetNs, interface: &str| {
        let text = space::run(space, "ip", &["-o", "link", "show", interface]);
        text.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).expect("a MAC").to_owned()
    };
    let gateway = mac(router, port);
    space::ip(space, &format!("neigh add 169.254.1.1 lladdr {gateway} dev eth0 nud permanent\n"));
    for ip in addresses {
        let mac = mac(space, "eth0");
        space::ip(router, &format!("neigh add {ip} lladdr {mac} dev {port} nud permanent\n"));
    }
}

/// Answers with the address that was reached and the client's, then with everything that is sent.
pub(crate) fn serve_tcp(space: &NetNs, at: SocketAddr) {
    let listener = space.run(|| TcpListener::bind(at).expect("bind")).expect("enter");
    // It ends with the test's process.
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || -> io::Result<()> {
                writeln!(stream, "{at} {}", stream.peer_addr()?.ip())?;
                let mut byte = [0];
                while stream.read(&mut byte)? == 1 {
                    stream.write_all(&byte)?;
                }
                Ok(())
            });
        }
    });
}

pub(crate) fn serve_udp(space: &NetNs, at: SocketAddr) {
    let socket = space.run(|| UdpSocket::bind(at).expect("bind")).expect("enter");
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(format!("{at} {}", peer.ip()).as_bytes(), peer);
        }
    });
}

/// Who answered, and whom it saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) backend: SocketAddr,
    pub(crate) client: IpAddr,
}

impl Answer {
    pub(crate) fn parse(line: &str) -> Self {
        let (backend, client) = line.trim().split_once(' ').expect("two addresses");
        Self { backend: backend.parse().expect("backend"), client: address(client) }
    }
}

/// A connection that was greeted.
pub(crate) fn connect(to: SocketAddr) -> io::Result<(TcpStream, Answer)> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::with_capacity(1, stream.try_clone()?).read_line(&mut line)?;
    Ok((stream, Answer::parse(&line)))
}

/// Whether a byte comes back.
pub(crate) fn echo(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])
}

pub(crate) fn datagram_socket(form: Form) -> UdpSocket {
    let socket = UdpSocket::bind(form.unspecified()).expect("bind");
    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    socket
}

/// Over an unconnected socket; returns the source of the answer as well.
pub(crate) fn ask_from(socket: &UdpSocket, to: SocketAddr) -> io::Result<(Answer, SocketAddr)> {
    socket.send_to(b"?", to)?;
    let mut buffer = [0; 512];
    let (length, source) = socket.recv_from(&mut buffer)?;
    Ok((Answer::parse(&String::from_utf8_lossy(&buffer[..length])), source))
}

/// Polls until `look` finds something.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
