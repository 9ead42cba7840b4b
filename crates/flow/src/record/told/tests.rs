use std::net::IpAddr;

use model::{
    Endpoint as Attached, IdentityId, MacAddress, PodName, Update,
    told::{Traffic, Transport},
};

use super::*;
use crate::{
    directory::{Moved, Pod},
    event::{Event, Node, TcpFlags},
    record::NameOf,
};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

/// Pods `shop/client` (on this node) and `shop/web` (elsewhere) in both families, Service `shop/web` at 10.24.0.9:80 and
/// fd24::9:80, this node at 10.128.0.11, and the world.
fn directory() -> Directory {
    let mut directory = Directory::new("default");
    let name = |name: &str| PodName { namespace: "shop".into(), name: name.into() };
    let pod = |identity, last: u8| {
        let addresses = vec![ip(&format!("10.20.0.{last}")), ip(&format!("fd20::{last}"))];
        Some(Pod { identity, addresses, workloads: vec![] })
    };
    directory.learn(Moved {
        pods: [(name("client"), pod(300, 2)), (name("web"), pod(301, 3))].into(),
        ..Moved::default()
    });
    let attached = Attached {
        pod: name("client"),
        addresses: vec![],
        interface: "tp0".into(),
        ifindex: 7,
        mac: MacAddress::default(),
        host_mac: MacAddress::default(),
        netns: None,
        l7: model::L7Visibility::default(),
    };
    let address =
        |prefix: &str, identity| (prefix.parse().expect("prefix"), Some(IdentityId::from_raw(identity)));
    let mut v6 = crate::testing::service("shop", "web", ip("fd24::9"), 80);
    v6.0.family = model::Family::V6;
    directory.update(&Update {
        services: [crate::testing::service("shop", "web", ip("10.24.0.9"), 80), v6].into(),
        endpoints: [(name("client"), Some(Arc::new(attached)))].into(),
        addresses: [address("0.0.0.0/0", 9), address("::/0", 10), address("10.128.0.11/32", 1)].into(),
        ..Update::default()
    });
    directory
}

fn decoder() -> Decoder {
    let name_of: NameOf = Box::new(|index| (index == 3).then(|| "eth0".to_owned()));
    Decoder::new(Arc::new(Node { name: "node-a".into(), labels: vec![] }), name_of, 1)
}

fn event(told: &Told) -> Option<Event> {
    decoder().decode_told(told, &directory(), Time(5)).pop()
}

fn flow(told: &Told) -> Flow {
    event(told).expect("of interest").flow().expect("a flow").clone()
}

fn tcp(source: u16, destination: u16) -> Transport {
    Transport::Tcp { source, destination }
}

fn tuple(source: &str, destination: &str, transport: Transport) -> Tuple {
    Tuple { source: ip(source), destination: ip(destination), transport }
}

/// From the client through the frontend to the web pod.
fn through_web(moment: Moment) -> Tracked {
    Tracked {
        moment,
        original: tuple("10.20.0.2", "10.24.0.9", tcp(40_000, 80)),
        reply: tuple("10.20.0.3", "10.20.0.2", tcp(8080, 40_000)),
        traffic: None,
    }
}

#[test]
fn a_first_packet_is_between_client_and_backend_with_the_frontends_service_and_no_verdict() {
    let told = event(&Told::Tracked(through_web(Moment::Began { syn: true }))).expect("of interest");
    assert_eq!(told.time, Time(5));
    let flow = told.flow().expect("a flow");
    let seen = Seen::Trace { point: TraceObservationPoint::ToStack, reason: TraceReason::New };
    assert_eq!((flow.verdict, &flow.seen, flow.is_reply), (Verdict::Unknown, &seen, Some(false)));
    assert_eq!((flow.source.pod.as_str(), flow.source.identity), ("client", 300));
    assert_eq!((flow.destination.pod.as_str(), flow.destination.identity), ("web", 301));
    assert_eq!(flow.destination_service.as_ref().expect("a service").name, "web");
    assert_eq!(flow.l4, L4::Tcp { source: 40_000, destination: 8080, flags: TcpFlags::SYN });
    let addresses =
        Ip { source: ip("10.20.0.2"), destination: ip("10.20.0.3"), source_xlated: None, encrypted: false };
    assert_eq!(flow.ip, Some(addresses));
    assert_eq!((flow.direction, flow.interface.clone()), (TrafficDirection::Egress, None));
    assert_eq!(flow.uuid.get_version_num(), 4);
}

#[test]
fn an_answer_comes_from_the_backend() {
    let flow = flow(&Told::Tracked(through_web(Moment::Answered)));
    assert_eq!((flow.source.pod.as_str(), flow.destination.pod.as_str()), ("web", "client"));
    assert_eq!(flow.source_service.as_ref().expect("a service").name, "web");
    assert_eq!((flow.destination_service, flow.is_reply), (None, Some(true)));
    let flags = TcpFlags::SYN.with(TcpFlags::ACK);
    assert_eq!(flow.l4, L4::Tcp { source: 8080, destination: 40_000, flags });
    assert_eq!(flow.direction, TrafficDirection::Egress, "of the connection");
}

#[test]
fn flags_and_direction_are_those_that_the_moment_tells() {
    let (fin, rst) = (TcpFlags::FIN, TcpFlags::RST);
    for (moment, flags, is_reply) in [
        (Moment::Began { syn: true }, TcpFlags::SYN, Some(false)),
        // Began before it was tracked.
        (Moment::Began { syn: false }, TcpFlags::default(), None),
        (Moment::Closing { from: Some(Side::Client) }, fin, Some(false)),
        (Moment::Closing { from: Some(Side::Server) }, fin, Some(true)),
        (Moment::Closing { from: None }, fin, None),
        (Moment::Closed, fin, None),
        (Moment::Reset, rst, None),
        (Moment::Ended { refused: true }, rst, None),
        (Moment::Ended { refused: false }, TcpFlags::default(), None),
    ] {
        let flow = flow(&Told::Tracked(through_web(moment)));
        assert_eq!(flow.is_reply, is_reply, "{moment:?}");
        let L4::Tcp { flags: found, .. } = flow.l4 else { panic!("{moment:?}") };
        assert_eq!(found, flags, "{moment:?}");
        assert_eq!(flow.source.pod == "web", is_reply == Some(true), "{moment:?}");
    }
}

#[test]
fn an_end_says_so_and_how_much_there_was() {
    let mut tracked = through_web(Moment::Ended { refused: false });
    let summary = |tracked: &Tracked| crate::summary::summary(&flow(&Told::Tracked(tracked.clone())));
    assert_eq!(summary(&tracked), "TCP; ended");
    tracked.traffic = Some(Traffic { packets: 8, bytes: 446 });
    assert_eq!(summary(&tracked), "TCP; ended: 8 packets, 446 bytes");
    assert_eq!(summary(&through_web(Moment::Began { syn: true })), "TCP Flags: SYN");
}

#[test]
fn ipv6_and_masqueraded_clients_of_the_world() {
    let masqueraded = flow(&Told::Tracked(Tracked {
        moment: Moment::Began { syn: true },
        original: tuple("198.51.100.1", "10.24.0.9", tcp(40_000, 80)),
        reply: tuple("10.20.0.3", "10.128.0.11", tcp(8080, 50_000)),
        traffic: None,
    }));
    let addresses = masqueraded.ip.expect("addresses");
    assert_eq!((addresses.source, addresses.source_xlated), (ip("198.51.100.1"), Some(ip("10.128.0.11"))));
    assert_eq!((masqueraded.source.identity, masqueraded.source.pod.as_str()), (9, ""));
    assert_eq!(masqueraded.direction, TrafficDirection::Unknown, "neither end is here");
    let v6 = flow(&Told::Tracked(Tracked {
        moment: Moment::Began { syn: true },
        original: tuple("2001:db8::1", "fd24::9", tcp(40_000, 80)),
        reply: tuple("fd20::2", "2001:db8::1", tcp(8080, 40_000)),
        traffic: None,
    }));
    assert_eq!((v6.source.identity, v6.destination.pod.as_str()), (10, "client"));
    assert_eq!(v6.destination_service.expect("a service").name, "web");
    assert_eq!(v6.direction, TrafficDirection::Ingress);
}

#[test]
fn other_protocols_have_what_they_have() {
    let between = |original, reply, moment| {
        flow(&Told::Tracked(Tracked {
            moment,
            original: tuple("10.128.0.11", "10.20.0.3", original),
            reply: tuple("10.20.0.3", "10.128.0.11", reply),
            traffic: None,
        }))
    };
    let echo = Transport::IcmpV4 { kind: 8, code: 0 };
    let answer = Transport::IcmpV4 { kind: 0, code: 0 };
    assert_eq!(between(echo, answer, Moment::Began { syn: false }).l4, L4::IcmpV4 { kind: 8, code: 0 });
    let answered = between(echo, answer, Moment::Answered);
    assert_eq!((answered.l4, answered.destination.identity), (L4::IcmpV4 { kind: 0, code: 0 }, 1));
    let udp = Transport::Udp { source: 5000, destination: 53 };
    let back = Transport::Udp { source: 53, destination: 5000 };
    assert_eq!(between(udp, back, Moment::Began { syn: false }).is_reply, Some(false));
    assert_eq!(between(udp, back, Moment::Answered).l4, L4::Udp { source: 53, destination: 5000 });
    let unknown = Transport::Other(47);
    assert_eq!(between(unknown, unknown, Moment::Began { syn: false }).l4, L4::Unknown);
}

#[test]
fn the_nodes_own_loopback_is_of_no_interest_but_a_node_port_on_it_is() {
    let from = |source: &str, backend: &str| {
        event(&Told::Tracked(Tracked {
            moment: Moment::Began { syn: true },
            original: tuple(source, "127.0.0.1", tcp(40_000, 30_080)),
            reply: tuple(backend, source, tcp(8080, 40_000)),
            traffic: None,
        }))
    };
    assert_eq!(from("127.0.0.1", "127.0.0.1"), None);
    assert!(from("127.0.0.1", "10.20.0.3").is_some());
}

#[test]
fn what_a_rule_stopped_is_dropped_for_its_reason() {
    for (why, reason) in [
        (Stop::NoEndpoints, DropReason::ServiceBackendNotFound),
        (Stop::NoLocalEndpoints, DropReason::ServiceBackendNotFound),
        (Stop::SourceRange, DropReason::DeniedByLbSrcRangeCheck),
        (Stop::Invalid, DropReason::UnknownConnectionTrackingState),
        (Stop::MartianLoopback, DropReason::InvalidSourceIp),
        (Stop::Policy, DropReason::PolicyDenied),
    ] {
        let asked = tuple("10.20.0.2", "10.24.0.9", tcp(40_000, 80));
        let stopped = Stopped { why, rule: None, tuple: Some(asked), tcp_flags: 2, device: Some(3) };
        let flow = flow(&Told::Stopped(stopped));
        assert_eq!((flow.verdict, &flow.seen), (Verdict::Dropped, &Seen::Drop(reason)));
        assert_eq!(flow.ip.expect("addresses").destination, ip("10.24.0.9"), "as it was asked for");
        assert_eq!(flow.destination_service.expect("a service").name, "web");
        assert_eq!((flow.is_reply, flow.direction), (None, TrafficDirection::Egress));
        assert_eq!(flow.interface.expect("an interface").name, "eth0");
        assert_eq!(flow.l4, L4::Tcp { source: 40_000, destination: 80, flags: TcpFlags::SYN });
    }
    let unreadable = Stopped { why: Stop::Invalid, rule: None, tuple: None, tcp_flags: 0, device: None };
    let flow = flow(&Told::Stopped(unreadable));
    assert_eq!((flow.ip, flow.l4, flow.source.identity, flow.interface), (None, L4::Unknown, 0, None));
    assert_eq!(flow.direction, TrafficDirection::Ingress);
}

/// Also where the direction cannot be seen from who is here: both ends may be.
#[test]
fn what_a_policy_denies_names_its_rule_and_what_it_would_deny_is_audited() {
    use model::policy::{Direction, PolicyKind, PolicyName, PolicyUpdate, RuleId, RuleRef};
    let policy = PolicyName { kind: PolicyKind::NetworkPolicy, namespace: "shop".into(), name: "web".into() };
    let rule = RuleRef { policy, direction: Direction::Ingress, rule: None, name: None, line: None };
    let rules = [(RuleId(7), Some(Arc::new(rule)))].into();
    let mut directory = directory();
    directory
        .update(&Update { policy: PolicyUpdate { rules, ..PolicyUpdate::default() }, ..Update::default() });
    let told = |why, rule| {
        let asked = tuple("10.20.0.2", "10.20.0.3", tcp(40_000, 8080));
        let stopped = Stopped { why, rule, tuple: Some(asked), tcp_flags: 2, device: Some(3) };
        let events = decoder().decode_told(&Told::Stopped(stopped), &directory, Time(5));
        events.iter().map(|event| event.flow().expect("a flow").clone()).collect::<Vec<_>>()
    };
    let said = Seen::PolicyVerdict(PolicyMatch::None);
    for (why, verdict, seen) in [
        (Stop::Policy, Verdict::Dropped, &[said.clone(), Seen::Drop(DropReason::PolicyDenied)][..]),
        (Stop::Audited, Verdict::Audit, std::slice::from_ref(&said)),
    ] {
        let flows = told(why, Some(RuleId(7)));
        assert_eq!(flows.iter().map(|flow| flow.seen.clone()).collect::<Vec<_>>(), seen);
        for flow in flows {
            assert_eq!((flow.verdict, flow.direction), (verdict, TrafficDirection::Ingress));
            let rules = flow.rules.expect("a rule");
            assert_eq!(rules.ingress_denied[0].name, "web");
            assert!(rules.egress_denied.is_empty() && rules.ingress_allowed.is_empty());
        }
    }
    let [_, unknown] = &told(Stop::Policy, Some(RuleId(8)))[..] else { panic!("a verdict and a drop") };
    assert_eq!((&unknown.rules, unknown.direction), (&None, TrafficDirection::Egress));
}

/// Losses of sockets are told once, without a CPU.
#[test]
fn losses_of_sockets_are_told_once() {
    let mut losses = crate::record::Losses::default();
    let mut told = |lost, now| {
        losses.of_sockets(lost, Time(now)).map(|event| match event.body {
            Body::Lost(lost) => (lost.cpu, lost.num_events_lost, lost.source),
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(told(0, 1), None);
    assert_eq!(told(7, 2), Some((None, 7, 1)));
    assert_eq!(told(7, 3), None);
    assert_eq!(told(9, 4), Some((None, 2, 1)));
}
