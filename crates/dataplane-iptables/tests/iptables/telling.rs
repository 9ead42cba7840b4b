//! What the kernel tells of real flows, in both families, and what it had no room for.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Command,
    time::{Duration, Instant},
};

use dataplane::Dataplane as _;
use dataplane_iptables::{Config, Heard, IptablesDataplane, Telling, TellingConfig};
use model::{
    Family, FrontendKind, NodeConfig, Protocol, ServicePort,
    told::{Moment, Side, Stop, Stopped, Told, Tracked, Transport},
};

use crate::{
    common::{backends, cidr, frontend, id, ip, node_port, service, snapshot},
    node::{self, apply, ask, ask_udp, on_a_node_with, run, saved, serve_tcp, serve_udp},
};

const PATIENCE: Duration = Duration::from_secs(10);

fn telling() -> Config {
    Config { telling: Some(TellingConfig::default()), ..Config::default() }
}

/// The same places in both families.
struct Place {
    family: Family,
    web: &'static str,
    backend: &'static str,
    vip: &'static str,
    everyone_else: &'static str,
}

const PLACES: [Place; 2] = [
    Place {
        family: Family::V4,
        web: "10.24.0.1:80",
        backend: "10.20.0.1:8080",
        vip: "203.0.113.7:80",
        everyone_else: "192.0.2.0/24",
    },
    Place {
        family: Family::V6,
        web: "[fd00:24::1]:80",
        backend: "[fd00:20::1]:8080",
        vip: "[2001:db8:a::7]:80",
        everyone_else: "2001:db8:ffff::/48",
    },
];

impl Place {
    fn service(&self, protocol: Protocol, endpoints: &[&str]) -> ServicePort {
        let address = |at: &str| at.parse::<SocketAddr>().expect("address").ip().to_string();
        let cluster_ip = frontend(FrontendKind::ClusterIp, &address(self.web), 80);
        let mut guarded = frontend(FrontendKind::LoadBalancer, &address(self.vip), 80);
        guarded.source_ranges = vec![cidr(self.everyone_else)];
        let frontends = vec![cluster_ip, guarded, node_port(30080)];
        let mut port = service(id("t", "web", "http", protocol), frontends, backends(endpoints, true));
        port.id.family = self.family;
        port
    }
}

fn both_families() -> NodeConfig {
    for arguments in [
        "addr add fd00:128::11/64 dev uplink nodad",
        "addr add fd00:20::1/128 dev lo nodad",
        "-6 route add default via fd00:128::1",
    ] {
        run("ip", arguments);
    }
    let mut node = node::node();
    node.addresses.push(ip("fd00:128::11"));
    node.cluster_cidrs.push(cidr("fd00:20::/64"));
    node
}

fn open(plane: &IptablesDataplane) -> Telling {
    plane.telling().expect("the kernel tells").expect("wanted")
}

/// What is told until `enough` of it is there.
fn hear(telling: &mut Telling, enough: impl Fn(&[Told]) -> bool) -> Vec<Told> {
    let deadline = Instant::now() + PATIENCE;
    let mut all = vec![];
    while !enough(&all) {
        match telling.take().expect("a socket") {
            Some(Heard::Told(told)) => all.push(told),
            Some(Heard::Unknown) => panic!("nobody else logs here"),
            None if Instant::now() > deadline => panic!("not told in time: {all:#?}"),
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    all
}

fn tracked(all: &[Told]) -> impl Iterator<Item = &Tracked> {
    all.iter().filter_map(|told| match told {
        Told::Tracked(tracked) => Some(tracked),
        Told::Stopped(_) => None,
    })
}

/// Moments of flows to `frontend`.
fn moments(all: &[Told], frontend: &str) -> Vec<Moment> {
    let frontend: SocketAddr = frontend.parse().expect("address");
    let concerns = |tracked: &&Tracked| {
        let port = tracked.original.transport.ports().map(|(_, port)| port);
        (tracked.original.destination, port) == (frontend.ip(), Some(frontend.port()))
    };
    tracked(all).filter(concerns).map(|tracked| tracked.moment).collect()
}

/// Packets to `frontend` that rules stopped.
fn stops_at(all: &[Told], frontend: &str) -> Vec<Stopped> {
    let frontend: SocketAddr = frontend.parse().expect("address");
    let concerns = |stopped: &&Stopped| {
        let tuple = stopped.tuple.expect("headers");
        (tuple.destination, tuple.transport.ports().map(|(_, port)| port))
            == (frontend.ip(), Some(frontend.port()))
    };
    let stopped = all.iter().filter_map(|told| match told {
        Told::Stopped(stopped) => Some(stopped),
        Told::Tracked(_) => None,
    });
    stopped.filter(concerns).cloned().collect()
}

fn forget_all_flows() {
    let output = Command::new("conntrack").arg("-F").output().expect("conntrack");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_tcp_flow_is_told_from_its_first_packet_to_its_end() {
    on_a_node_with("tell-tcp", telling(), |plane| {
        std::fs::write("/proc/sys/net/netfilter/nf_conntrack_acct", "1").expect("accounting");
        let node = both_families();
        let services = PLACES.map(|place| place.service(Protocol::Tcp, &[place.backend]));
        apply(plane, &snapshot(node, services));
        let mut telling = open(plane);
        for place in &PLACES {
            serve_tcp(place.backend);
            assert_eq!(ask(place.web).expect("an answer"), place.backend);
            forget_all_flows();
            let ended = |all: &[Told]| moments(all, place.web).contains(&Moment::Ended { refused: false });
            let all = hear(&mut telling, ended);
            // The server closes first: it has nothing more to say.
            assert_eq!(
                moments(&all, place.web),
                [
                    Moment::Began { syn: true },
                    Moment::Answered,
                    Moment::Closing { from: Some(Side::Server) },
                    Moment::Closed,
                    Moment::Ended { refused: false },
                ]
            );
            let (web, backend): (SocketAddr, SocketAddr) =
                (place.web.parse().expect("address"), place.backend.parse().expect("address"));
            for flow in tracked(&all).filter(|flow| flow.original.destination == web.ip()) {
                assert_eq!(flow.reply.source, backend.ip(), "{flow:?}");
                assert_eq!(flow.reply.transport.ports().map(|(from, _)| from), Some(backend.port()));
                assert_eq!(flow.traffic.is_some(), matches!(flow.moment, Moment::Ended { .. }), "{flow:?}");
            }
            let traffic = tracked(&all).find_map(|flow| flow.traffic).expect("counted");
            assert!(traffic.packets >= 6 && traffic.bytes > 40 * traffic.packets, "{traffic:?}");
        }
        assert_eq!(telling.lost().expect("counted"), 0);
        plane.clean_up().expect("clean up");
    });
}

/// Refused by the backend itself, and torn down by the client.
#[test]
fn resets_are_told_before_and_after_an_answer() {
    on_a_node_with("tell-rst", telling(), |plane| {
        let node = both_families();
        let services = PLACES.map(|place| place.service(Protocol::Tcp, &[place.backend]));
        apply(plane, &snapshot(node, services));
        let mut telling = open(plane);
        for place in &PLACES {
            assert_eq!(ask(place.web).expect_err("refused").kind(), ErrorKind::ConnectionRefused);
            let refused = Moment::Ended { refused: true };
            let all = hear(&mut telling, |all| moments(all, place.web).contains(&refused));
            assert_eq!(moments(&all, place.web), [Moment::Began { syn: true }, refused]);
            let _listens = std::net::TcpListener::bind(place.backend).expect("bind");
            let stream = std::net::TcpStream::connect(place.web).expect("connect");
            let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
            nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &at_once)
                .expect("linger");
            drop(stream);
            let all = hear(&mut telling, |all| moments(all, place.web).contains(&Moment::Reset));
            assert_eq!(
                moments(&all, place.web),
                [Moment::Began { syn: true }, Moment::Answered, Moment::Reset]
            );
        }
        plane.clean_up().expect("clean up");
    });
}

#[test]
fn a_udp_flow_begins_is_answered_once_and_ends() {
    on_a_node_with("tell-udp", telling(), |plane| {
        let node = both_families();
        let services = PLACES.map(|place| place.service(Protocol::Udp, &[place.backend]));
        apply(plane, &snapshot(node, services));
        let mut telling = open(plane);
        for place in &PLACES {
            serve_udp(place.backend);
            let any: IpAddr = if place.family == Family::V4 { [0; 4].into() } else { [0; 16].into() };
            let socket = UdpSocket::bind((any, 0)).expect("bind");
            socket.connect(place.web).expect("connect");
            for _ in 0..3 {
                assert_eq!(ask_udp(&socket), place.backend);
            }
            forget_all_flows();
            let ended = |all: &[Told]| moments(all, place.web).contains(&Moment::Ended { refused: false });
            let all = hear(&mut telling, ended);
            let wanted = [Moment::Began { syn: false }, Moment::Answered, Moment::Ended { refused: false }];
            assert_eq!(moments(&all, place.web), wanted);
            assert!(tracked(&all).all(|flow| flow.traffic.is_none()), "nobody counts: {all:?}");
        }
        plane.clean_up().expect("clean up");
    });
}

#[test]
fn what_rules_stop_is_told_with_the_reason() {
    on_a_node_with("tell-stop", telling(), |plane| {
        let node = both_families();
        let empty = snapshot(node.clone(), PLACES.map(|place| place.service(Protocol::Tcp, &[])));
        apply(plane, &empty);
        let mut telling = open(plane);
        for place in &PLACES {
            assert_eq!(ask(place.web).expect_err("refused").kind(), ErrorKind::ConnectionRefused);
            let all = hear(&mut telling, |all| !stops_at(all, place.web).is_empty());
            expect_stop(&stops_at(&all, place.web), Stop::NoEndpoints);
            assert_eq!(moments(&all, place.web), [], "never tracked");
        }
        let full = snapshot(node, PLACES.map(|place| place.service(Protocol::Tcp, &[place.backend])));
        plane.apply(&full, &full.changed_since(&empty)).expect("apply");
        for place in &PLACES {
            // Not within the source ranges: its SYN is dropped, and sent again.
            let vip: SocketAddr = place.vip.parse().expect("address");
            let dropped = std::net::TcpStream::connect_timeout(&vip, Duration::from_millis(100));
            assert_eq!(dropped.expect_err("dropped").kind(), ErrorKind::TimedOut);
            let all = hear(&mut telling, |all| !stops_at(all, place.vip).is_empty());
            expect_stop(&stops_at(&all, place.vip), Stop::SourceRange);
        }
        plane.clean_up().expect("clean up");
        assert!(!saved().contains("NFLOG"));
    });
}

fn expect_stop(stopped: &[Stopped], why: Stop) {
    for stopped in stopped {
        assert_eq!((stopped.why, stopped.tcp_flags), (why, 2), "{stopped:?}");
        assert!(matches!(stopped.tuple.expect("headers").transport, Transport::Tcp { .. }), "{stopped:?}");
        assert!(stopped.device.is_some_and(|index| index > 0), "{stopped:?}");
    }
}

/// With the room of a socket that nobody reads, and both kinds of events.
#[test]
fn what_found_no_room_is_counted() {
    const FLOWS: u64 = 2000;
    let small = TellingConfig { room: 20_000, ..TellingConfig::default() };
    on_a_node_with("tell-lost", Config { telling: Some(small), ..Config::default() }, |plane| {
        apply(plane, &snapshot(node::node(), [PLACES[0].service(Protocol::Udp, &[])]));
        let mut telling = open(plane);
        let socket = UdpSocket::bind("10.128.0.11:0").expect("bind");
        for number in 0..FLOWS {
            // Each to a port of its own: a new flow. Nobody is there, and the answer says so.
            let _ = socket.send_to(b"?", ("10.20.0.1", 10_000 + number as u16));
            // And one that a rule refuses.
            let _ = socket.send_to(b"?", PLACES[0].web);
        }
        let (mut flows, mut refused) = (0, 0);
        while let Some(Heard::Told(told)) = telling.take().expect("a socket") {
            match told {
                Told::Tracked(_) => flows += 1,
                Told::Stopped(_) => refused += 1,
            }
        }
        assert!((1..FLOWS).contains(&flows) && (1..FLOWS).contains(&refused), "{flows} {refused}");
        assert_eq!(telling.lost().expect("counted"), 2 * FLOWS - flows - refused);
        // Nothing is told twice, and what comes then is told again.
        let _ = socket.send_to(b"?", PLACES[0].web);
        hear(&mut telling, |all| !stops_at(all, PLACES[0].web).is_empty());
        assert_eq!(telling.lost().expect("counted"), 2 * FLOWS - flows - refused);
        plane.clean_up().expect("clean up");
    });
}

/// Off, on, on again by another agent, off: the rules are those of the setting, once.
#[test]
fn rules_that_log_are_there_once_while_wanted_and_outlive_no_restart_without() {
    on_a_node_with("tell-rules", Config::default(), |plane| {
        let state = snapshot(node::node(), [PLACES[0].service(Protocol::Tcp, &[])]);
        let rules = || {
            let text = saved();
            let rules = text.lines().filter(|line| line.starts_with('-')).map(str::to_owned);
            rules.collect::<Vec<_>>()
        };
        apply(plane, &state);
        let off = rules();
        assert!(off.iter().all(|rule| !rule.contains("NFLOG")), "{off:#?}");
        let on_by = |config: Config| {
            let mut plane = IptablesDataplane::open(config).expect("open");
            apply(&mut plane, &state);
            assert_eq!(
                plane.repair(&state).expect("repair"),
                [""; 0],
                "what is read back is what was written"
            );
            (plane, rules())
        };
        let (first, on) = on_by(telling());
        let (logging, others): (Vec<_>, Vec<_>) = on.iter().partition(|rule| rule.contains("NFLOG"));
        assert_eq!(others, off.iter().collect::<Vec<_>>());
        let stopping = off.iter().filter(|rule| rule.contains("-j DROP") || rule.contains("-j REJECT"));
        assert_eq!(logging.len(), stopping.count(), "one before each: {on:#?}");
        for (before, rule) in on.iter().zip(&on[1..]).filter(|(before, _)| before.contains("NFLOG")) {
            assert!(rule.contains("-j DROP") || rule.contains("-j REJECT"), "{before}\n{rule}");
        }
        let services = first.services().expect("rows");
        assert!(services.iter().all(|row| row.backends.is_empty()), "{services:?}");
        drop(first);
        assert_eq!(on_by(telling()).1, on);
        assert_eq!(on_by(Config::default()).1, off);
    });
}

#[test]
fn a_group_has_one_reader() {
    on_a_node_with("tell-busy", telling(), |plane| {
        let first = open(plane);
        let error = plane.telling().expect_err("taken");
        assert_eq!(error.to_string(), "listen to NFLOG group 4244");
        drop(first);
        // A process that another test is just starting may hold the socket still, until it runs its program.
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = plane.telling() {
            assert!(Instant::now() < deadline, "{}", error.with_causes());
            std::thread::sleep(Duration::from_millis(5));
        }
    });
}
