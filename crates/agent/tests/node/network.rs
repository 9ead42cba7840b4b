//! Tunnel, routes and addresses in a real kernel: made, repaired whoever disturbs them, gone with their mode.

use agent::{Routing, Vxlan};
use ipnet::IpNet;
use model::{NodeConfig, Tunnel};
use serde_json::json;

use crate::support::{Node, run};

fn ip(node: &Node, arguments: &str) -> String {
    run(node.namespace.command("ip").args(arguments.split(' ')))
}

fn bridge(node: &Node, arguments: &str) -> String {
    run(node.namespace.command("bridge").args(arguments.split(' ')))
}

/// What the dataplane was told.
fn tunnel(node: &Node) -> Option<Tunnel> {
    node.fake.kernel().node.tunnel.clone()
}

/// Whether the plane has been told of the node since it forgot.
fn told_again(node: &Node) -> Option<()> {
    (!node.fake.kernel().node.name.is_empty()).then_some(())
}

/// Both families, with a second node; the uplink is a jumbo one.
fn start(routing: Routing) -> Node {
    let mut node = Node::without_agent();
    for line in ["link set up0 mtu 9000", "addr add fd00:128::11/64 dev up0 nodad"] {
        ip(&node, line);
    }
    node.config.routing = routing;
    node.start_agent();
    node.create_nodes_with(&[
        ("node-a", &["10.128.0.11", "fd00:128::11"], &["10.20.0.0/24", "fd20::/64"]),
        ("node-b", &["10.128.0.12", "fd00:128::12"], &["10.20.1.0/24", "fd20:0:0:1::/64"]),
    ]);
    node
}

fn overlay() -> Routing {
    Routing::Vxlan(Vxlan::default())
}

/// Everything of the tunnel that an administrator sees, but for its index.
fn shown(node: &Node) -> String {
    let all = [
        ip(node, "-o addr show dev tp-vxlan scope global"),
        ip(node, "route show dev tp-vxlan"),
        ip(node, "-6 route show dev tp-vxlan proto 84"),
        ip(node, "neigh show dev tp-vxlan nud permanent"),
        bridge(node, "fdb show dev tp-vxlan"),
    ]
    .concat();
    all.lines()
        .map(|line| line.split_once(": tp-vxlan").map_or(line, |(_, rest)| rest))
        .collect::<Vec<_>>()
        .join("\n")
}

fn complete(node: &Node) -> String {
    node.until("the tunnel is complete", async || {
        let up = run(node.namespace.command("sh").args(["-c", "ip -o link show tp-vxlan 2>&1 || true"]));
        if !up.contains("mtu 8950") || !up.contains(",UP") {
            return None;
        }
        let shown = shown(node);
        let parts = [
            "inet 10.20.0.0/32",
            "inet6 fd20::/128",
            "10.20.1.0/24 via 10.20.1.0 proto 84 onlink",
            "fd20:0:0:1::/64 via fd20:0:0:1:: metric",
            "10.20.1.0 lladdr ",
            "fd20:0:0:1:: lladdr ",
            "dst 10.128.0.12",
        ];
        parts.iter().all(|part| shown.contains(part)).then_some(shown)
    })
}

#[test]
fn a_tunnel_is_made_and_told_and_whatever_is_taken_from_it_comes_back() {
    let node = start(overlay());
    let before = complete(&node);
    let details = ip(&node, "-d link show tp-vxlan");
    for part in ["vxlan id 1 local 10.128.0.11", "dstport 8472 nolearning"] {
        assert!(details.contains(part), "{details}");
    }
    let told = node.until("the plane knows", async || tunnel(&node));
    let index = ip(&node, "-o link show tp-vxlan").split(':').next().expect("index").to_owned();
    assert_eq!((told.interface.as_str(), told.ifindex.to_string()), ("tp-vxlan", index));
    assert_eq!(told.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.20.0.0", "fd20::"]);
    assert!(!node.fake.kernel().node.addresses.contains(&told.addresses[0]));

    let mac = before.split("lladdr ").nth(1).and_then(|rest| rest.split(' ').next()).expect("mac").to_owned();
    for removal in [
        "addr del 10.20.0.0/32 dev tp-vxlan",
        "-6 addr del fd20::/128 dev tp-vxlan",
        "route del 10.20.1.0/24",
        "-6 route del fd20:0:0:1::/64",
        "neigh del 10.20.1.0 dev tp-vxlan",
        "neigh del fd20:0:0:1:: dev tp-vxlan",
        "link set tp-vxlan down",
        "link set tp-vxlan mtu 1400",
    ] {
        ip(&node, removal);
        assert_eq!(complete(&node), before, "{removal}");
    }
    bridge(&node, &format!("fdb del {mac} dev tp-vxlan"));
    assert_eq!(complete(&node), before);
    ip(&node, "link del tp-vxlan");
    assert_eq!(complete(&node), before);
    node.until("the plane knows the new device", async || {
        tunnel(&node).filter(|tunnel| tunnel.ifindex != told.ifindex)
    });
}

#[test]
fn peers_come_and_go_with_their_node_objects() {
    let node = start(overlay());
    complete(&node);
    node.api("DELETE", "/api/v1/nodes/node-b", &json!(null));
    node.until("nothing of node-b is left", async || {
        let shown = shown(&node);
        (!shown.contains("10.128.0.12") && !shown.contains("10.20.1.0") && !shown.contains("fd20:0:0:1"))
            .then_some(())
    });
    assert!(tunnel(&node).is_some(), "the tunnel itself stays");
}

#[test]
fn an_agent_that_starts_again_leaves_the_tunnel_alone_and_another_mode_removes_it() {
    let mut node = start(overlay());
    complete(&node);
    let first = node.until("the plane knows", async || tunnel(&node));
    node.stop_agent();
    node.fake.kernel().node = NodeConfig::default();
    node.start_agent();
    node.until("the plane is told", async || told_again(&node));
    assert_eq!(tunnel(&node), Some(first), "with the first configuration already");

    node.stop_agent();
    node.config.routing = Routing::Native;
    node.fake.kernel().node = NodeConfig::default();
    node.start_agent();
    node.until("native routes", async || {
        let links = ip(&node, "-o link show");
        let routes = ip(&node, "route show") + &ip(&node, "-6 route show");
        (routes.contains("10.20.1.0/24 via 10.128.0.12 dev up0 proto 84")
            && routes.contains("fd20:0:0:1::/64 via fd00:128::12 dev up0 proto 84")
            && !links.contains("tp-vxlan"))
        .then_some(())
    });
    node.until("the plane is told", async || told_again(&node));
    assert_eq!(tunnel(&node), None);
}

#[test]
fn facts_55_56_addresses_of_the_nodes_devices_are_its_own_while_they_are_there() {
    let node = start(Routing::Native);
    let has = |address: &str| {
        let wanted = address.parse::<IpNet>().expect("prefix").addr();
        node.fake.kernel().node.addresses.contains(&wanted)
    };
    ip(&node, "link add other0 type veth peer name other1");
    ip(&node, "link set other1 up");
    for address in ["172.16.0.1/24", "fd00:172::1/64"] {
        run(node.namespace.command("ip").args(["addr", "add", address, "dev", "other0"]));
        ip(&node, "link set other0 up");
        node.until(address, async || has(address).then_some(()));
        run(node.namespace.command("ip").args(["addr", "del", address, "dev", "other0"]));
        node.until(address, async || (!has(address)).then_some(()));
    }
    // A bridge of pods is no address of the node's.
    ip(&node, "addr add 10.20.0.1/24 dev other0");
    ip(&node, "addr add 192.0.2.1/32 dev other0");
    node.until("what came later", async || has("192.0.2.1/32").then_some(()));
    assert!(!has("10.20.0.1/24"));
}
