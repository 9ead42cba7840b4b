//! A thousand connections over every kind of frontend, on each plane, from the shipped command. Needs root.

mod common;

use std::{collections::BTreeMap, process::Command};

use serde_json::Value;

use common::{Named, json, succeeded};

const REQUESTS: usize = 1000;

impl Named {
    fn exec(&self, place: &str, command: &[&str]) -> String {
        succeeded(&self.lab("exec", &[&[place, "--"], command].concat()))
    }

    fn kubectl(&self, arguments: &[&str]) -> Value {
        json(&self.lab("kubectl", &[&["--", "-n", "netflow-test"], arguments, &["-o", "json"]].concat()))
    }

    /// Answers per pod of `REQUESTS` new connections.
    fn answers(&self, place: &str, authority: &str) -> BTreeMap<String, usize> {
        let urls = format!("http://{authority}/?[1-{REQUESTS}]");
        let pages =
            self.exec(place, &["curl", "-sS", "--fail", "-m", "10", "-H", "Connection: close", &urls]);
        let pods = pages.split_whitespace().filter_map(|word| word.strip_prefix("pod="));
        pods.fold(BTreeMap::new(), |mut counts, pod| {
            *counts.entry(pod.to_owned()).or_default() += 1;
            counts
        })
    }
}

/// Every request answered, by three pods, each within five standard deviations of its share: a fair plane fails this
/// less than once in 100,000 runs.
#[track_caller]
fn assert_fair(counts: &BTreeMap<String, usize>, what: &str) {
    assert_eq!(counts.values().sum::<usize>(), REQUESTS, "{what}: {counts:?}");
    assert_eq!(counts.len(), 3, "{what}: {counts:?}");
    let (n, share) = (REQUESTS as f64, 1.0 / 3.0);
    let bound = 5.0 * (n * share * (1.0 - share)).sqrt();
    for (pod, count) in counts {
        assert!((*count as f64 - n * share).abs() < bound, "{what}: {pod} got {count} of {REQUESTS}");
    }
}

fn carries_everything(plane: &str) {
    let lab = Named::new();
    lab.up(&["--dataplane", plane]);
    let service = lab.kubectl(&["get", "service", "nginx"]);
    let vip = service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().expect("a VIP").to_owned();
    let cluster_ip = service["spec"]["clusterIP"].as_str().expect("a cluster IP").to_owned();
    let node_port = format!("10.128.0.11:{}", service["spec"]["ports"][0]["nodePort"]);
    let pods = lab.kubectl(&["get", "pods"]);
    let pod = pods["items"][0]["metadata"]["name"].as_str().expect("a pod").to_owned();

    let ways = [("client", vip.as_str()), ("client", &node_port), (pod.as_str(), &cluster_ip)];
    // To its own addresses, without any network in between.
    let by_itself = [("node-a", vip.as_str()), ("node-a", &node_port)];
    for (place, authority) in ways.into_iter().chain(by_itself) {
        assert_fair(&lab.answers(place, authority), &format!("{plane}: {authority} from {place}"));
    }

    let file = format!("/run/twinplane/lab/{}/body/100M", lab.0);
    let sum = Command::new("sha256sum").arg(&file).output().expect("sha256sum");
    let expected = succeeded(&sum);
    let expected = expected.split_whitespace().next().expect("a sum");
    for (place, authority) in ways {
        let fetch = format!("curl -sS --fail -m 60 http://{authority}/body/100M | sha256sum");
        let got = lab.exec(place, &["sh", "-c", &fetch]);
        assert!(got.starts_with(expected), "{plane}: 100 MiB over {authority} arrive damaged");
    }
}

#[test]
fn the_ebpf_plane_carries_everything() {
    carries_everything("ebpf");
}

#[test]
fn the_iptables_plane_carries_everything() {
    carries_everything("iptables");
}
