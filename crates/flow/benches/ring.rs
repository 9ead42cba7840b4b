//! What one core does with events: decoded from the datapath's records, named, stored, and offered to followers.

use std::{hint::black_box, net::IpAddr, sync::Arc};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use flow::{
    cursor::{Cursor, Range, Step},
    directory::{Directory, Moved, Pod},
    event::{Event, Flow, L4, Node, TcpFlags, Time},
    feed::Feed,
    filter::Filters,
    proto::flow::FlowFilter,
    record::Decoder,
    ring::Capacity,
    testing::{self, at, pod, syn},
};
use model::PodName;
use prost::Message;

const BATCH: usize = 1000;
const PODS: u32 = 100;

/// Events as an agent makes them: its own fields, endpoints out of a table.
fn events(endpoints: &[Arc<flow::event::Endpoint>], template: &Flow) -> Vec<Event> {
    (0..BATCH)
        .map(|n| {
            let flow = Flow {
                l4: L4::Tcp { source: n as u16, destination: 8080, flags: TcpFlags::SYN },
                source: Arc::clone(&endpoints[n % endpoints.len()]),
                destination: Arc::clone(&endpoints[(n + 1) % endpoints.len()]),
                ..template.clone()
            };
            at(n as i64, flow)
        })
        .collect()
}

/// First packets of a hundred pods to a frontend, given the next pod.
fn records() -> Vec<abi::Event> {
    let words = |third: u32, last: u32| [u32::from_ne_bytes([10, 20, third as u8, last as u8]), 0, 0, 0];
    let record = |n: u32| abi::Event {
        version: abi::EVENT_VERSION,
        kind: abi::EventKind::New as u8,
        point: abi::Point::FromPod as u8,
        family: 4,
        protocol: abi::protocol::TCP,
        tcp_flags: 2,
        flags: abi::event_flags::TRACKED | abi::event_flags::TRANSLATED,
        time: n.into(),
        reason: abi::Reason::ForwardedNew.row(),
        interface: 3,
        source_identity: 300 + n % PODS,
        destination_identity: 300 + (n + 1) % PODS,
        source: words(0, n % PODS),
        source_port: abi::Be16::new(n as u16),
        destination: words(255, 9),
        destination_port: abi::Be16::new(80),
        new_source: words(0, n % PODS),
        new_source_port: abi::Be16::new(n as u16),
        new_destination: words(0, (n + 1) % PODS),
        new_destination_port: abi::Be16::new(8080),
        ..abi::Event::default()
    };
    (0..BATCH as u32).map(record).collect()
}

/// Whose those records are.
fn directory() -> Directory {
    let mut directory = Directory::new("default");
    let pod = |n: u32| {
        let name = PodName { namespace: "shop".into(), name: format!("web-{n}") };
        let addresses = vec![IpAddr::from([10, 20, 0, n as u8])];
        (name, Some(Pod { identity: 300 + n, addresses, ..Pod::default() }))
    };
    let labels = |n: u32| (300 + n, Some(vec![format!("k8s:app=web-{n}")]));
    directory.learn(Moved {
        identities: (0..PODS).map(labels).collect(),
        pods: (0..PODS).map(pod).collect(),
        ..Moved::default()
    });
    let service = testing::service("shop", "web", IpAddr::from([10, 20, 255, 9]), 80);
    directory.update(&model::Update { services: [service].into(), ..model::Update::default() });
    directory
}

fn ring(c: &mut Criterion) {
    let endpoints: Vec<_> = (0..100).map(|n| pod("shop", &format!("web-{n}"), 300 + n)).collect();
    let template = syn();
    let mut group = c.benchmark_group("flow");
    group.throughput(Throughput::Elements(BATCH as u64));
    for followers in [0, 1, 100] {
        group.bench_function(format!("store, {followers} followers"), |b| {
            let mut feed = Feed::new(Capacity::MAX);
            let (ring, _) = feed.readers();
            let range = Range { follow: true, ..Range::default() };
            let mut cursors: Vec<_> = (0..followers)
                .map(|_| Cursor::new(ring.clone(), range, |event: &Event| event.flow().is_some()))
                .collect();
            b.iter(|| {
                feed.append(events(&endpoints, &template));
                for cursor in &mut cursors {
                    while let step @ (Step::Event(_) | Step::More) = cursor.step() {
                        black_box(step);
                    }
                }
            });
        });
    }
    group.bench_function("decode, name and store", |b| {
        let (records, directory) = (records(), directory());
        let node = Arc::new(Node { name: "node-a".into(), labels: vec![] });
        let mut decoder = Decoder::new(node, Box::new(|_| Some("eth0".into())), 1);
        let mut feed = Feed::new(Capacity::MAX);
        b.iter(|| {
            let mut batch = Vec::with_capacity(BATCH);
            for record in &records {
                decoder.decode(record, &directory, Time(0), &mut batch).expect("a known record");
            }
            feed.append(batch);
        });
    });
    group.bench_function("filter", |b| {
        let filter = FlowFilter {
            source_pod: vec!["shop/web-1".into()],
            destination_port: vec!["8080".into()],
            source_label: vec!["app=nginx".into()],
            ..FlowFilter::default()
        };
        let filters = Filters::new(&[filter], &[]).expect("a valid filter");
        let events = events(&endpoints, &template);
        b.iter(|| events.iter().filter(|event| filters.keep_flow(event)).count());
    });
    group.bench_function("to the wire", |b| {
        let all = events(&endpoints, &template);
        b.iter_batched(
            || (),
            |()| {
                all.iter()
                    .filter_map(|event| event.to_response("vm"))
                    .map(|answer| answer.encoded_len())
                    .sum::<usize>()
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, ring);
criterion_main!(benches);
