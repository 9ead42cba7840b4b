//! What is told of calls: what was named and given, by whom, and at which level.

use std::{
    net::{IpAddr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    time::Duration,
};

use dataplane_ebpf::{Event, EventKind, Events, Point, Record, Telling, namespace_cookie};
use model::Protocol;

use super::node::{Form, Node, ask_from, balanced, connect, datagram_socket};

const TRANSLATED: u8 = EventKind::Translated as u8;

fn telling(telling: Telling) -> (Node, Events) {
    let mut node = Node::new();
    node.telling = telling;
    node.open();
    let events = node.plane.as_ref().expect("open").events().expect("events");
    (node, events)
}

/// Of calls: pods' packets are told of, too.
fn calls(events: &mut Events) -> Vec<Event> {
    let known = |record| match record {
        Record::Event(event) => event,
        other => panic!("{other:?}"),
    };
    let all = std::iter::from_fn(|| events.take()).map(known);
    all.filter(|event| event.point >= Point::Call as u8).collect()
}

fn at(words: [u32; 4], port: u16, family: u8) -> SocketAddr {
    let mut bytes = [0; 16];
    for (four, word) in bytes.chunks_mut(4).zip(words) {
        four.copy_from_slice(&word.to_ne_bytes());
    }
    let ip = if family == 4 { IpAddr::from(words[0].to_ne_bytes()) } else { IpAddr::from(bytes) };
    SocketAddr::new(ip, port)
}

fn ends(event: &Event) -> (SocketAddr, SocketAddr) {
    let before = at(event.destination, event.destination_port.get(), event.family);
    (before, at(event.new_destination, event.new_destination_port.get(), event.family))
}

#[test]
fn a_call_is_told_of_with_what_it_named_and_what_it_was_given_and_who_called() {
    let (mut node, mut events) = telling(Telling::Flows { every: Duration::from_secs(3600) });
    for form in Form::ALL {
        node.program(&[balanced(form, Protocol::Tcp, &[5])]);
        calls(&mut events);
        node.in_pod(|| connect(form.written(form.cluster_ip())).map(drop)).expect("connect");
        let [told] = calls(&mut events)[..] else { panic!("{form:?}: one event") };
        assert_eq!((told.kind, told.point, told.protocol), (TRANSLATED, Point::Call as u8, 6));
        assert_eq!(ends(&told), (form.cluster_ip(), form.backend(5)), "{form:?}");
        let pod = node.in_pod(|| namespace_cookie().expect("a cookie"));
        assert_eq!(u64::from(told.source[1]) << 32 | u64::from(told.source[0]), pod);
        let cgroup = node.group.path().metadata().expect("a folder").ino();
        assert_eq!((told.source_identity, told.bytes), (0, cgroup));
        assert_ne!(told.packets, 0, "the socket's cookie");
        node.on_host(|| connect(form.written(form.cluster_ip())).map(drop)).expect("connect");
        let [told] = calls(&mut events)[..] else { panic!("{form:?}: one event") };
        assert_eq!(told.source_identity, 1, "the host");
    }
    node.program(&[balanced(Form::V4, Protocol::Tcp, &[])]);
    node.in_pod(|| connect(Form::V4.cluster_ip()).map(drop)).expect_err("nobody serves");
    let [refused] = calls(&mut events)[..] else { panic!("one event") };
    assert_eq!((refused.kind, ends(&refused).0), (EventKind::Refused as u8, Form::V4.cluster_ip()));
    node.clean_up();
}

#[test]
fn datagrams_are_told_of_once_or_each_with_its_answer() {
    for (level, expected) in [
        (Telling::Flows { every: Duration::from_secs(3600) }, vec![Point::Call]),
        (Telling::Packets, vec![Point::Call, Point::Answer, Point::Call, Point::Answer]),
    ] {
        let (mut node, mut events) = telling(level);
        node.program(&[balanced(Form::V4, Protocol::Udp, &[5])]);
        node.in_pod(|| {
            let socket = datagram_socket(Form::V4);
            for _ in 0..2 {
                ask_from(&socket, Form::V4.cluster_ip()).expect("an answer");
            }
        });
        let told = calls(&mut events);
        let points: Vec<u8> = told.iter().map(|event| event.point).collect();
        assert_eq!(points, expected.iter().map(|point| *point as u8).collect::<Vec<_>>(), "{level:?}");
        if let [_, answer, ..] = &told[..] {
            assert_eq!(ends(answer), (Form::V4.backend(5), Form::V4.cluster_ip()));
        }
        node.clean_up();
    }
}
