//! The choice of a dataplane, in one place.

use std::{convert::Infallible, path::PathBuf};

use dataplane::Dataplane;
use dataplane_ebpf::{Acceleration, EbpfDataplane, LoadBalancer, TableSize, Telling};
use dataplane_iptables::{IptablesDataplane, TellingConfig};
use model::{Family, Plane};
use policy::compile::FirstNumbers;

use crate::source::Source;

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
    /// How much is told of flows; ebpf only.
    pub events: Telling,
    /// What flows are told of with; `None`: none is; iptables only.
    pub telling: Option<TellingConfig>,
    /// Enforce network policies.
    pub network_policy: bool,
}

/// A plane, and what its datapath tells of flows, if it does.
pub struct Opened {
    pub plane: Box<dyn Dataplane>,
    pub events: Option<Source>,
    /// Where the plane enforces policies: the first numbers to compile them to.
    pub policies: Option<FirstNumbers>,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened")
            .field("plane", &self.plane.plane())
            .field("events", &self.events)
            .field("policies", &self.policies)
            .finish()
    }
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
pub fn open_plane(config: &PlaneConfig) -> Result<Opened, Unsupported> {
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
                events: config.events,
                policy: config.network_policy,
                ..dataplane_ebpf::Config::default()
            };
            let (told, enforces) = (config.events != Telling::Nothing, config.policy);
            let plane = EbpfDataplane::open(config).map_err(|error| unsupported(error.into()))?;
            let events =
                told.then(|| plane.events()).transpose().map_err(|error| unsupported(error.into()))?;
            let policies = enforces.then(|| {
                let dataplane_ebpf::FirstNumbers { list, ports, prefix, prefixes } = plane.first_numbers();
                FirstNumbers { list, ports, prefix, prefixes }
            });
            Ok(Opened { plane: Box::new(plane), events: events.map(Source::Ring), policies })
        }
        Plane::Iptables => {
            let config = dataplane_iptables::Config {
                telling: config.telling,
                policy: config.network_policy,
                ..dataplane_iptables::Config::default()
            };
            // Nothing in the kernel has these numbers: chains and sets are named by what they hold.
            let policies = config.policy.then(FirstNumbers::default);
            let plane = IptablesDataplane::open(config).map_err(|error| unsupported(error.into()))?;
            let events = plane.telling().map_err(|error| unsupported(error.into()))?.map(Source::Kernel);
            Ok(Opened { plane: Box::new(plane), events, policies })
        }
    }
}
