use abi::{Point, Reason};
use model::policy::{PolicyKind, PolicyName, PolicyUpdate, RuleId};

use super::{
    super::tests::{BOOT, decoder, directory, record},
    *,
};
use crate::{event::Body, proto::flow::DropReason};

const EGRESS_RULE: u32 = 5;
const INGRESS_RULE: u32 = 6;
const ISOLATES: u32 = 7;

/// Rule 1 of `shop/client` for egress, rule 0 of `shop/web` for ingress, which isolates.
fn with_rules() -> Directory {
    let mut directory = directory();
    let rule = |number, name: &str, direction, rule| {
        let policy =
            PolicyName { kind: PolicyKind::NetworkPolicy, namespace: "shop".into(), name: name.into() };
        (RuleId(number), Some(Arc::new(RuleRef { policy, direction, rule, name: None, line: None })))
    };
    let rules = [
        rule(EGRESS_RULE, "client", Direction::Egress, Some(1)),
        rule(INGRESS_RULE, "web", Direction::Ingress, Some(0)),
        rule(ISOLATES, "web", Direction::Ingress, None),
    ];
    let policy = PolicyUpdate { rules: rules.into(), ..PolicyUpdate::default() };
    directory.update(&model::Update { policy, ..model::Update::default() });
    directory
}

fn flows(record: &abi::Event) -> Vec<Flow> {
    let mut events = vec![];
    decoder().decode(record, &with_rules(), BOOT, &mut events).expect("a known record");
    let flow = |event: crate::event::Event| match event.body {
        Body::Flow(flow) => flow,
        other => panic!("{other:?}"),
    };
    events.into_iter().map(flow).collect()
}

/// Both ends were asked, by a row for one peer and port, and by one for a peer.
fn asked() -> abi::Event {
    abi::Event {
        policy: asked_flags::EGRESS | asked_flags::INGRESS,
        egress_rule: EGRESS_RULE,
        ingress_rule: INGRESS_RULE,
        egress_match: (matched::ROW | matched::PEER | matched::PORTS) as u8,
        ingress_match: (matched::ROW | matched::PEER) as u8,
        revision: 9,
        ..record()
    }
}

fn names(policies: &[Policy]) -> Vec<&str> {
    policies.iter().map(|policy| policy.name.as_str()).collect()
}

#[test]
fn each_end_that_was_asked_has_its_verdict_before_the_flow() {
    let [out, into, flow] = &flows(&asked())[..] else { panic!("two verdicts and a flow") };
    assert_eq!(
        (out.verdict, into.verdict, flow.verdict),
        (Verdict::Forwarded, Verdict::Forwarded, Verdict::Forwarded)
    );
    assert_eq!((out.direction, into.direction), (TrafficDirection::Egress, TrafficDirection::Ingress));
    assert_eq!(out.seen, Seen::PolicyVerdict(PolicyMatch::L3L4));
    assert_eq!(into.seen, Seen::PolicyVerdict(PolicyMatch::L3Only));
    assert_eq!((out.is_reply, into.is_reply), (Some(false), Some(false)));
    assert!(out.uuid != into.uuid && into.uuid != flow.uuid);
    assert_eq!((&out.source, &into.destination), (&flow.source, &flow.destination));
    let rules = |flow: &Flow| flow.rules.clone().expect("rules");
    assert_eq!((names(&rules(out).egress_allowed), rules(out).ingress_allowed.len()), (vec!["client"], 0));
    assert_eq!((names(&rules(into).ingress_allowed), rules(into).egress_allowed.len()), (vec!["web"], 0));
    let both = rules(flow);
    assert_eq!((names(&both.egress_allowed), names(&both.ingress_allowed)), (vec!["client"], vec!["web"]));
    let policy = &both.egress_allowed[0];
    assert_eq!(
        (policy.namespace.as_str(), policy.kind.as_str(), policy.revision),
        ("shop", "NetworkPolicy", 9)
    );
    assert_eq!(policy.labels, ["twinplane:rule=egress[1]"]);
}

#[test]
fn a_policys_drop_is_of_the_pod_that_it_isolates_and_names_the_policy() {
    let dropped = abi::Event {
        kind: EventKind::Dropped as u8,
        reason: Reason::DroppedPolicyIngress.row(),
        policy: asked().policy | asked_flags::INGRESS_DENIED,
        ingress_rule: ISOLATES,
        ingress_match: 0,
        ..asked()
    };
    let [denied, flow] = &flows(&dropped)[..] else { panic!("the denial and the drop") };
    assert_eq!((denied.verdict, &denied.seen), (Verdict::Dropped, &Seen::PolicyVerdict(PolicyMatch::None)));
    assert_eq!((denied.direction, denied.is_reply), (TrafficDirection::Ingress, None));
    assert_eq!((flow.verdict, &flow.seen), (Verdict::Dropped, &Seen::Drop(DropReason::PolicyDenied)));
    assert_eq!(
        (flow.source.identity, flow.destination.identity),
        (300, 301),
        "the backend, and not the frontend"
    );
    assert_eq!(flow.direction, TrafficDirection::Ingress, "also where the sender's node drops it");
    let rules = flow.rules.as_ref().expect("rules");
    assert_eq!((names(&rules.egress_allowed), names(&rules.ingress_denied)), (vec!["client"], vec!["web"]));
    assert_eq!(rules.ingress_denied[0].labels, ["twinplane:isolates=ingress"]);
    assert_eq!(names(&denied.rules.as_ref().expect("rules").ingress_denied), ["web"]);
    let wire = denied.to_wire(prost_types::Timestamp::default());
    assert_eq!((wire.drop_reason_desc(), wire.policy_match_type), (DropReason::PolicyDenied, 0));
    assert_eq!(wire.event_type.expect("a type").r#type, 5);
    assert_eq!(wire.ingress_denied_by[0].name, "web");
}

#[test]
fn what_is_audited_passes_and_its_verdict_says_so() {
    let audited = abi::Event {
        flags: record().flags | abi::event_flags::AUDITED,
        policy: asked_flags::INGRESS | asked_flags::INGRESS_DENIED,
        egress_rule: 0,
        ingress_rule: ISOLATES,
        ingress_match: 0,
        ..asked()
    };
    let [verdict, flow] = &flows(&audited)[..] else { panic!("one verdict and the flow") };
    assert_eq!((verdict.verdict, verdict.is_reply), (Verdict::Audit, Some(false)));
    assert_eq!(flow.verdict, Verdict::Forwarded);
    for flow in [verdict, flow] {
        assert_eq!(names(&flow.rules.as_ref().expect("rules").ingress_denied), ["web"]);
    }
    // One that goes on, under a policy that is new.
    let later = flows(&abi::Event { kind: EventKind::Ongoing as u8, ..audited });
    assert_eq!(
        later.iter().map(|flow| flow.verdict).collect::<Vec<_>>(),
        [Verdict::Audit, Verdict::Forwarded]
    );
}

#[test]
fn answers_and_what_goes_on_have_none_and_what_nobody_decided_has_no_rule() {
    let answer = abi::Event { flags: record().flags | abi::event_flags::REPLY, ..asked() };
    let ongoing = abi::Event { kind: EventKind::Ongoing as u8, ..asked() };
    let unasked = abi::Event { policy: 0, egress_rule: 0, ingress_rule: 0, ..asked() };
    for record in [answer, ongoing, unasked] {
        assert_eq!(flows(&record).len(), 1);
    }
    let by_default = abi::Event {
        policy: asked_flags::INGRESS,
        ingress_rule: 0,
        egress_rule: 0,
        ingress_match: 0,
        ..asked()
    };
    let [verdict, flow] = &flows(&by_default)[..] else { panic!("one verdict and the flow") };
    assert_eq!(
        (&verdict.seen, verdict.verdict),
        (&Seen::PolicyVerdict(PolicyMatch::None), Verdict::Forwarded)
    );
    assert_eq!((&verdict.rules, &flow.rules), (&None, &None));
}

#[test]
fn narrowness_is_told_in_hubbles_numbers() {
    use matched::{PEER, PORTS, PROTOCOL, ROW};
    let told = [0, ROW | PEER, ROW | PEER | PORTS, ROW | PORTS, ROW, ROW | PEER | PROTOCOL, ROW | PROTOCOL];
    let numbers: Vec<u32> = told.iter().map(|narrow| policy_match(*narrow) as u32).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn rules_are_shared_by_flows_under_one_revision() {
    let (mut shared, directory) = (SharedRules::default(), with_rules());
    let point = abi::Event { point: Point::ToPod as u8, ..asked() };
    let [first, second] = [asked(), point].map(|record| shared.of(&record, &directory).expect("rules"));
    assert!(Arc::ptr_eq(&first, &second));
    let later = shared.of(&abi::Event { revision: 10, ..asked() }, &directory).expect("rules");
    assert_eq!((first.egress_allowed[0].revision, later.egress_allowed[0].revision), (9, 10));
}
