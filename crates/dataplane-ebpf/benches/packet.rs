//! What a packet costs in the datapath, by `BPF_PROG_TEST_RUN`. Method and figures: `README.md` beside this file.
//!
//! `cargo bench -p twinplane-dataplane-ebpf`, as root, on an idle machine. Never part of the tests.

use std::{net::SocketAddr, time::Instant};

use aya::{
    Ebpf,
    maps::Array,
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use dataplane::Dataplane as _;
use dataplane_ebpf::{Config, EbpfDataplane};
use model::{Changed, Protocol, ServicePort, Snapshot};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

#[path = "../tests/kernel/model_of.rs"]
mod model_of;
#[path = "../tests/kernel/space.rs"]
#[expect(dead_code, reason = "shared with the tests")]
mod space;
#[path = "../tests/kernel/wire.rs"]
#[expect(dead_code, reason = "shared with the tests")]
mod wire;

use wire::{ACK, Frame, SYN};

const ROUNDS: usize = 9;
const REPEAT: u32 = 300_000;
/// Fits a table of 65,536 rows, two per flow.
const FEW: u32 = 20_000;

/// Words of the bench programs' template: a packet's first 56 bytes, whether to vary it, and a count.
const TEMPLATE_WORDS: usize = 16;
const VARY: usize = 14;

fn main() {
    // `cargo test --benches` passes this: there is nothing to test here.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let space = space::namespace("bench");
    let pins = space::PinFolder::new();
    space::forward(&space);
    space::ip(
        &space,
        "link add wire0 type veth peer name far
         link set wire0 up
         link set far up
         addr add 10.128.0.11/24 dev wire0
         route add 10.20.1.0/24 via 10.128.0.12
         link add tppod type veth peer name eth9
         link set tppod up
         link set eth9 up
         ",
    );
    space.run(|| measure(&pins)).expect("enter");
}

fn measure(pins: &space::PinFolder) {
    pin_to_last_cpu();
    let config = Config { bpffs: pins.path().to_owned(), uplinks: vec!["wire0".into()], ..Config::default() };
    let mut plane = EbpfDataplane::open(config).unwrap_or_else(|error| panic!("{error}: {:?}", error.source));
    let snapshot = snapshot();
    let applied = plane.apply(&snapshot, &Changed::all(&snapshot)).expect("apply");
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    let mut bench = Bench { ebpf: plane.load_bench().expect("bench programs") };
    bench.packets();
    programming(&mut plane, snapshot);
    plane.clean_up().expect("clean up");
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("socket address")
}

fn web(name: &str, ip: &str, backends: &[(SocketAddr, bool)]) -> ServicePort {
    let frontends = vec![model_of::cluster_ip(model_of::address(ip), 80)];
    model_of::with_backends(model_of::service(name, Protocol::Tcp, frontends), backends)
}

fn snapshot() -> Snapshot {
    let macs = ("02:20:00:00:00:05", "02:20:00:00:00:01");
    let pod =
        model_of::endpoint("pod", &[model_of::address("10.20.0.5")], "tppod", space::ifindex("tppod"), macs);
    model_of::snapshot(
        model_of::node("node-a", &["10.128.0.11"]),
        vec![web("web", "10.24.0.10", &[(at("10.20.1.7:8080"), false)]), web("none", "10.24.0.11", &[])],
        vec![pod],
    )
}

struct Bench {
    ebpf: Ebpf,
}

impl Bench {
    fn packets(&mut self) {
        let (pod, frontend, backend) = (at("10.20.0.5:40000"), at("10.24.0.10:80"), at("10.20.1.7:8080"));
        let syn = Frame::tcp(pod, frontend, SYN);
        let (data, reply) = (Frame::tcp(pod, frontend, ACK), Frame::tcp(backend, pod, ACK));
        // The handshake, so that what follows is established.
        for (program, frame) in
            [("from_pod", &syn), ("from_wire", &Frame::tcp(backend, pod, SYN | ACK)), ("from_pod", &data)]
        {
            self.template(frame, false);
            self.run(program, 1);
        }
        let refused = Frame::tcp(pod, at("10.24.0.11:80"), SYN);
        let stranger = Frame::tcp(at("198.51.100.10:50000"), at("10.128.0.11:22"), ACK);
        self.template(&data, false);
        let (empty, restore) = (self.median("empty", REPEAT), self.median("restore", REPEAT));
        println!("{:<54} {empty:7.1} ns", "empty program");
        println!("{:<54} {restore:7.1} ns", "packet restored, the base of all below");
        println!("{:<54} {:>10} {:>10} {:>12}", "", "total", "net", "net/empty");
        for (what, program, frame, expected) in [
            ("concerns no service (from_wire)", "from_wire", &stranger, -1),
            ("established, pod to cluster IP, remote backend", "from_pod", &data, 7),
            ("established, reply into the pod", "from_wire", &reply, 7),
            ("refused by a reset", "from_pod", &refused, 7),
        ] {
            self.template(frame, false);
            assert_eq!(self.run(program, 1), expected, "{what}");
            print_row(what, self.median(program, REPEAT), restore, empty);
        }
        self.template(&syn, true);
        let few = self.run_timed("from_pod", FEW);
        print_row("new flow, table with room (one round)", few, restore, empty);
        print_row("new flow, table full and evicting", self.median("from_pod", REPEAT), restore, empty);
    }

    fn template(&mut self, frame: &Frame, vary: bool) {
        let mut bytes = frame.bytes();
        bytes.resize(4 * VARY, 0);
        let mut words = [0u32; TEMPLATE_WORDS];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_ne_bytes(chunk.try_into().expect("four bytes"));
        }
        words[VARY] = vary.into();
        let map = self.ebpf.map_mut("TEMPLATE").expect("the bench object has it");
        let mut map: Array<_, [u32; TEMPLATE_WORDS]> = map.try_into().expect("an array");
        map.set(0, words, 0).expect("set");
    }

    fn run(&mut self, program: &str, repeat: u32) -> i32 {
        let classifier: &mut SchedClassifier =
            self.ebpf.program_mut(program).expect("there").try_into().expect("a classifier");
        // `struct __sk_buff`: only the interface is set.
        let mut context = [0u8; 192];
        context[40..44].copy_from_slice(&space::ifindex("tppod").to_ne_bytes());
        let packet = [0u8; 118];
        let options = TestRunOptions {
            data_in: Some(&packet_with_type(packet)),
            ctx_in: Some(&context),
            repeat,
            ..TestRunOptions::default()
        };
        classifier.test_run(options).expect("run").return_value as i32
    }

    /// Nanoseconds per packet.
    fn run_timed(&mut self, program: &str, repeat: u32) -> f64 {
        let start = thread_time();
        self.run(program, repeat);
        (thread_time() - start) / f64::from(repeat)
    }

    fn median(&mut self, program: &str, repeat: u32) -> f64 {
        let mut rounds: Vec<f64> = (0..ROUNDS).map(|_| self.run_timed(program, repeat)).collect();
        rounds.sort_by(f64::total_cmp);
        rounds[ROUNDS / 2]
    }
}

/// Nanoseconds that this thread has run, in the kernel too: other load on the machine does not count.
fn thread_time() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid place for the answer.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) }, 0);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// The kernel reads the EtherType before the program restores the packet.
fn packet_with_type(mut packet: [u8; 118]) -> [u8; 118] {
    packet[12..15].copy_from_slice(&[8, 0, 0x45]);
    packet
}

fn print_row(what: &str, total: f64, base: f64, empty: f64) {
    let net = total - base;
    println!("{what:<54} {total:7.1} ns {net:7.1} ns {:11.2}x", net / empty);
}

/// 10,000 services with 25,000 endpoints from nothing, and one endpoint less.
fn programming(plane: &mut EbpfDataplane, mut snapshot: Snapshot) {
    for index in 0..10_000u32 {
        let ip = std::net::Ipv4Addr::from(u32::from(std::net::Ipv4Addr::new(10, 25, 0, 1)) + index);
        let count = 2 + index as u8 % 2;
        let backends: Vec<_> =
            (0..count).map(|b| (at(&format!("10.20.{}.{}:8080", 2 + b, index % 250)), false)).collect();
        let port = web(&format!("s{index}"), &ip.to_string(), &backends);
        snapshot.services.insert(port.id.clone(), port.into());
    }
    let start = Instant::now();
    plane.apply(&snapshot, &Changed::all(&snapshot)).expect("apply");
    println!(
        "\n10,000 services, 25,000 endpoints from nothing: {:.1} ms",
        start.elapsed().as_secs_f64() * 1e3
    );
    let mut next = snapshot.clone();
    let (id, port) = snapshot.services.iter().nth(5000).expect("there");
    let mut port = (**port).clone();
    port.cluster.pop();
    next.services.insert(id.clone(), port.into());
    let changed = next.changed_since(&snapshot);
    let start = Instant::now();
    plane.apply(&next, &changed).expect("apply");
    println!("one endpoint changes among them: {:.3} ms", start.elapsed().as_secs_f64() * 1e3);
}

fn pin_to_last_cpu() {
    let mut cpus = CpuSet::new();
    let last = std::thread::available_parallelism().map_or(0, |count| count.get() - 1);
    cpus.set(last).expect("a CPU");
    sched_setaffinity(Pid::from_raw(0), &cpus).expect("pin");
}
