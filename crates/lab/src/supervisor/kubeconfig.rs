//! The file that `kubectl` and client libraries need to reach a lab's API.

use std::{io, net::SocketAddr, path::Path};

use crate::{plan::LabName, process::write_whole};

/// Writes it as JSON, which is YAML too.
pub(super) fn write(path: &Path, lab: &LabName, api: SocketAddr) -> io::Result<()> {
    let name = format!("twinplane-{lab}");
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": name, "cluster": { "server": format!("http://{api}") } }],
        "contexts": [{ "name": name, "context": { "cluster": name, "user": "admin" } }],
        "users": [{ "name": "admin", "user": {} }],
        "current-context": name,
    });
    write_whole(path, &serde_json::to_vec_pretty(&config)?)
}
