//! The namespaces of a scenario: client, edge router, two nodes, four pods, wired as a lab's.

use std::{
    io::Write as _,
    net::IpAddr,
    process::Stdio,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use model::{Endpoint, Family, MacAddress, PodName};
use netns::{Owned, ThreadGroup};

use crate::places::{self, EDGE_CLIENT_SIDE, EDGE_NODE_SIDE, Node, POD_GATEWAY, Pair, Place, Pod, VIPS};

/// All namespaces and cgroups; dropping it removes them.
#[derive(Debug)]
pub struct Topology {
    /// Unique on this machine.
    pub name: String,
    edge: Owned,
    client: Owned,
    nodes: [Owned; 2],
    /// In order of [`Pod::ALL`], or none.
    pods: Vec<Owned>,
    groups: [ThreadGroup; 2],
    /// Where the edge sends load-balanced traffic.
    routed: Mutex<Option<Node>>,
}

impl Topology {
    /// # Panics
    /// Namespaces need root; the panic says what was refused.
    pub fn new() -> Self {
        Self::with(&Pod::ALL)
    }

    /// The same without pods, for those who lay their own [`Cable`]s.
    pub fn without_pods() -> Self {
        Self::with(&[])
    }

    fn with(pods: &[Pod]) -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let name = format!("tp-sc-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let create = |what: &str| Owned::create(&format!("{name}-{what}")).expect("create namespace");
        let topology = Self {
            edge: create("edge"),
            client: create("client"),
            nodes: Node::ALL.map(|node| create(node.name())),
            pods: pods.iter().map(|pod| create(pod.name())).collect(),
            groups: Node::ALL.map(|node| {
                let group = ThreadGroup::create(&format!("{name}-{}", node.name()));
                group.unwrap_or_else(|error| panic!("create cgroup of {}: {error}", node.name()))
            }),
            routed: Mutex::new(None),
            name,
        };
        topology.wire();
        topology
    }

    pub fn node(&self, node: Node) -> &Owned {
        &self.nodes[node as usize]
    }

    /// The cgroup of a node's processes, those of its pods included.
    pub fn group(&self, node: Node) -> &ThreadGroup {
        &self.groups[node as usize]
    }

    pub fn pod(&self, pod: Pod) -> &Owned {
        &self.pods[pod as usize]
    }

    pub fn place(&self, place: Place) -> &Owned {
        match place {
            Place::Client => &self.client,
            Place::Pod(pod) => self.pod(pod),
            Place::Host(node) => self.node(node),
        }
    }

    /// Makes the edge send what goes to load-balancer addresses and external IPs to `node`.
    pub fn route_vips(&self, node: Node) {
        let mut routed = self.routed.lock().unwrap_or_else(PoisonError::into_inner);
        if *routed == Some(node) {
            return;
        }
        let route = |family| {
            format!("route replace {} via {}\n", places::external_cidr(family), node.address(family))
        };
        ip(&self.edge, &Family::ALL.map(route).concat());
        *routed = Some(node);
    }

    /// The pods of `node` as the CNI plugin would report them.
    pub fn endpoints(&self, node: Node) -> Vec<Endpoint> {
        let endpoint = |pod: Pod| Endpoint {
            pod: PodName { namespace: "scenario".into(), name: pod.name().into() },
            addresses: Family::ALL.map(|family| pod.address(family)).into(),
            interface: host_side(pod),
            ifindex: self.ifindex(node, &host_side(pod)),
            mac: mac(pod, 0x02),
            host_mac: mac(pod, 0x06),
            netns: Some(self.pod(pod).path()),
            l7: Default::default(),
        };
        node.pods().map(endpoint).collect()
    }

    pub(crate) fn edge(&self) -> &Owned {
        &self.edge
    }

    pub(crate) fn ifindex(&self, node: Node, interface: &str) -> u32 {
        let index =
            self.node(node).run(|| nix::net::if_::if_nametoindex(interface)).expect("enter namespace");
        index.expect("interface index")
    }

    /// Pods then send packets with complete checksums and no segments larger than the wire's.
    pub fn disable_transmit_offload(&self) {
        for pod in Pod::ALL {
            let status = self
                .pod(pod)
                .command("ethtool")
                .args(["-K", "eth0", "tx", "off"])
                .stdout(Stdio::null())
                .status()
                .expect("run ethtool");
            assert!(status.success(), "ethtool -K eth0 tx off in pod {}", pod.name());
        }
    }

    fn wire(&self) {
        for machine in [&self.edge, &self.client].into_iter().chain(&self.nodes) {
            machine.run(set_up_stack).expect("enter namespace");
        }
        for router in [&self.edge].into_iter().chain(&self.nodes) {
            router.run(forward).expect("enter namespace");
        }
        ip(&self.edge, &self.edge_wiring());
        ip(&self.client, &client_wiring());
        for node in Node::ALL {
            ip(self.node(node), &self.node_wiring(node));
        }
        for (pod, space) in Pod::ALL.into_iter().zip(&self.pods) {
            cable(pod).lay(self.node(pod.node()), space);
        }
    }

    fn edge_wiring(&self) -> String {
        let mut batch = String::from("link add nodes type bridge\n");
        batch += &format!("link add client type veth peer name eth0 netns {}\n", self.client.name());
        for node in Node::ALL {
            let name = node.name();
            batch += &format!("link add {name} type veth peer name eth0 netns {}\n", self.node(node).name());
            batch += &format!("link set {name} master nodes up\n");
        }
        batch += "link set client up\nlink set nodes up\n";
        for family in Family::ALL {
            batch += &add_address(EDGE_CLIENT_SIDE.of(family), subnet(family), "client");
            batch += &add_address(EDGE_NODE_SIDE.of(family), subnet(family), "nodes");
            for node in Node::ALL {
                batch += &format!("route add {} via {}\n", node.pod_cidr(family), node.address(family));
            }
        }
        batch
    }

    fn node_wiring(&self, node: Node) -> String {
        let mut batch = String::from("link set eth0 up\n");
        for family in Family::ALL {
            batch += &add_address(node.address(family), subnet(family), "eth0");
            batch += &add_second_address(node.second_addresses().of(family), subnet(family));
            batch += &format!("route add default via {}\n", EDGE_NODE_SIDE.of(family));
            // What a cloud's guest agent does for forwarding rules.
            for vip in VIPS {
                batch += &format!("route add local {} dev eth0 table local proto 66\n", vip.of(family));
            }
            let other = node.other();
            batch += &format!("route add {} via {}\n", other.pod_cidr(family), other.address(family));
        }
        batch
    }
}

impl Default for Topology {
    fn default() -> Self {
        Self::new()
    }
}

fn client_wiring() -> String {
    let mut batch = String::from("link set eth0 up\n");
    for family in Family::ALL {
        batch += &add_address(Place::Client.address(family), subnet(family), "eth0");
        batch += &format!("route add default via {}\n", EDGE_CLIENT_SIDE.of(family));
    }
    batch
}

/// What leads from a node to one of its pods, as the CNI plugin would lay it.
pub(crate) struct Cable {
    /// Of the node's end.
    pub(crate) interface: String,
    /// Of the pod's end.
    pub(crate) mac: MacAddress,
    pub(crate) host_mac: MacAddress,
    /// The pod's, one per family.
    pub(crate) addresses: Pair,
}

impl Cable {
    pub(crate) fn lay(&self, node: &Owned, pod: &Owned) {
        pod.run(set_up_stack).expect("enter namespace");
        let Self { interface, mac, host_mac, .. } = self;
        let mut outside = format!(
            "link add {interface} address {host_mac} type veth peer name eth0 address {mac} netns {}\n\
             link set {interface} up\n",
            pod.name()
        );
        let mut inside = String::from("link set eth0 up\n");
        for family in Family::ALL {
            let (address, length, gateway) =
                (self.addresses.of(family), single(family), POD_GATEWAY.of(family));
            outside += &format!("route replace {address}/{length} dev {interface}\n");
            outside += &format!("neigh replace {address} lladdr {mac} dev {interface} nud permanent\n");
            inside += &add_address(address, length, "eth0");
            inside += &format!("neigh add {gateway} lladdr {host_mac} dev eth0 nud permanent\n");
            inside += &format!("route add default via {gateway} dev eth0 onlink\n");
        }
        ip(node, &outside);
        ip(pod, &inside);
    }
}

fn cable(pod: Pod) -> Cable {
    Cable {
        interface: host_side(pod),
        mac: mac(pod, 0x02),
        host_mac: mac(pod, 0x06),
        addresses: pod.addresses(),
    }
}

/// Without duplicate address detection: the address is there at once.
fn add_address(address: IpAddr, length: u8, device: &str) -> String {
    let no_detection = if address.is_ipv6() { " nodad" } else { "" };
    format!("addr add {address}/{length} dev {device}{no_detection}\n")
}

/// No source of its own accord: in IPv4 the first of a subnet is, in IPv6 a deprecated one is not (RFC 6724, rule 3).
fn add_second_address(address: IpAddr, length: u8) -> String {
    let deprecated = if address.is_ipv6() { " nodad preferred_lft 0" } else { "" };
    format!("addr add {address}/{length} dev eth0{deprecated}\n")
}

/// The length of a segment's prefix.
const fn subnet(family: Family) -> u8 {
    match family {
        Family::V4 => 24,
        Family::V6 => 64,
    }
}

/// The length of a single address's prefix.
pub(crate) const fn single(family: Family) -> u8 {
    match family {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

/// Before any interface is there: each takes over the defaults.
fn set_up_stack() {
    for name in ["all", "default"] {
        write(&format!("ipv4/conf/{name}/rp_filter"), "0");
        write(&format!("ipv4/conf/{name}/send_redirects"), "0");
        write(&format!("ipv6/conf/{name}/accept_dad"), "0");
        write(&format!("ipv6/conf/{name}/accept_ra"), "0");
        write(&format!("ipv6/conf/{name}/accept_redirects"), "0");
    }
}

fn forward() {
    write("ipv4/ip_forward", "1");
    write("ipv6/conf/all/forwarding", "1");
    write("ipv6/conf/default/forwarding", "1");
}

fn host_side(pod: Pod) -> String {
    format!("tp{}", pod.name())
}

/// Locally administered; the first byte tells the ends of a pair apart.
fn mac(pod: Pod, first: u8) -> MacAddress {
    MacAddress([first, 0, 10, 20, pod.node() as u8, pod as u8])
}

fn write(name: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{name}"), value)
        .unwrap_or_else(|error| panic!("write {name}: {error}"));
}

pub(crate) fn ip(namespace: &Owned, batch: &str) {
    let mut child = namespace
        .command("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run ip");
    child.stdin.take().expect("piped").write_all(batch.as_bytes()).expect("write to ip");
    let output = child.wait_with_output().expect("wait for ip");
    assert!(
        output.status.success(),
        "ip in {}: {}\n{batch}",
        namespace.name(),
        String::from_utf8_lossy(&output.stderr)
    );
}
