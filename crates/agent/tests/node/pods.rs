//! Pods through the local API: addresses, interfaces, reachability, restarts, clean-up.

use std::sync::atomic::{AtomicU32, Ordering};

use agent::{
    Routing, Vxlan,
    wire::{AddRequest, Attachment, CheckRequest, CollectRequest, FailureKind},
};
use dataplane::Key;
use model::PodName;
use netns::Owned;

use crate::support::{Node, run};

pub(crate) struct Pod {
    namespace: Owned,
    pub(crate) request: AddRequest,
}

impl Pod {
    pub(crate) fn new(name: &str) -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let unique = format!("tp-pod-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let namespace = Owned::create(&unique).expect("create a namespace");
        let attachment = Attachment { container_id: unique, ifname: "eth0".into() };
        let pod = PodName { namespace: "default".into(), name: name.into() };
        let request = AddRequest { attachment, netns: namespace.path(), pod, mtu: Some(1400) };
        Self { namespace, request }
    }

    pub(crate) fn ip(&self, arguments: &str) -> String {
        run(self.namespace.command("ip").args(arguments.split(' ')))
    }
}

fn host_interfaces(node: &Node) -> usize {
    let links = run(node.namespace.command("ip").args(["-o", "link", "show"]));
    links.lines().filter(|line| line.contains(": tp")).count()
}

#[test]
fn two_pods_get_addresses_and_reach_each_other_and_their_node() {
    let node = Node::start();
    node.create_nodes();
    let pods = [Pod::new("a"), Pod::new("b")];
    let addresses: Vec<_> = pods
        .iter()
        .map(|pod| {
            let added = node.wait(node.client.cni_add(&pod.request)).expect("added");
            let again = node.wait(node.client.cni_add(&pod.request)).expect("the same again");
            assert_eq!(added, again);
            assert!(
                node.fake.kernel().endpoints.contains_key(&pod.request.pod),
                "the answer comes after the dataplane has it"
            );
            assert_eq!(added.endpoint.interface.len(), 13);
            added.addresses[0].address.to_string()
        })
        .collect();
    assert_eq!(addresses, ["10.20.0.2/32", "10.20.0.3/32"]);
    assert!(pods[0].ip("-o addr show dev eth0").contains("inet 10.20.0.2/32"));
    assert!(pods[0].ip("route show").starts_with("default via 169.254.1.1 dev eth0"));
    assert!(pods[0].ip("link show eth0").contains("mtu 1400"));
    for target in ["10.20.0.3", "10.128.0.11", "127.0.0.1"] {
        run(pods[0].namespace.command("ping").args(["-c", "1", "-W", "5", target]));
    }
    assert!(!pods[0].ip("neigh show").contains("FAILED"));
    run(node.namespace.command("ping").args(["-c", "1", "-W", "5", "10.20.0.2"]));
}

#[test]
fn a_pod_gets_the_mtu_of_the_way_to_other_pods() {
    for (routing, expected) in [(Routing::Native, 9000), (Routing::Vxlan(Vxlan::default()), 8950)] {
        let mut node = Node::without_agent();
        run(node.namespace.command("ip").args(["link", "set", "up0", "mtu", "9000"]));
        node.config.routing = routing;
        node.start_agent();
        node.create_nodes();
        let mut pod = Pod::new("a");
        pod.request.mtu = None;
        let added = node.wait(node.client.cni_add(&pod.request)).expect("added");
        assert_eq!(added.mtu, Some(expected));
        assert!(pod.ip("link show eth0").contains(&format!("mtu {expected} ")));
        let host = run(node.namespace.command("ip").args(["link", "show", &added.endpoint.interface]));
        assert!(host.contains(&format!("mtu {expected} ")));
        assert_eq!(node.wait(node.client.cni_add(&pod.request)).expect("the same again"), added);
    }
}

#[test]
fn removal_is_idempotent_and_frees_everything() {
    let node = Node::start();
    node.create_nodes();
    let pod = Pod::new("a");
    node.wait(node.client.cni_add(&pod.request)).expect("added");
    assert_eq!(host_interfaces(&node), 1);
    for _ in 0..2 {
        node.wait(node.client.cni_del(&pod.request.attachment)).expect("removed");
        assert_eq!(host_interfaces(&node), 0);
        assert!(node.fake.kernel().endpoints.is_empty());
        assert_eq!(node.wait(node.client.endpoints()).expect("endpoints"), []);
    }
    let again = node.wait(node.client.cni_add(&pod.request)).expect("added again");
    assert_eq!(again.addresses[0].address.to_string(), "10.20.0.3/32", "a fresh address comes first");
}

#[test]
fn a_pod_that_the_plane_refuses_is_not_added_and_leaves_nothing() {
    let node = Node::start();
    node.create_nodes();
    let pod = Pod::new("bad");
    node.fake.kernel().refused.insert(Key::Endpoint(pod.request.pod.clone()), "no room".into());
    let error = node.wait(node.client.cni_add(&pod.request)).expect_err("refused");
    assert_eq!(error.kind(), FailureKind::Unavailable);
    assert!(error.source.to_string().contains("no room"), "{}", error.source);
    assert_eq!(host_interfaces(&node), 0);
    assert_eq!(node.wait(node.client.endpoints()).expect("endpoints"), []);
    assert!(!pod.ip("-o link show").contains("eth0"));
}

#[test]
fn without_a_node_object_pods_must_wait_and_the_reason_is_given() {
    let node = Node::start();
    let error = node.wait(node.client.cni_status()).expect_err("not ready");
    assert_eq!(error.kind(), FailureKind::Unavailable);
    let pod = Pod::new("early");
    let error = node.wait(node.client.cni_add(&pod.request)).expect_err("not ready");
    assert!(error.source.to_string().starts_with("waiting for"), "{}", error.source);
    node.create_nodes();
    node.wait(node.client.cni_status()).expect("ready");
    node.wait(node.client.cni_add(&pod.request)).expect("added");
}

#[test]
fn a_restarted_agent_knows_its_pods_and_forgets_those_that_are_gone() {
    let mut node = Node::start();
    node.create_nodes();
    let (kept, gone) = (Pod::new("kept"), Pod::new("gone"));
    for pod in [&kept, &gone] {
        node.wait(node.client.cni_add(&pod.request)).expect("added");
    }
    node.stop_agent();
    let gone_name = gone.request.pod.clone();
    let interface = run(gone.namespace.command("cat").arg("/sys/class/net/eth0/iflink"));
    assert!(!interface.trim().is_empty());
    gone.ip("link delete eth0");
    node.start_agent();
    let endpoints = node.wait(node.client.endpoints()).expect("endpoints");
    assert_eq!(endpoints.iter().map(|e| e.pod.name.as_str()).collect::<Vec<_>>(), ["kept"]);
    node.until("the plane is in step", async || {
        let kernel = node.fake.kernel();
        let known = kernel.endpoints.contains_key(&kept.request.pod);
        known.then_some(())
    });
    let check = CheckRequest {
        attachment: kept.request.attachment.clone(),
        addresses: vec!["10.20.0.2".parse().expect("address")],
    };
    node.wait(node.client.cni_check(&check)).expect("as it was");
    let wrong = CheckRequest { addresses: vec!["10.20.0.9".parse().expect("address")], ..check };
    assert_eq!(node.wait(node.client.cni_check(&wrong)).expect_err("wrong").kind(), FailureKind::Invalid);
    node.until_known();
    let third = Pod::new("third");
    let added = node.wait(node.client.cni_add(&third.request)).expect("added");
    assert_eq!(added.addresses[0].address.to_string(), "10.20.0.4/32", "no address of {gone_name} yet");
}

#[test]
fn collection_removes_what_is_not_listed() {
    let node = Node::start();
    node.create_nodes();
    let (kept, stale) = (Pod::new("kept"), Pod::new("stale"));
    for pod in [&kept, &stale] {
        node.wait(node.client.cni_add(&pod.request)).expect("added");
    }
    let valid = vec![kept.request.attachment.clone()];
    node.wait(node.client.cni_gc(&CollectRequest { valid })).expect("collected");
    let left = node.wait(node.client.endpoints()).expect("endpoints");
    assert_eq!(left.iter().map(|e| e.pod.name.as_str()).collect::<Vec<_>>(), ["kept"]);
    assert_eq!(host_interfaces(&node), 1);
}

#[test]
fn a_dual_stack_node_gives_its_pods_both_families() {
    let node = Node::start();
    for line in ["addr add fd10::11/64 dev up0 nodad", "link set wire0 up"] {
        run(node.namespace.command("ip").args(line.split(' ')));
    }
    node.create_nodes_with(&[("node-a", &["10.128.0.11", "fd10::11"], &["10.20.0.0/24", "fd20::/64"])]);
    let pods = [Pod::new("a"), Pod::new("b")];
    let added = pods.each_ref().map(|pod| node.wait(node.client.cni_add(&pod.request)).expect("added"));
    let text: Vec<_> =
        added[1].addresses.iter().map(|a| format!("{} via {}", a.address, a.gateway)).collect();
    assert_eq!(text, ["10.20.0.3/32 via 169.254.1.1", "fd20::3/128 via fe80::1"]);
    for target in ["10.20.0.3", "fd20::3", "fd10::11"] {
        run(pods[0].namespace.command("ping").args(["-c", "1", "-W", "5", target]));
    }
    run(node.namespace.command("ping").args(["-c", "1", "-W", "5", "fd20::2"]));
}

#[test]
fn l1_nothing_crosses_a_pods_interface_before_it_is_programmed() {
    let node = Node::start();
    node.create_nodes();
    let pod = Pod::new("early");
    // The dataplane does not get on meanwhile.
    let held = node.fake.kernel();
    std::thread::scope(|scope| {
        let adding = scope.spawn(|| node.wait(node.client.cni_add(&pod.request)));
        // All that a process in there needs to send.
        let routed = || !pod.ip("route show default").is_empty();
        node.until("the pod has its routes", async || routed().then_some(()));
        let links = run(node.namespace.command("ip").args(["-o", "link", "show", "up"]));
        assert!(!links.contains(": tp"), "{links}");
        assert!(pod.ip("-s link show dev eth0").contains("NO-CARRIER"));
        assert!(!held.endpoints.contains_key(&pod.request.pod));
        drop(held);
        adding.join().expect("no panic").expect("added");
    });
    run(node.namespace.command("ping").args(["-c", "1", "-W", "5", "10.20.0.2"]));
}
