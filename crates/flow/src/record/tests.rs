use abi::{Be16, EVENT_VERSION};
use model::PodName;

use super::*;
use crate::directory::{Moved, Pod};

pub(super) const BOOT: Time = Time(1_000_000);

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

pub(super) fn words(text: &str) -> [u32; 4] {
    match ip(text) {
        v4 @ IpAddr::V4(_) => V4::from_ip(v4).expect("IPv4").words(),
        v6 @ IpAddr::V6(_) => V6::from_ip(v6).expect("IPv6").words(),
    }
}

/// Pods `shop/client` at 10.20.0.2 and fd20::2, `shop/web` at 10.20.0.3 and fd20::3; 10.24.0.9:80 is Service `shop/web`.
pub(super) fn directory() -> Directory {
    let mut directory = Directory::new("default");
    let pod = |name: &str, identity, last: u8| {
        let addresses = vec![ip(&format!("10.20.0.{last}")), ip(&format!("fd20::{last}"))];
        (
            PodName { namespace: "shop".into(), name: name.into() },
            Some(Pod { identity, addresses, workloads: vec![] }),
        )
    };
    directory.learn(Moved { pods: [pod("client", 300, 2), pod("web", 301, 3)].into(), ..Moved::default() });
    let service = crate::testing::service("shop", "web", ip("10.24.0.9"), 80);
    directory.update(&model::Update { services: [service].into(), ..model::Update::default() });
    directory
}

pub(super) fn decoder() -> Decoder {
    let name_of: NameOf = Box::new(|index| (index == 3).then(|| "eth0".to_owned()));
    Decoder::new(Arc::new(Node { name: "node-a".into(), labels: vec![] }), name_of, 1)
}

/// The first packet from the client to the frontend, given the web pod.
pub(super) fn record() -> abi::Event {
    abi::Event {
        version: EVENT_VERSION,
        kind: EventKind::New as u8,
        point: Point::FromPod as u8,
        family: 4,
        protocol: protocol::TCP,
        tcp_flags: 2,
        flags: event_flags::TRACKED | event_flags::TRANSLATED,
        time: 5,
        reason: Reason::ForwardedNew.row(),
        interface: 3,
        source_identity: 300,
        destination_identity: 301,
        source: words("10.20.0.2"),
        source_port: Be16::new(40_000),
        destination: words("10.24.0.9"),
        destination_port: Be16::new(80),
        new_source: words("10.20.0.2"),
        new_source_port: Be16::new(40_000),
        new_destination: words("10.20.0.3"),
        new_destination_port: Be16::new(8080),
        ..abi::Event::default()
    }
}

fn events(decoder: &mut Decoder, record: &abi::Event, directory: &Directory) -> Vec<Event> {
    let mut into = vec![];
    decoder.decode(record, directory, BOOT, &mut into).expect("a known record");
    into
}

fn decoded(record: &abi::Event) -> Flow {
    let [event] = &events(&mut decoder(), record, &directory())[..] else { panic!("one flow") };
    event.flow().expect("a flow").clone()
}

#[test]
fn a_translated_flow_is_between_client_and_backend_with_the_frontends_service() {
    let [event] = &events(&mut decoder(), &record(), &directory())[..] else { panic!("one flow") };
    assert_eq!(event.time, Time(BOOT.0 + 5));
    let flow = event.flow().expect("a flow");
    let seen = Seen::Trace { point: TraceObservationPoint::FromEndpoint, reason: TraceReason::New };
    assert_eq!((flow.verdict, &flow.seen, flow.is_reply), (Verdict::Forwarded, &seen, Some(false)));
    assert_eq!((flow.source.pod.as_str(), flow.source.identity), ("client", 300));
    assert_eq!((flow.destination.pod.as_str(), flow.destination.identity), ("web", 301));
    assert_eq!(flow.destination_service.as_ref().expect("a service").name, "web");
    assert_eq!(flow.source_service, None);
    assert_eq!(flow.l4, L4::Tcp { source: 40_000, destination: 8080, flags: TcpFlags::SYN });
    assert_eq!(flow.ip.expect("addresses").source_xlated, None);
    assert_eq!(flow.interface.as_ref().expect("an interface").name, "eth0");
    assert_eq!(flow.direction, TrafficDirection::Egress);
    assert_eq!(flow.uuid.get_version_num(), 4);
}

#[test]
fn its_answer_comes_from_the_backend() {
    let flow = decoded(&abi::Event {
        kind: EventKind::Closed as u8,
        flags: event_flags::TRACKED | event_flags::TRANSLATED | event_flags::REPLY,
        reason: Reason::ForwardedUpdated.row(),
        tcp_flags: 17,
        source_identity: 301,
        destination_identity: 300,
        source: words("10.20.0.3"),
        source_port: Be16::new(8080),
        destination: words("10.20.0.2"),
        destination_port: Be16::new(40_000),
        new_source: words("10.24.0.9"),
        new_source_port: Be16::new(80),
        new_destination: words("10.20.0.2"),
        new_destination_port: Be16::new(40_000),
        ..record()
    });
    let seen = Seen::Trace { point: TraceObservationPoint::FromEndpoint, reason: TraceReason::Reply };
    assert_eq!((&flow.seen, flow.is_reply), (&seen, Some(true)));
    assert_eq!((flow.source.pod.as_str(), flow.destination.pod.as_str()), ("web", "client"));
    assert_eq!(flow.source_service.as_ref().expect("a service").name, "web");
    assert_eq!(flow.destination_service, None);
    assert_eq!(flow.direction, TrafficDirection::Ingress, "of the connection, as the backend's node sees it");
    assert_eq!(
        flow.l4,
        L4::Tcp { source: 8080, destination: 40_000, flags: TcpFlags::ACK.with(TcpFlags::FIN) }
    );
}

#[test]
fn a_masqueraded_source_is_beside_the_clients_own() {
    let flow = decoded(&abi::Event {
        flags: event_flags::TRACKED | event_flags::TRANSLATED | event_flags::MASQUERADED,
        point: Point::FromWire as u8,
        source: words("198.51.100.1"),
        source_identity: 2,
        new_source: words("10.128.0.11"),
        ..record()
    });
    let addresses = flow.ip.expect("addresses");
    assert_eq!((addresses.source, addresses.source_xlated), (ip("198.51.100.1"), Some(ip("10.128.0.11"))));
    assert_eq!((flow.source.identity, flow.source.pod.as_str()), (2, ""));
    assert_eq!(flow.direction, TrafficDirection::Ingress);
}

#[test]
fn ipv6_is_the_same() {
    let flow = decoded(&abi::Event {
        family: 6,
        source: words("fd20::2"),
        destination: words("fd20::3"),
        new_destination: words("fd20::3"),
        ..record()
    });
    assert_eq!((flow.source.pod.as_str(), flow.destination.pod.as_str()), ("client", "web"));
    assert_eq!(flow.destination_service, None);
}

#[test]
fn what_was_refused_keeps_the_address_that_was_asked_for() {
    let flow = decoded(&abi::Event {
        kind: EventKind::Refused as u8,
        reason: Reason::RefusedTcp.row(),
        flags: 0,
        destination_identity: 2,
        ..record()
    });
    assert_eq!(
        (flow.verdict, &flow.seen),
        (Verdict::Dropped, &Seen::Drop(DropReason::ServiceBackendNotFound))
    );
    assert_eq!(flow.ip.expect("addresses").destination, ip("10.24.0.9"));
    assert_eq!(flow.destination_service.as_ref().expect("a service").name, "web");
    assert_eq!((flow.is_reply, flow.direction), (None, TrafficDirection::Egress));
}

#[test]
fn what_could_not_be_read_is_empty() {
    let flow = decoded(&abi::Event {
        version: EVENT_VERSION,
        kind: EventKind::Dropped as u8,
        point: Point::FromWire as u8,
        family: 4,
        flags: event_flags::UNREADABLE,
        reason: Reason::DroppedTruncated.row(),
        ..abi::Event::default()
    });
    assert_eq!((flow.ip, flow.l4, flow.source.identity), (None, L4::Unknown, 0));
    assert_eq!((flow.destination_service, flow.interface), (None, None));
}

#[test]
fn numbers_of_another_version_are_errors() {
    for unknown in [
        abi::Event { kind: 9, ..record() },
        abi::Event { point: 9, ..record() },
        abi::Event { reason: u32::MAX, ..record() },
        abi::Event { family: 5, ..record() },
        abi::Event { kind: EventKind::Dropped as u8, ..record() },
        abi::Event { kind: EventKind::Translated as u8, ..record() },
    ] {
        assert!(decoder().decode(&unknown, &directory(), BOOT, &mut vec![]).is_err(), "{unknown:?}");
    }
}

/// A pod's connect(2) to the frontend, given the web pod.
fn call() -> abi::Event {
    abi::Event {
        kind: EventKind::Translated as u8,
        point: Point::Call as u8,
        flags: event_flags::TRANSLATED,
        tcp_flags: 0,
        interface: 0,
        packets: 77,
        bytes: 88,
        source: [7, 1, 0, 0],
        source_port: Be16::default(),
        source_identity: 0,
        ..record()
    }
}

fn with_namespace() -> Directory {
    let mut directory = directory();
    let client = PodName { namespace: "shop".into(), name: "client".into() };
    directory.learn(Moved { namespaces: [(client, Some(1 << 32 | 7))].into(), ..Moved::default() });
    directory
}

#[test]
fn a_translated_call_is_two_flows_from_the_pod_that_called() {
    use crate::proto::flow::SocketTranslationPoint as At;
    let told = events(&mut decoder(), &call(), &with_namespace());
    let [named, given] = [0, 1].map(|index| told[index].flow().expect("a flow"));
    let seen = |point| Seen::Socket { point, cookie: 77, cgroup: 88 };
    assert_eq!((named.verdict, &named.seen), (Verdict::Traced, &seen(At::SockXlatePointPreDirectionFwd)));
    assert_eq!(
        (given.verdict, &given.seen),
        (Verdict::Translated, &seen(At::SockXlatePointPostDirectionFwd))
    );
    assert_eq!(named.ip.expect("addresses").source, ip("10.20.0.2"));
    assert_eq!(named.ip.expect("addresses").destination, ip("10.24.0.9"));
    assert_eq!(given.ip.expect("addresses").destination, ip("10.20.0.3"));
    assert_eq!((named.l4.ports(), given.l4.ports()), (Some((0, 80)), Some((0, 8080))));
    assert_eq!((named.source.pod.as_str(), given.destination.pod.as_str()), ("client", "web"));
    assert_eq!(named.destination_service.as_ref().expect("a service").name, "web");
    assert_eq!((given.destination_service.is_none(), named.is_reply), (true, Some(false)));
    let strangers = events(&mut decoder(), &call(), &directory());
    let stranger = strangers[0].flow().expect("a flow");
    assert_eq!((stranger.ip, stranger.source.pod.as_str()), (None, ""), "nobody knows who called");
}

#[test]
fn an_answer_is_turned_back_from_the_backend_to_the_frontend() {
    let answer = abi::Event {
        point: Point::Answer as u8,
        destination: words("10.20.0.3"),
        destination_port: Be16::new(8080),
        new_destination: words("10.24.0.9"),
        new_destination_port: Be16::new(80),
        ..call()
    };
    let told = events(&mut decoder(), &answer, &with_namespace());
    let [before, after] = [0, 1].map(|index| told[index].flow().expect("a flow"));
    assert_eq!((before.source.pod.as_str(), before.destination.pod.as_str()), ("web", "client"));
    assert_eq!((before.l4.ports(), after.l4.ports()), (Some((8080, 0)), Some((80, 0))));
    assert_eq!(after.source_service.as_ref().expect("a service").name, "web");
    assert_eq!(after.is_reply, Some(true));
}

#[test]
fn a_refused_call_of_the_node_is_one_dropped_flow() {
    let refused = abi::Event {
        kind: EventKind::Refused as u8,
        reason: Reason::RefusedTcp.row(),
        source_identity: abi::HOST_IDENTITY,
        ..call()
    };
    let flow = decoded(&refused);
    assert_eq!(
        (flow.verdict, &flow.seen),
        (Verdict::Dropped, &Seen::Drop(DropReason::ServiceBackendNotFound))
    );
    assert_eq!((flow.source.identity, flow.direction), (1, TrafficDirection::Egress));
}

#[test]
fn messages_have_type_and_code_and_what_the_stack_forwards_goes_to_it() {
    let message = |kind| abi::Event {
        protocol: protocol::ICMP,
        flags: 0,
        tcp_flags: 0,
        reason: Reason::PassedProtocol.row(),
        source_port: Be16::new(kind),
        destination_port: Be16::new(4),
        destination: words("10.20.0.3"),
        ..record()
    };
    let request = decoded(&message(8));
    assert_eq!((request.l4, request.is_reply), (L4::IcmpV4 { kind: 8, code: 4 }, Some(false)));
    let seen = Seen::Trace { point: TraceObservationPoint::ToStack, reason: TraceReason::New };
    assert_eq!((&request.seen, request.direction), (&seen, TrafficDirection::Egress));
    let reply = decoded(&message(0));
    assert_eq!((reply.is_reply, reply.direction), (Some(true), TrafficDirection::Ingress));
    let error = decoded(&message(3));
    assert_eq!((error.is_reply, error.direction), (None, TrafficDirection::Unknown));
}

#[test]
fn who_opened_a_flow_of_the_stacks_is_known_by_its_handshake() {
    let passed = |flags| {
        let reason = Reason::PassedUnrelated.row();
        decoded(&abi::Event { flags, reason, destination: words("198.51.100.1"), ..record() })
    };
    assert_eq!(passed(event_flags::OPENS).is_reply, Some(false));
    assert_eq!(passed(event_flags::REPLY).is_reply, Some(true));
    assert_eq!((passed(0).is_reply, passed(0).direction), (None, TrafficDirection::Unknown));
}

#[test]
fn every_reason_is_a_drops_or_none() {
    for reason in Reason::ALL {
        let passes = ["forwarded", "passed"].iter().any(|word| reason.name().starts_with(word));
        assert_eq!(drop_reason(*reason).is_none(), passes, "{}", reason.name());
    }
}

#[test]
fn times_never_go_back_and_names_are_unique() {
    let (mut decoder, directory) = (decoder(), directory());
    let mut at = |time| events(&mut decoder, &abi::Event { time, ..record() }, &directory).remove(0);
    let events = [at(50), at(40), at(60)];
    assert_eq!(events.each_ref().map(|event| event.time.0 - BOOT.0), [50, 50, 60]);
    let uuids = events.each_ref().map(|event| event.flow().expect("a flow").uuid);
    assert!(uuids[0] != uuids[1] && uuids[1] != uuids[2]);
}

#[test]
fn each_loss_is_told_once_with_its_cpu() {
    let counts = |lost: [u64; 2]| {
        let of = |lost| EventCount { offered: 100, lost };
        [(EventKind::New, vec![of(lost[0]), of(0)]), (EventKind::Dropped, vec![of(1), of(lost[1])])]
    };
    let mut losses = Losses::default();
    let mut told = |lost, now| {
        let events = losses.of_kernel(&counts(lost), Time(now));
        let read = |event: Event| match event.body {
            Body::Lost(lost) => (lost.cpu, lost.num_events_lost),
            other => panic!("{other:?}"),
        };
        events.into_iter().map(read).collect::<Vec<_>>()
    };
    assert_eq!(told([4, 0], 1), [(Some(0), 5)]);
    assert_eq!(told([4, 0], 2), []);
    assert_eq!(told([5, 7], 3), [(Some(0), 1), (Some(1), 7)]);
    assert_eq!(Losses::unreadable(0, Time(4)), None);
    assert!(Losses::unreadable(2, Time(4)).is_some());
}
