//! The pod life cycle as a table: one line per situation.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::process::ProcessId;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("time")
}

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "spec": spec})).expect("pod")
}

fn one(policy: &str) -> Pod {
    pod(json!({"restartPolicy": policy, "containers": [{"name": "c"}]}))
}

fn ready() -> Sandbox {
    Sandbox::Ready { netns: "n".to_owned(), host_network: false, addresses: vec![], since: at(0) }
}

fn record(sandbox: Sandbox, containers: &[(&str, State, u32)]) -> PodRecord {
    let container = |(name, state, restarts): &(&str, State, u32)| {
        let container = Container { state: state.clone(), last: None, restarts: *restarts, ready: true };
        ((*name).to_owned(), container)
    };
    PodRecord {
        uid: "u".to_owned(),
        namespace: "n".to_owned(),
        name: "p".to_owned(),
        node: "node-a".to_owned(),
        sandbox,
        containers: containers.iter().map(container).collect::<BTreeMap<_, _>>(),
    }
}

fn running(stopping: bool) -> State {
    let process = ProcessId::of(std::process::id()).expect("own");
    State::Running { process, since: at(0), stopping }
}

fn exited(code: i32, finished: i64) -> State {
    State::Exited(Exit {
        code,
        reason: String::new(),
        message: None,
        started: Some(at(finished - 1)),
        finished: at(finished),
    })
}

fn steps(desired: Desired<'_>, record: &PodRecord, now: i64) -> Vec<Step> {
    plan(desired, record, at(now)).steps
}

fn start(name: &str) -> Step {
    Step::Start(name.to_owned())
}

#[test]
fn network_first_then_containers() {
    let pod = one("Always");
    let run = Desired::Run(&pod);
    assert_eq!(steps(run, &record(Sandbox::Missing, &[]), 0), [Step::MakeSandbox]);
    assert_eq!(steps(run, &record(ready(), &[]), 0), [start("c")]);
    assert_eq!(steps(run, &record(ready(), &[("c", running(false), 0)]), 0), []);
    // Found after a crash: made again from the start.
    let partial = Sandbox::Partial { netns: "n".to_owned() };
    assert_eq!(steps(run, &record(partial, &[]), 0), [Step::RemoveSandbox]);
}

#[test]
fn a_failed_sandbox_waits_its_time() {
    let pod = one("Always");
    let failed = record(Sandbox::Failed { attempts: 2, retry_at: at(10) }, &[]);
    assert_eq!(plan(Desired::Run(&pod), &failed, at(9)), Plan { steps: vec![], wake_at: Some(at(10)) });
    assert_eq!(steps(Desired::Run(&pod), &failed, 10), [Step::MakeSandbox]);
    let delays: Vec<_> = (1..8).map(|attempts| sandbox_retry(attempts).as_millis()).collect();
    assert_eq!(delays, [500, 1000, 2000, 4000, 8000, 8000, 8000]);
}

#[test]
fn the_first_restart_is_at_once_and_later_ones_back_off() {
    let pod = one("Always");
    let run = Desired::Run(&pod);
    assert_eq!(steps(run, &record(ready(), &[("c", exited(1, 100), 0)]), 100), [start("c")]);
    for (restarts, delay) in [(1, 10), (2, 20), (3, 40), (5, 160), (6, 300), (60, 300)] {
        let crashed = record(ready(), &[("c", exited(1, 100), restarts)]);
        let planned = plan(run, &crashed, at(100));
        let until = at(100 + delay);
        let delay = Duration::from_secs(u64::try_from(delay).expect("positive"));
        assert_eq!(planned.steps, [Step::BackOff { container: "c".to_owned(), until, delay }]);
        assert_eq!(planned.wake_at, Some(until));
        let waiting = State::Waiting { reason: String::new(), message: String::new(), until };
        assert_eq!(plan(run, &record(ready(), &[("c", waiting.clone(), restarts)]), at(101)).steps, []);
        assert_eq!(plan(run, &record(ready(), &[("c", waiting, restarts)]), until).steps, [start("c")]);
    }
}

#[test]
fn a_long_run_forgets_earlier_failures() {
    let pod = one("Always");
    let exit =
        Exit { code: 1, reason: String::new(), message: None, started: Some(at(0)), finished: at(601) };
    let crashed = record(ready(), &[("c", State::Exited(exit), 9)]);
    assert_eq!(steps(Desired::Run(&pod), &crashed, 601), [start("c")]);
}

#[test]
fn restart_policies_decide_and_an_ended_pod_gives_its_network_back() {
    for (policy, code, restarts, well) in [
        ("Always", 0, true, None),
        ("Always", 1, true, None),
        ("OnFailure", 0, false, Some(true)),
        ("OnFailure", 1, true, None),
        ("Never", 0, false, Some(true)),
        ("Never", 1, false, Some(false)),
    ] {
        let pod = one(policy);
        let record = record(ready(), &[("c", exited(code, 5), 0)]);
        let wanted = if restarts { start("c") } else { Step::RemoveSandbox };
        assert_eq!(steps(Desired::Run(&pod), &record, 5), [wanted], "{policy} {code}");
        assert_eq!(ended(&pod, &record), well, "{policy} {code}");
    }
}

#[test]
fn init_containers_run_one_by_one_and_sidecars_stay() {
    let pod = pod(json!({
        "initContainers": [
            {"name": "side", "restartPolicy": "Always"},
            {"name": "first"},
        ],
        "containers": [{"name": "main"}],
    }));
    let run = Desired::Run(&pod);
    let steps = |containers: &[(&str, State, u32)]| steps(run, &record(ready(), containers), 9);
    assert_eq!(steps(&[]), [start("side")]);
    assert_eq!(steps(&[("side", running(false), 0)]), [start("first")]);
    assert_eq!(steps(&[("side", running(false), 0), ("first", running(false), 0)]), []);
    assert_eq!(steps(&[("side", running(false), 0), ("first", exited(1, 9), 0)]), [start("first")]);
    assert_eq!(steps(&[("side", running(false), 0), ("first", exited(0, 9), 0)]), [start("main")]);
}

#[test]
fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    let pod = pod(json!({
        "restartPolicy": "Never", "initContainers": [{"name": "first"}], "containers": [{"name": "main"}],
    }));
    let record = record(ready(), &[("first", exited(3, 9), 0)]);
    assert_eq!(steps(Desired::Run(&pod), &record, 9), [Step::RemoveSandbox]);
    assert_eq!(ended(&pod, &record), Some(false));
}

#[test]
fn deletion_signals_waits_kills_and_then_removes() {
    let stop = Desired::Stop { deadline: at(30) };
    let name = || "c".to_owned();
    let asked = plan(stop, &record(ready(), &[("c", running(false), 0)]), at(0));
    assert_eq!(asked, Plan { steps: vec![Step::Stop(name())], wake_at: Some(at(30)) });
    let waiting = plan(stop, &record(ready(), &[("c", running(true), 0)]), at(29));
    assert_eq!(waiting, Plan { steps: vec![], wake_at: Some(at(30)) });
    assert_eq!(steps(stop, &record(ready(), &[("c", running(true), 0)]), 30), [Step::Kill(name())]);
    assert_eq!(steps(stop, &record(ready(), &[("c", exited(0, 3), 0)]), 3), [Step::RemoveSandbox]);
    assert_eq!(steps(stop, &record(Sandbox::Missing, &[("c", exited(0, 3), 0)]), 3), [Step::RemoveObject]);
}

#[test]
fn a_pod_without_an_object_goes_at_once() {
    let record_of = |sandbox, state| record(sandbox, &[("c", state, 0)]);
    assert_eq!(steps(Desired::Gone, &record_of(ready(), running(false)), 0), [Step::Kill("c".to_owned())]);
    assert_eq!(steps(Desired::Gone, &record_of(ready(), exited(137, 0)), 0), [Step::RemoveSandbox]);
    assert_eq!(steps(Desired::Gone, &record_of(Sandbox::Missing, exited(137, 0)), 0), [Step::Forget]);
}
