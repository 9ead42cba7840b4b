//! Labs of both address families, and of IPv6 alone: a Service is reached over each of its families by every kind of
//! frontend, natively routed and through VXLAN, on both planes, from the shipped command. Needs root.

mod common;

use serde_json::Value;

use common::{Named, json, succeeded};

/// Three web servers behind one dual-stack load balancer.
const DUAL_STACK: &str = include_str!("families.yaml");

impl Named {
    fn exec(&self, place: &str, command: &[&str]) -> String {
        succeeded(&self.lab("exec", &[&[place, "--"], command].concat()))
    }

    fn kubectl(&self, arguments: &[&str]) -> Value {
        json(&self.lab("kubectl", &[&["--", "-n", "netflow-test"], arguments, &["-o", "json"]].concat()))
    }

    /// Pages of `http://authority/`, one per request, each over a connection of its own.
    fn pages(&self, place: &str, authority: &str) -> Vec<String> {
        let urls = format!("http://{authority}/?[1-12]");
        let curl = ["curl", "-sS", "--fail", "-m", "10", "-H", "Connection: close", &urls];
        let pages = self.exec(place, &curl);
        pages.lines().map(str::to_owned).collect()
    }

    fn packets(&self, node: &str, device: &str) -> u64 {
        let links = self.exec(node, &["ip", "-j", "-s", "link", "show", "dev", device]);
        let links: Value = serde_json::from_str(&links).expect("JSON");
        links[0]["stats64"]["tx"]["packets"].as_u64().expect("a count")
    }
}

/// As in a URL.
fn authority(address: &str, port: u64) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

fn texts(list: &Value) -> Vec<String> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().map(|text| text.as_str().expect("text").to_owned()).collect()
}

/// Up with these arguments; every frontend of the Service in every family answers clients, pods and nodes.
fn reached_over(arguments: &[&str], families: &[&str]) -> Named {
    let lab = Named::new();
    let manifest = tempfile::NamedTempFile::with_suffix(".yaml").expect("file");
    std::fs::write(manifest.path(), DUAL_STACK).expect("write");
    let path = manifest.path().to_str().expect("a path").to_owned();
    lab.up(&[arguments, &["-f", &path]].concat());

    let service = lab.kubectl(&["get", "service", "nginx"]);
    assert_eq!(texts(&service["spec"]["ipFamilies"]), families);
    let vips = service["status"]["loadBalancer"]["ingress"].as_array().expect("addresses");
    assert_eq!(vips.len(), families.len(), "a load-balancer address in each family");
    let pods = lab.kubectl(&["get", "pods"]);
    let (pod, pod_ips) = (&pods["items"][0]["metadata"]["name"], &pods["items"][0]["status"]["podIPs"]);
    let pod = pod.as_str().expect("a name");
    assert_eq!(pod_ips.as_array().map(Vec::len), Some(families.len()), "{pod_ips}");
    let nodes = lab.kubectl(&["get", "nodes"]);
    let (a, b) = (&nodes["items"][0], &nodes["items"][1]);
    assert_eq!(a["spec"]["podCIDRs"].as_array().map(Vec::len), Some(families.len()));

    let node_port = service["spec"]["ports"][0]["nodePort"].as_u64().expect("a node port");
    for (index, cluster_ip) in texts(&service["spec"]["clusterIPs"]).iter().enumerate() {
        let vip = authority(vips[index]["ip"].as_str().expect("an address"), 80);
        let cluster_ip = authority(cluster_ip, 80);
        let on = |node: &Value| {
            authority(node["status"]["addresses"][index]["address"].as_str().expect("an address"), node_port)
        };
        for (from, to) in [
            ("client", &vip),
            ("client", &on(a)),
            ("client", &on(b)),
            (pod, &cluster_ip),
            (pod, &vip),
            (pod, &on(b)),
            ("node-a", &cluster_ip),
            ("node-b", &vip),
            ("node-a", &on(b)),
        ] {
            let pages = lab.pages(from, to);
            assert_eq!(pages.len(), 12, "{from} to {to}: {pages:?}");
            let both = ["node=node-a", "node=node-b"];
            let answered = both.map(|node| pages.iter().any(|page| page.contains(node)));
            // Twelve answers of three pods miss a node's only one once in a hundred runs: one node is enough.
            assert!(answered.contains(&true), "{from} to {to}: {pages:?}");
        }
    }
    lab
}

fn dual_stack(plane: &str) {
    reached_over(&["--dataplane", plane], &["IPv4", "IPv6"]);
}

#[test]
fn the_ebpf_plane_serves_both_families() {
    dual_stack("ebpf");
}

#[test]
fn the_iptables_plane_serves_both_families() {
    dual_stack("iptables");
}

/// Nothing between pods of different nodes is seen on the uplink but VXLAN.
fn through_vxlan(plane: &str) {
    let lab = reached_over(&["--dataplane", plane, "--routing", "vxlan"], &["IPv4", "IPv6"]);
    for node in ["node-a", "node-b"] {
        assert!(lab.packets(node, "tp-vxlan") > 0, "{plane}: {node} sends nothing through its tunnel");
        for family in ["-4", "-6"] {
            let routes = lab.exec(node, &["ip", family, "route", "show", "proto", "84"]);
            let others = routes.lines().filter(|line| line.contains(" via "));
            assert!(
                others.clone().count() == 1 && others.clone().all(|line| line.contains("tp-vxlan")),
                "{routes}"
            );
        }
    }
    succeeded(&lab.lab("down", &[]));
}

#[test]
fn the_ebpf_plane_serves_both_families_through_vxlan() {
    through_vxlan("ebpf");
}

#[test]
fn the_iptables_plane_serves_both_families_through_vxlan() {
    through_vxlan("iptables");
}

#[test]
fn the_ebpf_plane_serves_ipv6_alone() {
    reached_over(&["--dataplane", "ebpf", "--ip-family", "ipv6"], &["IPv6"]);
}

#[test]
fn the_iptables_plane_serves_ipv6_alone_through_vxlan() {
    reached_over(&["--dataplane", "iptables", "--ip-family", "ipv6", "--routing", "vxlan"], &["IPv6"]);
}

#[test]
fn services_have_one_family_unless_they_ask_for_both() {
    let lab = Named::new();
    lab.up(&["--dataplane", "iptables"]);
    let service = lab.kubectl(&["get", "service", "nginx"]);
    assert_eq!(service["spec"]["ipFamilyPolicy"], "SingleStack");
    assert_eq!(texts(&service["spec"]["ipFamilies"]), ["IPv4"]);
    assert_eq!(service["status"]["loadBalancer"]["ingress"].as_array().map(Vec::len), Some(1));
}
