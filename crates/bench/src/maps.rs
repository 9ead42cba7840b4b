//! Kernel memory of a node's maps at defaults, with its two pods and without, as the kernel counts it.

use std::{
    collections::BTreeSet,
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::Arc,
};

use anyhow::Context as _;
use aya::{maps::MapInfo, programs::loaded_programs};
use model::{Changed, Family};
use scenarios::{places::Node, topology::Topology};

use crate::{plane, rows::Report};

pub(crate) fn measure(report: &mut Report) -> anyhow::Result<()> {
    // What others measure by default is one family.
    let clusters: [(_, _, &[Family]); 2] = [
        ("map-memory-2pods", "memory of all maps, 2 pods, defaults, IPv4 cluster", &[Family::V4]),
        ("map-memory-2pods-dual", "the same, dual stack", &Family::ALL),
    ];
    for (id, what, families) in clusters {
        let topology = Topology::new();
        let pins = plane::Pins::new(&topology.name);
        let config = dataplane_ebpf::Config { families: families.to_vec(), ..Default::default() };
        let mut plane = plane::open_with(config, &topology, Node::A, &pins)?;
        let without = memory(&pins)?;
        let mut snapshot = plane::bare_snapshot(&topology, Node::A);
        for endpoint in snapshot.endpoints.values_mut() {
            Arc::make_mut(endpoint).addresses.retain(|address| families.contains(&Family::of(*address)));
        }
        plane::apply(&mut plane, topology.node(Node::A), &snapshot, &Changed::all(&snapshot))?;
        report.add((id, what), (memory(&pins)?, "MB"), (without, "no pods"));
    }
    Ok(())
}

/// Megabytes of the pinned maps, and of the others that programs over them use.
fn memory(pins: &plane::Pins) -> anyhow::Result<f64> {
    let mut ours = pinned(pins)?;
    for program in loaded_programs() {
        // Programs of others come and go meanwhile.
        let Ok(Some(maps)) = program.map_err(anyhow::Error::from).and_then(|p| Ok(p.map_ids()?)) else {
            continue;
        };
        if maps.iter().any(|map| ours.contains(map)) {
            ours.extend(maps);
        }
    }
    let mut bytes = 0;
    for id in ours {
        let map = MapInfo::from_id(id).and_then(|map| map.fd()).with_context(|| format!("open map {id}"))?;
        let path = format!("/proc/thread-self/fdinfo/{}", map.as_fd().as_raw_fd());
        let info = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let line = info.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse::<u64>().ok());
        bytes += line.with_context(|| format!("find memlock of map {id}"))?;
    }
    Ok(bytes as f64 / 1e6)
}

/// The numbers of the maps that are pinned.
fn pinned(pins: &plane::Pins) -> anyhow::Result<BTreeSet<u32>> {
    let mut ids = BTreeSet::new();
    for entry in fs::read_dir(pins.path())? {
        // Links have a folder of their own, beside those of the versions.
        let maps = entry?.path().join("maps");
        if !maps.is_dir() {
            continue;
        }
        for pin in fs::read_dir(maps)? {
            let path = pin?.path();
            let map = MapInfo::from_pin(&path).with_context(|| format!("open {}", path.display()))?;
            ids.insert(map.id());
        }
    }
    anyhow::ensure!(!ids.is_empty(), "no map is pinned");
    Ok(ids)
}
