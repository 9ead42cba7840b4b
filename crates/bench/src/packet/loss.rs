//! What is lost of 50,000 new flows a second: first packets in slices of ten milliseconds, while the records are read.
//!
//! Fails where a lost record was not counted.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use dataplane_ebpf::Events;
use model::Family::V4;
use scenarios::{
    places::{Node, Pod},
    topology::Topology,
};

use super::{
    Bench, REDIRECT, TOLD, at,
    cases::{CLUSTER_IP, Vary},
};
use crate::{
    Effort,
    listener::Listener,
    rows::Report,
    wire::{Frame, SYN},
};

const PER_SECOND: u32 = 50_000;
const SLICE: Duration = Duration::from_millis(10);
const SLICES: u32 = 400;

pub(crate) fn measure(effort: Effort, report: &mut Report) -> anyhow::Result<()> {
    let topology = Topology::new();
    let services = effort.sizes.first().copied().unwrap_or_default();
    let mut bench = Bench::open(&topology, services, TOLD)?;
    let events = bench.events.take().context("a plane that tells")?;
    let before = counted(&events)?;
    let listener = Listener::start(events);
    let seconds = topology.node(Node::A).run(|| generate(&mut bench))??;
    let (events, heard) = listener.stop()?;
    let after = counted(&events)?;
    let (offered, lost) = (after.0 - before.0, after.1 - before.1);
    ensure!(heard + lost == offered, "{offered} records offered, {heard} heard and {lost} counted as lost");
    let rate = offered as f64 / seconds;
    ensure!(rate > f64::from(PER_SECOND) / 2.0, "only {rate:.0} flows a second: the machine is too busy");
    let share = 100.0 * lost as f64 / offered as f64;
    let what = "of 50,000 new flows a second, not heard of; each counted";
    report.add(("flow-loss-50k", what), (share, "%"), (rate, "flows a second"));
    Ok(())
}

/// Seconds that it took.
fn generate(bench: &mut Bench) -> anyhow::Result<f64> {
    let pod = (Pod::A1.address(V4), 40_000).into();
    let flows = PER_SECOND / (1000 / SLICE.as_millis() as u32);
    bench.template(&Frame::tcp(pod, at(CLUSTER_IP), SYN), Some((Vary::Port, 1)))?;
    let start = Instant::now();
    for slice in 1..=SLICES {
        let (answer, _) = bench.run("from_pod", "tpa1", flows)?;
        ensure!(answer == REDIRECT, "from_pod answers {answer}");
        thread::sleep((start + slice * SLICE).saturating_duration_since(Instant::now()));
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Records offered and lost, of all kinds and CPUs.
fn counted(events: &Events) -> anyhow::Result<(u64, u64)> {
    let counts = events.counts()?;
    let all = counts.iter().flat_map(|(_, cpus)| cpus);
    Ok(all.fold((0, 0), |(offered, lost), one| (offered + one.offered, lost + one.lost)))
}
