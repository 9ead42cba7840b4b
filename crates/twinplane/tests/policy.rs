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

/// What the nodes tell of: a lab of the iptables plane has no relay.
fn observed(lab: &Named, rest: &[&str]) -> String {
    let of = |node| texts(&run(&[&["observe", "--lab", &lab.0, "--node", node, "--all"], rest].concat())).0;
    ["node-a", "node-b"].map(of).concat()
}

/// The kernel's table with its counts, explanations that the kernels agree with, and what the policies would do to flows.
fn asked(lab: &Named, nginx: &str, address: &str) {
    let nginx = format!("netflow-test/{nginx}");
    let policy = |rest: &[&str]| run(&[&["policy"], rest, &["--lab", &lab.0]].concat());
    let table = json(&policy(&["get", &nginx, "-o", "json"]));
    let rows = table["rows"].as_array().expect("rows");
    let row = |action: &str| rows.iter().find(|row| row["action"] == action).expect("a row");
    let (allow, deny) = (row("Allow"), row("Deny"));
    assert!(
        allow["labels"].as_array().is_some_and(|all| all.iter().any(|label| label == "k8s:role=frontend"))
    );
    assert_eq!(allow["rule"]["policy"]["name"], "nginx-allow-frontend", "{table}");
    for row in [allow, deny] {
        assert!(
            row["packets"].as_u64() >= Some(1) && row["bytes"].as_u64() > row["packets"].as_u64(),
            "{row}"
        );
    }
    let text = succeeded(&policy(&["get", address]));
    assert!(text.contains("NetworkPolicy netflow-test/nginx-allow-frontend ingress[0]"), "{text}");
    assert_eq!(policy(&["get", "netflow-test/nobody"]).status.code(), Some(1));
    for (client, code, verdict) in [("client-allowed", 0, "allowed"), ("client-blocked", 1, "denied")] {
        let output = policy(&["explain", &format!("netflow-test/{client}"), &nginx, "80"]);
        let (out, err) = texts(&output);
        assert_eq!(output.status.code(), Some(code), "{out}{err}");
        assert!(
            out.contains(&format!(" 80/TCP: {verdict}")) && out.contains("nginx-allow-frontend"),
            "{out}"
        );
        let kernels: Vec<&str> = out.lines().filter(|line| line.starts_with("kernel of")).collect();
        assert_eq!(kernels.len(), 2, "{out}");
        assert!(kernels.iter().all(|line| line.ends_with(": agrees")), "{out}");
    }
    let gone = policy(&["explain", "netflow-test/gone", &nginx, "80"]);
    assert_eq!((gone.status.code(), texts(&gone).0.starts_with("Cannot be decided: ")), (Some(2), true));
    // The policy as it is changes nothing of what was seen; one for nobody would deny what got through.
    let directory = tempfile::tempdir().expect("directory");
    let [flows, objects] = ["flows.json", "objects.json"].map(|name| directory.path().join(name));
    std::fs::write(&flows, observed(lab, &["-o", "json"])).expect("write");
    let recorded = flows.display().to_string();
    let simulate = |text: &str| {
        std::fs::write(&objects, text).expect("write");
        policy(&["simulate", "-f", &objects.display().to_string(), "--flows", &recorded, "-o", "json"])
    };
    let same = simulate(OBJECTS);
    assert_eq!(same.status.code(), Some(0), "{:?}", texts(&same));
    let closed = simulate(&OBJECTS.replace(r#"{"role": "frontend"}}}]"#, r#"{"role": "nobody"}}}]"#));
    assert_eq!(closed.status.code(), Some(1), "{:?}", texts(&closed));
    let report: serde_json::Value = serde_json::from_str(&texts(&closed).0).expect("JSON");
    let denied = report["newlyDenied"].as_array().expect("a list");
    assert!(
        denied
            .iter()
            .any(|change| change["connection"]["source"]["owner"]["Pod"]["name"] == "client-allowed")
    );
    let dropped = policy(&["explain", "--flow", &recorded]);
    let (out, err) = texts(&dropped);
    assert_eq!(dropped.status.code(), Some(0), "{out}{err}");
    assert!(out.contains("netflow-test/client-blocked") && out.contains("flows: dropped"), "{out}");
    let suggested = succeeded(&policy(&["suggest", "--namespace", "netflow-test", "--flows", &recorded]));
    assert!(suggested.contains("name: allow-nginx") && suggested.contains("role: frontend"), "{suggested}");
}

/// One for each first packet at the pod that has a policy, with the rule.
fn verdicts(lab: &Named) {
    let observe = |rest: &[&str]| {
        let common =
            ["observe", "--lab", &lab.0, "--all", "--type", "policy-verdict", "--to-label", "app=nginx"];
        succeeded(&run(&[&common[..], rest].concat()))
    };
    let lines = observe(&[]);
    let line =
        |pod: &str| lines.lines().find(|line| line.contains(pod)).unwrap_or_else(|| panic!("{pod}: {lines}"));
    for (pod, said) in [
        ("client-allowed", " policy-verdict:L3-Only INGRESS ALLOWED (TCP Flags: SYN)"),
        ("client-blocked", " policy-verdict:none INGRESS DENIED (TCP Flags: SYN)"),
    ] {
        assert!(line(pod).contains(said), "{lines}");
    }
    let all: Vec<serde_json::Value> =
        observe(&["-o", "json"]).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of = |pod: &str| {
        let found = all.iter().find(|answer| answer["flow"]["source"]["pod_name"] == pod);
        found.unwrap_or_else(|| panic!("{pod}: {all:?}"))["flow"].clone()
    };
    let (allowed, denied) = (of("client-allowed"), of("client-blocked"));
    for flow in [&allowed, &denied] {
        assert_eq!((&flow["event_type"]["type"], &flow["traffic_direction"]), (&5.into(), &"INGRESS".into()));
    }
    assert_eq!((&allowed["verdict"], &allowed["policy_match_type"]), (&"FORWARDED".into(), &1.into()));
    assert_eq!(
        (&denied["verdict"], &denied["drop_reason_desc"]),
        (&"DROPPED".into(), &"POLICY_DENIED".into())
    );
    for (flow, by, label) in [
        (&allowed, "ingress_allowed_by", "twinplane:rule=ingress[0]"),
        (&denied, "ingress_denied_by", "twinplane:isolates=ingress"),
    ] {
        let policy = &flow[by][0];
        assert_eq!(
            (&policy["name"], &policy["kind"]),
            (&"nginx-allow-frontend".into(), &"NetworkPolicy".into())
        );
        assert_eq!(policy["labels"][0], label, "{flow}");
    }
}

/// Rules go on counting where they were.
fn restarted(lab: &Named, nginx: &str) {
    let counts = || {
        let asked = ["policy", "get", &format!("netflow-test/{nginx}"), "-o", "json", "--lab", &lab.0];
        let output = run(&asked);
        let table: serde_json::Value = serde_json::from_str(&texts(&output).0).ok()?;
        let row = |row: &serde_json::Value| Some((row["rule"]["rule"].clone(), row["packets"].as_u64()?));
        let rows: Vec<_> = table["rows"].as_array()?.iter().filter_map(row).collect();
        // Named again, once the agent knows everything.
        (!table["rows"][0]["rule"].is_null()).then_some(rows)
    };
    let before = counts().expect("counts");
    for node in ["node-a", "node-b"] {
        succeeded(&lab.lab("agent stop", &[node]));
        succeeded(&lab.lab("agent start", &[node]));
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    let after = loop {
        if let Some(after) = counts() {
            break after;
        }
        assert!(Instant::now() < deadline, "the agents know no rules");
    };
    assert!(before.iter().all(|(_, packets)| *packets > 0), "{before:?}");
    for (rule, packets) in &before {
        let now = after.iter().find(|(other, _)| other == rule).map(|(_, packets)| *packets);
        assert!(now >= Some(*packets), "{rule}: {before:?}, then {after:?}");
    }
}

/// Under an annotation nothing is dropped, and what would be is told of.
fn audited(lab: &Named, address: &str, nginx: &str) {
    let annotate = |what: &str| {
        succeeded(&lab.lab("kubectl", &["--", "annotate", "namespace", "netflow-test", what]));
    };
    annotate("twinplane.dev/policy=audit");
    let deadline = Instant::now() + Duration::from_secs(20);
    while status(lab, "netflow-test/client-blocked", address) != "200" {
        assert!(Instant::now() < deadline, "it is dropped");
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    let told = loop {
        // What the change itself let through may have been told of by neither the old rules nor the new ones.
        assert_eq!(status(lab, "netflow-test/client-blocked", address), "200");
        let told = observed(lab, &["--verdict", "AUDIT"]);
        if told.contains("AUDITED") || Instant::now() > deadline {
            break told;
        }
    };
    let line = told.lines().find(|line| line.contains("AUDITED (TCP Flags: SYN)"));
    assert!(line.is_some_and(|line| line.contains("netflow-test/client-blocked")), "{told}");
    let explain = ["policy", "explain", "netflow-test/client-blocked", nginx, "80", "--lab", &lab.0];
    let output = run(&explain);
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    assert!(out.contains("80/TCP: audited (denied, and let through)"), "{out}");
    assert!(
        out.lines().filter(|line| line.starts_with("kernel of")).all(|line| line.ends_with(": agrees")),
        "{out}"
    );
    annotate("twinplane.dev/policy-");
}

#[test]
fn who_is_allowed_is_served_and_who_is_not_times_out_and_is_seen() {
    enforces(&["--dataplane", "ebpf"]);
}

#[test]
fn the_iptables_plane_enforces_it_where_it_is_asked_to() {
    let on = ["--agent-arg=--network-policy=on", "--agent-arg=--flows=on"];
    enforces(&[&["--dataplane", "iptables"], &on[..]].concat());
}

fn enforces(up: &[&str]) {
    let lab = Named::new();
    lab.up(up);
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
    let name = nginx["items"][0]["metadata"]["name"].as_str().expect("a name");
    asked(&lab, name, &pod);
    if up.contains(&"ebpf") {
        verdicts(&lab);
    }
    restarted(&lab, name);
    audited(&lab, &pod, &format!("netflow-test/{name}"));
    succeeded(&kubectl(&["delete", "networkpolicy", "nginx-allow-frontend"]));
    while status(&lab, "netflow-test/client-blocked", &frontend) != "200" {
        assert!(Instant::now() < deadline + Duration::from_secs(20), "it stays denied");
    }
}
