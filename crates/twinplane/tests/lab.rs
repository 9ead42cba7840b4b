//! `twinplane lab` as a user runs it, with the real binary: up, use, crash, down. Needs root.
//!
//! Each test has labs of its own; whatever happens, they are taken down.

mod common;
#[path = "lab/refusals.rs"]
mod refusals;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use common::{BINARY, Named, json, run, succeeded, texts};

impl Named {
    fn status(&self) -> Value {
        json(&self.lab("status", &["-o", "json"]))
    }

    fn address(&self) -> String {
        let rules = json(&self.lab("forwarding-rules list", &["-o", "json"]));
        rules[0]["ipAddress"].as_str().expect("an address").to_owned()
    }

    /// Every trace a lab can leave.
    fn traces(&self) -> Vec<String> {
        let Self(name) = self;
        let mut traces: Vec<_> = entries(Path::new("/run/netns"))
            .into_iter()
            .filter(|namespace| namespace.starts_with(&format!("tpl-{name}-")))
            .collect();
        for folder in ["/run/twinplane/lab", "/sys/fs/bpf/twinplane-lab"] {
            traces.extend(entries(Path::new(folder)).into_iter().filter(|entry| entry.starts_with(name)));
        }
        if let Some(mount) = cgroup_mount() {
            traces.extend(
                entries(&mount.join("twinplane-lab")).into_iter().filter(|entry| entry.starts_with(name)),
            );
        }
        for pid in entries(Path::new("/proc")).into_iter().filter(|pid| pid.parse::<u32>().is_ok()) {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            // Not this test's own helpers, which name the lab too.
            if command.contains(name.as_str()) && !command.contains("lab down") {
                traces.push(format!("process {pid}: {command}"));
            }
        }
        traces
    }

    #[track_caller]
    fn is_gone(&self) {
        assert_eq!(self.traces(), [""; 0]);
    }
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn cgroup_mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").expect("mounts");
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?;
    line.split(' ').nth(1).map(PathBuf::from)
}

#[track_caller]
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn pids(status: &Value) -> Vec<i64> {
    let nodes = status["nodes"].as_array().expect("nodes");
    nodes.iter().map(|node| node["agent"]["pid"].as_i64().expect("an agent runs")).collect()
}

fn kill(pid: i64) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill").success());
}

fn supervisor(name: &str) -> i64 {
    let folder = PathBuf::from(format!("/run/twinplane/lab/{name}/processes"));
    let records = entries(&folder).into_iter().map(|file| fs::read(folder.join(file)).expect("record"));
    let records = records.map(|text| serde_json::from_slice::<Value>(&text).expect("JSON"));
    let record = records.into_iter().find(|record| record["role"] == "supervisor").expect("recorded");
    record["pid"].as_i64().expect("a number")
}

/// Every pod has an identity that both nodes and `kubectl` show; the kernel of the ebpf plane knows the other node's pods.
fn knows_who_is_who(lab: &Named, plane: &str, pods: &[Value]) {
    let ask = |words: &str, rest: &[&str]| {
        let mut arguments: Vec<&str> = words.split(' ').collect();
        arguments.extend(["--lab", &lab.0]);
        arguments.extend(rest);
        run(&arguments)
    };
    let columns = "custom-columns=POD:.metadata.name,IDENTITY:.status.identity,IP:.status.addresses[0],NODE:.status.node";
    let get = ["--", "-n", "netflow-test", "get", "twinplaneendpoints", "-o", columns, "--no-headers"];
    let mut shown = vec![];
    until("every pod is told of", || {
        let output = texts(&lab.lab("kubectl", &get)).0;
        shown = output.lines().map(|l| l.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect();
        shown.len() == pods.len()
    });
    for pod in pods {
        let [name, ip, node] = ["name", "ip", "node"].map(|key| pod[key].as_str().expect(key));
        let row = shown.iter().find(|row| row[0] == name).unwrap_or_else(|| panic!("{name}: {shown:?}"));
        assert_eq!((row[2].as_str(), row[3].as_str()), (ip, node));
        assert!(row[1].parse::<u32>().expect("a number") >= 256, "{row:?}");
        for asked in ["node-a", "node-b"] {
            let pod = format!("netflow-test/{name}");
            let mut found = Value::Null;
            until("the node knows it", || {
                let output = ask("endpoint get", &[&pod, "--node", asked, "-o", "json"]);
                found = serde_json::from_str(&texts(&output).0).unwrap_or_default();
                found["identity"].as_u64().is_some_and(|id| id.to_string() == row[1])
            });
            let labels = found["labels"].to_string();
            assert!(labels.contains("k8s:io.kubernetes.pod.namespace=netflow-test"), "{labels}");
            let of_kernel = ask("identity get", &[ip, "--node", asked]);
            match plane {
                "ebpf" => assert!(succeeded(&of_kernel).contains(&row[1]), "{}", texts(&of_kernel).0),
                _ => assert_eq!(of_kernel.status.code(), Some(1), "this plane's kernel keeps none"),
            }
        }
    }
    let list = succeeded(&ask("identity list", &[]));
    assert!(list.starts_with("ID") && list.contains("reserved:kube-apiserver"), "{list}");
    let kernel = |address| ask("identity get", &[address, "-o", "json"]);
    if plane == "ebpf" {
        assert_eq!(json(&kernel("198.51.100.1"))["labels"][0], "reserved:world-ipv4");
        assert_eq!(json(&kernel("2001:db8::1"))["labels"][0], "reserved:world-ipv6");
        assert_eq!(json(&kernel("10.20.250.1"))["labels"][0], "reserved:unmanaged");
    }
    assert_eq!(ask("endpoint get", &["no-such-pod"]).status.code(), Some(1));
}

/// Up, used in every way, down.
fn whole_life(plane: &str) {
    let lab = Named::new();
    lab.up(&["--dataplane", plane]);
    let address = lab.address();
    let page = succeeded(
        &lab.lab("exec", &["client", "--", "curl", "-sS", "-m", "5", &format!("http://{address}/")]),
    );
    assert!(!page.is_empty());

    let services = succeeded(&lab.lab("kubectl", &["--", "-n", "netflow-test", "get", "svc", "nginx"]));
    assert!(services.contains("LoadBalancer") && services.contains(&address), "{services}");

    let pool = json(&lab.lab("target-pools describe netflow-test/nginx", &["-o", "json"]));
    assert_eq!(pool["sessionAffinity"], "NONE");
    assert_eq!(pool["healthCheck"]["intervalMs"], 8000);
    assert_eq!(pool["members"].as_array().map(Vec::len), Some(2));
    assert_eq!(pool["history"][0]["answer"], "http");

    let status = lab.status();
    assert_eq!(status["phase"]["phase"], "running");
    assert_eq!(status["plane"], plane);
    let pods = status["pods"].as_array().expect("pods");
    let nodes: std::collections::BTreeSet<_> = pods.iter().map(|pod| pod["node"].to_string()).collect();
    assert_eq!((pods.len(), nodes.len()), (3, 2), "every node has a pod");
    let pod = pods[0]["name"].as_str().expect("a name");
    let inside = succeeded(&lab.lab("exec", &[pod, "--", "ip", "-brief", "address", "show", "eth0"]));
    assert!(inside.contains(pods[0]["ip"].as_str().expect("an address")), "{inside}");

    knows_who_is_who(&lab, plane, pods);

    let code = lab.lab("exec", &["node-b", "--", "sh", "-c", "exit 7"]);
    assert_eq!(code.status.code(), Some(7), "exit codes are passed on");
    let nowhere = lab.lab("exec", &["node-z", "--", "true"]);
    assert_eq!(nowhere.status.code(), Some(2));
    assert!(texts(&nowhere).1.contains("node-a, node-b"), "{}", texts(&nowhere).1);

    let again = lab.lab("up", &[]);
    assert_eq!(again.status.code(), Some(2));
    let hint = format!("twinplane lab down --name {}", lab.0);
    assert!(texts(&again).1.contains(&hint), "{}", texts(&again).1);
    succeeded(&lab.lab("status", &[]));

    succeeded(&lab.lab("down", &[]));
    lab.is_gone();
    assert_eq!(lab.lab("status", &[]).status.code(), Some(2));
}

#[test]
fn an_ebpf_lab_lives_and_leaves_nothing() {
    whole_life("ebpf");
}

#[test]
fn an_iptables_lab_lives_and_leaves_nothing() {
    whole_life("iptables");
}

/// The first and the last of many Services answer; the rules that a first packet to each is compared with.
fn first_and_last_of_many(plane: &str) -> [usize; 2] {
    let lab = Named::new();
    let manifest = succeeded(&run(&["lab", "manifest", "--services", "200"]));
    let output = with_input(&lab, &["--dataplane", plane, "-f", "-"], &manifest);
    succeeded(&output);
    let rows = json(&run(&["service", "list", "--lab", &lab.0, "--node", "node-a", "-o", "json"]));
    let rows = rows.as_array().expect("rows");
    let ours = |row: &&Value| row["service"]["namespace"] == "many" && row["kind"] == "ClusterIP";
    assert_eq!(rows.iter().filter(ours).count(), 200);
    let rules = succeeded(&lab.lab("exec", &["node-a", "--", "iptables", "-t", "nat", "-S"]));
    ["203.0.113.101", "203.0.113.102"].map(|address| {
        let url = format!("http://{address}/");
        let answer = succeeded(&lab.lab("exec", &["client", "--", "curl", "-sS", "-m", "5", &url]));
        assert!(answer.contains("echo-"), "{answer}");
        let services = rules.lines().filter(|rule| rule.starts_with("-A KUBE-SERVICES "));
        services.take_while(|rule| !rule.contains(&format!("-d {address}/32"))).count()
    })
}

#[test]
fn many_services_are_programmed_and_only_iptables_walks_past_them() {
    assert_eq!(first_and_last_of_many("ebpf"), [0, 0]);
    let [first, last] = first_and_last_of_many("iptables");
    assert!(last > first + 150, "{first} and {last} rules before its own");
}

#[test]
fn both_planes_come_up_with_the_same_addresses() {
    let lab = Named::new();
    lab.up(&["--dataplane", "both", "--nodes", "1"]);
    let labs = ["iptables", "ebpf"].map(|plane| Named(format!("{}-{plane}", lab.0)));
    let [one, other] =
        labs.each_ref().map(|lab| (lab.address(), lab.status()["nodes"][0]["address"].clone()));
    assert_eq!(one, other);
    let unclear = lab.lab("status", &[]);
    assert!(texts(&unclear).1.contains("say which lab"), "{}", texts(&unclear).1);
    succeeded(&lab.lab("down", &[]));
    labs.iter().for_each(Named::is_gone);
}

#[test]
fn a_crash_leaves_nothing_that_down_does_not_find() {
    let lab = Named::new();
    lab.up(&["--dataplane", "iptables"]);
    let status = lab.status();
    kill(supervisor(&lab.0));
    pids(&status).into_iter().for_each(kill);
    assert_eq!(lab.lab("status", &[]).status.code(), Some(2));
    let list = succeeded(&run(&["lab", "list"]));
    let line = list.lines().find(|line| line.starts_with(&lab.0)).expect("listed");
    assert!(line.contains("supervisor gone"), "{line}");
    let again = texts(&lab.lab("up", &[])).1;
    assert!(again.contains("a crash left one") && again.contains("lab down"), "{again}");
    assert!(!lab.traces().is_empty());
    succeeded(&lab.lab("down", &[]));
    lab.is_gone();
    let nothing = lab.lab("down", &[]);
    assert!(nothing.status.success() && texts(&nothing).1.contains("there is no lab"), "{nothing:?}");
}

/// A power cut may cut files short; the supervisor may die between starting a process and recording it.
#[test]
fn down_needs_neither_records_nor_state() {
    let lab = Named::new();
    lab.up(&["--dataplane", "iptables", "--nodes", "1"]);
    kill(supervisor(&lab.0));
    let folder = PathBuf::from(format!("/run/twinplane/lab/{}", lab.0));
    fs::remove_dir_all(folder.join("processes")).expect("forget processes");
    fs::write(folder.join("state.json"), "{\"vers").expect("cut the state short");
    let list = succeeded(&run(&["lab", "list"]));
    let line = list.lines().find(|line| line.starts_with(&lab.0)).expect("listed");
    assert!(line.contains("broken"), "{line}");
    assert!(lab.traces().iter().any(|trace| trace.starts_with("process ")), "agent and pods live on");
    succeeded(&lab.lab("down", &[]));
    lab.is_gone();
}

#[test]
fn an_up_that_was_killed_half_way_is_taken_down() {
    let lab = Named::new();
    let mut up = start(&lab, &["--dataplane", "iptables", "--nodes", "1"]);
    let mut lines = BufReader::new(up.stderr.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("start agents")), "it comes that far");
    up.kill().expect("kill");
    up.wait().expect("reap");
    succeeded(&lab.lab("down", &[]));
    lab.is_gone();
}

#[test]
fn an_agent_that_is_killed_is_started_again() {
    let lab = Named::new();
    lab.up(&["--dataplane", "iptables", "--nodes", "1"]);
    let before = pids(&lab.status())[0];
    kill(before);
    until("the agent is back", || {
        let agent = json_of_any_exit(&lab.lab("status", &["-o", "json"]))["nodes"][0]["agent"].clone();
        agent["restarts"] == 1 && agent["ready"] == true && agent["pid"] != before
    });
    let log = fs::read_to_string(format!("/run/twinplane/lab/{}/logs/supervisor.log", lab.0)).expect("log");
    assert!(log.contains("the agent ended"), "{log}");
}

/// `lab status` says by its exit code that something is down, and prints all the same.
fn json_of_any_exit(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn what_cannot_become_ready_is_named_and_removed() {
    let lab = Named::new();
    let manifest = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: broken\nspec:\n  containers:\n  - name: c\n    image: no/such\n";
    let failed = with_input(
        &lab,
        &["--nodes", "1", "--dataplane", "iptables", "--timeout", "4s", "-f", "-"],
        manifest,
    );
    let (_, err) = texts(&failed);
    assert_eq!(failed.status.code(), Some(2), "{err}");
    assert!(
        err.contains("start pods and load balancers") && err.contains("broken") && err.contains("no/such"),
        "{err}"
    );
    lab.is_gone();
}

#[test]
fn an_interrupt_on_the_way_up_removes_everything() {
    let lab = Named::new();
    let mut up = start(&lab, &["--dataplane", "iptables"]);
    let mut lines = BufReader::new(up.stderr.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("start agents")), "it comes that far");
    assert!(Command::new("kill").args(["-INT", &up.id().to_string()]).status().expect("kill").success());
    let rest: Vec<_> = lines.collect();
    assert_eq!(up.wait().expect("ends").code(), Some(2));
    assert!(rest.iter().any(|line| line.contains("interrupted")), "{rest:?}");
    lab.is_gone();
}

#[test]
fn without_root_it_says_so() {
    let output = Command::new(BINARY).args(["lab", "up", "--name", "never"]).uid(65534).output();
    match output {
        Ok(output) => {
            assert_eq!(output.status.code(), Some(2));
            assert!(texts(&output).1.contains("needs root"), "{}", texts(&output).1);
        }
        // The build folder may be closed to others.
        Err(error) => println!("skipped: {BINARY} cannot be run by another user: {error}"),
    }
}

fn start(lab: &Named, rest: &[&str]) -> Child {
    let mut command = Command::new(BINARY);
    command.args(["lab", "up", "--name", &lab.0]).args(rest);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("start twinplane")
}

fn with_input(lab: &Named, rest: &[&str], input: &str) -> Output {
    let mut child = start(lab, rest);
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("write");
    child.wait_with_output().expect("ends")
}
