//! The export of a node's flows: what the options say, put together with the ring. How it writes is `observer`'s.

use std::{path::PathBuf, sync::Arc};

use anyhow::Context as _;
use flow::{filter::Filters, mask::Mask, ring::Ring};
use observer::export::{self, Config, ExportCounts, Exporter, Rotation, Running};
use prometheus_client::registry::Registry;

/// What is written, and where to.
#[derive(Clone, Debug)]
pub struct Export {
    pub path: PathBuf,
    pub rotation: Rotation,
    pub filters: Arc<Filters>,
    pub mask: Mask,
}

/// Begins to write what is stored in `ring`; `node` is the name that flows have of it.
pub(crate) fn start(
    settings: &Export,
    node: String,
    ring: Ring,
    registry: &mut Registry,
) -> anyhow::Result<Running> {
    let Export { path, rotation, filters, mask } = settings.clone();
    let shown = path.display().to_string();
    let counts = ExportCounts::new(registry, ring.clone());
    let config = Config { path, rotation, filters, mask, node };
    // A ring is as long as its process.
    let exporter = Exporter::new(config, (ring, fastrand::u128(..)), counts);
    export::start(exporter).with_context(|| format!("start the export to {shown}"))
}
