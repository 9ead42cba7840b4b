//! What the reconciler guarantees, one test each, on the in-memory plane.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use dataplane::{Backoff, Key, ObjectState, Reconciler, Timing, fake::Fake};
use model::{
    Backend, Endpoint, Family, Frontend, FrontendAddress, FrontendKind, Generation, MacAddress, NodeConfig,
    PodName, Port, Protocol, ServiceName, ServicePort, ServicePortId, TrafficPolicy, Update,
};

const RETRY: Backoff = Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(1) };
const TIMING: Timing = Timing { retry: RETRY, repair_every: Duration::from_secs(60) };

fn id(name: &str) -> ServicePortId {
    let service = ServiceName { namespace: "ns".into(), name: name.into() };
    ServicePortId { service, port: String::new(), protocol: Protocol::Tcp, family: Family::V4 }
}

/// A Service on 10.24.0.`number` with backends at 10.20.0.x.
fn service(name: &str, number: u8, backends: &[u8]) -> (ServicePortId, Option<Arc<ServicePort>>) {
    let backend =
        |last: &u8| Backend { address: ([10, 20, 0, *last], 80).into(), local: true, terminating: false };
    let port = ServicePort {
        id: id(name),
        frontends: vec![Frontend {
            kind: FrontendKind::ClusterIp,
            address: FrontendAddress::Ip([10, 24, 0, number].into()),
            port: Port::new(80).expect("port"),
            policy: TrafficPolicy::Cluster,
            source_ranges: vec![],
        }],
        cluster: backends.iter().map(backend).collect(),
        local: vec![],
        usable_anywhere: !backends.is_empty(),
        endpoints: vec![],
        affinity_seconds: None,
        health_check_port: None,
    };
    (id(name), Some(Arc::new(port)))
}

fn update(
    generation: u64,
    services: impl IntoIterator<Item = (ServicePortId, Option<Arc<ServicePort>>)>,
) -> Update {
    Update {
        generation: Generation(generation),
        node: Some(NodeConfig { name: "n".into(), ..NodeConfig::default() }),
        services: services.into_iter().collect(),
        ..Update::default()
    }
}

fn start(fake: &Fake) -> (Reconciler, Instant) {
    (Reconciler::new(Box::new(fake.clone()), TIMING), Instant::now())
}

fn state(reconciler: &Reconciler, name: &str) -> Option<ObjectState> {
    reconciler.state(&Key::Service(id(name))).map(|(state, _)| state)
}

#[test]
fn a_burst_is_programmed_once_and_ends_in_the_last_state() {
    let fake = Fake::default();
    let (mut reconciler, now) = start(&fake);
    reconciler.submit(update(1, [service("a", 1, &[1]), service("b", 2, &[1])]), now);
    reconciler.submit(update(2, [service("a", 1, &[2]), (id("b"), None)]), now);
    assert_eq!(state(&reconciler, "a"), Some(ObjectState::Pending));
    assert_eq!(fake.kernel().applies, 0, "nothing before the step");
    let step = reconciler.step(now);
    assert!(step.failed.is_empty() && step.error.is_none());
    assert_eq!(fake.kernel().applies, 1);
    assert_eq!(reconciler.programmed(), Generation(2));
    assert_eq!(state(&reconciler, "a"), Some(ObjectState::Programmed));
    assert_eq!(state(&reconciler, "b"), None, "came and went");
    let rows = reconciler.plane().services().expect("rows");
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].backends[0].address.to_string(), "10.20.0.2:80");
}

#[test]
fn no_work_is_done_without_a_change() {
    let fake = Fake::default();
    let (mut reconciler, now) = start(&fake);
    reconciler.submit(update(1, [service("a", 1, &[1])]), now);
    reconciler.step(now);
    reconciler.submit(update(2, [service("a", 1, &[1])]), now);
    assert_eq!(reconciler.step(now).tried, 0);
    assert_eq!((fake.kernel().applies, reconciler.programmed()), (1, Generation(2)));
    assert_eq!(reconciler.next_due(now), Some(now + TIMING.repair_every));
}

#[test]
fn one_failure_never_holds_up_the_others() {
    let fake = Fake::default();
    let (mut reconciler, now) = start(&fake);
    fake.kernel().refused.insert(Key::Service(id("bad")), "no room".into());
    reconciler
        .submit(update(1, [service("a", 1, &[1]), service("bad", 2, &[1]), service("c", 3, &[1])]), now);
    let step = reconciler.step(now);
    assert_eq!(step.failed, [(Key::Service(id("bad")), "insert service ns/bad: no room".to_owned())]);
    let states = ["a", "bad", "c"].map(|name| state(&reconciler, name));
    assert_eq!(
        states,
        [Some(ObjectState::Programmed), Some(ObjectState::Failed), Some(ObjectState::Programmed)]
    );
    assert_eq!(fake.kernel().frontends.len(), 2);
}

#[test]
fn a_failed_object_is_tried_again_after_a_growing_bounded_pause() {
    let fake = Fake::default();
    let (mut reconciler, start) = start(&fake);
    fake.kernel().refused.insert(Key::Service(id("bad")), "no room".into());
    reconciler.submit(update(1, [service("bad", 1, &[1])]), start);
    reconciler.step(start);
    let mut now = start;
    for pause in [100, 200, 400, 800, 1000, 1000] {
        let due = reconciler.next_due(now).expect("a retry is due");
        assert_eq!(due - now, Duration::from_millis(pause));
        assert_eq!(reconciler.step(due - Duration::from_millis(1)).tried, 0, "not before its time");
        now = due;
        assert_eq!(reconciler.step(now).tried, 1);
    }
    fake.kernel().refused.clear();
    now = reconciler.next_due(now).expect("due");
    assert!(reconciler.step(now).failed.is_empty());
    assert_eq!(state(&reconciler, "bad"), Some(ObjectState::Programmed));
    assert_eq!(reconciler.next_due(now), Some(start + TIMING.repair_every), "nothing left to retry");
}

#[test]
fn a_failed_object_that_changes_is_tried_at_once_and_starts_afresh() {
    let fake = Fake::default();
    let (mut reconciler, now) = start(&fake);
    fake.kernel().refused.insert(Key::Service(id("bad")), "no room".into());
    reconciler.submit(update(1, [service("bad", 1, &[1])]), now);
    reconciler.step(now);
    reconciler.step(now + Duration::from_millis(100));
    reconciler.submit(update(2, [service("bad", 1, &[2])]), now + Duration::from_millis(101));
    let now = now + Duration::from_millis(102);
    assert_eq!(reconciler.next_due(now), Some(now));
    assert_eq!(reconciler.step(now).failed.len(), 1);
    assert_eq!(reconciler.next_due(now), Some(now + RETRY.first));
}

#[test]
fn a_failed_object_that_is_deleted_is_forgotten() {
    let fake = Fake::default();
    let (mut reconciler, now) = start(&fake);
    fake.kernel().refused.insert(Key::Service(id("bad")), "no room".into());
    reconciler.submit(update(1, [service("bad", 1, &[1])]), now);
    reconciler.step(now);
    fake.kernel().refused.clear();
    reconciler.submit(update(2, [(id("bad"), None)]), now);
    reconciler.step(now);
    assert_eq!(state(&reconciler, "bad"), None);
    assert_eq!(reconciler.next_due(now), Some(now + TIMING.repair_every));
}

#[test]
fn a_full_table_fails_only_what_does_not_fit_and_recovers_by_itself() {
    let fake = Fake::with_capacity(2, 100);
    let (mut reconciler, now) = start(&fake);
    reconciler.submit(update(1, [service("a", 1, &[1]), service("b", 2, &[1]), service("c", 3, &[1])]), now);
    let step = reconciler.step(now);
    assert_eq!(
        step.failed,
        [(Key::Service(id("c")), "insert service ns/c: the frontend table is full".into())]
    );
    reconciler.submit(update(2, [(id("a"), None)]), now);
    reconciler.step(now);
    reconciler.step(now + RETRY.first);
    assert_eq!(state(&reconciler, "c"), Some(ObjectState::Programmed));
}

#[test]
fn when_the_plane_itself_fails_everything_waits_and_then_comes() {
    let fake = Fake::default();
    let (mut reconciler, now) = start(&fake);
    fake.kernel().broken = Some("out of memory".into());
    reconciler.submit(update(1, [service("a", 1, &[1]), service("b", 2, &[1])]), now);
    let step = reconciler.step(now);
    assert_eq!(step.error.expect("error").with_causes(), "program everything: out of memory");
    assert_eq!(reconciler.programmed(), Generation(0));
    assert!(reconciler.pending_since().values().all(|since| *since == now));
    assert_eq!(reconciler.pending_since().len(), 2, "the health check sees that an update is late");
    assert_eq!(fake.kernel().repairs, 0, "nothing is repaired away while nothing was ever programmed");
    fake.kernel().broken = None;
    reconciler.step(now + RETRY.first);
    assert_eq!((reconciler.programmed(), reconciler.pending_since().len()), (Generation(1), 0));
    assert_eq!(fake.kernel().frontends.len(), 2);
}

#[test]
fn facts_92_94_a_family_that_is_refused_stays_late_until_it_catches_up() {
    let fake = Fake::default();
    let (mut reconciler, start) = start(&fake);
    let late = |reconciler: &Reconciler| reconciler.pending_since().keys().copied().collect::<Vec<_>>();
    reconciler.submit(update(1, [service("a", 1, &[1])]), start);
    assert_eq!(late(&reconciler), Family::ALL, "the node concerns both");
    fake.kernel().broken_family = Some(Family::V6);
    reconciler.step(start);
    assert_eq!(late(&reconciler), [Family::V6]);
    let mut later = start + Duration::from_secs(1);
    reconciler.submit(update(2, [service("b", 2, &[1])]), later);
    reconciler.step(later);
    assert_eq!(reconciler.programmed(), Generation(2), "the other family goes on");
    assert_eq!(reconciler.pending_since()[&Family::V6], start, "and does not make up for it");
    fake.kernel().broken_family = None;
    later += RETRY.longest;
    reconciler.step(later);
    assert_eq!(late(&reconciler), []);
    reconciler.submit(update(3, [service("b", 2, &[2])]), later);
    assert_eq!(late(&reconciler), [Family::V4], "a Service concerns its own family only");
}

#[test]
fn before_the_first_update_what_an_earlier_run_left_keeps_working() {
    let fake = Fake::default();
    let (mut first, now) = start(&fake);
    first.submit(update(1, [service("a", 1, &[1]), service("stale", 2, &[1])]), now);
    first.step(now);
    drop(first);

    let (mut second, now) = start(&fake);
    second.step(now);
    assert_eq!(fake.kernel().frontends.len(), 2, "untouched");
    second.submit(update(1, [service("a", 1, &[1])]), now);
    let step = second.step(now);
    assert_eq!(step.repaired, ["removed stale service ns/stale"]);
    assert_eq!(fake.kernel().frontends.len(), 1);
}

#[test]
fn drift_is_repaired_periodically_and_told() {
    let fake = Fake::default();
    let (mut reconciler, now) = start(&fake);
    reconciler.submit(update(1, [service("a", 1, &[1]), service("b", 2, &[1])]), now);
    assert_eq!(reconciler.step(now).repaired, [""; 0]);
    fake.kernel().frontends.retain(|_, slot| slot.service != id("a"));
    assert_eq!(reconciler.step(now + Duration::from_secs(59)).repaired, [""; 0]);
    assert_eq!(reconciler.step(now + Duration::from_secs(60)).repaired, ["restored service ns/a"]);
    assert_eq!(fake.kernel().frontends.len(), 2);
    assert_eq!(reconciler.step(now + Duration::from_secs(120)).repaired, [""; 0]);
}

#[test]
fn an_endpoint_is_programmed_and_reported_on_its_own() {
    let fake = Fake::default();
    let (mut reconciler, now) = start(&fake);
    let pod = PodName { namespace: "ns".into(), name: "pod".into() };
    let endpoint = Endpoint {
        pod: pod.clone(),
        addresses: vec![[10, 20, 0, 2].into()],
        interface: "tp0".into(),
        ifindex: 7,
        mac: MacAddress::default(),
        host_mac: MacAddress::default(),
        netns: None,
        l7: Default::default(),
    };
    let mut wanted = update(1, []);
    wanted.endpoints.insert(pod.clone(), Some(Arc::new(endpoint)));
    reconciler.submit(wanted, now);
    reconciler.step(now);
    let key = Key::Endpoint(pod.clone());
    assert_eq!(reconciler.state(&key), Some((ObjectState::Programmed, None)));
    assert!(fake.kernel().endpoints.contains_key(&pod));
    let objects: Vec<_> =
        reconciler.objects().into_iter().map(|o| format!("{} {}", o.kind, o.name)).collect();
    assert_eq!(objects, ["Pod ns/pod", "Node (this node)"]);
}
