//! How long a plane takes to program many services from nothing, and one endpoint's change among them.

use std::time::Instant;

use model::{Changed, Plane, Snapshot};
use scenarios::{places::Node, topology::Topology};

use crate::{
    Effort, plane,
    rows::{Report, median},
    scale,
};

/// Changes that are timed one by one.
const CHANGES: u32 = 9;

pub(crate) fn measure(effort: Effort, report: &mut Report) -> anyhow::Result<()> {
    for plane in [Plane::Ebpf, Plane::Iptables] {
        let mut former: Option<(f64, f64)> = None;
        for services in effort.sizes.iter().copied().filter(|services| *services >= 1_000) {
            let (from_nothing, change) = time(plane, services)?;
            let ((control, changed), of) = match former {
                None => ((from_nothing, change), "itself"),
                Some(former) => (former, "at 1,000 services"),
            };
            let size = format!("{}k", services / 1000);
            let what = format!("{services} services with 2.5 endpoints each from nothing, {plane}");
            report.add((format!("program-{size}-{plane}"), what), (from_nothing, "ms"), (control, of));
            let what = format!("one endpoint less among {services} services, {plane}");
            report.add((format!("update-{size}-{plane}"), what), (change, "ms"), (changed, of));
            former.get_or_insert((from_nothing, change));
        }
    }
    Ok(())
}

/// Milliseconds from nothing, and of one change (the median).
fn time(plane: Plane, services: u32) -> anyhow::Result<(f64, f64)> {
    let topology = Topology::new();
    let node = topology.node(Node::A);
    let pins = plane::Pins::new(&topology.name);
    let mut opened = plane::open(plane, &topology, Node::A, &pins)?;
    let mut snapshot = plane::bare_snapshot(&topology, Node::A);
    let bare = Changed::all(&snapshot);
    plane::apply(&mut *opened, node, &snapshot, &bare)?;
    let mut timed = |next: &Snapshot, changed: &Changed| -> anyhow::Result<f64> {
        let start = Instant::now();
        plane::apply(&mut *opened, node, next, changed)?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    let empty = snapshot.clone();
    scale::fill(&mut snapshot, services);
    let from_nothing = timed(&snapshot, &snapshot.changed_since(&empty))?;
    let mut changes = vec![];
    for change in 0..CHANGES {
        let before = snapshot.clone();
        // Spread over the whole range, and never the same Service twice.
        let mut service = scale::filler((services - 1) / CHANGES * change);
        service.cluster.pop();
        scale::put(&mut snapshot, service);
        changes.push(timed(&snapshot, &snapshot.changed_since(&before))?);
    }
    node.run(|| opened.clean_up())??;
    Ok((from_nothing, median(changes)))
}
