//! What one core does with events: made from a packet's fields and shared endpoints, stored, and offered to followers.

use std::{hint::black_box, sync::Arc};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use flow::{
    cursor::{Cursor, Range, Step},
    event::{Event, Flow, L4, TcpFlags},
    feed::Feed,
    filter::Filters,
    proto::flow::FlowFilter,
    ring::Capacity,
    testing::{at, pod, syn},
};
use prost::Message;

const BATCH: usize = 1000;

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
