//! The planes under measurement, opened on a node of a topology and taken down with this value.

use std::{fs, io::ErrorKind, path::PathBuf, time::Duration};

use anyhow::Context as _;
use dataplane::Dataplane;
use dataplane_ebpf::{EbpfDataplane, Telling};
use dataplane_iptables::IptablesDataplane;
use model::{Changed, Plane, Snapshot};
use netns::Owned;
use scenarios::{cluster, places::Node, topology::Topology};

/// A node's device to the others.
pub(crate) const UPLINK: &str = "eth0";

/// A folder for pins; gone with whatever is pinned in it when this is dropped.
#[derive(Debug)]
pub(crate) struct Pins(PathBuf);

impl Pins {
    /// The name is unique on this machine, as those of namespaces are.
    pub(crate) fn new(name: &str) -> Self {
        Self(PathBuf::from("/sys/fs/bpf").join(name))
    }

    pub(crate) fn path(&self) -> &PathBuf {
        &self.0
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != ErrorKind::NotFound => eprintln!("{}: {error}", self.0.display()),
            _ => {}
        }
    }
}

/// Opens the eBPF plane of a node as its agent does: at packets, and at the sockets of the node's cgroup.
pub(crate) fn open_ebpf(topology: &Topology, node: Node, pins: &Pins) -> anyhow::Result<EbpfDataplane> {
    open_with(dataplane_ebpf::Config::default(), topology, node, pins)
}

/// The same, with so much told of flows.
pub(crate) fn open_telling(
    topology: &Topology,
    node: Node,
    pins: &Pins,
    events: Telling,
) -> anyhow::Result<EbpfDataplane> {
    open_with(dataplane_ebpf::Config { events, ..Default::default() }, topology, node, pins)
}

/// The same, with this for what the node does not decide.
pub(crate) fn open_with(
    config: dataplane_ebpf::Config,
    topology: &Topology,
    node: Node,
    pins: &Pins,
) -> anyhow::Result<EbpfDataplane> {
    let config = dataplane_ebpf::Config {
        bpffs: pins.path().clone(),
        uplinks: vec![UPLINK.to_owned()],
        cgroup: Some(topology.group(node).path().to_owned()),
        ..config
    };
    topology.node(node).run(|| EbpfDataplane::open(config))?.context("open the ebpf plane")
}

/// How much the agent has told of flows by default.
pub(crate) const BY_DEFAULT: Telling = Telling::Flows { every: Duration::from_secs(5) };

/// Opens a plane by its name.
pub(crate) fn open(
    plane: Plane,
    topology: &Topology,
    node: Node,
    pins: &Pins,
) -> anyhow::Result<Box<dyn Dataplane>> {
    Ok(match plane {
        Plane::Ebpf => Box::new(open_ebpf(topology, node, pins)?),
        Plane::Iptables => {
            let open = || IptablesDataplane::open(dataplane_iptables::Config::default());
            Box::new(topology.node(node).run(open)?.context("open the iptables plane")?)
        }
    })
}

/// Programs what changed, on a thread of the node; nothing may be left out.
pub(crate) fn apply(
    plane: &mut dyn Dataplane,
    node: &Owned,
    snapshot: &Snapshot,
    changed: &Changed,
) -> anyhow::Result<()> {
    let applied = node.run(|| plane.apply(snapshot, changed))?.context("program the plane")?;
    match applied.failed.into_iter().next() {
        Some((key, error)) => Err(error).with_context(|| format!("program {key:?}")),
        None => Ok(()),
    }
}

/// What a node of the topology knows before any Service is there.
pub(crate) fn bare_snapshot(topology: &Topology, node: Node) -> Snapshot {
    let mut snapshot = cluster::snapshot(&[], node);
    let endpoints = topology.endpoints(node).into_iter();
    snapshot.endpoints = endpoints.map(|endpoint| (endpoint.pod.clone(), endpoint.into())).collect();
    snapshot
}
