//! How long a plane takes to program many services from nothing, and one endpoint's change among them: cluster IPs alone,
//! and (ebpf) with a load-balancer address each, whose hash tables come on top.

use std::time::Instant;

use model::{Changed, Plane, ServicePort, Snapshot};
use scenarios::{places::Node, topology::Topology};

use crate::{
    Effort, plane,
    rows::{Report, median},
    scale,
};

/// Changes that are timed one by one.
const CHANGES: u32 = 9;

/// What every Service has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Frontends {
    ClusterIp,
    /// And a load-balancer address.
    Vip,
}

impl Frontends {
    fn service(self, index: u32) -> ServicePort {
        match self {
            Self::ClusterIp => scale::filler(index),
            Self::Vip => scale::with_vip(scale::filler(index), index),
        }
    }
}

pub(crate) fn measure(effort: Effort, report: &mut Report) -> anyhow::Result<()> {
    use Frontends::{ClusterIp, Vip};
    for (plane, frontends) in [(Plane::Ebpf, ClusterIp), (Plane::Ebpf, Vip), (Plane::Iptables, ClusterIp)] {
        let mut former: Option<(f64, f64)> = None;
        for services in effort.sizes.iter().copied().filter(|services| *services >= 1_000) {
            let (from_nothing, change) = time(plane, frontends, services)?;
            let ((control, changed), of) = match former {
                None => ((from_nothing, change), "itself"),
                Some(former) => (former, "at 1,000 services"),
            };
            let size = format!("{}k", services / 1000);
            let (suffix, vip) = if frontends == Vip { ("-vip", ", each with a VIP") } else { ("", "") };
            let what = format!("{services} services with 2.5 endpoints each from nothing, {plane}{vip}");
            report.add(
                (format!("program-{size}-{plane}{suffix}"), what),
                (from_nothing, "ms"),
                (control, of),
            );
            let what = format!("one endpoint less among {services} services, {plane}{vip}");
            report.add((format!("update-{size}-{plane}{suffix}"), what), (change, "ms"), (changed, of));
            former.get_or_insert((from_nothing, change));
        }
    }
    Ok(())
}

/// Milliseconds from nothing, and of one change (the median).
fn time(plane: Plane, frontends: Frontends, services: u32) -> anyhow::Result<(f64, f64)> {
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
    (0..services).for_each(|index| scale::put(&mut snapshot, frontends.service(index)));
    let from_nothing = timed(&snapshot, &snapshot.changed_since(&empty))?;
    let mut changes = vec![];
    for change in 0..CHANGES {
        let before = snapshot.clone();
        // Spread over the whole range, and never the same Service twice.
        let mut service = frontends.service((services - 1) / CHANGES * change);
        service.cluster.pop();
        scale::put(&mut snapshot, service);
        changes.push(timed(&snapshot, &snapshot.changed_since(&before))?);
    }
    node.run(|| opened.clean_up())??;
    Ok((from_nothing, median(changes)))
}
