//! `lab up --agent-arg`: what the agents of a lab can be told besides, tried with real traffic. Needs root.

mod common;

use serde_json::Value;

use common::{Named, json, run, succeeded, texts};

impl Named {
    fn exec(&self, place: &str, command: &[&str]) -> String {
        succeeded(&self.lab("exec", &[&[place, "--"], command].concat()))
    }

    fn service(&self) -> Value {
        json(&self.lab("kubectl", &["--", "-n", "netflow-test", "get", "service", "nginx", "-o", "json"]))
    }

    /// Answers to requests over connections of their own, from outside.
    fn pages(&self, authority: &str) -> Vec<String> {
        let urls = format!("http://{authority}/?[1-40]");
        let curl = ["curl", "-sS", "--fail", "-m", "10", "-H", "Connection: close", &urls];
        self.exec("client", &curl).lines().map(str::to_owned).collect()
    }

    fn dataplane(&self, node: &str) -> Value {
        json(&run(&["status", "--lab", &self.0, "--node", node, "-o", "json"]))["dataplane"].take()
    }
}

fn entry<'a>(list: &'a Value, name: &str) -> &'a Value {
    let mut entries = list.as_array().into_iter().flatten();
    entries.find(|entry| entry["name"] == name).unwrap_or_else(|| panic!("no {name} in {list}"))
}

fn vip(service: &Value) -> String {
    service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().expect("a VIP").to_owned()
}

#[test]
fn load_balancer_traffic_is_turned_around_by_native_xdp() {
    let lab = Named::new();
    lab.up(&["--agent-arg=--xdp=native", "--agent-arg", "--maglev-table-size", "--agent-arg", "1021"]);
    for node in ["node-a", "node-b"] {
        assert_eq!(entry(&lab.dataplane(node)["features"], "xdp")["detail"], "native on eth0");
    }
    // A wire brings whole checksums; from within one machine they are left to a device, and tc does what XDP cannot.
    lab.exec("client", &["ethtool", "-K", "eth0", "tx", "off"]);
    let pages = lab.pages(&vip(&lab.service()));
    assert_eq!(pages.len(), 40);
    let turned = |node| entry(&lab.dataplane(node)["counters"], "forwarded_xdp")["packets"].as_u64();
    let turned = ["node-a", "node-b"].map(|node| turned(node).expect("a count"));
    assert!(turned.iter().sum::<u64>() > 40, "{turned:?}");
}

fn node_ports_are_filtered(plane: &str) {
    let lab = Named::new();
    lab.up(&["--dataplane", plane, "--agent-arg=--nodeport-addresses=192.0.2.0/24,2001:db8:2::/48"]);
    let service = lab.service();
    assert_eq!(lab.pages(&vip(&service)).len(), 40);
    let url = format!("http://10.128.0.11:{}/", service["spec"]["ports"][0]["nodePort"]);
    let refused = lab.lab("exec", &["client", "--", "curl", "-sS", "-m", "5", &url]);
    assert_eq!(refused.status.code(), Some(7), "curl could not connect: {}", texts(&refused).1);
}

#[test]
fn the_ebpf_plane_filters_node_ports() {
    node_ports_are_filtered("ebpf");
}

#[test]
fn the_iptables_plane_filters_node_ports() {
    node_ports_are_filtered("iptables");
}

#[test]
fn what_an_agent_does_not_take_is_named() {
    let lab = Named::new();
    let up = lab.lab("up", &["--nodes", "1", "--agent-arg=--no-such-thing"]);
    assert_eq!(up.status.code(), Some(2));
    let said = texts(&up).1;
    assert!(said.contains("start agents on node-a") && said.contains("--no-such-thing"), "{said}");
    let up = lab.lab("up", &["--agent-arg", "--socket=/tmp/x"]);
    assert_eq!(up.status.code(), Some(2));
    let said = texts(&up).1;
    assert!(said.contains("a lab gives its agents --socket itself"), "{said}");
}
