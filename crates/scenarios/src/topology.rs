//! The namespaces of a scenario: client, edge router, two nodes, four pods, wired as a lab's.

use std::{
    io::Write as _,
    net::Ipv4Addr,
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering},
};

use model::{Endpoint, MacAddress, PodName};
use netns::Owned;

use crate::places::{CLIENT, EDGE_CLIENT_SIDE, EDGE_NODE_SIDE, Node, POD_GATEWAY, Place, Pod, VIP};

/// All namespaces; dropping it removes them.
#[derive(Debug)]
pub struct Topology {
    /// Unique on this machine.
    pub name: String,
    edge: Owned,
    client: Owned,
    nodes: [Owned; 2],
    pods: [Owned; 4],
}

impl Topology {
    /// # Panics
    /// Namespaces need root; the panic says what was refused.
    pub fn new() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let name = format!("tp-sc-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let create = |what: &str| Owned::create(&format!("{name}-{what}")).expect("create namespace");
        let topology = Self {
            edge: create("edge"),
            client: create("client"),
            nodes: Node::ALL.map(|node| create(node.name())),
            pods: Pod::ALL.map(|pod| create(pod.name())),
            name,
        };
        topology.wire();
        topology
    }

    pub fn node(&self, node: Node) -> &Owned {
        &self.nodes[node as usize]
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

    /// Makes the edge send what goes to the load-balancer address to `node`.
    pub fn route_vip(&self, node: Node) {
        ip(&self.edge, &format!("route replace {VIP} via {}\n", node.address()));
    }

    /// The pods of `node` as the CNI plugin would report them.
    pub fn endpoints(&self, node: Node) -> Vec<Endpoint> {
        let endpoint = |pod: Pod| Endpoint {
            pod: PodName { namespace: "scenario".into(), name: pod.name().into() },
            addresses: vec![pod.address().into()],
            interface: host_side(pod),
            ifindex: self.ifindex(node, &host_side(pod)),
            mac: mac(pod.address(), 0x02),
            host_mac: mac(pod.address(), 0x06),
            netns: Some(self.pod(pod).path()),
        };
        node.pods().map(endpoint).collect()
    }

    fn ifindex(&self, node: Node, interface: &str) -> u32 {
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
        for machine in [&self.edge, &self.client].into_iter().chain(&self.nodes).chain(&self.pods) {
            let settings = || {
                for name in ["all", "default"] {
                    write(&format!("ipv4/conf/{name}/rp_filter"), "0");
                    write(&format!("ipv4/conf/{name}/send_redirects"), "0");
                }
            };
            machine.run(settings).expect("enter namespace");
        }
        for router in [&self.edge].into_iter().chain(&self.nodes) {
            router.run(|| write("ipv4/ip_forward", "1")).expect("enter namespace");
        }
        ip(&self.edge, &self.edge_wiring());
        ip(
            &self.client,
            &format!(
                "link set eth0 up\naddr add {CLIENT}/24 dev eth0\nroute add default via {EDGE_CLIENT_SIDE}\n"
            ),
        );
        for node in Node::ALL {
            ip(self.node(node), &self.node_wiring(node));
            for pod in node.pods() {
                ip(self.node(node), &self.host_side_wiring(pod));
                ip(self.pod(pod), &pod_wiring(pod));
            }
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
        batch +=
            &format!("addr add {EDGE_CLIENT_SIDE}/24 dev client\naddr add {EDGE_NODE_SIDE}/24 dev nodes\n");
        for node in Node::ALL {
            batch += &format!("route add {} via {}\n", node.pod_cidr(), node.address());
        }
        batch
    }

    fn node_wiring(&self, node: Node) -> String {
        let mut batch = format!("link set eth0 up\naddr add {}/24 dev eth0\n", node.address());
        batch += &format!("route add default via {EDGE_NODE_SIDE}\n");
        // What a cloud's guest agent does for forwarding rules.
        batch += &format!("route add local {VIP} dev eth0 proto 66\n");
        for other in Node::ALL.into_iter().filter(|other| *other != node) {
            batch += &format!("route add {} via {}\n", other.pod_cidr(), other.address());
        }
        batch
    }

    fn host_side_wiring(&self, pod: Pod) -> String {
        let (interface, address) = (host_side(pod), pod.address());
        let (mac, host_mac) = (mac(address, 0x02), mac(address, 0x06));
        format!(
            "link add {interface} address {host_mac} type veth peer name eth0 address {mac} netns {}\n\
             link set {interface} up\n\
             route add {address}/32 dev {interface}\n\
             neigh add {address} lladdr {mac} dev {interface} nud permanent\n",
            self.pod(pod).name()
        )
    }
}

impl Default for Topology {
    fn default() -> Self {
        Self::new()
    }
}

fn pod_wiring(pod: Pod) -> String {
    format!(
        "link set eth0 up\n\
         addr add {}/32 dev eth0\n\
         route add {POD_GATEWAY} dev eth0 scope link\n\
         route add default via {POD_GATEWAY} dev eth0\n\
         neigh add {POD_GATEWAY} lladdr {} dev eth0 nud permanent\n",
        pod.address(),
        mac(pod.address(), 0x06)
    )
}

fn host_side(pod: Pod) -> String {
    format!("tp{}", pod.name())
}

/// Locally administered; the first byte tells the ends of a pair apart.
fn mac(address: Ipv4Addr, first: u8) -> MacAddress {
    let [a, b, c, d] = address.octets();
    MacAddress([first, 0, a, b, c, d])
}

fn write(name: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{name}"), value)
        .unwrap_or_else(|error| panic!("write {name}: {error}"));
}

fn ip(namespace: &Owned, batch: &str) {
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
