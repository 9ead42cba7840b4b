//! What the server adds to Services: addresses, ports, defaults, and their own status.

mod common;

use common::router::{Api, SERVICES};
use http::StatusCode;
use serde_json::json;

#[tokio::test]
async fn a_new_cluster_has_its_namespaces_and_its_own_service() {
    let api = Api::new();
    let (_, list) = api.get("/api/v1/namespaces").await;
    let names: Vec<&str> =
        list["items"].as_array().unwrap().iter().map(|n| n["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["default", "kube-node-lease", "kube-public", "kube-system"]);
    let (_, service) = api.get("/api/v1/namespaces/default/services/kubernetes").await;
    assert_eq!(service["spec"]["clusterIP"], "10.24.0.1");
    assert_eq!(service["metadata"]["creationTimestamp"], "2026-01-01T00:00:00Z");
    let (_, cidr) = api.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes").await;
    assert_eq!(cidr["spec"]["cidrs"], json!(["10.24.0.0/20"]));
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let api = Api::new();
    let uri = format!("{SERVICES}/s");
    let body = json!({"metadata": {"name": "s"}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}}});
    let created = api.create(SERVICES, body).await;
    assert_eq!(created["status"], json!({"loadBalancer": {}}));
    let mut both = created.clone();
    both["status"] = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}});
    both["spec"]["sessionAffinity"] = "ClientIP".into();
    let (_, status) = api.json("PUT", &format!("{uri}/status"), both.clone()).await;
    assert_eq!(status["spec"]["sessionAffinity"], "None");
    assert_eq!(status["status"]["loadBalancer"]["ingress"][0]["ip"], "203.0.113.9");
    both["metadata"]["resourceVersion"] = status["metadata"]["resourceVersion"].clone();
    both["status"] = json!({});
    let (_, spec) = api.json("PUT", &uri, both).await;
    assert_eq!(spec["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], 10800);
    assert_eq!(spec["status"], status["status"]);
}

#[tokio::test]
async fn ports_and_addresses_follow_the_service_s_type_and_life() {
    let api = Api::with(|config| config.node_port_range = 30000..=30001);
    let service = |name: &str, kind: &str| {
        json!({"metadata": {"name": name}, "spec": {"type": kind,
            "ports": [{"name": "t", "port": 53}, {"name": "u", "port": 53, "protocol": "UDP"}]}})
    };
    let first = api.create(SERVICES, service("a", "NodePort")).await;
    let ports = &first["spec"]["ports"];
    assert_eq!(ports[0]["nodePort"], ports[1]["nodePort"], "one number under both protocols");
    assert_eq!(ports[0]["targetPort"], 53);
    api.create(SERVICES, service("b", "NodePort")).await;
    let (status, full) = api.json("POST", SERVICES, service("c", "NodePort")).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(full["message"].as_str().unwrap().contains("range is full"), "{full}");
    let merge = "application/merge-patch+json";
    let (_, plain) =
        api.send("PATCH", &format!("{SERVICES}/a"), merge, r#"{"spec":{"type":"ClusterIP"}}"#).await;
    assert_eq!(plain["spec"]["ports"][0].get("nodePort"), None);
    assert_eq!(plain["spec"].get("externalTrafficPolicy"), None);
    assert_eq!(plain["spec"]["clusterIP"], first["spec"]["clusterIP"]);
    api.create(SERVICES, service("c", "NodePort")).await;
    let external = r#"{"spec":{"type":"ExternalName","externalName":"example.com"}}"#;
    let (_, external) = api.send("PATCH", &format!("{SERVICES}/a"), merge, external).await;
    assert_eq!(external["spec"].get("clusterIP"), None);
    let again = json!({"metadata": {"name": "d"}, "spec": {"clusterIP": first["spec"]["clusterIP"], "ports": [{"port": 1}]}});
    api.create(SERVICES, again).await;
}

#[tokio::test]
async fn two_ranges_give_two_addresses_to_who_asks() {
    let api = Api::with(|config| config.service_cidrs.push("fd00:24::/112".parse().unwrap()));
    let service = |name: &str, policy: &str| json!({"metadata": {"name": name}, "spec": {"ipFamilyPolicy": policy, "ports": [{"port": 80}]}});
    let dual = api.create(SERVICES, service("dual", "PreferDualStack")).await;
    assert_eq!(dual["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    let ips = dual["spec"]["clusterIPs"].as_array().unwrap();
    assert_eq!(ips[0], dual["spec"]["clusterIP"]);
    assert!(ips[1].as_str().unwrap().starts_with("fd00:24::"), "{dual}");
    let single = api.create(SERVICES, service("single", "SingleStack")).await;
    assert_eq!(single["spec"]["clusterIPs"].as_array().unwrap().len(), 1);
    let headless = json!({"metadata": {"name": "h"}, "spec": {"clusterIP": "None", "selector": {"a": "b"}}});
    assert_eq!(api.create(SERVICES, headless).await["spec"]["clusterIPs"], json!(["None"]));
}

const CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";

#[tokio::test]
async fn fact_127_services_get_addresses_of_an_added_range_and_hold_it() {
    // Of a /30 the API's own Service has one address, another Service the other.
    let api = Api::with(|config| config.service_cidrs = vec!["10.24.0.0/30".parse().unwrap()]);
    let service = |name: &str| json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
    api.create(SERVICES, service("a")).await;
    let (status, full) = api.json("POST", SERVICES, service("b")).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(full["message"].as_str().unwrap().contains("range is full"), "{full}");

    let cidr = json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.25.0.0/28"]}});
    let cidr = api.create(CIDRS, cidr).await;
    assert_eq!(cidr["status"]["conditions"][0]["type"], "Ready");
    let b = api.create(SERVICES, service("b")).await;
    let ip = b["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert!(ip.starts_with("10.25.0."), "{ip}");
    let (_, address) = api.get(&format!("{ADDRESSES}/{ip}")).await;
    let parent = json!({"group": "", "resource": "services", "namespace": "default", "name": "b"});
    assert_eq!(address["spec"]["parentRef"], parent);

    let (_, marked) = api.json("DELETE", &format!("{CIDRS}/more"), json!({})).await;
    assert!(marked["metadata"]["deletionTimestamp"].is_string(), "a Service has an address of it: {marked}");
    let (status, _) = api.json("POST", SERVICES, service("c")).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "it gives out no more");
    api.json("DELETE", &format!("{SERVICES}/b"), json!({})).await;
    assert_eq!(api.get(&format!("{CIDRS}/more")).await.0, StatusCode::NOT_FOUND, "it goes with the last one");
    assert_eq!(api.get(&format!("{ADDRESSES}/{ip}")).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn fact_127_ranges_and_addresses_have_a_life_of_their_own() {
    let api = Api::new();
    let cidr = |cidrs: &[&str]| json!({"metadata": {"name": "more"}, "spec": {"cidrs": cidrs}});
    for wrong in [&[][..], &["10.25.0.1/28"], &["10.25.0.0"], &["10.25.0.0/28", "10.26.0.0/28"]] {
        let (status, answer) = api.json("POST", CIDRS, cidr(wrong)).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{wrong:?}: {answer}");
    }
    api.create(CIDRS, cidr(&["10.25.0.0/28"])).await;
    let merge = "application/merge-patch+json";
    let patch =
        |body: &'static str| api.send("PATCH", "/apis/networking.k8s.io/v1/servicecidrs/more", merge, body);
    assert_eq!(patch(r#"{"spec":{"cidrs":["10.26.0.0/28"]}}"#).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(patch(r#"{"metadata":{"labels":{"a":"b"}}}"#).await.0, StatusCode::OK);
    api.json("DELETE", &format!("{CIDRS}/more"), json!({})).await;
    assert_eq!(api.get(&format!("{CIDRS}/more")).await.0, StatusCode::NOT_FOUND, "nobody needs it");

    let address = |name: &str| json!({"metadata": {"name": name}, "spec": {"parentRef": {"resource": "gateways", "name": "g"}}});
    assert_eq!(api.json("POST", ADDRESSES, address("10.25.0.01")).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    api.create(ADDRESSES, address("10.25.0.1")).await;
    let (_, list) = api.get(ADDRESSES).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 2, "and the one of default/kubernetes: {list}");
    api.json("DELETE", &format!("{ADDRESSES}/10.25.0.1"), json!({})).await;
    assert_eq!(api.get(&format!("{ADDRESSES}/10.25.0.1")).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn facts_58_59_72_node_ports_are_freed_moved_and_left_out() {
    let api = Api::with(|config| config.node_port_range = 30000..=30003);
    let service = |name: &str, port: u16| {
        json!({"metadata": {"name": name}, "spec": {"type": "NodePort",
        "ports": [{"port": 80, "nodePort": port}]}})
    };
    api.create(SERVICES, service("a", 30000)).await;
    for (name, port) in [("b", 30000), ("b", 29999), ("b", 30004)] {
        assert_eq!(
            api.json("POST", SERVICES, service(name, port)).await.0,
            StatusCode::UNPROCESSABLE_ENTITY,
            "{port}"
        );
    }
    let merge = "application/merge-patch+json";
    let uri = format!("{SERVICES}/a");
    let (status, _) =
        api.send("PATCH", &uri, merge, r#"{"spec":{"ports":[{"port":80,"nodePort":40000}]}}"#).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "out of range on update");
    let (status, moved) =
        api.send("PATCH", &uri, merge, r#"{"spec":{"ports":[{"port":80,"nodePort":30001}]}}"#).await;
    assert_eq!((status, &moved["spec"]["ports"][0]["nodePort"]), (StatusCode::OK, &json!(30001)));
    api.create(SERVICES, service("b", 30000)).await;
    api.json("DELETE", &format!("{SERVICES}/b"), json!({})).await;
    api.create(SERVICES, service("c", 30000)).await;

    let without = json!({"metadata": {"name": "lb"}, "spec": {"type": "LoadBalancer",
        "allocateLoadBalancerNodePorts": false, "ports": [{"port": 80}]}});
    let without = api.create(SERVICES, without).await;
    assert_eq!(without["spec"]["ports"][0].get("nodePort"), None);
    let enable = r#"{"spec":{"allocateLoadBalancerNodePorts":true}}"#;
    let (_, enabled) = api.send("PATCH", &format!("{SERVICES}/lb"), merge, enable).await;
    assert!(enabled["spec"]["ports"][0]["nodePort"].is_u64(), "{enabled}");
}
