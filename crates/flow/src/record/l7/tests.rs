use std::{net::IpAddr, sync::Arc};

use abi::{Be16, EventKind, Point, Reason, protocol};
use model::{L7Visibility, MacAddress, PodName};

use super::*;
use crate::{
    event::Flow,
    proto::flow::{TrafficDirection, Verdict, layer7::Record as Said},
    record::tests::{BOOT, decoder, directory, ip, record, words},
    testing::{dns_answer, dns_question},
};

/// Everyone as in [`directory`]; the client is a pod of this node.
fn with_local_client() -> Directory {
    let mut directory = directory();
    let pod = PodName { namespace: "shop".into(), name: "client".into() };
    let endpoint = model::Endpoint {
        pod: pod.clone(),
        addresses: vec![ip("10.20.0.2")],
        interface: "tp0".into(),
        ifindex: 9,
        mac: MacAddress::default(),
        host_mac: MacAddress::default(),
        netns: None,
        l7: L7Visibility { dns: true, http: true },
    };
    let endpoints = [(pod, Some(Arc::new(endpoint)))].into();
    directory.update(&model::Update { endpoints, ..model::Update::default() });
    directory
}

/// From the client to the frontend, given the web pod; `answers`: back again.
fn packet(number: u8, port: u16, answers: bool, payload: &[u8]) -> (L7Event, Vec<u8>) {
    let mut event = record();
    event.kind = EventKind::L7 as u8;
    event.reason = Reason::ForwardedEstablished.row();
    event.protocol = number;
    event.destination_port = Be16::new(port);
    event.new_destination_port = Be16::new(port + 8000);
    if answers {
        event.point = Point::FromWire as u8;
        event.flags |= event_flags::REPLY;
        event.time += 3_000_000;
        let there = event;
        (event.source, event.source_port) = (there.new_destination, there.new_destination_port);
        (event.destination, event.destination_port) = (there.source, there.source_port);
        (event.new_source, event.new_source_port) = (there.destination, there.destination_port);
        (event.new_destination, event.new_destination_port) = (there.source, there.source_port);
        (event.source_identity, event.destination_identity) =
            (there.destination_identity, there.source_identity);
    }
    let (sequence, acknowledgment) = if answers { (500, 900) } else { (800, 500) };
    let length = payload.len() as u32;
    (L7Event { event, sequence, acknowledgment, length, padding: 0 }, payload.to_vec())
}

fn flows(decoder: &mut Decoder, directory: &Directory, (record, payload): &(L7Event, Vec<u8>)) -> Vec<Flow> {
    let events = decoder.decode_l7(record, payload, directory, BOOT).expect("known");
    events.iter().map(|event| event.flow().expect("a flow").clone()).collect()
}

fn said(flow: &Flow) -> (Said, u64) {
    let l7 = flow.l7().expect("L7");
    (l7.record.clone().expect("said"), l7.latency_ns)
}

#[test]
fn a_request_and_its_response_are_flows_of_who_talked() {
    let (mut decoder, directory) = (decoder(), with_local_client());
    let request = packet(protocol::TCP, 80, false, b"GET /a HTTP/1.1\r\nHost: web\r\n\r\n");
    let response = packet(protocol::TCP, 80, true, b"HTTP/1.1 200 OK\r\n\r\n");
    let [asked] = &flows(&mut decoder, &directory, &request)[..] else { panic!("one flow") };
    let [answered] = &flows(&mut decoder, &directory, &response)[..] else { panic!("one flow") };
    assert!(flows(&mut decoder, &directory, &response).is_empty(), "sent again");
    for (flow, client, server) in
        [(asked, &asked.source, &asked.destination), (answered, &answered.destination, &answered.source)]
    {
        assert_eq!((client.pod.as_str(), server.pod.as_str()), ("client", "web"));
        assert_eq!((flow.verdict, flow.direction), (Verdict::Forwarded, TrafficDirection::Egress));
        assert_eq!(flow.to_wire(Default::default()).event_type.map(|event| event.r#type), Some(129));
    }
    assert_eq!((asked.is_reply, answered.is_reply), (Some(false), Some(true)));
    assert_eq!(asked.destination_service.as_ref().map(|service| service.name.as_str()), Some("web"));
    assert_eq!(answered.source_service, asked.destination_service);
    let L4::Tcp { source, destination, flags } = asked.l4 else { panic!("{:?}", asked.l4) };
    assert_eq!((source, destination, flags), (40_000, 8080, TcpFlags::default()));
    let (Said::Http(http), latency) = said(answered) else { panic!("HTTP") };
    assert_eq!((http.code, http.method.as_str(), http.url.as_str()), (200, "GET", "http://web/a"));
    assert_eq!(latency, 3_000_000);
    let summaries = [asked, answered].map(crate::summary::summary);
    assert_eq!(summaries, ["HTTP/1.1 GET http://web/a", "HTTP/1.1 200 3ms (GET http://web/a)"]);
}

#[test]
fn what_a_pod_was_told_names_its_later_flows_and_nobody_elses() {
    let (mut decoder, directory) = (decoder(), with_local_client());
    let question = dns_question(7, "example.com.", 1);
    let world: IpAddr = ip("192.0.2.1");
    let answer = dns_answer(&question, 0, None, &[world], 30);
    flows(&mut decoder, &directory, &packet(protocol::UDP, 53, true, &answer));
    let mut to_world = abi::Event { flags: 0, destination: words("192.0.2.1"), ..record() };
    let named = |record: &abi::Event, decoder: &mut Decoder| {
        let mut events = vec![];
        decoder.decode(record, &directory, BOOT, &mut events).expect("known");
        let flow = events[0].flow().expect("a flow").clone();
        (flow.source_names.map(|names| names.to_vec()), flow.destination_names.map(|names| names.to_vec()))
    };
    assert_eq!(named(&to_world, &mut decoder), (None, None), "nobody asked");
    let [asked] = &flows(&mut decoder, &directory, &packet(protocol::UDP, 53, false, &question))[..] else {
        panic!("one flow")
    };
    let [answered] = &flows(&mut decoder, &directory, &packet(protocol::UDP, 53, true, &answer))[..] else {
        panic!("one flow")
    };
    let summaries = [asked, answered].map(crate::summary::summary);
    assert_eq!(
        summaries,
        ["DNS Query example.com. A", r#"DNS Answer "192.0.2.1" TTL: 30 (Proxy example.com. A)"#]
    );
    let example = Some(vec!["example.com".to_owned()]);
    assert_eq!(named(&to_world, &mut decoder), (None, example.clone()));
    (to_world.source, to_world.destination) = (to_world.destination, to_world.source);
    assert_eq!(named(&to_world, &mut decoder), (example, None));
    to_world.destination = words("10.20.0.3");
    assert_eq!(named(&to_world, &mut decoder), (None, None), "another pod");
}

/// Without an entry in the connection table, who asks and who answers is what they say.
#[test]
fn what_no_flow_tells_of_has_its_direction_by_what_it_says() {
    let (mut decoder, directory) = (decoder(), with_local_client());
    let question = dns_question(7, "example.com.", 28);
    let answer = dns_answer(&question, 3, None, &[], 0);
    let (mut asked, _) = packet(protocol::UDP, 53, false, &[]);
    asked.event.flags = 0;
    let mut answered = asked;
    answered.event.point = Point::ToPod as u8;
    (answered.event.source, answered.event.destination) = (asked.event.destination, asked.event.source);
    (answered.event.source_port, answered.event.destination_port) =
        (asked.event.destination_port, asked.event.source_port);
    answered.event.time += 5;
    for (record, payload, expected) in [(asked, question, (false, 0)), (answered, answer, (true, 5))] {
        let [flow] = &flows(&mut decoder, &directory, &(record, payload))[..] else { panic!("one flow") };
        assert_eq!((flow.is_reply, flow.direction), (Some(expected.0), TrafficDirection::Egress));
        assert_eq!(said(flow).1, expected.1);
    }
}

#[test]
fn what_says_nothing_is_no_flow_and_unknown_numbers_are_refused() {
    let (mut decoder, directory) = (decoder(), directory());
    for payload in [&b"GET"[..], b"HTTP/3 200", b"\0\0\0", b""] {
        assert!(flows(&mut decoder, &directory, &packet(protocol::TCP, 80, false, payload)).is_empty());
        assert!(flows(&mut decoder, &directory, &packet(protocol::UDP, 53, false, payload)).is_empty());
    }
    let (mut record, payload) = packet(protocol::TCP, 80, false, b"GET / HTTP/1.1\r\n\r\n");
    record.event.family = 5;
    assert!(decoder.decode_l7(&record, &payload, &directory, BOOT).is_err());
}
