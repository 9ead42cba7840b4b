//! The namespaces, the pods' servers, and the planes on the nodes.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    thread,
};

use dataplane::Dataplane as _;
use dataplane_ebpf::{Acceleration, Attach, Checksums, Config, EbpfDataplane, LoadBalancer};
use ipnet::IpNet;
use model::{Changed, IdentityId, NodeConfig, PolicyTable, Port, ServicePort, Snapshot, Tunnel};

use super::talk::{serve_tcp, serve_udp};
use crate::{
    model_of::{address, endpoint, node, snapshot},
    space::{self, PinFolder},
};

pub(crate) struct Pod {
    pub(crate) name: &'static str,
    pub(crate) space: netns::Owned,
    pub(crate) ip: IpAddr,
    interface: &'static str,
    ifindex: u32,
    macs: (String, String),
}

pub(crate) struct Node {
    pub(crate) name: &'static str,
    pub(crate) space: netns::Owned,
    pub(crate) ip: IpAddr,
    pub(crate) pods: Vec<Pod>,
    pub(crate) plane: Option<EbpfDataplane>,
    pins: PinFolder,
    setting: Setting,
    tunnel: Option<Tunnel>,
    snapshot: Snapshot,
}

/// How the planes are set up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) attach: Attach,
    pub(crate) checksums: Checksums,
    pub(crate) acceleration: Acceleration,
    /// Pods' interfaces compute their own checksums.
    pub(crate) transmit_offload: bool,
    /// Direct return needs a tunnel: pods of the other node are reached through it then.
    pub(crate) load_balancer: LoadBalancer,
    /// Policies are enforced.
    pub(crate) policy: bool,
}

pub(crate) const USUAL: Setting = Setting {
    attach: Attach::Auto,
    checksums: Checksums::Auto,
    acceleration: Acceleration::Off,
    transmit_offload: true,
    load_balancer: LoadBalancer::Masquerade,
    policy: false,
};

pub(crate) struct Cluster {
    pub(crate) client: netns::Owned,
    edge: netns::Owned,
    bridge: netns::Owned,
    pub(crate) a: Node,
    pub(crate) b: Node,
}

impl Cluster {
    pub(crate) fn new(setting: Setting) -> Self {
        let (client, edge, bridge) =
            (space::namespace("client"), space::namespace("edge"), space::namespace("bridge"));
        space::ip(&bridge, "link add br0 type bridge forward_delay 0\nlink set br0 up\n");
        space::forward(&edge);
        plug(&bridge, &edge, "edge");
        space::ip(
            &edge,
            &format!(
                "addr add 10.128.0.1/24 dev eth0
                 link add eth1 type veth peer name eth0 netns {}
                 addr add 198.51.100.1/24 dev eth1
                 link set eth1 up
                 route add 203.0.113.10 via 10.128.0.11
                 route add 203.0.113.11 via 10.128.0.12
                 ",
                client.name()
            ),
        );
        space::ip(
            &client,
            "addr add 198.51.100.10/24 dev eth0\nlink set eth0 up\nroute add default via 198.51.100.1\n",
        );
        if !setting.transmit_offload {
            space::run(&client, "ethtool", &["-K", "eth0", "tx", "off"]);
        }
        let a = Node::new(
            &bridge,
            setting,
            "node-a",
            11,
            &[("a1", "tpa1", "10.20.0.5"), ("a2", "tpa2", "10.20.0.6")],
        );
        let b = Node::new(&bridge, setting, "node-b", 12, &[("b1", "tpb1", "10.20.1.7")]);
        space::ip(&a.space, "route add 10.20.1.0/24 via 10.128.0.12\n");
        space::ip(&b.space, "route add 10.20.0.0/24 via 10.128.0.11\n");
        if a.tunnel.is_some() {
            for (here, there, number, pods) in [(&a, &b, 12, "10.20.1"), (&b, &a, 11, "10.20.0")] {
                let (mac, to) = (mac(&there.space, "vx0"), there.ip);
                assert_eq!(to, address(&format!("10.128.0.{number}")));
                space::ip(
                    &here.space,
                    &format!(
                        "route replace {pods}.0/24 via {pods}.0 dev vx0 onlink
                         neigh add {pods}.0 lladdr {mac} dev vx0 nud permanent
                         "
                    ),
                );
                let entry = ["fdb", "append", &mac, "dev", "vx0", "dst", &to.to_string()];
                space::run(&here.space, "bridge", &entry);
            }
        }
        let mut this = Self { client, edge, bridge, a, b };
        this.program(&[]);
        this
    }

    /// The backends are marked local on the node that has them.
    pub(crate) fn program(&mut self, services: &[ServicePort]) {
        for node in [&mut self.a, &mut self.b] {
            node.program(services);
        }
    }

    pub(crate) fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.a.pods.iter().chain(&self.b.pods)
    }

    /// Echo servers in every pod, TCP and UDP.
    pub(crate) fn serve(&self) {
        for pod in self.pods() {
            serve_tcp(&pod.space, pod.name, SocketAddr::new(pod.ip, 8080));
            serve_udp(&pod.space, pod.name, SocketAddr::new(pod.ip, 5353));
        }
    }

    pub(crate) fn clean_up(mut self) {
        for node in [&mut self.a, &mut self.b] {
            let mut plane = node.plane.take().expect("open");
            node.space.run(|| plane.clean_up().expect("clean up")).expect("enter");
        }
        drop((self.edge, self.bridge));
    }
}

/// A cable from `space`'s eth0 to the bridge.
fn plug(bridge: &netns::NetNs, space: &netns::NetNs, port: &str) {
    space::ip(
        bridge,
        &format!(
            "link add {port} type veth peer name eth0 netns {}\nlink set {port} master br0\nlink set {port} up\n",
            space.name()
        ),
    );
    // What native XDP sends back out of a veth is taken by receive queues, which its peer has only with this.
    space::run(bridge, "ethtool", &["-K", port, "gro", "on"]);
    space::ip(space, "link set eth0 up\n");
}

/// A VXLAN device over the node's uplink.
fn add_tunnel(node: &netns::NetNs, number: u8) -> Tunnel {
    space::ip(
        node,
        &format!(
            "link add vx0 type vxlan id 7 dstport 8472 local 10.128.0.{number} dev eth0 nolearning
             link set vx0 up
             "
        ),
    );
    let ifindex = node.run(|| space::ifindex("vx0")).expect("enter");
    Tunnel { interface: "vx0".into(), ifindex, addresses: vec![], port: Port::new(8472).expect("port") }
}

impl Node {
    fn new(
        bridge: &netns::NetNs,
        setting: Setting,
        name: &'static str,
        number: u8,
        pods: &[(&'static str, &'static str, &str)],
    ) -> Self {
        let space = space::namespace(name);
        space::forward(&space);
        plug(bridge, &space, name);
        space::ip(
            &space,
            &format!(
                "addr add 10.128.0.{number}/24 dev eth0
                 route add default via 10.128.0.1
                 route add local 203.0.113.10 dev eth0 proto 66
                 route add local 203.0.113.11 dev eth0 proto 66
                 "
            ),
        );
        let tunnel =
            (setting.load_balancer == LoadBalancer::DirectReturn).then(|| add_tunnel(&space, number));
        let pods =
            pods.iter().map(|(pod, link, ip)| Pod::new(&space, setting, pod, link, address(ip))).collect();
        let mut this = Self {
            name,
            ip: address(&format!("10.128.0.{number}")),
            space,
            pods,
            plane: None,
            pins: PinFolder::new(),
            setting,
            snapshot: Snapshot {
                node: NodeConfig { tunnel: tunnel.clone(), ..NodeConfig::default() },
                ..Snapshot::default()
            },
            tunnel,
        };
        this.open();
        this
    }

    /// Starts the plane, or starts it again over what the last one left.
    pub(crate) fn open(&mut self) {
        self.plane = None;
        let config = Config {
            bpffs: self.pins.path().to_owned(),
            uplinks: vec!["eth0".into()],
            conntrack_entries: 4096,
            attach: self.setting.attach,
            checksums: self.setting.checksums,
            acceleration: self.setting.acceleration,
            load_balancer: self.setting.load_balancer,
            policy: self.setting.policy,
            ..Config::default()
        };
        let open =
            || EbpfDataplane::open(config).unwrap_or_else(|error| panic!("{error}: {:?}", error.source));
        self.plane = Some(self.space.run(open).expect("enter"));
        self.apply();
    }

    /// Starts the plane again with another choice.
    pub(crate) fn accelerate(&mut self, acceleration: Acceleration) {
        self.setting.acceleration = acceleration;
        self.open();
    }

    fn program(&mut self, services: &[ServicePort]) {
        let own: Vec<IpAddr> = self.pods.iter().map(|pod| pod.ip).chain([self.ip]).collect();
        let localized = services.iter().cloned().map(|mut service| {
            for backend in &mut service.cluster {
                backend.local = own.contains(&backend.address.ip());
            }
            service.local = service.cluster.iter().filter(|backend| backend.local).cloned().collect();
            service
        });
        let endpoints = self.pods.iter().map(|pod| {
            let macs = (pod.macs.0.as_str(), pod.macs.1.as_str());
            endpoint(pod.name, &[pod.ip], pod.interface, pod.ifindex, macs)
        });
        let mut config = node(self.name, &[&self.ip.to_string()]);
        config.tunnel.clone_from(&self.tunnel);
        self.snapshot = snapshot(config, localized.collect(), endpoints.collect());
        self.apply();
    }

    /// Programs who is who, and who may talk to whom.
    pub(crate) fn enforce(&mut self, addresses: BTreeMap<IpNet, IdentityId>, policy: PolicyTable) {
        (self.snapshot.addresses, self.snapshot.policy) = (addresses, policy);
        self.apply();
    }

    fn apply(&mut self) {
        let (plane, snapshot) = (self.plane.as_mut().expect("open"), &self.snapshot);
        let applied =
            self.space.run(|| plane.apply(snapshot, &Changed::all(snapshot)).expect("apply")).expect("enter");
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    }

    pub(crate) fn counter(&self, name: &str) -> u64 {
        let counters = self.plane.as_ref().expect("open").status().counters;
        counters.iter().find(|counter| counter.name == name).expect(name).packets
    }
}

/// A failed test tells what the datapath saw.
impl Drop for Node {
    fn drop(&mut self) {
        let Some(plane) = self.plane.as_ref().filter(|_| thread::panicking()) else { return };
        for counter in plane.status().counters.iter().filter(|counter| counter.packets > 0) {
            println!("{} {} {}", self.name, counter.name, counter.packets);
        }
        for connection in plane.connections(100).unwrap_or_default() {
            println!("{} {connection:?}", self.name);
        }
        println!("{}", space::run(&self.space, "ip", &["route", "show", "table", "all"]));
    }
}

impl Pod {
    fn new(
        node: &netns::NetNs,
        setting: Setting,
        name: &'static str,
        interface: &'static str,
        ip: IpAddr,
    ) -> Self {
        let space = space::namespace(name);
        let inside = space.name();
        space::ip(
            node,
            &format!(
                "link add {interface} type veth peer name eth0 netns {inside}
                 link set {interface} up
                 route add {ip}/32 dev {interface}
                 "
            ),
        );
        let macs = (mac(&space, "eth0"), mac(node, interface));
        space::ip(node, &format!("neigh add {ip} lladdr {} dev {interface} nud permanent\n", macs.0));
        space::ip(
            &space,
            &format!(
                "addr add {ip}/32 dev eth0
                 link set eth0 up
                 route add 169.254.1.1 dev eth0 scope link
                 route add default via 169.254.1.1
                 neigh add 169.254.1.1 lladdr {} dev eth0 nud permanent
                 ",
                macs.1
            ),
        );
        // Pods of node b know nothing of the tunnel, and ask clients for more than it takes.
        if setting.load_balancer == LoadBalancer::DirectReturn && name.starts_with('a') {
            space::ip(&space, "link set eth0 mtu 1450\n");
        }
        if !setting.transmit_offload {
            space::run(&space, "ethtool", &["-K", "eth0", "tx", "off"]);
            space::run(node, "ethtool", &["-K", interface, "tx", "off"]);
        }
        let ifindex = node.run(|| space::ifindex(interface)).expect("enter");
        Self { name, space, ip, interface, ifindex, macs }
    }
}

fn mac(space: &netns::NetNs, interface: &str) -> String {
    let text = space::run(space, "ip", &["-o", "link", "show", interface]);
    let mut words = text.split_whitespace().skip_while(|word| *word != "link/ether");
    words.nth(1).expect("a MAC address").to_owned()
}
