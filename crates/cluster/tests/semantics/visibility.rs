//! Whose messages may be read: by annotations of Pods and Namespaces, as they come and go.

use cluster::L7_ANNOTATION;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use model::{Endpoint, MacAddress, PodName};
use serde_json::{Value, json};

use crate::support::{Cluster, NODE};

fn name(pod: &str) -> PodName {
    PodName { namespace: "shop".into(), name: pod.into() }
}

fn attached(pod: &str) -> Endpoint {
    Endpoint {
        pod: name(pod),
        addresses: vec!["10.20.0.2".parse().expect("address")],
        interface: "tp0".into(),
        ifindex: 1,
        mac: MacAddress::default(),
        host_mac: MacAddress::default(),
        netns: None,
        l7: Default::default(),
    }
}

fn annotations(value: Option<&str>) -> Value {
    value.map_or(json!({}), |value| json!({L7_ANNOTATION: value}))
}

fn pod(value: Option<&str>) -> Value {
    json!({
        "metadata": {"namespace": "shop", "name": "web", "uid": "1", "annotations": annotations(value)},
        "spec": {"nodeName": NODE, "containers": []},
    })
}

fn namespace(value: Option<&str>) -> Value {
    json!({"metadata": {"name": "shop", "annotations": annotations(value)}})
}

/// What may be read of a pod, as letters.
fn visible(cluster: &mut Cluster, pod: &str) -> String {
    cluster.settle();
    let l7 = cluster.snapshot.endpoints[&name(pod)].l7;
    [(l7.dns, "d"), (l7.http, "h")]
        .into_iter()
        .filter(|(is_set, _)| *is_set)
        .map(|(_, letter)| letter)
        .collect()
}

#[test]
fn a_pods_own_word_counts_before_its_namespaces_and_both_at_once() {
    let mut cluster = Cluster::new();
    for pod in ["web", "other"] {
        cluster.index.set_endpoint(attached(pod));
    }
    assert_eq!(
        (visible(&mut cluster, "web"), visible(&mut cluster, "other")),
        (String::new(), String::new())
    );
    for (of_pod, of_namespace, expected) in [
        (None, Some("dns"), ("d", "d")),
        (Some("http"), Some("dns"), ("h", "d")),
        (Some("none"), Some("dns,http"), ("", "dh")),
        (Some("dns,http"), None, ("dh", "")),
        (None, None, ("", "")),
    ] {
        cluster.apply::<Pod>(&pod(of_pod)).apply::<Namespace>(&namespace(of_namespace));
        let seen = (visible(&mut cluster, "web"), visible(&mut cluster, "other"));
        assert_eq!((seen.0.as_str(), seen.1.as_str()), expected, "{of_pod:?} {of_namespace:?}");
        assert!(cluster.index.take_update().is_none());
        cluster.apply::<Pod>(&pod(of_pod)).apply::<Namespace>(&namespace(of_namespace));
        let update = cluster.index.take_update();
        assert!(update.is_none_or(|update| update.endpoints.is_empty()), "the same again moves nothing");
    }
}

#[test]
fn annotations_may_come_before_the_pod_and_go_with_their_object() {
    let mut cluster = Cluster::new();
    cluster.apply::<Pod>(&pod(Some("http"))).apply::<Namespace>(&namespace(Some("dns")));
    cluster.index.set_endpoint(attached("web"));
    assert_eq!(visible(&mut cluster, "web"), "h");
    cluster.delete::<Pod>(&pod(Some("http")));
    assert_eq!(visible(&mut cluster, "web"), "d");
    cluster.delete::<Namespace>(&namespace(Some("dns")));
    assert_eq!(visible(&mut cluster, "web"), "");
    cluster.apply::<Pod>(&pod(Some("http")));
    assert_eq!(visible(&mut cluster, "web"), "h");
    cluster.list::<Pod>(&[]);
    assert_eq!(visible(&mut cluster, "web"), "", "gone while nobody watched");
    cluster.index.remove_endpoint(&name("web"));
    cluster.apply::<Pod>(&pod(Some("http"))).settle();
    assert!(cluster.snapshot.endpoints.is_empty(), "an annotation attaches nobody");
}

#[test]
fn a_bad_value_is_reported_and_loses_nothing_else() {
    let mut cluster = Cluster::new();
    cluster.index.set_endpoint(attached("web"));
    cluster.apply::<Pod>(&pod(Some("dns, grpc"))).apply::<Namespace>(&namespace(Some("everything")));
    assert_eq!(visible(&mut cluster, "web"), "d");
    let field = "metadata.annotations[twinplane.dev/l7]: unknown protocol";
    let mut problems = cluster.problems();
    problems.sort();
    assert_eq!(
        problems,
        [
            format!("Namespace shop: {field} \"everything\": want dns, http or none"),
            format!("Pod shop/web: {field} \"grpc\": want dns, http or none"),
        ]
    );
    cluster.apply::<Pod>(&pod(Some("dns"))).apply::<Namespace>(&namespace(None));
    assert_eq!(cluster.problems(), [] as [&str; 0]);
}
