//! What one packet costs in the datapath, by `BPF_PROG_TEST_RUN` over the maps of real planes on a real node.
//!
//! A test run repeats with whatever the last repetition made of the packet, so the programs of `bpf/src/bin/bench.rs` put
//! the same packet back first and then call the function that the shipped program calls. What a program that only puts it
//! back costs is taken off. Rounds of all rows and all service counts take turns.

mod cases;
pub(crate) mod loss;
pub(crate) mod policy;

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use aya::{
    Ebpf,
    maps::Array,
    programs::{Program, TestRun as _, TestRunOptions},
};
use dataplane_ebpf::{Config, EbpfDataplane, Events, Telling};
use ipnet::IpNet;
use model::{Changed, Family::V4, FrontendKind, IdentityId, Protocol, Snapshot};
use scenarios::{
    places::{Node, Place, Pod, VIP},
    topology::Topology,
};

use self::cases::{CLUSTER_IP, Case, REDIRECT, REFUSED, Room, Vary, at, cases};
use crate::{
    Effort, machine, plane,
    rows::{Report, median},
    scale,
    wire::{ACK, Frame, SYN},
};

/// New flows of one round: with two rows each, all rounds fit into the connection table.
const NEW: u32 = 3_000;

/// Addresses whose identity is known where flows are told of.
const ADDRESSES: u32 = 10_000;
const TOLD: Telling = plane::BY_DEFAULT;

/// Words of the bench programs' template: a packet's first 56 bytes, whether to vary it, and a count.
const TEMPLATE_WORDS: usize = 16;
const VARY: usize = 14;
const COUNT: usize = 15;

/// One plane with so many services, or entries of a policy.
struct Bench {
    size: u32,
    ebpf: Ebpf,
    /// Where flows are told of: read between two measurements, so that there is room.
    events: Option<Events>,
    // Fields drop in order: the pins go last.
    _plane: EbpfDataplane,
    _pins: plane::Pins,
    /// Nanoseconds of each round: the empty programs (tc, XDP), and each case less the program that only restores.
    empty: Vec<[f64; 2]>,
    net: Vec<Vec<f64>>,
}

pub(crate) fn measure(effort: Effort, report: &mut Report) -> anyhow::Result<()> {
    let topology = Topology::new();
    let node = topology.node(Node::A);
    for neighbour in ["10.128.0.1", "10.128.0.12"] {
        let ping = node.command("ping").args(["-c1", "-W5", neighbour]).output().context("run ping")?;
        ensure!(ping.status.success(), "{neighbour} is no neighbour of the node");
    }
    let mut benches = vec![];
    for services in effort.sizes {
        benches.push(Bench::open(&topology, *services, Telling::Nothing)?);
    }
    // Last, beside the plane of as many services that tells of nothing.
    let most = effort.sizes.last().copied().unwrap_or_default();
    benches.push(Bench::open(&topology, most, TOLD)?);
    let cases = cases();
    node.run(|| {
        machine::pin(machine::cpus() - 1)?;
        for bench in &mut benches {
            bench.establish().context("establish flows")?;
        }
        for room in [None, Some(Room::Free), Some(Room::Full)] {
            for round in 0..effort.packet_rounds {
                for bench in &mut benches {
                    bench.round(&cases, room, round as u32, effort.packets)?;
                }
            }
        }
        anyhow::Ok(())
    })??;
    tell(&cases, &benches, report);
    Ok(())
}

impl Bench {
    fn open(topology: &Topology, services: u32, told: Telling) -> anyhow::Result<Self> {
        let config = Config { events: told, ..Config::default() };
        let tag = format!("{services}-{}", u8::from(told != Telling::Nothing));
        Self::open_with(topology, &tag, config, |snapshot| {
            let backend = (SocketAddr::new(Pod::B1.address(V4), 8080), false);
            let web =
                [(FrontendKind::ClusterIp, at(CLUSTER_IP).ip()), (FrontendKind::LoadBalancer, VIP.of(V4))];
            let none = [(FrontendKind::ClusterIp, at(REFUSED).ip())];
            let web = scale::service("web", &web, &[backend]);
            let mut udp = web.clone();
            udp.id.protocol = Protocol::Udp;
            for service in [web, udp, scale::service("none", &none, &[])] {
                scale::put(snapshot, service);
            }
            scale::fill(snapshot, services);
            if told != Telling::Nothing {
                identify(snapshot);
            }
            services
        })
    }

    /// A plane of its own over what `fill` puts into the snapshot; `tag` is one that no other plane of this topology has. What
    /// `fill` returns is the size that rows are named by.
    fn open_with(
        topology: &Topology,
        tag: &str,
        config: Config,
        fill: impl FnOnce(&mut Snapshot) -> u32,
    ) -> anyhow::Result<Self> {
        let node = topology.node(Node::A);
        let pins = plane::Pins::new(&format!("{}-{tag}", topology.name));
        let tells = config.events != Telling::Nothing;
        let mut plane = plane::open_with(config, topology, Node::A, &pins)?;
        let mut snapshot = plane::bare_snapshot(topology, Node::A);
        let size = fill(&mut snapshot);
        plane::apply(&mut plane, node, &snapshot, &Changed::all(&snapshot))?;
        let ebpf = plane.load_bench()?;
        let events = tells.then(|| plane.events()).transpose()?;
        Ok(Self { size, ebpf, events, _plane: plane, _pins: pins, empty: vec![], net: vec![] })
    }

    /// Handshakes, so that what follows is established.
    fn establish(&mut self) -> anyhow::Result<()> {
        let pod = SocketAddr::new(Pod::A1.address(V4), 40000);
        let backend = SocketAddr::new(Pod::B1.address(V4), 8080);
        let (client, vip) =
            (SocketAddr::new(Place::Client.address(V4), 50000), SocketAddr::new(VIP.of(V4), 80));
        let cluster_ip = at(CLUSTER_IP);
        self.pass("from_pod", "tpa1", &Frame::tcp(pod, cluster_ip, SYN))?;
        self.pass("from_wire", plane::UPLINK, &Frame::tcp(backend, pod, SYN | ACK))?;
        self.pass("from_pod", "tpa1", &Frame::tcp(pod, cluster_ip, ACK))?;
        self.pass("from_pod", "tpa1", &Frame::udp(pod, cluster_ip))?;
        self.pass("from_wire", plane::UPLINK, &Frame::udp(backend, pod))?;
        let masqueraded = self.pass("from_wire", plane::UPLINK, &Frame::tcp(client, vip, SYN))?;
        self.pass("from_wire", plane::UPLINK, &Frame::tcp(backend, masqueraded.0, SYN | ACK))?;
        self.pass("from_wire", plane::UPLINK, &Frame::tcp(client, vip, ACK))?;
        Ok(())
    }

    /// Sends one packet; returns where it comes from and goes to afterwards.
    fn pass(
        &mut self,
        program: &str,
        device: &str,
        frame: &Frame,
    ) -> anyhow::Result<(SocketAddr, SocketAddr)> {
        self.template(frame, None)?;
        let (answer, ends) = self.run(program, device, 1)?;
        ensure!(answer == REDIRECT, "{program} answers {answer} to {frame:?}");
        Ok(ends)
    }

    fn round(&mut self, cases: &[Case], room: Option<Room>, round: u32, packets: u32) -> anyhow::Result<()> {
        let frame = &cases[0].frame;
        self.template(frame, None)?;
        let mut base = |empty, restore| -> anyhow::Result<[f64; 2]> {
            let empty = self.timed(empty, plane::UPLINK, packets)?.0;
            Ok([empty, self.timed(restore, plane::UPLINK, packets)?.0])
        };
        let [empty, restore] = base("empty", "restore")?;
        let [xdp_empty, xdp_restore] = base("xdp_empty", "xdp_restore")?;
        self.empty.push([empty, xdp_empty]);
        self.net.resize(cases.len(), vec![]);
        for (index, case) in cases.iter().enumerate().filter(|(_, case)| case.new == room) {
            let few = room == Some(Room::Free) || (self.events.is_some() && case.is_told());
            let repeat = if few { NEW } else { packets };
            while self.events.as_mut().is_some_and(|events| events.take().is_some()) {}
            self.template(&case.frame, room.map(|_| (case.vary, (round + 1).wrapping_mul(repeat))))?;
            let (nanoseconds, (answer, (_, lands))) = self.timed(case.program, case.device, repeat)?;
            ensure!(
                (answer, lands) == (case.answer, case.lands),
                "{}: {} answers {answer} and sends it to {lands}, not {} to {}",
                case.id,
                case.program,
                case.answer,
                case.lands
            );
            self.net[index].push(nanoseconds - if case.is_xdp() { xdp_restore } else { restore });
        }
        Ok(())
    }

    /// What every repetition starts with; `vary`: as a flow of its own, counted from there.
    fn template(&mut self, frame: &Frame, vary: Option<(Vary, u32)>) -> anyhow::Result<()> {
        let mut bytes = frame.bytes();
        bytes.resize(4 * VARY, 0);
        let mut words = [0u32; TEMPLATE_WORDS];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_ne_bytes(chunk.try_into()?);
        }
        if let Some((by, first)) = vary {
            (words[VARY], words[COUNT]) = (by as u32, first);
        }
        let map = self.ebpf.map_mut("TEMPLATE").context("find the template")?;
        Array::<_, [u32; TEMPLATE_WORDS]>::try_from(map)?.set(0, words, 0)?;
        Ok(())
    }

    /// Nanoseconds per packet, and the last one's end.
    fn timed(&mut self, program: &str, device: &str, repeat: u32) -> anyhow::Result<(f64, (i32, Ends))> {
        let start = machine::thread_time();
        let end = self.run(program, device, repeat)?;
        Ok(((machine::thread_time() - start) / f64::from(repeat), end))
    }

    fn run(&mut self, program: &str, device: &str, repeat: u32) -> anyhow::Result<(i32, Ends)> {
        let found = self.ebpf.program_mut(program).with_context(|| format!("find program {program}"))?;
        let interface = nix::net::if_::if_nametoindex(device)?.to_ne_bytes();
        // The kernel reads the EtherType before the program puts the packet in.
        let mut packet = [0u8; 118];
        packet[12..15].copy_from_slice(&[8, 0, 0x45]);
        let mut out = [0u8; 256];
        // `struct __sk_buff`: the interface; `struct xdp_md`: the end of the data and the interface.
        let (mut skb, mut md) = ([0u8; 192], [0u8; 24]);
        skb[40..44].copy_from_slice(&interface);
        md[4..8].copy_from_slice(&(packet.len() as u32).to_ne_bytes());
        md[12..16].copy_from_slice(&interface);
        let context: &[u8] = if matches!(found, Program::Xdp(_)) { &md } else { &skb };
        let options = TestRunOptions {
            data_in: Some(&packet),
            data_out: Some(&mut out),
            ctx_in: Some(context),
            repeat,
            ..TestRunOptions::default()
        };
        let result = match found {
            Program::SchedClassifier(classifier) => classifier.test_run(options),
            Program::Xdp(xdp) => xdp.test_run(options),
            other => anyhow::bail!("{program} is of type {:?}", other.prog_type()),
        };
        let result = result.with_context(|| format!("run {program}"))?;
        Ok((result.return_value as i32, ends(&out)))
    }
}

/// Who is who, for the lookups that an event takes.
fn identify(snapshot: &mut Snapshot) {
    let row = |number: u32| {
        let address = std::net::Ipv4Addr::from(0x0a14_0000 + number);
        (IpNet::from(std::net::IpAddr::from(address)), IdentityId::of_cluster(number))
    };
    snapshot.addresses.extend((0..ADDRESSES).map(row));
}

/// Source and destination.
type Ends = (SocketAddr, SocketAddr);

/// Of an IPv4 frame without options.
fn ends(frame: &[u8; 256]) -> Ends {
    let end = |address: usize, port: usize| {
        let ip = [frame[address], frame[address + 1], frame[address + 2], frame[address + 3]];
        SocketAddr::new(ip.into(), u16::from_be_bytes([frame[port], frame[port + 1]]))
    };
    (end(26, 34), end(30, 36))
}

fn tell(cases: &[Case], benches: &[Bench], report: &mut Report) {
    let net = |bench: &Bench, index: usize| median(bench.net[index].clone());
    if let [.., silent, telling] = benches {
        // So few packets as the ring has room for fill no connection table.
        let fitting = cases.iter().enumerate().filter(|(_, case)| case.new != Some(Room::Full));
        for (index, case) in fitting {
            report.add(
                (format!("{}-events", case.id), format!("{}, flows told of", case.what)),
                (net(telling, index), "ns"),
                (net(silent, index), "nothing told"),
            );
        }
    }
    let benches = &benches[..benches.len() - 1];
    for bench in benches.iter().rev() {
        let empty = [0, 1].map(|hook| median(bench.empty.iter().map(|round| round[hook]).collect()));
        for (index, case) in cases.iter().enumerate() {
            let (id, what) = match bench.size {
                10_000 => (case.id.to_owned(), case.what.to_owned()),
                1_000 => (format!("{}-1k", case.id), format!("{}, 1,000 services", case.what)),
                few => (format!("{}-{few}", case.id), format!("{}, {few} services", case.what)),
            };
            report.add(
                (id, what),
                (net(bench, index), "ns"),
                (empty[usize::from(case.is_xdp())], "empty program"),
            );
        }
    }
    if let [few, .., many] = benches
        && let Some(index) = cases.iter().position(|case| case.id == "pod-clusterip-new")
    {
        let (few, many) = (net(few, index), net(many, index));
        let what = "new flow to a ClusterIP, 10,000 services over 10";
        report.add(("growth-10-10k", what), (many / few, "ratio"), (1.0, "flat"));
    }
}
