//! `twinplane trace`, end to end: two real labs, real packets, the report, and nothing left behind.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;

/// Health checks quicker than a cloud's, the same for both planes; the report says so.
const HEALTH_CHECK_INTERVAL: &str = "3s";

/// The client's limit in the failover layer, in milliseconds.
const CLIENT_LIMIT: f64 = 6000.0;

fn trace(arguments: &[&str], out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_twinplane"));
    command.arg("trace").args(arguments).arg("--out").arg(out);
    command
}

/// Network namespaces and folders of the labs that the run with this process number made.
fn left_behind(pid: u32) -> Vec<String> {
    let mut left = netns::NetNs::list(&format!("tpl-trace-{pid}-")).expect("list namespaces");
    for folder in ["/run/twinplane/lab", "/sys/fs/bpf/twinplane-lab", "/sys/fs/cgroup/twinplane-lab"] {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.path().display().to_string());
        left.extend(names.filter(|name| name.contains(&format!("/trace-{pid}-"))));
    }
    left
}

/// Runs it to the end; returns its process number too.
fn finish(mut command: Command) -> (u32, Output) {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start twinplane");
    let pid = child.id();
    (pid, child.wait_with_output().expect("wait for twinplane"))
}

fn report(folder: &Path) -> Value {
    let text = std::fs::read(folder.join("trace.json")).expect("trace.json");
    serde_json::from_slice(&text).expect("trace.json is JSON")
}

fn layer<'a>(report: &'a Value, id: &str) -> &'a Value {
    let layers = report["layers"].as_array().expect("layers");
    layers.iter().find(|layer| layer["id"] == id).unwrap_or_else(|| panic!("no {id} in the report"))
}

/// A fact of both planes, iptables first.
fn facts<'a>(layer: &'a Value, pointer: &str) -> [&'a Value; 2] {
    ["iptables", "ebpf"].map(|plane| {
        let found = layer["facts"][plane].pointer(pointer);
        found.unwrap_or_else(|| panic!("no {plane} {pointer} in {}", layer["facts"]))
    })
}

fn numbers(layer: &Value, pointer: &str) -> [f64; 2] {
    facts(layer, pointer).map(|value| value.as_f64().unwrap_or_else(|| panic!("{pointer}: {value}")))
}

#[test]
fn all_layers_are_traced_and_failover_shows_the_two_behaviours() {
    let folder = tempfile::tempdir().expect("folder");
    let (pid, output) = finish(trace(&["--health-check-interval", HEALTH_CHECK_INTERVAL], folder.path()));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert_eq!(left_behind(pid), [""; 0]);
    let page = folder.path().join("index.html");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), page.display().to_string());

    let report = report(folder.path());
    assert_eq!(report["schema"], 1);
    for id in ["L1", "L2", "L3", "L4", "L5", "L6", "L7", "L8"] {
        captured(id, layer(&report, id));
    }
    for id in ["L1", "L2", "L5"] {
        assert_eq!(layer(&report, id)["identical"], true, "{id} does not depend on the dataplane");
    }
    for id in ["L3", "L4", "L6", "L7", "L8"] {
        assert_eq!(layer(&report, id)["identical"], false, "{id}");
    }
    translation(layer(&report, "L4"));
    policies(layer(&report, "L5"));
    failover(layer(&report, "L6"));
    flows(layer(&report, "L7"));
    network_policy(layer(&report, "L8"));
    let told = stderr.lines().filter(|line| line.contains("L7 ebpf: ")).collect::<Vec<_>>();
    assert!(
        told.iter()
            .any(|line| line.contains(" -> netflow-test/nginx-") && line.ends_with("(TCP Flags: SYN)")),
        "{stderr}"
    );
    assert!(told.last().is_some_and(|line| line.contains("6 requests made, 6 connections seen")), "{stderr}");
    let page = std::fs::read_to_string(page).expect("index.html");
    assert_eq!(page.matches("<section class=\"layer same\"").count(), 3);
}

/// Both planes were asked, and every command did what it was for.
fn captured(id: &str, layer: &Value) {
    let captures = layer["captures"].as_array().expect("captures");
    for plane in ["iptables", "ebpf"] {
        let ours = captures.iter().filter(|capture| capture["dataplane"] == plane).collect::<Vec<_>>();
        assert!(!ours.is_empty(), "{id} has no capture of {plane}");
        for capture in ours {
            let (title, said) = (&capture["title"], capture["output"].as_str().expect("output"));
            assert!(!said.trim().is_empty(), "{id} {plane} {title} shows nothing");
            // `policy explain` says denied by its exit status.
            let wanted = i32::from(said.contains("80/TCP: denied"));
            assert_eq!(capture["exit"], wanted, "{id} {plane} {title}: {said}");
        }
    }
}

/// kube-proxy writes 7 + 3n rules for a load balancer with n endpoints; the localhost node port makes one of the seven.
fn translation(l4: &Value) {
    let [rules, none] = numbers(l4, "/rules_per_service");
    assert!((15.0..=16.0).contains(&rules), "{rules} rules for three endpoints");
    assert_eq!(none, 0.0);
    assert_eq!(numbers(l4, "/frontends"), [3.0, 3.0], "cluster IP, node port, load balancer");
    let [walked, looked_up] = numbers(l4, "/lookups_per_packet");
    assert!(walked > 10.0, "{walked} rules compared");
    assert!((0.5..=2.0).contains(&looked_up), "{looked_up} frontend lookups per connection");
}

fn policies(l5: &Value) {
    for (policy, preserved) in [("Cluster", false), ("Local", true)] {
        assert_eq!(numbers(l5, &format!("/{policy}/ok")), [10.0, 10.0], "{policy}");
        assert_eq!(numbers(l5, &format!("/{policy}/total")), [10.0, 10.0], "{policy}");
        for kept in facts(l5, &format!("/{policy}/client_ip_preserved")) {
            assert_eq!(kept, preserved, "{policy}");
        }
    }
}

fn failover(l6: &Value) {
    for (requests, failed) in numbers(l6, "/requests").into_iter().zip(numbers(l6, "/failed")) {
        assert!(failed >= 1.0 && failed <= requests, "{failed} of {requests} failed");
    }
    for fact in ["/first_failure_ms", "/median_failure_ms"] {
        let [silence, refusal] = numbers(l6, fact);
        assert!(silence >= CLIENT_LIMIT, "iptables must leave the client waiting: {fact} {silence}");
        assert!(refusal < 50.0, "eBPF must refuse at once: {fact} {refusal}");
    }
    for removed in numbers(l6, "/node_removed_after_s") {
        // Three checks in a row have to fail, the first at once after the pod has gone at the earliest.
        assert!((6.0..60.0).contains(&removed), "removed after {removed} s");
    }
    assert_eq!(facts(l6, "/recovered"), [true, true]);
}

/// That every request is there from SYN to FIN is for the trace itself to see to: it fails otherwise.
fn flows(l7: &Value) {
    assert_eq!(numbers(l7, "/requests_made"), [6.0, 6.0]);
    assert_eq!(numbers(l7, "/connections_found"), [6.0, 6.0]);
    let [by_hand, observed] = numbers(l7, "/lines_captured");
    // A connection tracking entry and a SYN at least; SYN, SYN-ACK and two FINs.
    assert!(by_hand >= 12.0 && observed >= 24.0, "{by_hand} and {observed} lines");
    for fact in ["/lines_naming_a_pod", "/lines_with_identities", "/lines_with_a_verdict"] {
        assert_eq!(numbers(l7, fact), [0.0, observed], "{fact}");
    }
    let nodes = &l7["facts"]["ebpf"]["nodes_connected"];
    assert_eq!(nodes, 2);
}

/// What is shown is for the trace itself to see to; that it is the story, is asked here.
fn network_policy(l8: &Value) {
    assert_eq!(facts(l8, "/frontend_got"), ["200", "200"]);
    assert_eq!(facts(l8, "/other_got"), ["200", "no answer"]);
    let [legacy, ours] = ["iptables", "ebpf"].map(|plane| &l8["facts"][plane]);
    assert_eq!(legacy["rules_before"], legacy["rules_after"], "the add-on is off");
    assert!(legacy["rules_with_add_on"].as_u64() > legacy["rules_after"].as_u64(), "{legacy}");
    assert_eq!([&legacy["frontend_got_with_add_on"], &legacy["other_got_with_add_on"]], ["200", "no answer"]);
    assert_eq!(ours["identities_told"], 5);
    for fact in ["drops_told", "entries", "entry_packets"] {
        assert!(ours[fact].as_u64().is_some_and(|count| count >= 1), "{fact}: {ours}");
    }
    let captures = l8["captures"].as_array().expect("captures");
    let shown = |plane: &str, mark: &str| {
        let ours = captures.iter().filter(|capture| capture["dataplane"] == plane);
        ours.filter(|capture| capture["output"].as_str().is_some_and(|said| said.contains(mark))).count()
    };
    for (mark, of_iptables, of_ebpf) in [
        ("kind: NetworkPolicy", 1, 1),
        ("networkpolicy.networking.k8s.io/nginx-allow-frontend created", 1, 1),
        ("Policy denied DROPPED (TCP Flags: SYN)", 0, 1),
        (
            "nearest: NetworkPolicy netflow-test/nginx-allow-frontend ingress[0] (nginx-allow-frontend.yaml:",
            0,
            1,
        ),
        ("--match-set", 1, 0),
        ("Type: hash:net", 1, 0),
    ] {
        assert_eq!([shown("iptables", mark), shown("ebpf", mark)], [of_iptables, of_ebpf], "{mark}");
    }
}

#[test]
fn a_manifest_that_does_not_parse_is_named_and_no_lab_is_made() {
    let folder = tempfile::tempdir().expect("folder");
    let manifest = folder.path().join("service.yaml");
    std::fs::write(&manifest, "apiVersion: v1\nkind: Service\nmetadata: [\n").expect("write manifest");
    let file = manifest.display().to_string();
    let (pid, output) = finish(trace(&["-f", &file], folder.path()));
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains(&format!("{file}:")), "{stderr}");
    assert_eq!(left_behind(pid), [""; 0]);
    assert!(!folder.path().join("trace.json").exists());
}

#[test]
fn a_manifest_that_the_api_refuses_is_named_and_both_labs_go() {
    let folder = tempfile::tempdir().expect("folder");
    let manifest = folder.path().join("service.yaml");
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  type: LoadBalancer\n  \
                ports: [{name: a, port: 80}, {name: b, port: 80}]\n";
    std::fs::write(&manifest, text).expect("write manifest");
    let file = manifest.display().to_string();
    let (pid, output) = finish(trace(&["-f", &file], folder.path()));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(&format!("{file}:6: ")) && stderr.contains("spec.ports[1]"), "{stderr}");
    assert_eq!(left_behind(pid), [""; 0]);
}

#[test]
fn calling_it_off_takes_the_labs_down() {
    let folder = tempfile::tempdir().expect("folder");
    let mut child = trace(&["--layers", "L1,L2"], folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start twinplane");
    let pid = child.id();
    let told = interrupt_at("L2:", &mut child);
    let status = child.wait().expect("wait");
    assert_eq!(status.code(), Some(2), "{told}");
    assert!(told.contains("called off"), "{told}");
    assert_eq!(left_behind(pid), [""; 0], "{told}");
}

/// Sends SIGINT as soon as a line of its stderr contains `mark`; returns all that it said.
fn interrupt_at(mark: &str, child: &mut Child) -> String {
    let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
    let (mut told, mut line) = (String::new(), String::new());
    while stderr.read_line(&mut line).expect("read") > 0 {
        told.push_str(&line);
        if line.contains(mark) {
            let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("interrupt");
            break;
        }
        line.clear();
    }
    stderr.read_to_string(&mut told).expect("read to the end");
    told
}
