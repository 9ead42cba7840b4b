//! The real kube-proxy as a witness: on the same objects, are its rules ours, and do packets fare alike in both?
//!
//! Runs where `$KUBE_PROXY` names a kube-proxy or `PATH` has one; elsewhere it says that it was skipped. The harness is
//! itself tested with a stand-in that watches as kube-proxy does and writes rules that are known, right ones and wrong.

mod api;
mod compare;
mod ours;
mod proxy;
mod states;

use std::{env, path::PathBuf};

use api::Api;
use compare::Family;
use proxy::Proxy;
use states::State;

/// How many random states follow the recorded ones.
const STATES: &str = "TWINPLANE_WITNESS_STATES";
const SEED: &str = "TWINPLANE_WITNESS_SEED";

/// What differs between the proxy's rules and ours, and between how packets fare, by state.
fn differences(proxy: &Proxy, api: &Api, states: &[State]) -> Vec<String> {
    let mut all = Vec::new();
    for state in states {
        api.replace(state);
        let ours = ours::program(api);
        for family in Family::ALL {
            let theirs = proxy.settled(family, &ours.saved[&family]);
            let rules = compare::rules(&theirs, &ours.saved[&family]);
            let flows = compare::flows(&theirs, &ours, family);
            all.extend(
                rules.into_iter().chain(flows).map(|what| format!("{} {family:?}: {what}", state.name)),
            );
        }
    }
    all
}

fn kube_proxy() -> Option<PathBuf> {
    let named = env::var_os("KUBE_PROXY").map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    named.or_else(|| env::split_paths(&path).map(|dir| dir.join("kube-proxy")).find(|file| file.is_file()))
}

fn number(name: &str, default: u64) -> u64 {
    env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}: no number")))
}

#[test]
fn kube_proxy_writes_the_same_rules() {
    let Some(program) = kube_proxy() else {
        eprintln!("skipped: no kube-proxy in PATH, and KUBE_PROXY names none");
        return;
    };
    let seed = number(SEED, 1);
    let mut states = states::recorded();
    states.extend((0..number(STATES, 20)).map(|n| states::random(seed + n)));
    let api = Api::start("witness");
    let proxy = Proxy::start(&program, &api, &[]);
    let found = differences(&proxy, &api, &states);
    assert_eq!(found, [""; 0], "seed {seed}");
    println!("{} states, both families: {} writes what we write", states.len(), program.display());
}

#[test]
fn the_harness_watches_compares_and_tells_differences() {
    let mut state = states::recorded().swap_remove(5);
    let hidden = states::hidden();
    state.services.extend(hidden.services);
    state.slices.extend(hidden.slices);
    let right = |text: &str| text.to_owned();
    let wrong = |text: &str| {
        text.replacen("--to-destination 10.128.1.10:8080", "--to-destination 10.128.1.10:8081", 1)
    };
    let missing = |text: &str| {
        let lines = text.lines().filter(|line| !line.contains("external IP"));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    let changes =
        [("right", right as fn(&str) -> String, false), ("wrong", wrong, true), ("missing", missing, true)];
    for (what, change, differs) in changes {
        let api = Api::start(what);
        api.replace(&state);
        let ours = ours::program(&api);
        let mut rules = ours.restore.clone();
        let changed = change(&rules[&Family::V4]);
        assert_eq!(changed != rules[&Family::V4], differs);
        rules.insert(Family::V4, changed);
        ours::make_counters(&api);
        let program = proxy::stand_in(&rules);
        let mut proxy = Proxy::start(&program.path, &api, &[("RULES", &program.rules)]);
        proxy.has_watched(&program.log);
        let found = differences(&proxy, &api, std::slice::from_ref(&state));
        for kind in ["rules of ", "packet "] {
            assert_eq!(found.iter().any(|found| found.contains(kind)), differs, "{what}: {found:#?}");
        }
        assert!(found.iter().all(|found| found.contains("V4")), "{found:#?}");
    }
}

/// The API takes every state, our index finds no fault with it, and both families have something to compare.
#[test]
fn states_are_legal() {
    let api = Api::start("legal");
    let mut compared = [0; 2];
    for state in states::recorded().into_iter().chain((0..12).map(states::random)) {
        api.replace(&state);
        let ours = ours::program(&api);
        for (family, compared) in Family::ALL.into_iter().zip(&mut compared) {
            assert_eq!(compare::flows(&ours.saved[&family], &ours, family), [""; 0], "{}", state.name);
            *compared += ours.snapshot.services.keys().filter(|id| id.family == family).count();
        }
    }
    assert!(compared.iter().all(|ports| *ports > 5), "{compared:?}");
}
