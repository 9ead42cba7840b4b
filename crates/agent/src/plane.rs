//! The choice of a dataplane, in one place.

use std::path::PathBuf;

use dataplane::Dataplane;
use dataplane_iptables::IptablesDataplane;
use model::Plane;

/// What a plane is opened with. Each takes of it what concerns it.
#[derive(Clone, Debug)]
pub struct PlaneConfig {
    pub plane: Plane,
    /// A BPF file system, for pinned maps and links.
    pub bpffs: PathBuf,
    /// The node's devices to the outside.
    pub uplinks: Vec<String>,
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
        Plane::Ebpf => Err(unsupported("this build has none".into())),
        Plane::Iptables => {
            let opened = IptablesDataplane::open(dataplane_iptables::Config::default());
            Ok(Box::new(opened.map_err(|error| unsupported(error.into()))?))
        }
    }
}
