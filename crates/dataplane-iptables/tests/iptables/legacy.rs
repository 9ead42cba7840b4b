//! The same tests with the legacy variant of iptables, where the machine has both.

use std::{env, os::unix::fs::symlink, process::Command};

/// What a plane runs, by `PATH`.
const PROGRAMS: [&str; 6] =
    ["iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"];

#[test]
fn the_legacy_variant_does_the_same() {
    let path = env::var_os("PATH").unwrap_or_default();
    let Some(legacy) =
        env::split_paths(&path).map(|dir| dir.join("xtables-legacy-multi")).find(|file| file.is_file())
    else {
        eprintln!("skipped: no xtables-legacy-multi in PATH");
        return;
    };
    let folder = tempfile::tempdir().expect("make a folder");
    for program in PROGRAMS {
        symlink(&legacy, folder.path().join(program)).expect("link");
    }
    let first = env::join_paths([folder.path().to_owned()].into_iter().chain(env::split_paths(&path)));
    let output = Command::new(env::current_exe().expect("this program"))
        .args(["kernel::", "golden::", "addresses::node", "addresses::host", "sctp::", "udp::"])
        .env("PATH", first.expect("path"))
        .output()
        .expect("run again");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert!(!told.contains(" 0 passed"), "{told}");
}
