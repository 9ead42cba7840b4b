//! Other ways between the machines of a topology: a tunnel between the nodes, and a router that takes less than its
//! neighbours send.

use std::net::IpAddr;

use model::{Family, Port, Tunnel};

use crate::{
    places::{EDGE_NODE_SIDE, Node, Place},
    topology::{Topology, ip, single},
};

const TUNNEL: &str = "tunnel0";
const TUNNEL_PORT: u16 = 8472;

impl Topology {
    /// Nodes reach each other's pods through VXLAN from now on. Their pods do not know: what they send may not fit.
    pub fn add_tunnel(&self) {
        for node in Node::ALL {
            let (other, local) = (node.other(), node.address(Family::V4));
            let mac = tunnel_mac(node);
            let mut batch = format!(
                "link add {TUNNEL} address {mac} type vxlan id 1 dstport {TUNNEL_PORT} local {local} dev eth0 nolearning\n\
                 link set {TUNNEL} up\n"
            );
            for family in Family::ALL {
                let (own, far, length) =
                    (node.tunnel_address(family), other.tunnel_address(family), single(family));
                let mac = tunnel_mac(other);
                batch += &format!("addr add {own}/{length} dev {TUNNEL}\n");
                batch += &format!("neigh add {far} lladdr {mac} dev {TUNNEL} nud permanent\n");
                let pods = other.pod_cidr(family);
                // An IPv6 gateway that another route leads to cannot be on this link.
                batch += &format!("route del {pods}\nroute add {pods} via {far} dev {TUNNEL} onlink\n");
            }
            ip(self.node(node), &batch);
            let to = other.address(Family::V4).to_string();
            let entry = ["fdb", "append", &tunnel_mac(other), "dev", TUNNEL, "dst", &to];
            let status = self.node(node).command("bridge").args(entry).status().expect("run bridge");
            assert!(status.success(), "bridge {entry:?}");
        }
    }

    /// The node's end of the tunnel, once it is there.
    pub fn tunnel(&self, node: Node) -> Tunnel {
        Tunnel {
            interface: TUNNEL.into(),
            ifindex: self.ifindex(node, TUNNEL),
            addresses: Family::ALL.map(|family| node.tunnel_address(family)).into(),
            port: Port::new(TUNNEL_PORT).expect("not 0"),
        }
    }

    /// The edge takes packets of `mtu` bytes at most, to the client and from one node to the other's pods, which it routes from
    /// now on.
    pub fn narrow(&self, mtu: u32) {
        for family in Family::ALL {
            let client: IpAddr = Place::Client.address(family);
            let length = single(family);
            let mut batch = format!("route replace {client}/{length} dev client mtu lock {mtu}\n");
            for node in Node::ALL {
                let (pods, address) = (node.pod_cidr(family), node.address(family));
                batch += &format!("route replace {pods} via {address} mtu lock {mtu}\n");
                let by_edge = format!("route replace {pods} via {}\n", EDGE_NODE_SIDE.of(family));
                ip(self.node(node.other()), &by_edge);
            }
            ip(self.edge(), &batch);
        }
    }
}

fn tunnel_mac(node: Node) -> String {
    format!("02:74:75:6e:00:{:02x}", node as u8)
}
