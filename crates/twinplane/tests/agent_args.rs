//! `lab up --agent-arg`: what the agents of a lab can be told besides, tried with real traffic. Needs root.

mod common;

use std::time::{Duration, Instant};

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
        let urls = (1..=40).map(|number| format!("http://{authority}/?{number}"));
        let curl = ["curl", "-gsS", "--fail", "-m", "10", "-H", "Connection: close"].map(str::to_owned);
        let curl: Vec<_> = curl.into_iter().chain(urls).collect();
        self.exec("client", &curl.iter().map(String::as_str).collect::<Vec<_>>())
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// Packets that the device has sent.
    fn sent(&self, node: &str, device: &str) -> u64 {
        let links = self.exec(node, &["ip", "-j", "-s", "link", "show", "dev", device]);
        let links: Value = serde_json::from_str(&links).expect("JSON");
        links[0]["stats64"]["tx"]["packets"].as_u64().expect("a count")
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

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
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
    // Backends on another node than the one that the client came by, which is whom they see.
    let remote = |page: &&String| {
        let (a, b) = (page.contains("node=node-a"), page.contains("node=node-b"));
        (a && page.ends_with("client=10.128.0.12")) || (b && page.ends_with("client=10.128.0.11"))
    };
    let remote = pages.iter().filter(remote).count() as u64;
    let turned = |node| entry(&lab.dataplane(node)["counters"], "forwarded_xdp")["packets"].as_u64();
    let turned = ["node-a", "node-b"].map(|node| turned(node).expect("a count"));
    assert!(
        remote > 0 && turned.iter().sum::<u64>() >= remote,
        "{turned:?} packets of {remote} flows: {pages:#?}"
    );
}

/// Backends on either node see the client and answer it themselves, whichever node it came by; a node port is one node's
/// alone, and they see that node.
#[test]
fn clients_keep_their_address_by_direct_return() {
    let lab = Named::new();
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/families.yaml");
    lab.up(&["--routing", "vxlan", "--agent-arg=--load-balancer-mode=dsr", "-f", manifest]);
    let service = lab.service();
    let vips = service["status"]["loadBalancer"]["ingress"].as_array().expect("addresses");
    for (vip, client) in vips.iter().zip(["198.51.100.10", "2001:db8:198::a"]) {
        let ip = vip["ip"].as_str().expect("an address");
        let authority = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        let sent = || ["node-a", "node-b"].map(|node| lab.sent(node, "tp-vxlan"));
        let before = sent();
        let pages = lab.pages(&authority);
        assert_eq!(pages.len(), 40);
        let seen = format!("client={client}");
        assert!(pages.iter().all(|page| page.ends_with(&seen)), "{seen}: {pages:#?}");
        // Missing a pod, or a node's way to the other, forty times has a chance of less than one in a million.
        for node in ["node=node-a", "node=node-b"] {
            assert!(pages.iter().any(|page| page.contains(node)), "{node}: {pages:#?}");
        }
        let (before, after) = (before.iter().sum::<u64>(), sent().iter().sum::<u64>());
        assert!(after > before, "{before} and {after} packets through the tunnel");
        let fetch = format!("curl -gsS --fail -m 60 http://{authority}/body/100M | wc -c");
        assert_eq!(lab.exec("client", &["sh", "-c", &fetch]).trim(), "104857600");
    }
    assert_eq!(vips.len(), 2);
    let node_port = format!("10.128.0.11:{}", service["spec"]["ports"][0]["nodePort"]);
    let pages = lab.pages(&node_port);
    // Through the tunnel by the address that the node has there.
    let of_node =
        |page: &String| ["client=10.128.0.11", "client=10.20.0.0"].iter().any(|it| page.ends_with(it));
    assert!(pages.iter().all(of_node), "{pages:#?}");
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
fn agents_of_a_running_lab_are_given_other_arguments_for_good() {
    let lab = Named::new();
    lab.up(&["--dataplane", "iptables", "--nodes", "1", "--agent-arg=--flows=on"]);
    let rules = || lab.exec("node-a", &["iptables-save"]);
    let asked = || (rules().contains("NFLOG"), rules().contains("TWINPLANE-POLICY"));
    assert_eq!(asked(), (true, false));
    let restart = |arguments: &[&str]| lab.lab("agent restart", arguments);
    let said = succeeded(&restart(&["--agent-arg=--network-policy=on"]));
    assert_eq!(said, "agent of node-a: answers\n");
    until("flows are told of no longer, policies are enforced", || asked() == (false, true));
    succeeded(&lab.lab("agent stop", &["node-a"]));
    succeeded(&lab.lab("agent start", &["node-a"]));
    let wrong = restart(&["--agent-arg=--no-such-thing"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(texts(&wrong).1.contains("it ended: exit status: 2 (see /run/"), "{}", texts(&wrong).1);
    succeeded(&restart(&[]));
    until("nothing is enforced", || asked() == (false, false));
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
