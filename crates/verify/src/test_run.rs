//! The eBPF plane by test runs: node-a in a namespace, its real programs over its real maps, packet in, packet out.
//!
//! Nothing is attached to a device that carries traffic. What passes no device (a node's packets to itself) is left out.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    path::PathBuf,
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, anyhow, ensure};
use aya::programs::TestRunOptions;
use dataplane::{Dataplane as _, Key};
use dataplane_ebpf::{Config, EbpfDataplane};
use model::{Endpoint, Family, MacAddress, PodName, Snapshot, oracle::Packet};
use netns::{NetNs, Owned};
use nix::net::if_::if_nametoindex;
use scenarios::places::{EDGE_NODE_SIDE, Node, Place, Pod};

use crate::{
    compare::{Seen, is_noticed},
    frame,
    probe::Probe,
};

const UPLINK: &str = "wire0";
/// Connections remembered; a new plane is opened before that many were made.
const FLOWS: u32 = 65_536;
const FLOWS_BEFORE_NEW: u32 = 20_000;
/// Probes are sent so often: chance shows more than one choice.
const TRIES: usize = 3;
const FIRST_PORT: u16 = 2048;

/// node-a.
pub struct TestRun {
    plane: Option<EbpfDataplane>,
    programmed: Snapshot,
    pins: PathBuf,
    space: Owned,
    endpoints: Vec<Endpoint>,
    counters: BTreeMap<String, u64>,
    source_port: u16,
    flows: u32,
}

impl TestRun {
    /// # Errors
    /// No root, no BPF; says so.
    pub fn new() -> anyhow::Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let name = format!("tp-vf-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let space = Owned::create(&name)?;
        space.run(forward)??;
        ip(&space, &wiring())?;
        let mut this = Self {
            plane: None,
            programmed: Snapshot::default(),
            pins: PathBuf::from(format!("/sys/fs/bpf/{name}")),
            endpoints: Node::A.pods().map(|pod| endpoint(&space, pod)).collect::<anyhow::Result<_>>()?,
            space,
            counters: BTreeMap::new(),
            source_port: FIRST_PORT,
            flows: 0,
        };
        this.open()?;
        Ok(this)
    }

    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.endpoints.clone()
    }

    /// Without Services.
    ///
    /// # Errors
    /// As [`Self::program`].
    pub fn clear(&mut self) -> anyhow::Result<()> {
        if self.flows > FLOWS_BEFORE_NEW {
            self.close()?;
            self.open()?;
        }
        let services = BTreeMap::new();
        self.program(&Snapshot { services, ..self.programmed.clone() })?;
        Ok(())
    }

    /// Programs what differs from the snapshot before; says which service ports the plane refused.
    ///
    /// # Errors
    /// The kernel refuses the plane itself, or something other than a service port.
    pub fn program(&mut self, next: &Snapshot) -> anyhow::Result<BTreeMap<model::ServicePortId, String>> {
        let changed = next.changed_since(&self.programmed);
        let plane = self.plane.as_mut().context("no plane is open")?;
        let (applied, counters) = self.space.run(|| (plane.apply(next, &changed), counters(plane)))?;
        self.programmed = next.clone();
        self.counters = counters?;
        let failed = applied.context("apply")?.failed.into_iter().map(|(key, error)| match key {
            Key::Service(id) => Ok((id, chain(&error))),
            other => Err(anyhow!("{other:?}: {}", chain(&error))),
        });
        failed.collect()
    }

    /// What the kernel holds that it should not, or lacks.
    ///
    /// # Errors
    /// The maps cannot be read.
    pub fn drift(&mut self) -> anyhow::Result<Vec<String>> {
        let (plane, snapshot) = (self.plane.as_mut().context("no plane is open")?, &self.programmed);
        Ok(self.space.run(|| plane.repair(snapshot))??)
    }

    /// What became of each probe, over several tries from ports of their own.
    ///
    /// # Errors
    /// The kernel refuses to run a program.
    pub fn seen(&mut self, probes: &[Probe]) -> anyhow::Result<Vec<(Probe, Packet, Seen)>> {
        // A handle of its own: the closure borrows all of this.
        let space = NetNs::open(self.space.name())?;
        space.run(|| probes.iter().map(|probe| self.ask(probe)).collect())?
    }

    fn ask(&mut self, probe: &Probe) -> anyhow::Result<(Probe, Packet, Seen)> {
        let mut ways = BTreeSet::new();
        let mut packet = probe.packet(FIRST_PORT);
        for _ in 0..TRIES {
            self.source_port = self.source_port.checked_add(1).unwrap_or(FIRST_PORT);
            packet = probe.packet(self.source_port);
            match self.once(probe, &packet).with_context(|| probe.to_string())? {
                Seen::To(one) => ways.extend(one),
                other if ways.is_empty() => return Ok((*probe, packet, other)),
                other => {
                    let other = Seen::Other(format!("first {}, then {other}", Seen::To(ways)));
                    return Ok((*probe, packet, other));
                }
            }
        }
        Ok((*probe, packet, Seen::To(ways)))
    }

    fn once(&mut self, probe: &Probe, packet: &Packet) -> anyhow::Result<Seen> {
        let (program, interface) = match probe.from {
            Place::Pod(pod) if pod.node() == Node::A => ("from_pod", pod.name()),
            Place::Host(Node::A) => ("to_wire", UPLINK),
            Place::Pod(_) | Place::Host(_) | Place::Client => ("from_wire", UPLINK),
        };
        // `struct __sk_buff`: only the interface is set.
        let mut context = [0u8; 192];
        context[40..44].copy_from_slice(&if_nametoindex(interface)?.to_ne_bytes());
        let (data, mut out) = (frame::build(packet), vec![0u8; 4096]);
        let options = TestRunOptions {
            data_in: Some(&data),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let plane = self.plane.as_mut().context("no plane is open")?;
        let run = plane.test_run(program, options)?;
        out.truncate(run.data_size_out as usize);
        let after = counters(plane)?;
        let counted = |(name, count): (&String, &u64)| {
            let moved = *count > self.counters.get(name).copied().unwrap_or_default();
            (moved && !name.starts_with("slow_")).then(|| name.clone())
        };
        let reasons: Vec<_> = after.iter().filter_map(counted).collect();
        self.counters = after;
        self.flows += 1;
        Ok(read(&reasons, packet, &out, &self.programmed))
    }

    fn open(&mut self) -> anyhow::Result<()> {
        let config = Config {
            bpffs: self.pins.clone(),
            // Attached to nothing that is up: the stack's own packets would count.
            uplinks: vec![],
            conntrack_entries: FLOWS,
            ..Config::default()
        };
        self.plane = Some(self.space.run(|| EbpfDataplane::open(config))??);
        self.programmed = Snapshot::default();
        self.flows = 0;
        Ok(())
    }

    fn close(&mut self) -> anyhow::Result<()> {
        match self.plane.take() {
            Some(mut plane) => Ok(self.space.run(|| plane.clean_up())??),
            None => Ok(()),
        }
    }
}

impl std::fmt::Debug for TestRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ebpf in {}", self.space.name())
    }
}

impl Drop for TestRun {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            eprintln!("{error:#}");
        }
        let _ = std::fs::remove_dir_all(&self.pins);
    }
}

/// What the counters and the frame say.
fn read(reasons: &[String], packet: &Packet, out: &[u8], snapshot: &Snapshot) -> Seen {
    let [reason] = reasons else { return Seen::Other(format!("counted as {reasons:?}")) };
    if reason.starts_with("refused_") {
        return Seen::Refused;
    }
    if reason == "dropped_source_range" {
        return Seen::Dropped;
    }
    if !reason.starts_with("forwarded_") && !reason.starts_with("passed_") {
        return Seen::Other(reason.clone());
    }
    match frame::ends(out) {
        Err(problem) => Seen::Other(format!("{reason}: {problem}")),
        Ok((source, to)) if to == packet.destination && source == packet.source => Seen::Untouched,
        Ok((source, to)) if source.ip() == packet.source.ip() => Seen::To([(to, false)].into()),
        Ok((source, to)) if snapshot.node.addresses.contains(&source.ip()) => {
            Seen::To([(to, is_noticed(packet, snapshot))].into())
        }
        Ok((source, to)) => Seen::Other(format!("{reason}: to {to} from {source}")),
    }
}

fn counters(plane: &EbpfDataplane) -> Result<BTreeMap<String, u64>, dataplane::Error> {
    Ok(plane.counters()?.into_iter().map(|counter| (counter.name, counter.packets)).collect())
}

/// An error with all its causes.
fn chain(error: &dataplane::Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn wiring() -> String {
    let mut batch =
        format!("link add {UPLINK} type veth peer name far\nlink set {UPLINK} up\nlink set far up\n");
    for family in Family::ALL {
        let (length, detection) = if family == Family::V4 { (24, "") } else { (64, " nodad") };
        let address = Node::A.address(family);
        batch += &format!("addr add {address}/{length} dev {UPLINK}{detection}\n");
        batch += &format!("route add default via {}\n", EDGE_NODE_SIDE.of(family));
        batch += &format!("route add {} via {}\n", Node::B.pod_cidr(family), Node::B.address(family));
    }
    for pod in Node::A.pods() {
        batch += &format!("link add {} type veth peer name {}-far\n", pod.name(), pod.name());
    }
    batch
}

fn endpoint(space: &Owned, pod: Pod) -> anyhow::Result<Endpoint> {
    let mac = |first| MacAddress([first, 0, 10, 20, 0, pod as u8]);
    Ok(Endpoint {
        pod: PodName { namespace: "verify".into(), name: pod.name().into() },
        addresses: Family::ALL.map(|family| pod.address(family)).into(),
        interface: pod.name().into(),
        ifindex: space.run(|| if_nametoindex(pod.name()))??,
        mac: mac(2),
        host_mac: mac(6),
        netns: None,
        l7: Default::default(),
    })
}

fn forward() -> std::io::Result<()> {
    std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")?;
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
}

fn ip(space: &Owned, batch: &str) -> anyhow::Result<()> {
    let mut command = space.command("ip");
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("run ip")?;
    child.stdin.take().context("ip has no input")?.write_all(batch.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "ip: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
