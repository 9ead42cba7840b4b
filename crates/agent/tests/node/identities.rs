//! Identities and endpoints: allocated by the agents among themselves, told through the API server, kept on every node.

use std::collections::BTreeMap;

use model::{IdentityId, Reserved};
use serde_json::{Value, json};

use crate::{
    pods::Pod,
    support::{Node, SLICES, slice},
};

const IDENTITIES: &str = "/apis/twinplane.dev/v1alpha1/twinplaneidentities";
const ENDPOINTS: &str = "/apis/twinplane.dev/v1alpha1/namespaces/default/twinplaneendpoints";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// Creates the Pod object of a pod of `node`, and attaches the pod there.
fn attach(node: &Node, name: &str, labels: &Value) -> (Pod, String) {
    let object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "spec": {"nodeName": node.config.node, "containers": [{"name": "c", "image": "i"}]},
    });
    node.api("POST", PODS, &object);
    let pod = Pod::new(name);
    let added = node.wait(node.client.cni_add(&pod.request)).expect("added");
    (pod, added.addresses[0].address.to_string())
}

fn in_kernel(node: &Node, prefix: &str) -> Option<IdentityId> {
    node.fake.kernel().addresses.get(&prefix.parse().expect("prefix")).copied()
}

/// Waits until `node` has an identity of the cluster for `prefix`.
fn identified(node: &Node, prefix: &str, other_than: Option<IdentityId>) -> IdentityId {
    node.until(&format!("an identity of {prefix}"), async || {
        in_kernel(node, prefix).filter(|id| id.is_of_cluster() && Some(*id) != other_than)
    })
}

fn labels_of(node: &Node, id: IdentityId) -> Vec<String> {
    let views = node.wait(node.client.identities()).expect("identities");
    views.into_iter().find(|view| view.id == id).map(|view| view.labels).unwrap_or_default()
}

/// Numbers by labels, as the API server has them.
fn numbers(node: &Node) -> BTreeMap<String, Vec<String>> {
    let list = node.api("GET", IDENTITIES, &Value::Null);
    let mut numbers = BTreeMap::<_, Vec<_>>::new();
    for item in list["items"].as_array().expect("items") {
        let name = item["metadata"]["name"].as_str().expect("name").to_owned();
        numbers.entry(item["spec"]["labels"].to_string()).or_default().push(name);
    }
    numbers
}

#[test]
fn a_pod_is_known_on_both_nodes_by_its_labels_and_kubectl_shows_it() {
    let node = Node::start();
    node.create_nodes();
    let peer = node.start_peer();
    let (pod, prefix) = attach(&node, "web-1", &json!({"app": "web", "pod-template-hash": "1"}));
    let id = identified(&node, &prefix, None);
    assert_eq!(identified(&peer, &prefix, None), id);
    let expected = [
        "k8s:app=web",
        "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=default",
        "k8s:io.cilium.k8s.policy.cluster=default",
        "k8s:io.cilium.k8s.policy.serviceaccount=default",
        "k8s:io.kubernetes.pod.namespace=default",
    ];
    assert_eq!(labels_of(&peer, id), expected);

    let address = prefix.trim_end_matches("/32");
    let shown = node.kubectl(&["get", "twinplaneendpoints"]);
    let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "POD", "IDENTITY", "IP", "NODE"]);
    assert_eq!(lines[1], ["web-1", "web-1", &id.to_string(), address, "node-a"]);
    let columns = "custom-columns=POD:.metadata.name,IDENTITY:.status.identity,IP:.status.addresses[0],NODE:.status.node";
    let shown = node.kubectl(&["get", "tpep", "-o", columns]);
    assert!(shown.starts_with("POD     IDENTITY"), "{shown}");

    // A second pod of the same labels, on the other node: one row on every node, and no other identity.
    let before = node.fake.kernel().addresses.clone();
    let (_second, other) = attach(&peer, "web-2", &json!({"app": "web", "pod-template-hash": "2"}));
    assert_eq!(identified(&node, &other, None), id);
    let after = node.fake.kernel().addresses.clone();
    let moved: Vec<_> = after.iter().filter(|(prefix, id)| before.get(prefix) != Some(id)).collect();
    assert_eq!(moved, [(&other.parse().expect("prefix"), &id)], "one row");
    assert_eq!(numbers(&node).len(), 1);

    node.wait(node.client.cni_del(&pod.request.attachment)).expect("detached");
    peer.until("its end is known", async || in_kernel(&peer, &prefix).is_none().then_some(()));
    let endpoints = node.wait(node.client.cluster_endpoints()).expect("endpoints");
    assert_eq!(
        endpoints.iter().map(|e| (e.pod.name.as_str(), e.node.as_str())).collect::<Vec<_>>(),
        [("web-2", "node-b")]
    );
}

#[test]
fn nodes_the_api_server_and_the_world_have_reserved_identities() {
    let node = Node::start();
    node.create_nodes();
    let servers = [("10.128.0.1", "elsewhere"), ("10.128.0.11", "node-a"), ("10.128.0.12", "node-b")];
    let of = |prefix: &str| in_kernel(&node, prefix).and_then(Reserved::from_id);
    node.until("the table", async || of("0.0.0.0/0"));
    assert_eq!(of("10.128.0.12/32"), Some(Reserved::RemoteNode));
    node.api("POST", SLICES, &slice("kubernetes", &servers));
    node.until("the API server", async || of("10.128.0.1/32").filter(|id| *id == Reserved::KubeApiserver));
    assert_eq!(of("10.128.0.12/32"), Some(Reserved::KubeApiserver));
    assert_eq!(of("10.128.0.11/32"), Some(Reserved::Host), "also where it serves the API");
    assert_eq!(of("0.0.0.0/0"), Some(Reserved::World));
    assert_eq!(of("::/0"), Some(Reserved::World));
    assert_eq!(of("10.20.0.0/16"), Some(Reserved::Unmanaged), "never the world, even before it is known");

    let pod = Pod::new("no-object");
    let added = node.wait(node.client.cni_add(&pod.request)).expect("added");
    let prefix = added.addresses[0].address.to_string();
    node.until("init", async || of(&prefix).filter(|id| *id == Reserved::Init));
}

#[test]
fn labels_of_a_pod_and_of_its_namespace_change_the_identity() {
    let node = Node::start();
    node.create_nodes();
    let (_pod, prefix) = attach(&node, "web", &json!({"app": "web"}));
    let first = identified(&node, &prefix, None);
    node.api("PATCH", &format!("{PODS}/web"), &json!({"metadata": {"labels": {"role": "new"}}}));
    let second = identified(&node, &prefix, Some(first));
    assert!(labels_of(&node, second).contains(&"k8s:role=new".into()));
    node.api("PATCH", "/api/v1/namespaces/default", &json!({"metadata": {"labels": {"team": "a"}}}));
    let third = identified(&node, &prefix, Some(second));
    assert!(labels_of(&node, third).contains(&"k8s:io.cilium.k8s.namespace.labels.team=a".into()));
    node.api("PATCH", "/api/v1/namespaces/default", &json!({"metadata": {"labels": {"team": null}}}));
    node.api("PATCH", &format!("{PODS}/web"), &json!({"metadata": {"labels": {"role": null}}}));
    node.until("the first again", async || (in_kernel(&node, &prefix)? == first).then_some(()));
    node.until("it is told", async || {
        let told = node.api("GET", &format!("{ENDPOINTS}/web"), &Value::Null);
        (told["status"]["identity"] == first.get()).then_some(())
    });
}

#[test]
fn nodes_that_see_the_same_labels_first_agree_on_one_number_for_each() {
    const SETS: usize = 6;
    let node = Node::start();
    node.create_nodes();
    let peer = node.start_peer();
    let attach_all = |node: &Node| -> Vec<(Pod, String)> {
        let labels = |set: usize| json!({"set": set.to_string()});
        (0..SETS).map(|set| attach(node, &format!("{}-{set}", node.config.node), &labels(set))).collect()
    };
    let (ours, theirs) = std::thread::scope(|scope| {
        let theirs = scope.spawn(|| attach_all(&peer));
        (attach_all(&node), theirs.join().expect("attached"))
    });
    for ((_, a), (_, b)) in ours.iter().zip(&theirs) {
        let id = identified(&node, a, None);
        for (node, prefix) in [(&node, b), (&peer, a), (&peer, b)] {
            assert_eq!(identified(node, prefix, None), id);
        }
    }
    let numbers = numbers(&node);
    assert_eq!(numbers.len(), SETS);
    assert!(numbers.values().all(|numbers| numbers.len() == 1), "{numbers:?}");
}

#[test]
fn a_restarted_agent_finds_everything_as_it_was_and_removes_what_went_meanwhile() {
    let mut node = Node::start();
    node.create_nodes();
    let (_kept, kept) = attach(&node, "kept", &json!({"app": "kept"}));
    let (gone_pod, gone) = attach(&node, "gone", &json!({"app": "gone"}));
    let id = identified(&node, &kept, None);
    identified(&node, &gone, None);
    let told =
        |node: &Node| node.api("GET", ENDPOINTS, &Value::Null)["items"].as_array().cloned().expect("items");
    node.until("both are told", async || (told(&node).len() == 2).then_some(()));
    let before = told(&node);
    node.stop_agent();
    assert_eq!(in_kernel(&node, &kept), Some(id), "the kernel keeps what it has");
    gone_pod.ip("link delete eth0");
    node.start_agent();
    node.until("the end is told", async || (told(&node).len() == 1).then_some(()));
    node.until("and programmed", async || in_kernel(&node, &gone).is_none().then_some(()));
    assert_eq!(in_kernel(&node, &kept), Some(id));
    let kept_before = before.iter().find(|item| item["metadata"]["name"] == "kept");
    assert_eq!(told(&node).first(), kept_before, "not written anew");
}

#[test]
fn an_identity_that_nobody_used_for_long_is_removed_and_one_that_is_needed_is_kept() {
    let node = Node::start();
    node.create_node_objects();
    let stale = |name: &str, since: Value| {
        json!({
            "apiVersion": "twinplane.dev/v1alpha1", "kind": "TwinplaneIdentity",
            "metadata": {"name": name, "annotations": {"twinplane.dev/unused-since": since}},
            "spec": {"labels": {"k8s:app": name}},
        })
    };
    node.until("the definition", async || {
        let found = node.api("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &Value::Null);
        (found["items"].as_array()?.len() == 2).then_some(())
    });
    // Of two nodes, each collects every other number, in order of name: even ones are node-a's.
    let long_ago = json!("2020-01-01T00:00:00Z");
    for name in ["300", "301"] {
        node.api("POST", IDENTITIES, &stale(name, long_ago.clone()));
    }
    let all = || -> BTreeMap<String, Value> {
        let list = node.api("GET", IDENTITIES, &Value::Null);
        let items = list["items"].as_array().cloned().expect("items");
        let since = |item: &Value| item["metadata"]["annotations"]["twinplane.dev/unused-since"].clone();
        items.iter().map(|i| (i["metadata"]["name"].as_str().expect("name").into(), since(i))).collect()
    };
    node.until("300 is removed", async || (!all().contains_key("300")).then_some(()));
    assert_eq!(all().get("301"), Some(&long_ago), "the other node's to collect");

    // Whoever comes to need it calls the collection off, also that of another node's.
    let labels = json!({"app": "again"});
    let (pod, prefix) = attach(&node, "again", &labels);
    let id = identified(&node, &prefix, None);
    let annotate = |since: Value| {
        let path = format!("{IDENTITIES}/{id}");
        node.api(
            "PATCH",
            &path,
            &json!({"metadata": {"annotations": {"twinplane.dev/unused-since": since}}}),
        );
    };
    annotate(long_ago.clone());
    node.until("it is kept", async || all().get(&id.to_string()).is_some_and(Value::is_null).then_some(()));
    assert_eq!(in_kernel(&node, &prefix), Some(id));
    drop(pod);
}

#[test]
fn a_pod_is_held_back_until_the_kernel_knows_it_and_not_for_long() {
    let mut node = Node::without_agent();
    node.config.identity_within = std::time::Duration::from_secs(20);
    node.start_agent();
    node.create_nodes();
    let (_pod, prefix) = attach(&node, "web-1", &json!({"app": "web"}));
    assert!(in_kernel(&node, &prefix).is_some_and(IdentityId::is_of_cluster), "known when ADD answers");

    node.stop_agent();
    node.config.identity_within = std::time::Duration::from_millis(100);
    node.start_agent();
    node.until("the agent is ready", async || node.client.cni_status().await.ok());
    let nobody = Pod::new("nobody");
    let added = node.wait(node.client.cni_add(&nobody.request)).expect("added all the same");
    let known = in_kernel(&node, &added.addresses[0].address.to_string());
    assert!(!known.is_some_and(IdentityId::is_of_cluster), "there is no Pod object");
}
