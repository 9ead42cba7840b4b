//! The node's own configuration: which addresses are its, in which order, and its tunnel.

use std::net::IpAddr;

use crate::support::*;
use k8s_openapi::api::core::v1::Node;
use model::{Port, Tunnel, oracle::Origin};
use serde_json::json;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

#[test]
fn facts_55_56_a_nodes_addresses_are_internal_then_external_then_whatever_its_devices_have() {
    let mut cluster = Cluster::new();
    let own = json!({"status": {"addresses": [
        {"type": "ExternalIP", "address": "192.0.2.11"},
        {"type": "InternalIP", "address": "10.128.0.11"},
        {"type": "InternalIP", "address": "fd00:10:128::b"},
    ]}});
    cluster.apply::<Node>(&node(NODE, own));
    // Of a pod bridge, of the tunnel: in the pods' prefixes.
    let local = ["10.128.0.11", "172.16.0.11", "10.20.0.1", "10.20.7.0", "fd00:172::b"];
    cluster.index.set_local_addresses(local.map(ip).to_vec());
    cluster.settle();
    let expected = ["10.128.0.11", "fd00:10:128::b", "192.0.2.11", "172.16.0.11", "fd00:172::b"].map(ip);
    assert_eq!(cluster.snapshot.node.addresses, expected);
    assert_eq!(cluster.snapshot.node.origin(ip("172.16.0.11")), Origin::Node);

    cluster.index.set_local_addresses(vec![ip("10.128.0.11")]);
    cluster.settle();
    assert_eq!(
        cluster.snapshot.node.addresses,
        expected[..3],
        "an address that goes is no longer the node's"
    );
}

#[test]
fn a_tunnel_is_part_of_the_configuration_once_it_is_there() {
    let mut cluster = Cluster::new();
    assert_eq!(cluster.snapshot.node.tunnel, None);
    let tunnel = |ifindex| Tunnel {
        interface: "tp-vxlan".into(),
        ifindex,
        addresses: vec![ip("10.20.0.0")],
        port: Port::new(8472).expect("port"),
    };
    for ifindex in [7, 9] {
        cluster.index.set_tunnel(Some(tunnel(ifindex)));
        cluster.settle();
        assert_eq!(cluster.snapshot.node.tunnel, Some(tunnel(ifindex)));
    }
    cluster.index.set_tunnel(Some(tunnel(9)));
    assert_eq!(cluster.index.take_update(), None, "nothing moved");
}
