//! Opens the planes under test on the nodes of a topology.

use std::path::PathBuf;

use dataplane::Dataplane;
use model::Plane;

use crate::{places::Node, topology::Topology};

/// # Panics
/// The plane refuses to open.
pub(crate) fn open(plane: Plane, topology: &Topology, node: Node) -> Box<dyn Dataplane> {
    let open = || -> Result<Box<dyn Dataplane>, dataplane::Error> {
        match plane {
            Plane::Iptables => {
                let config = dataplane_iptables::Config::default();
                Ok(Box::new(dataplane_iptables::IptablesDataplane::open(config)?))
            }
            Plane::Ebpf => {
                let config = dataplane_ebpf::Config {
                    bpffs: pins(topology, node),
                    uplinks: vec!["eth0".to_owned()],
                    ..Default::default()
                };
                Ok(Box::new(dataplane_ebpf::EbpfDataplane::open(config)?))
            }
        }
    };
    let opened = topology.node(node).run(open).expect("enter namespace");
    opened.unwrap_or_else(|error| panic!("open {plane} on {}: {error}", node.name()))
}

/// Where a node's maps and links are pinned; of its own, so that cases run in parallel.
fn pins(topology: &Topology, node: Node) -> PathBuf {
    PathBuf::from(format!("/sys/fs/bpf/{}-{}", topology.name, node.name()))
}
