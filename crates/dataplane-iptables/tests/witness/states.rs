//! The states to compare in: those that kube-proxy was recorded in, and random legal ones.

use serde_json::{Value, json};

/// The recorded node's, with an IPv6 address added.
pub(crate) const NODE_ADDRESSES: [&str; 2] = ["192.168.50.2", "fd00:50::2"];
pub(crate) const CLUSTER_CIDRS: [&str; 2] = ["10.128.0.0/9", "fd00:20::/32"];

/// Objects of namespace `d`.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub name: String,
    pub services: Vec<Value>,
    pub slices: Vec<Value>,
}

/// What the recordings' table says, by file; see the README beside them.
pub(crate) fn recorded() -> Vec<State> {
    let three = [("10.128.1.10", "node1"), ("10.128.2.10", "node2"), ("10.128.3.10", "node3")];
    let elsewhere = [("10.128.1.10", "node2"), ("10.128.2.10", "node3"), ("10.128.3.10", "node3")];
    let state = |name: &str,
                 service: &str,
                 address: &str,
                 node_port: u16,
                 endpoints: &[(&str, &str)],
                 patch: Value| {
        let mut spec = json!({
            "type": "LoadBalancer", "clusterIP": address, "clusterIPs": [address],
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "nodePort": node_port, "protocol": "TCP"}],
        });
        for (key, value) in patch.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        let service = json!({
            "metadata": {"namespace": "d", "name": service}, "spec": spec,
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.10"}]}},
        });
        let slices = (!endpoints.is_empty()).then(|| {
            let endpoints = endpoints.iter().map(|(address, node)| endpoint(address, node, "rs"));
            slice((name_of(&service), "TCP"), "IPv4", endpoints.collect(), &["http"])
        });
        State { name: name.into(), services: vec![service], slices: slices.into_iter().collect() }
    };
    vec![
        State { name: "00-baseline".into(), services: vec![], slices: vec![] },
        state("01-cluster", "c3", "10.99.97.164", 31452, &three, json!({})),
        state(
            "02-local",
            "l3",
            "10.96.90.226",
            31701,
            &three,
            json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": 32477}),
        ),
        state(
            "03-local-none",
            "l0",
            "10.97.142.226",
            32134,
            &elsewhere,
            json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": 32394}),
        ),
        state("04-no-endpoints", "e0", "10.98.165.52", 32254, &[], json!({})),
        state(
            "05-ranges-affinity",
            "r3",
            "10.98.90.14",
            32265,
            &three,
            json!({"loadBalancerSourceRanges": ["203.0.113.0/25", "192.168.50.0/24"],
                   "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}},
                   "externalIPs": ["198.51.100.7"]}),
        ),
    ]
}

/// Objects that no proxy of the default name may see.
pub(crate) fn hidden() -> State {
    let service = |name: &str, address: &str, labels: Value| {
        json!({"metadata": {"namespace": "d", "name": name, "labels": labels},
               "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
                        "ports": [{"name": "p", "port": 80, "protocol": "TCP"}]}})
    };
    let mut headless =
        slice(("hidden-slice", "TCP"), "IPv4", vec![endpoint("10.128.1.66", "node1", "rs")], &["p"]);
    headless["metadata"]["labels"]["service.kubernetes.io/headless"] = json!("");
    State {
        name: "hidden".into(),
        services: vec![
            service("hidden-headless", "None", json!({})),
            service(
                "hidden-other",
                "10.97.1.1",
                json!({"service.kubernetes.io/service-proxy-name": "other"}),
            ),
        ],
        slices: vec![headless],
    }
}

fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().expect("name")
}

/// Up to four Services, some of both families, of any type, policy and protocol, with endpoints in any state.
pub(crate) fn random(seed: u64) -> State {
    let mut draw = fastrand::Rng::with_seed(seed);
    let mut state = State { name: format!("random {seed}"), services: vec![], slices: vec![] };
    for n in 0..draw.u8(1..=4) {
        let name = format!("s{n}");
        let dual = draw.bool();
        let ports: Vec<&str> = if draw.bool() { vec!["p"] } else { vec!["p", "q"] };
        let service = service(&mut draw, n, dual, &ports);
        let protocol = service["spec"]["ports"][0]["protocol"].as_str().expect("protocol").to_owned();
        state.services.push(service);
        for family in [("IPv4", "10.128"), ("IPv6", "fd00:20:0")].iter().take(if dual { 2 } else { 1 }) {
            let endpoints = (0..draw.u8(0..=5)).map(|k| {
                let node = draw.u8(1..=3);
                let address = match family.0 {
                    "IPv4" => format!("{}.{node}.{}", family.1, 10 + 8 * n + k),
                    _ => format!("{}:{node}::{:x}", family.1, 10 + 8 * n + k),
                };
                let state = ["rs", "rs", "rs", "st", "s", ""][draw.usize(..6)];
                endpoint(&address, &format!("node{node}"), state)
            });
            let endpoints = endpoints.collect();
            state.slices.push(slice((&name, &protocol), family.0, endpoints, &ports));
        }
    }
    state
}

fn service(draw: &mut fastrand::Rng, n: u8, dual: bool, ports: &[&str]) -> Value {
    let kind = ["ClusterIP", "NodePort", "LoadBalancer", "LoadBalancer"][draw.usize(..4)];
    let protocol = ["TCP", "UDP", "SCTP"][draw.usize(..3)];
    let policy = |draw: &mut fastrand::Rng| ["Cluster", "Local"][draw.usize(..2)];
    let mut addresses = vec![format!("10.97.0.{}", 10 + n)];
    if dual {
        addresses.push(format!("fd00:96::{:x}", 16 + n));
    }
    let port = |(k, name): (usize, &&str)| {
        let mut port = json!({"name": name, "port": 80 + k, "targetPort": 8080 + k, "protocol": protocol});
        if kind != "ClusterIP" {
            port["nodePort"] = json!(30100 + 10 * usize::from(n) + k);
        }
        port
    };
    let mut spec = json!({
        "type": kind, "clusterIP": addresses[0], "clusterIPs": addresses,
        "ipFamilies": if dual { json!(["IPv4", "IPv6"]) } else { json!(["IPv4"]) },
        "ipFamilyPolicy": if dual { "RequireDualStack" } else { "SingleStack" },
        "ports": ports.iter().enumerate().map(port).collect::<Vec<_>>(),
        "internalTrafficPolicy": policy(draw),
    });
    if draw.bool() {
        spec["sessionAffinity"] = json!("ClientIP");
        spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": draw.u32(1..86400)}});
    }
    if draw.bool() {
        spec["externalIPs"] = json!([format!("198.51.100.{}", 10 + n)]);
    }
    let mut ingress = vec![];
    if kind != "ClusterIP" {
        spec["externalTrafficPolicy"] = json!(policy(draw));
    }
    if kind == "LoadBalancer" {
        ingress.push(json!({"ip": format!("192.0.2.{}", 10 + n)}));
        if dual {
            ingress.push(json!({"ip": format!("2001:db8:a::{:x}", 16 + n)}));
        }
        if spec["externalTrafficPolicy"] == "Local" {
            spec["healthCheckNodePort"] = json!(30900 + u16::from(n));
        }
        if draw.bool() {
            let ranges = [
                json!(["203.0.113.0/25"]),
                json!(["192.168.50.0/24", "198.51.100.0/24"]),
                json!(["10.128.0.0/9", "fd00:20::/32"]),
                json!(["0.0.0.0/0"]),
            ];
            spec["loadBalancerSourceRanges"] = ranges[draw.usize(..ranges.len())].clone();
        }
    }
    json!({"metadata": {"namespace": "d", "name": format!("s{n}")}, "spec": spec,
           "status": {"loadBalancer": {"ingress": ingress}}})
}

fn endpoint(address: &str, node: &str, state: &str) -> Value {
    json!({"addresses": [address], "nodeName": node,
           "conditions": {"ready": state.contains('r'), "serving": state.contains('s'),
                          "terminating": state.contains('t')}})
}

/// All ports of its Service, 8080 and following.
fn slice((service, protocol): (&str, &str), family: &str, endpoints: Vec<Value>, ports: &[&str]) -> Value {
    let port = |(k, name): (usize, &&str)| json!({"name": name, "port": 8080 + k, "protocol": protocol});
    let ports: Vec<_> = ports.iter().enumerate().map(port).collect();
    json!({
        "metadata": {"namespace": "d", "name": format!("{service}-{}", family.to_lowercase()),
                     "labels": {"kubernetes.io/service-name": service}},
        "addressType": family, "ports": ports, "endpoints": endpoints,
    })
}
