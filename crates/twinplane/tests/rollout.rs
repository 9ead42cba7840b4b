//! Pods that go and come under load: what clients outside ask for all the while is answered, without a single failure.
//! Needs root.

mod common;

use std::{
    collections::BTreeSet,
    fs,
    process::Output,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use common::{Named, json, succeeded};

const PATIENCE: Duration = Duration::from_secs(90);
const GATE: &str = "example.com/live";

impl Named {
    fn kubectl(&self, arguments: &[&str]) -> Output {
        self.lab("kubectl", &[&["--", "-n", "netflow-test"], arguments].concat())
    }

    fn get(&self, arguments: &[&str]) -> Value {
        json(&self.kubectl(&[&["get"], arguments, &["-o", "json"]].concat()))
    }

    /// With health checks that notice within two seconds.
    fn bring_up(&self, plane: &str) {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rollout.yaml");
        let checks = ["--health-check-interval", "500ms", "--health-check-timeout", "500ms"];
        self.up(&[&["--dataplane", plane, "-f", manifest], &checks[..]].concat());
    }

    fn pods(&self) -> BTreeSet<String> {
        let pods = self.get(&["pods", "-l", "app=nginx"]);
        let names = pods["items"].as_array().into_iter().flatten().map(|pod| &pod["metadata"]["name"]);
        names.map(|name| name.as_str().expect("a name").to_owned()).collect()
    }

    /// URLs of all load-balancer addresses of a Service.
    fn urls(&self, service: &str) -> Vec<String> {
        let service = self.get(&["service", service]);
        let addresses = service["status"]["loadBalancer"]["ingress"].as_array().expect("addresses");
        let texts = addresses.iter().map(|address| address["ip"].as_str().expect("an address"));
        let url =
            |ip: &str| if ip.contains(':') { format!("http://[{ip}]/") } else { format!("http://{ip}/") };
        texts.map(url).collect()
    }
}

/// A client outside that asks, over one connection after the other, until it is told to stop.
struct Load {
    folder: TempDir,
    client: Option<JoinHandle<Output>>,
}

impl Load {
    fn start(lab: &Named, urls: &[String]) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().display();
        let urls = urls.join(" ");
        let script = format!(
            "while [ ! -e {path}/stop ]; do for url in {urls}; do \
             curl -gsS --fail -m 5 -H 'Connection: close' $url >> {path}/answers 2>&1 || echo \"LOST $url\" >> {path}/answers; \
             done; done"
        );
        let lab = lab.0.clone();
        let client = std::thread::spawn(move || {
            common::run(&["lab", "exec", "--name", &lab, "client", "--", "sh", "-c", &script])
        });
        Self { folder, client: Some(client) }
    }

    fn answers(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join("answers")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits until each of `pods` has answered after the first `seen` answers.
    fn wait_for(&self, pods: &BTreeSet<String>, seen: usize) {
        until(&format!("answers of {pods:?}"), || {
            let answers = self.answers();
            let of = |pod: &String| answers[seen..].iter().any(|line| line.contains(&format!("pod={pod} ")));
            pods.iter().all(of)
        });
    }

    fn stop(&mut self) -> Vec<String> {
        fs::write(self.folder.path().join("stop"), "").expect("write");
        if let Some(client) = self.client.take() {
            succeeded(&client.join().expect("no panic"));
        }
        self.answers()
    }

    #[track_caller]
    fn lost_nothing(mut self) {
        let answers = self.stop();
        let strange: Vec<_> = answers.iter().filter(|line| !line.starts_with("pod=")).collect();
        assert!(strange.is_empty(), "of {} answers: {strange:#?}", answers.len());
    }
}

impl Drop for Load {
    /// Whatever happened: the client ends before its lab does.
    fn drop(&mut self) {
        let _ = fs::write(self.folder.path().join("stop"), "");
        let _ = self.client.take().map(JoinHandle::join);
    }
}

#[track_caller]
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Behaviour 75, under both policies and in both families at once.
fn a_rolling_update_loses_no_request(plane: &str) {
    let lab = Named::new();
    lab.bring_up(plane);
    let before = lab.pods();
    let load = Load::start(&lab, &[lab.urls("everywhere"), lab.urls("local")].concat());
    load.wait_for(&before, 0);
    succeeded(&lab.kubectl(&["rollout", "restart", "deployment/nginx"]));
    succeeded(&lab.kubectl(&["rollout", "status", "deployment/nginx", "--timeout=90s"]));
    until("the old pods are gone", || lab.pods().is_disjoint(&before));
    let after = lab.pods();
    assert_eq!(after.len(), 3);
    load.wait_for(&after, load.answers().len());
    load.lost_nothing();
}

#[test]
fn a_rolling_update_loses_no_request_on_ebpf() {
    a_rolling_update_loses_no_request("ebpf");
}

#[test]
fn a_rolling_update_loses_no_request_on_iptables() {
    a_rolling_update_loses_no_request("iptables");
}

/// Behaviour 85, first half: by its own connections, to a Service of its own and to others, and by those of others.
fn a_terminating_pod_asks_and_answers(lab: &Named) {
    let pods = lab.pods();
    let pod = pods.first().expect("a pod").as_str();
    let own = lab.get(&["pod", pod])["status"]["podIP"].as_str().expect("an address").to_owned();
    let cluster_ip =
        lab.get(&["service", "local"])["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    succeeded(&lab.kubectl(&["delete", "pod", pod, "--wait=false"]));
    let curl = |place: &str, url: &str| {
        let curl = ["--", "curl", "-gsS", "--fail", "-m", "5", url];
        succeeded(&lab.lab("exec", &[&[place], &curl[..]].concat()))
    };
    let asked =
        [format!("http://{cluster_ip}/"), lab.urls("everywhere").remove(0)].map(|url| curl(pod, &url));
    assert!(asked.iter().all(|page| !page.contains(&format!("pod={pod} "))), "ready ones answer: {asked:?}");
    assert!(curl("client", &format!("http://{own}/")).contains(&format!("pod={pod} ")));
    let terminating = lab.get(&["pod", pod]);
    assert!(terminating["metadata"]["deletionTimestamp"].is_string(), "all of this while it terminated");
}

/// Behaviour 85, second half: traffic moves with the gates, one opened before the other is closed.
fn a_switch_by_readiness_gates_loses_no_request(lab: &Named) {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/switch.yaml");
    succeeded(&lab.kubectl(&["apply", "-f", manifest]));
    let gate = |pod: &str, status: &str| {
        let patch = format!(r#"{{"status":{{"conditions":[{{"type":"{GATE}","status":"{status}"}}]}}}}"#);
        succeeded(&lab.kubectl(&["patch", "pod", pod, "--subresource=status", "-p", &patch]));
    };
    let one = |pod: &str| BTreeSet::from([pod.to_owned()]);
    gate("blue", "True");
    succeeded(&lab.kubectl(&["wait", "pod/blue", "--for=condition=Ready", "--timeout=60s"]));
    until("an address", || {
        lab.get(&["service", "switched"])["status"]["loadBalancer"]["ingress"][0]["ip"].is_string()
    });
    let urls = lab.urls("switched");
    until("the load balancer serves", || {
        let curl = ["client", "--", "curl", "-sS", "--fail", "-m", "1", &urls[0]];
        lab.lab("exec", &curl).status.success()
    });
    let load = Load::start(lab, &urls);
    load.wait_for(&one("blue"), 0);
    for (next, last) in [("green", "blue"), ("blue", "green")] {
        gate(next, "True");
        load.wait_for(&one(next), load.answers().len());
        gate(last, "False");
        until("the other is asked no more", || {
            let answers = load.answers();
            answers.len() > 10
                && answers.iter().rev().take(10).all(|line| line.contains(&format!("pod={next} ")))
        });
    }
    load.lost_nothing();
}

fn comings_and_goings(plane: &str) {
    let lab = Named::new();
    lab.bring_up(plane);
    a_terminating_pod_asks_and_answers(&lab);
    a_switch_by_readiness_gates_loses_no_request(&lab);
}

#[test]
fn pods_that_end_and_switch_are_served_on_ebpf() {
    comings_and_goings("ebpf");
}

#[test]
fn pods_that_end_and_switch_are_served_on_iptables() {
    comings_and_goings("iptables");
}
