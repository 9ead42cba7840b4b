//! Packet in, packet out, by test runs of the real programs over the real maps: every test for both families.

mod direct;
mod errors;
mod events;
mod flows;
mod headers;
mod host;
mod irregular;
mod l7;
mod maglev;
mod malformed;
mod oracle;
mod passing;
mod policy;
mod ports;
mod pressure;
mod random;
mod refusal;
mod sctp;
mod telling;
mod translation;
mod xdp;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use aya::programs::TestRunOptions;
use dataplane::Dataplane as _;
use dataplane_ebpf::{Acceleration, Checksums, Config, EbpfDataplane};
use model::{Changed, FrontendAddress, FrontendKind, Protocol, ServicePort, Snapshot};

use crate::{
    model_of::{address, cluster_ip, endpoint, frontend, node, service, snapshot, with_backends},
    space::{self, PinFolder},
    wire::{self, Frame, Mac, icmp_error},
};

const NEXT: i32 = -1;
const DROP: i32 = 2;
const REDIRECT: i32 = 7;

const POD_MAC: Mac = [2, 0x20, 0, 0, 0, 5];
const HOST_MAC: Mac = [2, 0x20, 0, 0, 0, 1];
/// The only port that masquerading may use: the outcome is known, and the range is soon exhausted.
const MASQUERADE_PORT: u16 = 5000;
const ONE_PORT: RangeInclusive<u16> = MASQUERADE_PORT..=MASQUERADE_PORT;

/// The addresses of one family.
#[derive(Clone, Copy, Debug)]
struct Plan {
    node: IpAddr,
    pod: IpAddr,
    remote_pod: IpAddr,
    client: IpAddr,
    cluster_ip: IpAddr,
    vip: IpAddr,
    /// Of an ICMP error: (destination unreachable, port unreachable), (fragmentation needed or packet too big).
    unreachable: (u8, u8),
    too_big: (u8, u8),
}

fn plans() -> [Plan; 2] {
    [
        Plan {
            node: address("10.128.0.11"),
            pod: address("10.20.0.5"),
            remote_pod: address("10.20.1.7"),
            client: address("198.51.100.10"),
            cluster_ip: address("10.24.0.10"),
            vip: address("203.0.113.10"),
            unreachable: (3, 3),
            too_big: (3, 4),
        },
        Plan {
            node: address("fd00:128::11"),
            pod: address("fd00:20::5"),
            remote_pod: address("fd00:20:0:1::7"),
            client: address("2001:db8:c::10"),
            cluster_ip: address("fd00:24::10"),
            vip: address("2001:db8:f::10"),
            unreachable: (1, 4),
            too_big: (2, 0),
        },
    ]
}

impl Plan {
    /// What a frontend answers to a packet that does not fit: the size that does, with as much of the packet as must be quoted.
    fn told_what_fits(&self, packet: &Frame, mtu: u16) -> Vec<u8> {
        let ends = (packet.destination.ip(), packet.source.ip());
        let header = if ends.0.is_ipv4() { 20 } else { 40 };
        let (kind, code) = self.too_big;
        let mut told = icmp_error(ends, 64, kind, code, &packet.packet()[..header + 8]);
        told[14 + header + 6..][..2].copy_from_slice(&mtu.to_be_bytes());
        wire::repair(&mut told);
        let frame = packet.bytes();
        told[..6].copy_from_slice(&frame[6..12]);
        told[6..12].copy_from_slice(&frame[..6]);
        told
    }
}

/// A node in a namespace, with one pod and one uplink, whose programs are run by hand.
struct Bench<'a> {
    plan: Plan,
    plane: &'a mut EbpfDataplane,
    uplink: u32,
    pod_link: u32,
    /// What the node is told of its tunnel.
    tunnel: Option<model::Tunnel>,
    counters: BTreeMap<String, u64>,
}

struct Answer {
    verdict: i32,
    frame: Vec<u8>,
    /// Reasons and lookups that counted, and how often.
    counted: BTreeMap<String, u64>,
}

impl Answer {
    /// The verdict, the whole frame, and exactly one packet under `reason`.
    #[track_caller]
    fn expect(&self, verdict: i32, frame: &[u8], reason: &str) {
        assert_eq!(self.reasons(), [(reason.to_owned(), 1)].into(), "counters");
        assert_eq!(self.verdict, verdict, "verdict");
        assert_eq!(hex(&self.frame), hex(frame), "frame");
    }

    fn reasons(&self) -> BTreeMap<String, u64> {
        self.counted
            .iter()
            .filter(|(name, _)| !name.starts_with("slow_"))
            .map(|(n, c)| (n.clone(), *c))
            .collect()
    }

    fn lookups(&self) -> BTreeMap<String, u64> {
        self.counted
            .iter()
            .filter(|(name, _)| name.starts_with("slow_"))
            .map(|(n, c)| (n.clone(), *c))
            .collect()
    }
}

fn hex(bytes: &[u8]) -> String {
    let words = bytes.chunks(2).map(|pair| pair.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    words.collect::<Vec<_>>().join(" ")
}

impl Bench<'_> {
    fn pod_sends(&mut self, frame: &[u8]) -> Answer {
        self.run("from_pod", self.pod_link, frame)
    }

    fn wire_brings(&mut self, frame: &[u8]) -> Answer {
        self.run("from_wire", self.uplink, frame)
    }

    fn tunnel_brings(&mut self, frame: &[u8]) -> Answer {
        let tunnel = self.tunnel.as_ref().expect("a tunnel").ifindex;
        self.run("from_tunnel", tunnel, frame)
    }

    /// What a process of the node has sent, at the uplink.
    fn host_sends(&mut self, frame: &[u8]) -> Answer {
        self.run("to_wire", self.uplink, frame)
    }

    /// What the stack brings to the pod, as a process of the node sent it.
    fn host_sends_to_pod(&mut self, frame: &[u8]) -> Answer {
        self.run("to_pod", self.pod_link, frame)
    }

    /// What the stack forwards to the pod, as it came by the uplink.
    fn stack_brings(&mut self, frame: &[u8]) -> Answer {
        self.run_received("to_pod", self.pod_link, self.uplink, frame)
    }

    fn run(&mut self, program: &str, interface: u32, frame: &[u8]) -> Answer {
        self.run_received(program, interface, 0, frame)
    }

    /// `received_on` is the device that the stack got the packet by.
    fn run_received(&mut self, program: &str, interface: u32, received_on: u32, frame: &[u8]) -> Answer {
        // `struct __sk_buff`: only the interfaces are set.
        let mut context = [0u8; 192];
        context[36..40].copy_from_slice(&received_on.to_ne_bytes());
        context[40..44].copy_from_slice(&interface.to_ne_bytes());
        let mut out = vec![0u8; 4096];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let run =
            self.plane.test_run(program, options).unwrap_or_else(|error| panic!("{program}: {error:?}"));
        out.truncate(run.data_size_out as usize);
        let after = counters(self.plane);
        let counted = after
            .iter()
            .map(|(name, count)| (name.clone(), count - self.counters[name]))
            .filter(|(_, count)| *count > 0)
            .collect();
        self.counters = after;
        Answer { verdict: run.return_value as i32, frame: out, counted }
    }

    fn program(&mut self, services: Vec<ServicePort>) {
        let failed = self.try_program(services);
        assert!(failed.is_empty(), "{failed:?}");
    }

    /// What failed, and why, with its cause.
    fn try_program(&mut self, services: Vec<ServicePort>) -> BTreeMap<dataplane::Key, String> {
        let snapshot = self.snapshot(services);
        let applied = self.plane.apply(&snapshot, &Changed::all(&snapshot)).expect("apply");
        self.counters = counters(self.plane);
        applied.failed.into_iter().map(|(key, error)| (key, format!("{error}: {}", error.source))).collect()
    }

    fn snapshot(&self, services: Vec<ServicePort>) -> Snapshot {
        let addresses: Vec<String> = plans().iter().map(|plan| plan.node.to_string()).collect();
        let mut node = node("node-a", &addresses.iter().map(String::as_str).collect::<Vec<_>>());
        node.tunnel.clone_from(&self.tunnel);
        let pods: Vec<IpAddr> = plans().iter().map(|plan| plan.pod).collect();
        let macs = ("02:20:00:00:00:05", "02:20:00:00:00:01");
        snapshot(node, services, vec![endpoint("pod", &pods, "tppod", self.pod_link, macs)])
    }

    fn at(&self, pick: fn(&Plan) -> IpAddr, port: u16) -> SocketAddr {
        SocketAddr::new(pick(&self.plan), port)
    }

    fn plan_cluster_ip(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.plan.cluster_ip, port)
    }

    /// A TCP service of every kind of frontend under `policy`.
    fn web(&self, policy: model::TrafficPolicy, backends: &[(SocketAddr, bool)]) -> ServicePort {
        let mut frontends = vec![cluster_ip(self.plan.cluster_ip, 80)];
        frontends.push(frontend(FrontendKind::LoadBalancer, FrontendAddress::Ip(self.plan.vip), 80, policy));
        frontends.push(frontend(FrontendKind::NodePort, FrontendAddress::Node, 30080, policy));
        with_backends(service("web", Protocol::Tcp, frontends), backends)
    }

    fn dns(&self, backends: &[(SocketAddr, bool)]) -> ServicePort {
        with_backends(service("dns", Protocol::Udp, vec![cluster_ip(self.plan.cluster_ip, 53)]), backends)
    }
}

fn counters(plane: &EbpfDataplane) -> BTreeMap<String, u64> {
    plane.status().counters.into_iter().map(|counter| (counter.name, counter.packets)).collect()
}

/// Runs `test` for both families.
fn each(test: impl Fn(&mut Bench<'_>) + Sync) {
    on_a_node(Checksums::Auto, ONE_PORT, &test);
}

/// Runs `test` for both families, with both ways to bring checksums up to date.
fn each_way(test: impl Fn(&mut Bench<'_>) + Sync) {
    on_a_node(Checksums::Auto, ONE_PORT, &test);
    on_a_node(Checksums::ByHelper, ONE_PORT, &test);
}

fn on_a_node(checksums: Checksums, ports: RangeInclusive<u16>, test: &(dyn Fn(&mut Bench<'_>) + Sync)) {
    on_a_node_with(Config { checksums, masquerade_ports: Some(ports), ..small() }, test);
}

/// A connection table that a test can fill.
fn small() -> Config {
    Config { conntrack_entries: 1024, ..Config::default() }
}

/// Attached to nothing that is up: the stack's own packets would count.
fn on_a_node_with(config: Config, test: &(dyn Fn(&mut Bench<'_>) + Sync)) {
    let space = space::namespace("packets");
    let pins = PinFolder::new();
    space::forward(&space);
    space::ip(
        &space,
        "link add wire0 address 02:80:00:00:00:11 type veth peer name far
                 link set wire0 up
                 link set far up
                 addr add 10.128.0.11/24 dev wire0
                 addr add fd00:128::11/64 dev wire0 nodad
                 route add default via 10.128.0.1
                 route add default via fd00:128::1
                 route add 10.20.1.0/24 via 10.128.0.12
                 route add fd00:20:0:1::/64 via fd00:128::12
                 neigh add 10.128.0.12 lladdr 02:80:00:00:00:12 dev wire0 nud permanent
                 neigh add fd00:128::12 lladdr 02:80:00:00:00:12 dev wire0 nud permanent
                 link add tppod type veth peer name eth9
                 ",
    );
    // A veth has receive queues for XDP only with this, or with a program.
    space::run(&space, "ethtool", &["-K", "wire0", "gro", "on"]);
    let acceleration = Acceleration::Auto;
    let config = Config { bpffs: pins.path().to_owned(), uplinks: vec![], acceleration, ..config };
    space.run(|| run_both(config, test)).expect("enter");
}

fn run_both(config: Config, test: &(dyn Fn(&mut Bench<'_>) + Sync)) {
    let mut plane = EbpfDataplane::open(config).unwrap_or_else(|error| panic!("{error}: {:?}", error.source));

    let (uplink, pod_link) = (space::ifindex("wire0"), space::ifindex("tppod"));
    for plan in plans() {
        println!("{plan:?}");
        let counters = counters(&plane);
        test(&mut Bench { plan, plane: &mut plane, uplink, pod_link, tunnel: None, counters });
    }
    plane.clean_up().expect("clean up");
}
