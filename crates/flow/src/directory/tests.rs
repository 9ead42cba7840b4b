//! Who is named by which record, and when it stops.

use model::{Endpoint as Attached, MacAddress, NodeConfig, ServicePortId};

use super::*;
use crate::testing;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn name(name: &str) -> PodName {
    PodName { namespace: "shop".into(), name: name.into() }
}

fn pod(identity: u32, address: &str) -> Option<Pod> {
    Some(Pod { identity, addresses: vec![ip(address)], workloads: vec![] })
}

fn labels(texts: &[&str]) -> Option<Vec<String>> {
    Some(texts.iter().map(|text| (*text).to_owned()).collect())
}

#[test]
fn the_kernels_identity_counts_and_gets_names() {
    let mut directory = Directory::new("default");
    directory.learn(Moved {
        identities: [(300, labels(&["k8s:app=web", "k8s:io.kubernetes.pod.namespace=shop"]))].into(),
        pods: [(name("web"), pod(300, "10.20.0.3"))].into(),
        ..Moved::default()
    });
    let web = directory.endpoint(ip("10.20.0.3"), 300);
    assert_eq!((web.pod.as_str(), web.namespace.as_str(), web.labels.len()), ("web", "shop", 2));
    assert!(Arc::ptr_eq(&web, &directory.endpoint(ip("10.20.0.3"), 300)), "shared");
    let early = directory.endpoint(ip("10.20.0.3"), Reserved::Init.id().get());
    assert_eq!((early.pod.as_str(), early.identity), ("web", 5));
    assert_eq!(early.labels[0].to_string(), "reserved:init");
    let other = directory.endpoint(ip("10.20.0.4"), 300);
    assert_eq!((other.pod.as_str(), other.namespace.as_str()), ("", "shop"));
    assert_eq!(directory.endpoint(ip("192.0.2.1"), 2).labels[0].to_string(), "reserved:world");
    let unknown = directory.endpoint(ip("192.0.2.1"), 777);
    assert_eq!((unknown.identity, unknown.labels.len()), (777, 0));
}

/// Labels may come after the pod, and a pod after another one with the same address.
#[test]
fn the_order_of_news_does_not_matter() {
    let mut directory = Directory::new("default");
    let pods = |pods: &[(&str, Option<Pod>)]| Moved {
        pods: pods.iter().map(|(pod, known)| (name(pod), known.clone())).collect(),
        ..Moved::default()
    };
    directory.learn(pods(&[("old", pod(300, "10.20.0.3"))]));
    assert_eq!(directory.endpoint(ip("10.20.0.3"), 300).labels.len(), 0);
    directory.learn(Moved { identities: [(300, labels(&["k8s:app=web"]))].into(), ..Moved::default() });
    assert_eq!(directory.endpoint(ip("10.20.0.3"), 300).labels.len(), 1);
    directory.learn(pods(&[("new", pod(301, "10.20.0.3"))]));
    directory.learn(pods(&[("old", None)]));
    assert_eq!(directory.endpoint(ip("10.20.0.3"), 301).pod, "new");
    directory.learn(pods(&[("new", None)]));
    assert_eq!(directory.endpoint(ip("10.20.0.3"), 301).pod, "");
}

#[test]
fn a_pod_of_this_node_has_its_interface_as_its_number() {
    let mut directory = Directory::new("default");
    directory.learn(Moved { pods: [(name("web"), pod(300, "10.20.0.3"))].into(), ..Moved::default() });
    let attached = Attached {
        pod: name("web"),
        addresses: vec![ip("10.20.0.3")],
        interface: "tp0".into(),
        ifindex: 7,
        mac: MacAddress::default(),
        host_mac: MacAddress::default(),
        netns: None,
        l7: Default::default(),
    };
    let step = |endpoint| Update { endpoints: [(name("web"), endpoint)].into(), ..Update::default() };
    directory.update(&step(Some(Arc::new(attached))));
    assert_eq!(directory.endpoint(ip("10.20.0.3"), 300).id, 7);
    assert_eq!(directory.interface(7).map(|interface| interface.name.as_str()), Some("tp0"));
    directory.update(&step(None));
    assert_eq!((directory.endpoint(ip("10.20.0.3"), 300).id, directory.interface(7)), (0, None));
}

fn service(name: &str, address: FrontendAddress) -> (ServicePortId, Option<Arc<ServicePort>>) {
    let (id, port) = testing::service("shop", name, ip("10.24.0.9"), 80);
    let mut port = port.map(Arc::unwrap_or_clone).expect("a Service");
    if address == FrontendAddress::Node {
        port.frontends[0].kind = FrontendKind::NodePort;
    }
    port.frontends[0].address = address;
    (id, Some(Arc::new(port)))
}

#[test]
fn services_are_found_where_they_are_now() {
    let mut directory = Directory::new("default");
    let found = |directory: &Directory, address: &str| {
        directory.service(ip(address), 80, 6).map(|service| service.name.clone()).unwrap_or_default()
    };
    let cluster_ip = FrontendAddress::Ip(ip("10.24.0.9"));
    let services = [service("web", cluster_ip), service("door", FrontendAddress::Node)];
    directory.update(&Update { services: services.into(), ..Update::default() });
    assert_eq!(
        (found(&directory, "10.24.0.9").as_str(), found(&directory, "10.128.0.11").as_str()),
        ("web", "")
    );
    let node = |address| NodeConfig { addresses: vec![ip(address)], ..NodeConfig::default() };
    directory.update(&Update { node: Some(node("10.128.0.11")), ..Update::default() });
    assert_eq!(found(&directory, "10.128.0.11"), "door");
    directory.update(&Update { node: Some(node("10.128.0.12")), ..Update::default() });
    assert_eq!(
        (found(&directory, "10.128.0.11").as_str(), found(&directory, "10.128.0.12").as_str()),
        ("", "door")
    );
    assert_eq!(directory.service(ip("10.24.0.9"), 80, 17), None, "another protocol");
    // The address goes from one Service to another, in either order.
    directory.update(&Update { services: [service("next", cluster_ip)].into(), ..Update::default() });
    directory
        .update(&Update { services: [(service("web", cluster_ip).0, None)].into(), ..Update::default() });
    assert_eq!(found(&directory, "10.24.0.9"), "next");
}
