//! A request's way through the ring against a model that filters a plain list.

use flow::{
    cursor::{Cursor, Range, Step},
    event::{Body, Event, L4, Time},
    ring::{Capacity, ring},
    testing::{at, lost, syn},
};
use proptest::prelude::*;

const CAPACITY: usize = 15;

/// What is written: a flow whose source port says whether it is wanted, or a loss.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Wanted,
    Unwanted,
    Lost,
}

fn event(kind: Kind, time: i64) -> Event {
    let source = match kind {
        Kind::Wanted => 1,
        Kind::Unwanted => 2,
        Kind::Lost => return Event { time: Time(time), body: lost(7) },
    };
    let mut flow = syn();
    flow.l4 = L4::Udp { source, destination: 53 };
    at(time, flow)
}

fn wanted(event: &Event) -> bool {
    event.flow().is_some_and(|flow| flow.l4.ports() == Some((1, 53)))
}

/// The naive answer: which of `all` a request gets that came when they were all written, and nothing after them.
fn expected(all: &[Event], range: Range) -> Vec<Event> {
    let kept = &all[all.len().saturating_sub(CAPACITY)..];
    let matching = |events: &[Event]| events.iter().filter(|event| wanted(event)).count() as u64;
    let start = match range {
        Range { since: Some(since), .. } => {
            // The events after the newest wanted one that is too old.
            kept.iter().rposition(|event| wanted(event) && event.time < since).map_or(0, |last| last + 1)
        }
        Range { first: true, .. } => 0,
        Range { follow: true, number: 0, .. } => kept.len(),
        // The shortest end of the list that has `number` wanted events.
        Range { number, .. } => {
            (0..kept.len()).rev().find(|&start| number > 0 && matching(&kept[start..]) == number).unwrap_or(0)
        }
    };
    let mut answer = Vec::new();
    for event in &kept[start..] {
        if !range.follow && range.number > 0 && matching(&answer) == range.number {
            break;
        }
        if matches!(event.body, Body::Lost(_)) {
            answer.push(event.clone());
            continue;
        }
        if range.until.is_some_and(|until| event.time > until) {
            break;
        }
        if range.since.is_none_or(|since| event.time >= since) && wanted(event) {
            answer.push(event.clone());
        }
    }
    answer
}

fn drain(cursor: &mut Cursor<fn(&Event) -> bool>) -> (Vec<Event>, Step) {
    let mut events = Vec::new();
    loop {
        match cursor.step() {
            Step::Event(event) => events.push((*event).clone()),
            Step::More => {}
            last => return (events, last),
        }
    }
}

fn kinds() -> impl Strategy<Value = Vec<Kind>> {
    let kind = prop_oneof![4 => Just(Kind::Wanted), 2 => Just(Kind::Unwanted), 1 => Just(Kind::Lost)];
    prop::collection::vec(kind, 0..40)
}

fn range() -> impl Strategy<Value = Range> {
    let time = || prop::option::weighted(0.3, (0..40_i64).prop_map(Time));
    (0..20_u64, any::<bool>(), any::<bool>(), time(), time())
        .prop_map(|(number, first, follow, since, until)| Range { number, first, follow, since, until })
        .prop_filter("contradiction", |range| range.check().is_ok())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_request_gets_what_the_model_says(kinds in kinds(), range in range()) {
        let all: Vec<Event> = kinds.iter().enumerate().map(|(time, kind)| event(*kind, time as i64)).collect();
        let (mut writer, ring) = ring(Capacity::new(CAPACITY as u64).unwrap());
        writer.append(all.clone());
        let (events, last) = drain(&mut Cursor::new(ring.clone(), range, wanted as fn(&Event) -> bool));
        prop_assert_eq!(&events, &expected(&all, range));
        // Whether it would wait for more.
        let ended_by_time = range.until.is_some_and(|until| {
            all.iter().any(|event| !matches!(event.body, Body::Lost(_)) && event.time > until)
        });
        if !range.follow {
            prop_assert_eq!(last, Step::End);
        } else if !ended_by_time {
            prop_assert_eq!(last, Step::Wait(ring.head()));
        }
    }

    /// A follower is stopped now and then for longer than the ring lasts: what it gets and what it is told it missed add
    /// up to what was written, in order, and what another follower gets does not change.
    #[test]
    fn a_slow_follower_is_told_and_harms_nobody(bursts in prop::collection::vec(1..40_usize, 1..20)) {
        let (mut writer, ring) = ring(Capacity::new(CAPACITY as u64).unwrap());
        let range = Range { follow: true, ..Range::default() };
        let mut slow = Cursor::new(ring.clone(), range, wanted as fn(&Event) -> bool);
        let mut fast = Cursor::new(ring.clone(), range, wanted as fn(&Event) -> bool);
        let mut time = 0;
        let (mut got, mut told, mut fast_got) = (0, 0, 0);
        for (turn, burst) in bursts.iter().enumerate() {
            for _ in 0..*burst {
                // Two seconds apart, so that every report is due.
                time += 2_000_000_000;
                writer.push(event(Kind::Wanted, time));
                fast_got += drain(&mut fast).0.len();
            }
            if turn % 3 == 2 || turn + 1 == bursts.len() {
                for event in drain(&mut slow).0 {
                    match event.body {
                        Body::Lost(lost) => told += lost.num_events_lost,
                        _ => got += 1,
                    }
                }
            }
        }
        let written: usize = bursts.iter().sum();
        prop_assert_eq!(got + told, written as u64);
        prop_assert_eq!(fast_got, written);
        prop_assert_eq!(ring.missed(), told);
    }
}

#[test]
fn reports_of_losses_come_once_a_second() {
    let (mut writer, ring) = ring(Capacity::new(3).unwrap());
    let range = Range { follow: true, ..Range::default() };
    let mut cursor = Cursor::new(ring, range, wanted as fn(&Event) -> bool);
    let mut reports = Vec::new();
    // A loss every tenth of a second for three seconds.
    for tick in 0..30 {
        writer.append((0..10).map(|_| event(Kind::Wanted, tick * 100_000_000)));
        for event in drain(&mut cursor).0 {
            if let Body::Lost(lost) = event.body {
                reports.push(lost.num_events_lost);
            }
        }
    }
    assert_eq!(reports, [7, 70, 70]);
}

#[test]
fn a_step_looks_at_a_limited_number_of_events() {
    let (mut writer, ring) = ring(Capacity::new(4095).unwrap());
    writer.append((0..4000).map(|time| event(Kind::Unwanted, time)));
    writer.push(event(Kind::Wanted, 4000));
    let range = Range { first: true, ..Range::default() };
    let mut cursor = Cursor::new(ring, range, wanted as fn(&Event) -> bool);
    let mut asked = 0;
    let found = loop {
        match cursor.step() {
            Step::More => asked += 1,
            Step::Event(event) => break event,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((found.time, asked), (Time(4000), 3));
}
