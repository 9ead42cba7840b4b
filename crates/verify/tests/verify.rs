//! A few generated states and the whole corpus on every executor, and proof that a bug would be found and shrunk.

use std::path::Path;

use model::{
    Plane, Snapshot,
    oracle::{self, Outcome, Packet},
};
use verify::{
    corpus,
    executor::{Executor, Model, Programs, Walker},
    run::Outcome as Run,
    sockets::Sockets,
    test_run::TestRun,
};

const SEED: u64 = 20_261_123;

fn executors(oracle: fn(&Packet, &Snapshot) -> Outcome) -> Vec<Box<dyn Executor>> {
    let run = TestRun::new().expect("test runs need root");
    vec![Box::new(Model), Box::new(Walker { oracle }), Box::new(Programs { run, oracle })]
}

#[track_caller]
fn expect_equal(run: &Run) {
    let found: Vec<_> = run.differences.iter().map(|case| case.to_yaml().expect("YAML")).collect();
    assert!(found.is_empty(), "{}", found.join("\n---\n"));
    for (name, tally) in &run.tallies {
        // What compares nothing is equal, too.
        assert!(tally.forwarded > 0 && tally.refused > 0 && tally.untouched > 0, "{name}: {tally:?}");
    }
}

#[test]
fn the_corpus_is_equal_on_every_executor() {
    let cases = corpus::read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus"))).expect("corpus");
    assert!(!cases.is_empty());
    let mut run = Run::default();
    corpus::replay(&cases, &mut executors(oracle::forward), &mut run).expect("replay");
    expect_equal(&run);
}

#[test]
fn the_corpus_is_equal_by_sockets_on_either_plane() {
    let cases = corpus::read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus"))).expect("corpus");
    for plane in Plane::ALL {
        let sockets = Sockets::new(plane, oracle::forward).expect("namespaces need root");
        let mut run = Run::default();
        corpus::replay(&cases, &mut [Box::new(sockets)], &mut run).expect("replay");
        expect_equal(&run);
    }
}

#[test]
fn generated_states_are_equal_on_every_executor() {
    let mut run = Run::default();
    let mut executors = executors(oracle::forward);
    for number in 0..40 {
        run.generated((SEED, number), &mut executors).expect("run");
    }
    expect_equal(&run);
}

#[test]
fn one_seed_gives_the_same_counts_twice() {
    let count = || {
        let mut run = Run::default();
        for number in 0..10 {
            let mut executors: Vec<Box<dyn Executor>> =
                vec![Box::new(Model), Box::new(Walker { oracle: oracle::forward })];
            run.generated((SEED, number), &mut executors).expect("run");
        }
        run.tallies
    };
    assert_eq!(count(), count());
}

/// One of several choices is forgotten: as if a plane used a backend that it must not.
fn forgets_a_choice(packet: &Packet, snapshot: &Snapshot) -> Outcome {
    match oracle::forward(packet, snapshot) {
        Outcome::Forwarded { mut choices } if choices.len() > 1 => {
            choices.truncate(1);
            Outcome::Forwarded { choices }
        }
        outcome => outcome,
    }
}

/// Nobody is masqueraded: as if a plane masqueraded what it must not.
fn never_masquerades(packet: &Packet, snapshot: &Snapshot) -> Outcome {
    match oracle::forward(packet, snapshot) {
        Outcome::Forwarded { mut choices } => {
            choices.iter_mut().for_each(|choice| choice.masquerade = model::Masquerade::No);
            Outcome::Forwarded { choices }
        }
        outcome => outcome,
    }
}

/// Source ranges let everybody in: as if a plane guarded what it must not.
fn admits_everybody(packet: &Packet, snapshot: &Snapshot) -> Outcome {
    match oracle::forward(packet, snapshot) {
        Outcome::SourceDenied => Outcome::Untouched,
        outcome => outcome,
    }
}

#[test]
fn a_mistake_is_found_on_either_plane_and_shrunk_to_one_service() {
    let mistakes: [fn(&Packet, &Snapshot) -> Outcome; 3] =
        [forgets_a_choice, never_masquerades, admits_everybody];
    for mistake in mistakes {
        let mut run = Run::default();
        let mut executors = executors(mistake);
        for number in 0.. {
            assert!(number < 100, "found in {:?} only", run.differences);
            run.generated((SEED, number), &mut executors).expect("run");
            let found = |name: &str| {
                let mut found = run.differences.iter().filter_map(|case| case.found.as_ref());
                found.any(|found| found.executor == name)
            };
            if found("iptables walk") && found("ebpf test run") {
                break;
            }
        }
        for case in &run.differences {
            let found = case.found.as_ref().expect("a difference");
            assert_ne!(found.executor, "oracle", "{found:?}");
            let (services, slices) = (case.objects.services.len(), case.objects.endpoint_slices.len());
            assert!(services <= 1 && slices <= 2, "not shrunk: {}", case.to_yaml().expect("YAML"));
            let again = verify::state::Case::from_yaml(&case.to_yaml().expect("YAML")).expect("a case");
            assert_eq!(again, *case, "the file says the same");
        }
    }
}
