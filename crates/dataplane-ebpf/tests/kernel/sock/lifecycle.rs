//! Attaching, starting again, taking off.

use std::{collections::BTreeSet, fs, os::unix::fs::DirEntryExt as _};

use dataplane::Dataplane as _;
use dataplane_ebpf::{Config, EbpfDataplane};
use model::{Changed, Protocol};

use super::node::{Form, Node, balanced, connect, echo, until};
use crate::space::PinFolder;

/// Names and inodes of the pinned links: a link that is made anew has another inode.
fn pins(node: &Node) -> BTreeSet<(String, u64)> {
    let names = fs::read_dir(node.pins.path().join("links")).into_iter().flatten().flatten();
    let names = names.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.ino()));
    names.filter(|(name, _)| name.starts_with("sock-")).collect()
}

fn feature(node: &Node) -> (bool, String) {
    let features = node.plane.as_ref().expect("open").status().features;
    let found = features.into_iter().find(|feature| feature.name == "socket load balancing");
    found.map(|feature| (feature.available, feature.detail)).expect("listed")
}

#[test]
fn sockets_are_served_while_no_agent_runs_and_by_the_next() {
    let mut node = Node::new();
    let (form, frontend) = (Form::V4, Form::V4.cluster_ip());
    node.program(&[balanced(form, Protocol::Tcp, &[5, 6])]);
    let (available, detail) = feature(&node);
    assert!(available && !detail.contains(';'), "{detail}");
    assert_eq!(pins(&node).len(), 8);
    let mut before = node.on_host(|| connect(frontend).expect("connect").0);
    node.plane = None;
    let mut meanwhile = node.on_host(|| connect(frontend).expect("connect").0);
    let links = pins(&node);
    for _ in 0..2 {
        node.open();
        assert_eq!(pins(&node), links, "their programs are replaced, they are not");
    }
    let translated = node.counter("socket_translated");
    let mut after = node.on_host(|| connect(frontend).expect("connect").0);
    assert_eq!(node.counter("socket_translated"), translated + 1, "one program per hook");
    for stream in [&mut before, &mut meanwhile, &mut after] {
        echo(stream).expect("still open");
        assert_eq!(stream.peer_addr().expect("peer"), frontend);
    }
    node.clean_up();
}

#[test]
fn nothing_is_left_after_the_end_and_others_stay_attached() {
    let mut node = Node::new();
    let frontend = Form::V4.cluster_ip();
    node.program(&[balanced(Form::V4, Protocol::Tcp, &[5])]);
    // Another plane on the same cgroup, without Services.
    let other_pins = PinFolder::new();
    let mut other = node.open_at(&other_pins, true);
    assert!(node.on_host(|| connect(frontend).is_ok()));
    node.host.run(|| other.clean_up().expect("clean up")).expect("enter");
    assert!(node.on_host(|| connect(frontend).is_ok()), "the first one still serves");
    let mut plane = node.plane.take().expect("open");
    node.host.run(|| plane.clean_up().expect("clean up")).expect("enter");
    assert!(node.on_host(|| connect(frontend).is_err()), "nobody serves");
}

#[test]
fn an_agent_without_a_cgroup_takes_off_what_a_former_one_attached() {
    let mut node = Node::new();
    node.program(&[balanced(Form::V4, Protocol::Tcp, &[5])]);
    node.plane = None;
    node.plane = Some(node.open_at(&node.pins, false));
    node.apply();
    assert_eq!(feature(&node), (false, "no cgroup is configured; packets are translated instead".into()));
    assert!(pins(&node).is_empty());
    assert!(node.on_host(|| connect(Form::V4.cluster_ip()).is_err()));
    node.clean_up();
}

#[test]
fn what_someone_took_off_is_attached_again() {
    let mut node = Node::new();
    node.program(&[balanced(Form::V4, Protocol::Tcp, &[5])]);
    fs::remove_file(node.pins.path().join("links/sock-connect4")).expect("remove");
    until("the link's end", || node.on_host(|| connect(Form::V4.cluster_ip()).err()));
    let (plane, snapshot) = (node.plane.as_mut().expect("open"), &node.snapshot);
    node.host.run(|| plane.repair(snapshot).expect("repair")).expect("enter");
    assert!(node.on_host(|| connect(Form::V4.cluster_ip()).is_ok()));
    node.clean_up();
}

/// The packet path does without; the status says why.
#[test]
fn a_folder_that_is_no_cgroup_is_reported_and_stops_nothing() {
    let mut node = Node::new();
    node.plane = None;
    let config = Config {
        bpffs: node.pins.path().to_owned(),
        cgroup: Some("/tmp".into()),
        conntrack_entries: 1024,
        ..Config::default()
    };
    let opened = node.host.run(|| EbpfDataplane::open(config).expect("open")).expect("enter");
    node.plane = Some(opened);
    let (available, detail) = feature(&node);
    assert!(!available && detail.contains("/tmp") && detail.contains("cgroup v2"), "{detail}");
    let (plane, snapshot) = (node.plane.as_mut().expect("open"), &node.snapshot);
    let applied = node.host.run(|| plane.apply(snapshot, &Changed::all(snapshot))).expect("enter");
    assert!(applied.expect("apply").failed.is_empty());
    node.clean_up();
}
