//! A NetworkPolicy in a lab: who is allowed is served, who is not times out, and the drop is seen by name. Needs root.

mod common;

use std::time::{Duration, Instant};

use common::{Named, json, run, succeeded, texts};

const OBJECTS: &str = r#"{"apiVersion": "v1", "kind": "List", "items": [
  {"apiVersion": "v1", "kind": "Pod",
   "metadata": {"name": "client-allowed", "namespace": "netflow-test", "labels": {"role": "frontend"}},
   "spec": {"containers": [{"name": "c", "image": "twinplane/echo"}]}},
  {"apiVersion": "v1", "kind": "Pod",
   "metadata": {"name": "client-blocked", "namespace": "netflow-test", "labels": {"role": "other"}},
   "spec": {"containers": [{"name": "c", "image": "twinplane/echo"}]}},
  {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
   "metadata": {"name": "nginx-allow-frontend", "namespace": "netflow-test"},
   "spec": {"podSelector": {"matchLabels": {"app": "nginx"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"role": "frontend"}}}]}]}}]}"#;

/// The status of an HTTP request from a place of the lab; "000" where nobody answers.
fn status(lab: &Named, from: &str, address: &str) -> String {
    let url = format!("http://{address}/");
    let curl = ["curl", "-gs", "-m", "2", "-o", "/dev/null", "-w", "%{http_code}", &url];
    texts(&lab.lab("exec", &[&[from, "--"], &curl[..]].concat())).0
}

#[test]
fn who_is_allowed_is_served_and_who_is_not_times_out_and_is_seen() {
    let lab = Named::new();
    lab.up(&["--dataplane", "ebpf"]);
    let directory = tempfile::tempdir().expect("directory");
    let file = directory.path().join("objects.json");
    std::fs::write(&file, OBJECTS).expect("write");
    let kubectl = |rest: &[&str]| lab.lab("kubectl", &[&["--", "-n", "netflow-test"], rest].concat());
    succeeded(&kubectl(&["apply", "-f", &file.display().to_string()]));
    let pods = ["pod/client-allowed", "pod/client-blocked"];
    succeeded(&kubectl(&[&["wait", "--for=condition=Ready", "--timeout=30s"], &pods[..]].concat()));
    let service = json(&kubectl(&["get", "service", "nginx", "-o", "json"]));
    let nginx = json(&kubectl(&["get", "pods", "-l", "app=nginx", "-o", "json"]));
    let frontend = service["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    let pod = nginx["items"][0]["status"]["podIP"].as_str().expect("an address").to_owned();
    // The policy came with the pods: its way to the nodes is not waited for by anybody.
    let deadline = Instant::now() + Duration::from_secs(20);
    while status(&lab, "netflow-test/client-blocked", &pod) != "000" {
        assert!(Instant::now() < deadline, "the policy reaches nobody");
    }
    for address in [&frontend, &pod] {
        assert_eq!(status(&lab, "netflow-test/client-allowed", address), "200", "{address}");
        assert_eq!(status(&lab, "netflow-test/client-blocked", address), "000", "{address}");
    }
    let seen = |node: &str| {
        let asked = ["observe", "--lab", &lab.0, "--node", node, "--verdict", "DROPPED", "--all"];
        texts(&run(&asked)).0
    };
    let drops = seen("node-a") + &seen("node-b");
    let line = drops.lines().find(|line| line.contains("Policy denied DROPPED (TCP Flags: SYN)"));
    let line = line.unwrap_or_else(|| panic!("no drop by policy: {drops}"));
    assert!(line.contains("netflow-test/client-blocked") && line.contains("netflow-test/nginx-"), "{line}");
    succeeded(&kubectl(&["delete", "networkpolicy", "nginx-allow-frontend"]));
    while status(&lab, "netflow-test/client-blocked", &frontend) != "200" {
        assert!(Instant::now() < deadline + Duration::from_secs(20), "it stays denied");
    }
}
