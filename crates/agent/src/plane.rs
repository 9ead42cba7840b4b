//! The choice of a dataplane, in one place.

use std::{convert::Infallible, path::PathBuf};

use dataplane::Dataplane;
use dataplane_ebpf::{Acceleration, EbpfDataplane, LoadBalancer, TableSize};
use dataplane_iptables::IptablesDataplane;
use model::{Family, Plane};

/// What a plane is opened with. Each takes of it what concerns it.
#[derive(Clone, Debug)]
pub struct PlaneConfig {
    pub plane: Plane,
    /// Folder for pinned maps and links; a BPF file system is mounted on it where it is on none.
    pub bpffs: PathBuf,
    /// The node's devices to the outside.
    pub uplinks: Vec<String>,
    /// Entries of the lookup tables for clients from outside, the same on every node; ebpf only.
    pub table_size: TableSize,
    /// How clients from outside reach backends on other nodes; ebpf only.
    pub load_balancer: LoadBalancer,
    /// XDP on the uplinks; ebpf only.
    pub acceleration: Acceleration,
    /// Address families that pods have; ebpf only.
    pub families: Vec<Family>,
    /// Whose processes are served at their sockets; ebpf only.
    pub cgroup: Cgroup,
}

/// The cgroup (v2) that socket load balancing is attached to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cgroup {
    /// The root of the hierarchy, where one is mounted: a node's processes and its pods' are all below it.
    #[default]
    Auto,
    /// No socket load balancing.
    None,
    At(PathBuf),
}

impl std::str::FromStr for Cgroup {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "auto" => Self::Auto,
            "none" => Self::None,
            path => Self::At(path.into()),
        })
    }
}

impl Cgroup {
    fn folder(&self) -> Option<PathBuf> {
        match self {
            Self::Auto => dataplane_ebpf::cgroup_root(),
            Self::None => None,
            Self::At(path) => Some(path.clone()),
        }
    }
}

/// This machine cannot run the plane that was asked for.
#[derive(Debug, thiserror::Error)]
#[error("the {plane} dataplane cannot run here")]
pub struct Unsupported {
    pub plane: Plane,
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Opens the plane that `config` names, for the network namespace of the calling thread.
///
/// # Errors
/// What is missing, in the plane's own words: root, a kernel feature, a program.
pub fn open_plane(config: &PlaneConfig) -> Result<Box<dyn Dataplane>, Unsupported> {
    let plane = config.plane;
    let unsupported = |source| Unsupported { plane, source };
    if !nix::unistd::geteuid().is_root() {
        return Err(unsupported("it needs root (CAP_NET_ADMIN and CAP_BPF)".into()));
    }
    match plane {
        Plane::Ebpf if config.uplinks.is_empty() => {
            Err(unsupported("no device to the outside is given\n\nname one with --uplink INTERFACE".into()))
        }
        Plane::Ebpf => {
            let config = dataplane_ebpf::Config {
                bpffs: config.bpffs.clone(),
                uplinks: config.uplinks.clone(),
                families: config.families.clone(),
                table_size: config.table_size,
                load_balancer: config.load_balancer,
                acceleration: config.acceleration,
                cgroup: config.cgroup.folder(),
                ..dataplane_ebpf::Config::default()
            };
            Ok(Box::new(EbpfDataplane::open(config).map_err(|error| unsupported(error.into()))?))
        }
        Plane::Iptables => {
            let opened = IptablesDataplane::open(dataplane_iptables::Config::default());
            Ok(Box::new(opened.map_err(|error| unsupported(error.into()))?))
        }
    }
}
