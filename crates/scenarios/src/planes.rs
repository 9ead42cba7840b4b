//! Opens the planes under test on the nodes of a topology, and takes them down again.

use std::{error::Error as _, fs, io::ErrorKind, path::PathBuf};

use dataplane::Dataplane;
use model::Plane;

use crate::{places::Node, topology::Topology};

/// A node's plane. Dropping it takes its pins away, and with them whatever it attached.
pub struct NodePlane {
    pub plane: Box<dyn Dataplane>,
    pins: Pins,
}

/// How a node's plane is set up.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub plane: Plane,
    /// Policies are enforced.
    pub policy: bool,
    /// Rows of each family's table of flows (ebpf).
    pub flows: u32,
    /// Backends answer clients from outside themselves (ebpf). Needs a tunnel.
    pub direct_return: bool,
}

impl Setting {
    /// As most cases want `plane`.
    pub const fn usual(plane: Plane) -> Self {
        Self { plane, policy: false, flows: 4096, direct_return: false }
    }
}

/// Where a node's maps and links are pinned; of its own, so that cases run in parallel.
pub(crate) struct Pins(PathBuf);

impl NodePlane {
    /// Opens `plane` in the node's namespace.
    ///
    /// # Panics
    /// The plane refuses to open.
    pub fn open(plane: Plane, topology: &Topology, node: Node) -> Self {
        Self::with(Setting::usual(plane), topology, node)
    }

    /// As [`Self::open`], set up otherwise.
    ///
    /// # Panics
    /// The plane refuses to open.
    pub fn with(setting: Setting, topology: &Topology, node: Node) -> Self {
        // Before the plane opens: what it leaves when it fails half-way is removed, too.
        let pins = Pins(PathBuf::from(format!("/sys/fs/bpf/{}-{}", topology.name, node.name())));
        Self::start(setting, topology, node, pins)
    }

    /// Ends the plane, and leaves everything in the kernel.
    pub(crate) fn stop(self) -> Pins {
        self.pins
    }

    /// # Panics
    /// The plane refuses to open.
    pub(crate) fn start(setting: Setting, topology: &Topology, node: Node, pins: Pins) -> Self {
        let Setting { plane, policy, flows, direct_return } = setting;
        let open = || -> Result<Box<dyn Dataplane>, dataplane::Error> {
            match plane {
                Plane::Iptables => {
                    let config = dataplane_iptables::Config { policy, ..Default::default() };
                    Ok(Box::new(dataplane_iptables::IptablesDataplane::open(config)?))
                }
                Plane::Ebpf => {
                    use dataplane_ebpf::LoadBalancer::{DirectReturn, Masquerade};
                    let config = dataplane_ebpf::Config {
                        bpffs: pins.0.clone(),
                        uplinks: vec!["eth0".to_owned()],
                        conntrack_entries: flows,
                        policy,
                        load_balancer: if direct_return { DirectReturn } else { Masquerade },
                        cgroup: Some(topology.group(node).path().to_owned()),
                        ..Default::default()
                    };
                    Ok(Box::new(dataplane_ebpf::EbpfDataplane::open(config)?))
                }
            }
        };
        let opened = topology.node(node).run(open).expect("enter namespace");
        let plane =
            opened.unwrap_or_else(|error| panic!("open {plane} on {}: {}", node.name(), chain(&error)));
        Self { plane, pins }
    }
}

impl std::fmt::Debug for NodePlane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a plane pinned at {}", self.pins.0.display())
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

/// An error with all its causes.
pub fn chain(error: &dataplane::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
