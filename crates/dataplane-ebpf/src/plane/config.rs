//! What the plane is opened with.

use std::{ops::RangeInclusive, path::PathBuf};

use model::Family;

use crate::{
    events::Telling, links::Attach, maglev::TableSize, objects::Checksums, sizes::Sizes, sock::Refusals,
    xdp::Acceleration,
};

/// How clients from outside reach backends on other nodes under Cluster policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadBalancer {
    /// With the node's address as their source; answers come back through the node.
    #[default]
    Masquerade,
    /// With their own address, through the tunnel to the backend's node, which answers them itself.
    DirectReturn,
}

/// How the plane is set up on a node.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder for pinned maps and links. A bpf file system is mounted on it where it is on none.
    pub bpffs: PathBuf,
    /// Devices towards the other nodes and the world.
    pub uplinks: Vec<String>,
    /// Rows of each family's connection table; two per translated flow. Changing it starts with an empty table.
    pub conntrack_entries: u32,
    pub sizes: Sizes,
    /// Address families that pods have. The other one's tables are small.
    pub families: Vec<Family>,
    pub attach: Attach,
    pub checksums: Checksums,
    /// XDP on the uplinks.
    pub acceleration: Acceleration,
    /// The cgroup (v2) whose processes get socket load balancing: that of the node, above its pods'. `None`: nobody does.
    pub cgroup: Option<PathBuf>,
    pub refusals: Refusals,
    /// Source ports for masqueraded flows; `None`: the largest range that no socket of this node draws from.
    pub masquerade_ports: Option<RangeInclusive<u16>>,
    pub load_balancer: LoadBalancer,
    /// Entries of the tables that lead clients from outside to the same backend on every node; the same on all of them.
    pub table_size: TableSize,
    /// How much is told of flows.
    pub events: Telling,
    /// Enforce policies, as soon as a snapshot has any pod's.
    pub policy: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bpffs: PathBuf::from("/sys/fs/bpf/twinplane"),
            uplinks: vec![],
            conntrack_entries: 65_536,
            sizes: Sizes::default(),
            families: Family::ALL.to_vec(),
            attach: Attach::Auto,
            checksums: Checksums::Auto,
            acceleration: Acceleration::Off,
            cgroup: None,
            refusals: Refusals::Auto,
            masquerade_ports: None,
            load_balancer: LoadBalancer::default(),
            table_size: TableSize::default(),
            events: Telling::Nothing,
            policy: false,
        }
    }
}
