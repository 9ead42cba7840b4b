//! Connections and streams between real sockets: through plain routing, and through each plane, at growing service counts.
//!
//! Four two-node clusters exist at the same time, alike but for the plane and whether it tells of flows; rounds take turns between them, and a share is
//! the median of the rounds' own ratios, because machines drift and single runs scatter.

use std::{collections::BTreeSet, net::SocketAddr, process::Command};

use anyhow::{Context as _, ensure};
use dataplane::Dataplane;
use model::{Changed, Family::V4, FrontendKind, Plane, Snapshot};
use scenarios::{
    places::{Node, Place, Pod, VIP, cluster_ip},
    topology::Topology,
};

use crate::{
    Effort,
    fleet::{self, Running},
    listener::Listener,
    machine, plane,
    rows::{Report, median},
    scale,
    talk::{Heard, What},
};

const PORT: u16 = 8080;

/// Who connects to whom. The control goes to the backend's own address, over the same hops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    /// A pod to a pod of the other node, by its own address: what a plane costs that has nothing to do.
    Pod,
    /// The same pods through a Service.
    ClusterIp,
    /// The client to a pod of the node that the load balancer chose.
    Vip,
}

impl Path {
    const ALL: [Self; 3] = [Self::Pod, Self::ClusterIp, Self::Vip];

    fn id(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::ClusterIp => "clusterip",
            Self::Vip => "vip",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Pod => "pod to remote pod",
            Self::ClusterIp => "pod to ClusterIP to remote pod",
            Self::Vip => "client to LoadBalancer to pod",
        }
    }

    fn client(self) -> Place {
        match self {
            Self::Pod | Self::ClusterIp => Place::Pod(Pod::A1),
            Self::Vip => Place::Client,
        }
    }

    fn backend(self) -> Pod {
        match self {
            Self::Pod | Self::ClusterIp => Pod::B1,
            Self::Vip => Pod::A2,
        }
    }

    /// `None` where no Service is between.
    fn frontend(self) -> Option<(FrontendKind, SocketAddr)> {
        match self {
            Self::Pod => None,
            Self::ClusterIp => Some((FrontendKind::ClusterIp, (cluster_ip(10).of(V4), 80).into())),
            Self::Vip => Some((FrontendKind::LoadBalancer, (VIP.of(V4), 80).into())),
        }
    }
}

/// A cluster, and the plane of its nodes; the first has none.
struct World {
    plane: Option<Plane>,
    /// The plane tells of no flow, where it otherwise does.
    silent: bool,
    // Fields drop in order: processes and planes leave before their namespaces.
    _servers: Vec<Running>,
    nodes: Vec<ProgrammedNode>,
    topology: Topology,
}

struct ProgrammedNode {
    node: Node,
    // Before its plane.
    _listener: Option<Listener>,
    plane: Box<dyn Dataplane>,
    snapshot: Snapshot,
    _pins: plane::Pins,
}

/// What the rounds of one world, path and number of services heard.
type Rounds = Vec<Heard>;

pub(crate) fn measure(effort: Effort, report: &mut Report) -> anyhow::Result<()> {
    let mut worlds = vec![];
    for plane in [None, Some(Plane::Ebpf), Some(Plane::Iptables)] {
        worlds.push(World::new(plane, false)?);
    }
    worlds.push(World::new(Some(Plane::Ebpf), true)?);
    for services in effort.sizes {
        for world in &mut worlds {
            world.grow(*services)?;
        }
        for path in Path::ALL {
            let rounds = rounds(&worlds, path, What::Connections, effort)?;
            tell_connections(path, *services, &worlds, &rounds, report);
            if Some(services) == effort.sizes.last() {
                tell_observed(path, &worlds, &rounds, report);
            }
        }
    }
    for path in Path::ALL {
        let rounds = rounds(&worlds, path, What::Stream, effort)?;
        let gigabits = |rounds: &Rounds| median(rounds.iter().map(|heard| heard.per_second * 8e-9).collect());
        let control = gigabits(&rounds[0]);
        for (world, rounds) in worlds.iter().zip(&rounds) {
            if let Some(plane) = world.plane.filter(|_| !world.silent) {
                let what = format!("one TCP stream, {}, {plane}", path.words());
                let id = format!("bulk-{}-{plane}", path.id());
                report.add((id, what), (gigabits(rounds), "Gbit/s"), (control, "plain veth"));
            }
        }
    }
    Ok(())
}

/// Every world's rounds, taken in turns that begin elsewhere each time.
fn rounds(worlds: &[World], path: Path, what: What, effort: Effort) -> anyhow::Result<Vec<Rounds>> {
    let mut heard: Vec<Rounds> = worlds.iter().map(|_| vec![]).collect();
    for round in 0..effort.connection_rounds {
        for turn in 0..worlds.len() {
            let index = (round + turn) % worlds.len();
            heard[index].push(worlds[index].ask(path, what, effort.seconds)?);
        }
    }
    Ok(heard)
}

impl World {
    fn new(plane: Option<Plane>, silent: bool) -> anyhow::Result<Self> {
        let topology = Topology::new();
        topology.route_vips(Node::A);
        let mut nodes = vec![];
        for node in Node::ALL {
            let Some(kind) = plane else { continue };
            let pins = plane::Pins::new(&format!("{}-{}", topology.name, node.name()));
            let (mut opened, listener) = match kind {
                Plane::Ebpf if !silent => {
                    let opened = plane::open_telling(&topology, node, &pins, plane::BY_DEFAULT)?;
                    let listener = Listener::start(opened.events()?);
                    (Box::new(opened) as Box<dyn Dataplane>, Some(listener))
                }
                _ => (plane::open(kind, &topology, node, &pins)?, None),
            };
            let mut snapshot = plane::bare_snapshot(&topology, node);
            for path in Path::ALL {
                let Some((kind, frontend)) = path.frontend() else { continue };
                let pod = path.backend();
                let backend = (SocketAddr::new(pod.address(V4), PORT), pod.node() == node);
                scale::put(&mut snapshot, scale::service(path.id(), &[(kind, frontend.ip())], &[backend]));
            }
            plane::apply(&mut *opened, topology.node(node), &snapshot, &Changed::all(&snapshot))?;
            nodes.push(ProgrammedNode { node, _listener: listener, plane: opened, snapshot, _pins: pins });
        }
        let mut servers = vec![];
        for backend in BTreeSet::from(Path::ALL.map(Path::backend)) {
            let place = Place::Pod(backend);
            let arguments = ["serve", &PORT.to_string()];
            let command = child(&topology, place, machine::cpus() - 1, &arguments)?;
            servers.push(Running::start_until_ready(command)?);
        }
        Ok(Self { plane, silent, _servers: servers, nodes, topology })
    }

    fn grow(&mut self, services: u32) -> anyhow::Result<()> {
        for node in &mut self.nodes {
            let before = node.snapshot.clone();
            scale::fill(&mut node.snapshot, services);
            let changed = node.snapshot.changed_since(&before);
            plane::apply(&mut *node.plane, self.topology.node(node.node), &node.snapshot, &changed)?;
        }
        Ok(())
    }

    fn ask(&self, path: Path, what: What, seconds: f64) -> anyhow::Result<Heard> {
        let own = SocketAddr::new(path.backend().address(V4), PORT);
        let frontend = path.frontend().filter(|_| self.plane.is_some());
        let to = frontend.map_or(own, |(_, frontend)| frontend);
        let what = if what == What::Stream { "stream" } else { "connections" };
        let arguments = ["ask", what, &to.to_string(), &seconds.to_string()];
        let output = child(&self.topology, path.client(), 0, &arguments)?.output().context("run a client")?;
        let name = self.plane.map_or("plain veth", |plane| plane.as_str());
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} on {name}: {told}", path.words());
        serde_json::from_slice(&output.stdout).context("read what a client heard")
    }
}

/// This program in a place: in its namespace, on a CPU, and in the cgroup of its node, if it has one.
fn child(topology: &Topology, place: Place, cpu: usize, arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = fleet::command(topology.place(place), arguments)?;
    command.arg("--cpu").arg(cpu.to_string());
    if let Some(node) = place.node() {
        command.arg("--cgroup").arg(topology.group(node).path());
    }
    Ok(command)
}

/// What it costs that flows are told of, heard and stored: the same plane with and without, round by round.
fn tell_observed(path: Path, worlds: &[World], rounds: &[Rounds], report: &mut Report) {
    let of = |silent| {
        let mut found = worlds.iter().zip(rounds);
        found.find(|(world, _)| world.plane == Some(Plane::Ebpf) && world.silent == silent)
    };
    let (Some((_, told)), Some((_, silent))) = (of(false), of(true)) else { return };
    let shares = told.iter().zip(silent).map(|(told, silent)| told.per_second / silent.per_second);
    let id = match path {
        Path::ClusterIp => "conn-share-observed".to_owned(),
        Path::Pod | Path::Vip => format!("conn-share-observed-{}", path.id()),
    };
    let what = format!("connections a second with flows told of, {}", path.words());
    report.add((id, what), (median(shares.collect()), "share"), (1.0, "nothing told"));
}

fn tell_connections(path: Path, services: u32, worlds: &[World], rounds: &[Rounds], report: &mut Report) {
    let size = match services {
        10_000 => String::new(),
        1_000 => "-1k".to_owned(),
        few => format!("-{few}"),
    };
    let of = |rounds: &Rounds, part: fn(&Heard) -> f64| median(rounds.iter().map(part).collect());
    let plain = &rounds[0];
    let rate = of(plain, |heard| heard.per_second);
    let what = format!("connections a second of the control, {}", path.words());
    report.add((format!("conn-rate-{}-plain{size}", path.id()), what), (rate, "1/s"), (rate, "itself"));
    for (world, rounds) in worlds.iter().zip(rounds) {
        let Some(plane) = world.plane.filter(|_| !world.silent) else { continue };
        let suffix = if plane == Plane::Ebpf { String::new() } else { format!("-{plane}") };
        let words = format!("{}, {plane}, {services} services", path.words());
        let shares = rounds.iter().zip(plain).map(|(heard, plain)| heard.per_second / plain.per_second);
        let id = format!("conn-share-{}{suffix}{size}", path.id());
        let what = format!("connections a second, {words}");
        report.add((id, what), (median(shares.collect()), "share"), (1.0, "plain veth"));
        for (name, part) in [("p50", (|heard| heard.p50) as fn(&Heard) -> f64), ("p99", |heard| heard.p99)] {
            let id = format!("connect-{name}-{}{suffix}{size}", path.id());
            let what = format!("connect(2) {name}, {words}");
            report.add((id, what), (of(rounds, part), "us"), (of(plain, part), "plain veth"));
        }
    }
}
