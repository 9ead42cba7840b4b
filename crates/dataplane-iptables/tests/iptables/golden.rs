//! What is rendered is what the real kube-proxy wrote for the same state.

use std::{fs, path::PathBuf};

use crate::common;
use dataplane::Dataplane as _;
use dataplane_iptables::{Config, IptablesDataplane, rendered_text, ruleset::RuleSet};
use model::{Changed, Family, Snapshot};

/// Set to write the golden files anew.
const UPDATE: &str = "UPDATE_GOLDEN";

#[test]
fn rendered_text_is_the_golden_one() {
    for (name, snapshot) in common::states() {
        let text = rendered_text(&snapshot, Family::V4);
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.rules"));
        if std::env::var_os(UPDATE).is_some() {
            fs::write(&path, &text).expect("write golden file");
        }
        let golden = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(text, golden, "{name}: set {UPDATE}=1 to accept");
        let set = RuleSet::parse(&text).expect("own text is read back");
        assert_eq!(set.to_string(), text, "{name}");
        assert_eq!(set.dangling(), None, "{name}");
    }
}

/// Every recorded state, reached in turn from the one before as kube-proxy did.
#[test]
fn the_kernel_then_has_what_kube_proxy_gave_it() {
    let recordings = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/kube-proxy");
    if !recordings.is_dir() {
        eprintln!("skipped: no recordings of kube-proxy at {}", recordings.display());
        return;
    }
    let namespace = common::namespace("golden");
    let states = common::states();
    let saved = namespace.run(|| apply_in_turn(&states)).expect("enter namespace");
    for ((name, _), saved) in states.iter().zip(saved) {
        let recorded =
            fs::read_to_string(recordings.join(format!("{name}.iptables-save"))).expect("recording");
        assert_eq!(normalised(&saved), normalised(&recorded), "{name}");
    }
}

fn apply_in_turn(states: &[(&str, Snapshot)]) -> Vec<String> {
    let mut plane = IptablesDataplane::open(Config::default()).expect("open");
    let mut before = Snapshot::default();
    let apply = |(name, snapshot): &(&str, Snapshot)| {
        let applied = plane.apply(snapshot, &snapshot.changed_since(&before)).expect(name);
        assert!(applied.failed.is_empty(), "{name}: {:?}", applied.failed);
        before = snapshot.clone();
        save()
    };
    let saved = states.iter().map(apply).collect();
    let again = plane.repair(&before).expect("repair");
    assert_eq!(again, [""; 0], "nothing had drifted");
    plane.apply(&before, &Changed::all(&before)).expect("apply all again");
    saved
}

fn save() -> String {
    let output = std::process::Command::new("iptables-save").output().expect("iptables-save");
    assert!(output.status.success());
    String::from_utf8(output.stdout).expect("text")
}

/// Drops the comment lines, which hold the time. Counters of chains are zero in both.
///
/// The one difference that remains: kube-proxy walks a Go map, so that the order between services in a shared
/// chain is by chance; here it is by name. No packet can tell: rules of different services exclude each other.
/// Tables are in order of name: the legacy variant lists them by their first use.
fn normalised(text: &str) -> String {
    let mut lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for shared in ["-A KUBE-SERVICES ", "-A KUBE-EXTERNAL-SERVICES ", "-A KUBE-NODEPORTS "] {
        let of_services =
            |line: &&str| line.starts_with(shared) && !line.contains("NOTE: this must be the last");
        for run in lines.chunk_by_mut(|a, b| of_services(a) && of_services(b)) {
            run.sort_by_key(|line| line.split("--comment ").nth(1).and_then(|rest| rest.split(' ').next()));
        }
    }
    let mut tables: Vec<_> =
        lines.split_inclusive(|line| *line == "COMMIT").map(|table| table.join("\n")).collect();
    tables.sort_unstable();
    tables.join("\n")
}
