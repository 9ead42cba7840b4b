//! What people are told of policies: the status of one that is not enforced as it is written, and an Event, once, whatever the
//! number of nodes. And the definitions of our own kinds, when an older agent made them.

use cluster::definitions;
use serde_json::{Value, json};

use crate::{pods::Pod, support::Node};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const POLICIES: &str = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies";
const EVENTS: &str = "/api/v1/namespaces/default/events";

fn two_nodes() -> (Node, Node) {
    let mut node = Node::without_agent();
    node.enforces = true;
    node.api("POST", DEFINITIONS, &json!(policy::v1alpha2::definition()));
    node.start_agent();
    node.create_nodes();
    let peer = node.start_peer();
    peer.until_known();
    (node, peer)
}

fn policy(peer: &Value) -> Value {
    let rule = json!({"action": "Accept", "to": [peer]});
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "to-nodes"},
        "spec": {"tier": "Admin", "priority": 5, "subject": {"namespaces": {}}, "egress": [rule]},
    })
}

fn condition(node: &Node) -> Option<Value> {
    let object = node.api("GET", &format!("{POLICIES}/to-nodes"), &Value::Null);
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == "Accepted").cloned()
}

fn events(node: &Node, kind: &str) -> Vec<Value> {
    let all = node.api("GET", EVENTS, &Value::Null);
    let all = all["items"].as_array().cloned().unwrap_or_default();
    all.into_iter().filter(|event| event["involvedObject"]["kind"] == kind).collect()
}

#[test]
fn a_cluster_network_policy_says_what_of_it_is_refused_and_is_described_with_it() {
    let (node, peer) = two_nodes();
    node.api("POST", POLICIES, &policy(&json!({"nodes": {}})));
    let refused = node.until("a condition", async || condition(&node));
    assert_eq!((&refused["status"], &refused["reason"]), (&json!("False"), &json!("PartsRefused")));
    let message = refused["message"].as_str().expect("a message");
    assert!(message.contains("spec.egress[0].to[0]: nodes peers are not supported"), "{message}");
    assert_eq!(refused["observedGeneration"], 1);
    for node in [&node, &peer] {
        node.until("it is a problem", async || {
            let status = node.client.status().await.ok()?;
            status.problems.iter().find(|problem| problem.kind == "ClusterNetworkPolicy").cloned()
        });
    }
    node.until("an Event", async || (!events(&node, "ClusterNetworkPolicy").is_empty()).then_some(()));
    let described = node.kubectl(&["describe", "clusternetworkpolicies", "to-nodes"]);
    for part in ["Status:", "PartsRefused", "PolicyNotProgrammed", "nodes peers are not supported"] {
        assert!(described.contains(part), "{part}: {described}");
    }

    // What others say there stays.
    let mut all = vec![refused.clone()];
    let theirs = json!({"type": "Theirs", "status": "True", "reason": "X", "message": "y",
                        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    all.push(theirs.clone());
    node.api("PATCH", &format!("{POLICIES}/to-nodes/status"), &json!({"status": {"conditions": all}}));
    let spec = policy(&json!({"namespaces": {}}))["spec"].clone();
    node.api("PATCH", &format!("{POLICIES}/to-nodes"), &json!({"spec": spec}));
    let accepted =
        node.until("acceptance", async || condition(&node).filter(|said| said["status"] == "True"));
    assert_eq!((&accepted["reason"], &accepted["observedGeneration"]), (&json!("AsWritten"), &json!(2)));
    let object = node.api("GET", &format!("{POLICIES}/to-nodes"), &Value::Null);
    assert!(object["status"]["conditions"].as_array().expect("conditions").contains(&theirs), "{object}");
    let listed = node.kubectl(&["get", "clusternetworkpolicies"]);
    assert!(listed.lines().next().is_some_and(|line| line.contains("ACCEPTED")), "{listed}");
    // The same once more is no other object.
    let version = object["metadata"]["resourceVersion"].clone();
    node.api("PATCH", &format!("{POLICIES}/to-nodes"), &json!({"metadata": {"labels": {"a": "b"}}}));
    let later = node.api("GET", &format!("{POLICIES}/to-nodes"), &Value::Null);
    assert_ne!(later["metadata"]["resourceVersion"], version);
    assert_eq!(condition(&node).expect("a condition")["lastTransitionTime"], accepted["lastTransitionTime"]);
    assert_eq!(events(&node, "ClusterNetworkPolicy").len(), 1, "of two nodes, and none for what is fine");
}

#[test]
fn a_network_policy_has_one_event_for_each_invalid_part_however_many_nodes_there_are() {
    let (node, peer) = two_nodes();
    let object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "odd", "namespace": "default"},
        "spec": {"podSelector": {"matchLabels": {"pod-template-hash": "1"}}, "ingress": [{"ports": [{"port": 80}]}]},
    });
    node.api("POST", "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies", &object);
    for node in [&node, &peer] {
        node.until("it is a problem", async || {
            let status = node.client.status().await.ok()?;
            status.problems.iter().find(|problem| problem.kind == "NetworkPolicy").cloned()
        });
    }
    node.until("an Event", async || (!events(&node, "NetworkPolicy").is_empty()).then_some(()));
    // `kubectl describe` shows no Events of NetworkPolicies.
    let listed = node.kubectl(&["events", "--for", "networkpolicy/odd"]);
    assert!(listed.contains("PolicyNotProgrammed"), "{listed}");
    assert!(listed.contains("spec.podSelector: label \"pod-template-hash\""), "{listed}");
    // Both agents had it to tell by then, or have it told before they end.
    drop(peer);
    let all = events(&node, "NetworkPolicy");
    assert_eq!(all.len(), 1, "{all:?}");
}

#[test]
fn a_definition_of_an_older_agent_is_replaced_and_a_newer_ones_is_not() {
    let mut node = Node::without_agent();
    let [identity, endpoint] = definitions().map(|definition| json!(definition));
    let mut old = endpoint.clone();
    old["metadata"]["annotations"] = json!({"somebody": "else"});
    let status = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties";
    old.pointer_mut(status).and_then(Value::as_object_mut).expect("properties").remove("ports");
    node.api("POST", DEFINITIONS, &old);
    let mut newer = identity;
    newer["metadata"]["annotations"]["twinplane.dev/schema"] = json!("1000");
    newer["spec"]["names"]["shortNames"] = json!(["newer"]);
    node.api("POST", DEFINITIONS, &newer);
    node.start_agent();
    node.create_nodes();
    let object = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"nodeName": "node-a",
                 "containers": [{"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 8080}]}]},
    });
    node.api("POST", "/api/v1/namespaces/default/pods", &object);
    let pod = Pod::new("web");
    node.wait(node.client.cni_add(&pod.request)).expect("added");
    let published = "/apis/twinplane.dev/v1alpha1/namespaces/default/twinplaneendpoints";
    let ports = node.until("ports are told", async || {
        let all = node.api("GET", published, &Value::Null);
        all["items"][0]["status"]["ports"].as_array().cloned()
    });
    assert_eq!(ports, [json!({"name": "http", "protocol": "TCP", "port": 8080})]);
    let get = |name: &str| node.api("GET", &format!("{DEFINITIONS}/{name}.twinplane.dev"), &Value::Null);
    let replaced = get("twinplaneendpoints");
    assert_eq!(replaced["metadata"]["annotations"]["somebody"], "else");
    assert_eq!(replaced["spec"]["versions"], endpoint["spec"]["versions"]);
    assert_eq!(get("twinplaneidentities")["spec"]["names"]["shortNames"], json!(["newer"]));
}
