//! The wires of a lab: interfaces, addresses and routes of its namespaces, as `ip -batch` text.
//!
//! Pure; `build` executes it. Nodes hang on a bridge in the edge's namespace, which routes between the client's
//! side, the nodes and their pods. Names and Ethernet addresses are the same in every lab of equal size.

use std::{fmt::Write as _, net::IpAddr};

use ipnet::IpNet;

use crate::{
    edge::NODE_BRIDGE,
    plan::{NodePlan, Topology},
};

/// What one namespace needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wiring {
    pub(crate) namespace: String,
    /// Set before any interface exists, so that interfaces inherit the defaults.
    pub(crate) sysctls: Vec<(&'static str, &'static str)>,
    /// For `ip -batch`.
    pub(crate) batch: String,
    /// Devices that put together what they receive, as a machine's card does. What native XDP sends back out of a veth is
    /// taken by receive queues, which its peer has only with this (drivers/net/veth.c, `veth_xdp_xmit`).
    pub(crate) receive_offload: Vec<String>,
}

/// Replies take the direct way and the edge is no node's first hop in both directions. All addresses are known to be
/// unique: none is unusable for its first second, not the link-local ones either, and nobody asks for a router.
const BASICS: [(&str, &str); 6] = [
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    ("net.ipv6.conf.all.accept_dad", "0"),
    ("net.ipv6.conf.default.accept_dad", "0"),
    ("net.ipv6.conf.all.accept_ra", "0"),
    ("net.ipv6.conf.default.accept_ra", "0"),
];

const FORWARDING: [(&str, &str); 3] = [
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv6.conf.all.forwarding", "1"),
    ("net.ipv6.conf.default.forwarding", "1"),
];

/// Everything to be wired, in the order in which it must be done: the edge makes both ends of each pair.
pub(crate) fn wiring(topology: &Topology) -> Vec<Wiring> {
    let mut all = vec![edge(topology), client(topology)];
    all.extend(topology.nodes.iter().map(|node| self::node(topology, node)));
    all
}

fn edge(topology: &Topology) -> Wiring {
    let mut batch = String::new();
    let mut line = |text: String| {
        let _ = writeln!(batch, "{text}");
    };
    line(format!(
        "link add {NODE_BRIDGE} address {} type bridge",
        ethernet(topology.primary().node_gateway())
    ));
    line(pair("client", &topology.client_namespace(), topology.primary().client()));
    for node in &topology.nodes {
        line(pair(&node.name, &node.namespace, node.address()));
        line(format!("link set {} master {NODE_BRIDGE} up", node.name));
    }
    line("link set client up".to_owned());
    line(format!("link set {NODE_BRIDGE} up"));
    for family in &topology.addressing {
        line(address(family.client_gateway(), family.clients, "client"));
        line(address(family.node_gateway(), family.nodes, NODE_BRIDGE));
        line(address(family.api(), family.nodes, NODE_BRIDGE));
        // An address without a forwarding rule answers nothing, as in a cloud.
        line(format!("route add blackhole {}", family.vips));
    }
    for node in &topology.nodes {
        for (cidr, gateway) in node.pod_cidrs.iter().zip(&node.addresses) {
            line(format!("route add {cidr} via {gateway}"));
        }
    }
    let mut sysctls = BASICS.to_vec();
    sysctls.extend(FORWARDING);
    sysctls.extend([
        // The 5-tuple as it stands in the packet: addresses, protocol, ports (Linux networking/ip-sysctl.rst).
        // Policy 1 would take the hash that the sending socket put beside the packet (net/ipv4/route.c,
        // fib_multipath_hash), which survives a veth pair and changes with every retransmission.
        ("net.ipv4.fib_multipath_hash_policy", "3"),
        //
        // ICMP errors about a flow hash by their own addresses: no policy hashes them by the flow's ports (policy 0
        // looks inside, at addresses only). One that is sent to a load-balancer address may reach another node than
        // its flow.
        ("net.ipv4.fib_multipath_hash_fields", "55"),
        ("net.ipv6.fib_multipath_hash_policy", "3"),
        ("net.ipv6.fib_multipath_hash_fields", "55"),
        // A pod's packet may leave the edge by the interface it came in on: nothing to complain about.
        ("net.ipv4.conf.all.send_redirects", "0"),
        ("net.ipv4.conf.default.send_redirects", "0"),
        // What is switched between nodes never meets the load balancer's filter.
        ("net.bridge.bridge-nf-call-iptables", "0"),
    ]);
    let receive_offload = topology.nodes.iter().map(|node| node.name.clone()).collect();
    Wiring { namespace: topology.edge_namespace(), sysctls, batch, receive_offload }
}

fn client(topology: &Topology) -> Wiring {
    let mut batch = String::from("link set eth0 up\n");
    for family in &topology.addressing {
        let _ = writeln!(batch, "{}", address(family.client(), family.clients, "eth0"));
        let _ = writeln!(batch, "route add default via {}", family.client_gateway());
    }
    Wiring {
        namespace: topology.client_namespace(),
        sysctls: BASICS.to_vec(),
        batch,
        receive_offload: vec![],
    }
}

fn node(topology: &Topology, node: &NodePlan) -> Wiring {
    let mut batch = String::from("link set eth0 up\n");
    for (family, own) in topology.addressing.iter().zip(&node.addresses) {
        let _ = writeln!(batch, "{}", address(*own, family.nodes, "eth0"));
        let _ = writeln!(batch, "route add default via {}", family.node_gateway());
    }
    let mut sysctls = BASICS.to_vec();
    sysctls.extend(FORWARDING);
    Wiring { namespace: node.namespace.clone(), sysctls, batch, receive_offload: vec![] }
}

/// A pair between the edge's `name` and `eth0` of the machine in `namespace`.
fn pair(name: &str, namespace: &str, machine: IpAddr) -> String {
    let peer = format!("peer name eth0 netns {namespace} address {}", ethernet(machine));
    format!("link add {name} type veth {peer}")
}

fn address(address: IpAddr, network: IpNet, device: &str) -> String {
    // Without `nodad` an IPv6 address is unusable for a second.
    let flags = if address.is_ipv6() { " nodad" } else { "" };
    format!("addr add {address}/{} dev {device}{flags}", network.prefix_len())
}

/// `42:01` and the IPv4 address, as Google's machines have; for IPv6 its last four bytes.
fn ethernet(address: IpAddr) -> String {
    let [a, b, c, d] = match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            [a, b, c, d]
        }
    };
    format!("42:01:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

#[cfg(test)]
mod tests {
    use model::Plane;

    use super::*;
    use crate::plan::LabName;

    fn lab(plane: Plane) -> Vec<Wiring> {
        let name = LabName::new(format!("x-{plane}")).expect("name");
        wiring(&Topology::new(name, plane, 2).expect("size"))
    }

    #[test]
    fn the_edge_is_wired_before_those_whose_ends_it_makes() {
        let all = lab(Plane::Ebpf);
        assert!(all[0].namespace.ends_with("-edge"));
        for wiring in &all[1..] {
            let made = format!("netns {} ", wiring.namespace);
            assert!(all[0].batch.contains(&made), "{made} in\n{}", all[0].batch);
        }
    }

    #[test]
    fn planes_differ_in_names_of_namespaces_only() {
        let strip = |all: Vec<Wiring>, plane: &str| -> Vec<_> {
            all.into_iter().map(|w| (w.batch.replace(plane, ""), w.sysctls)).collect()
        };
        assert_eq!(strip(lab(Plane::Ebpf), "x-ebpf"), strip(lab(Plane::Iptables), "x-iptables"));
    }

    #[test]
    fn pods_of_a_node_are_routed_to_it() {
        let edge = &lab(Plane::Ebpf)[0];
        assert!(edge.batch.contains("route add 10.20.1.0/24 via 10.128.0.12\n"));
        assert!(edge.batch.contains("route add fd00:10:20:1::/64 via fd00:10:128::c\n"));
    }
}
