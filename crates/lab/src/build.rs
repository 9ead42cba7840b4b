//! Makes and wires the namespaces of a lab. Leaves clean-up to `remove`, which finds whatever was made.

use std::{
    fs, io,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use model::Plane;
use netns::NetNs;

use crate::{certificates, command, edge::NODE_BRIDGE, links, state::State, system};

/// What could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("make the lab's namespaces")]
    Namespace(#[from] netns::Error),
    #[error("wire the lab's namespaces")]
    Wire(#[from] command::Error),
    #[error(transparent)]
    Certificates(#[from] certificates::Error),
    #[error("make folder {path}")]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Makes everything that needs no process: namespaces, links, folders, cgroups, certificates.
///
/// # Errors
/// The first thing that could not be made.
pub(crate) fn build(state: &State) -> Result<(), Error> {
    let wiring = links::wiring(&state.topology);
    let namespaces =
        wiring.iter().map(|wiring| NetNs::create(&wiring.namespace)).collect::<Result<Vec<_>, _>>()?;
    for (wiring, namespace) in wiring.iter().zip(&namespaces) {
        for (key, value) in &wiring.sysctls {
            set(namespace, key, value)?;
        }
    }
    for (wiring, namespace) in wiring.iter().zip(&namespaces) {
        command::ip_batch(namespace, &wiring.batch)?;
        for device in &wiring.receive_offload {
            command::output(namespace, "ethtool", &["-K", device, "gro", "on"])?;
        }
    }
    // The edge is the first: see `wiring`.
    wait_for_carrier(&namespaces[0])?;
    for node in &state.topology.nodes {
        folder(state.paths().node(&node.name))?;
        if state.topology.plane == Plane::Ebpf {
            folder(state.node_bpffs(&node.name))?;
        }
        if let Some(group) = state.node_cgroup(&node.name) {
            folder(group)?;
        }
    }
    if state.topology.relay_address().is_some() {
        certificates::make(&state.topology, &state.paths())?;
    }
    Ok(())
}

/// Waits until the edge's bridge carries: the kernel says so a moment after its links came up, and refuses next hops
/// before (net/ipv4/nexthop.c, "Carrier for nexthop device is down").
fn wait_for_carrier(edge: &NetNs) -> Result<(), command::Error> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let shown = command::output(edge, "ip", &["-brief", "link", "show", "dev", NODE_BRIDGE])?;
        if shown.contains("LOWER_UP") || Instant::now() >= deadline {
            // Too late is told by whoever needs the bridge.
            return Ok(());
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// A key of a subsystem that the kernel lacks has nothing to be told.
fn set(namespace: &NetNs, key: &str, value: &str) -> Result<(), command::Error> {
    match command::sysctl(namespace, key, value) {
        Err(command::Error::Run { source, .. })
            if source.kind() == io::ErrorKind::NotFound && key.starts_with("net.bridge.") =>
        {
            Ok(())
        }
        result => result,
    }
}

fn folder(path: PathBuf) -> Result<(), Error> {
    system::in_shared_folder(|| fs::create_dir_all(&path))
        .map_err(|source| Error::Folder { path: path.clone(), source })
}
