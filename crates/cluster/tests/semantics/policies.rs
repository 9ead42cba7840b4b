//! Policies within the index: when they are told of, whom they concern, what is reported.

use std::net::IpAddr;

use cluster::{Kind, POLICY_ANNOTATION, TwinplaneEndpoint, TwinplaneIdentity, Wish};
use ipnet::IpNet;
use k8s_openapi::{
    api::{
        core::v1::{Namespace, Pod},
        networking::v1::NetworkPolicy,
    },
    jiff::Timestamp,
};
use kube::runtime::watcher::Event;
use model::{
    Endpoint, IdentityId, MacAddress, PodName, Protocol,
    policy::{Direction, L4, Mode, PeerAddress, Question, Verdict},
};
use policy::v1alpha2::ClusterNetworkPolicy;
use serde_json::{Value, json};

use crate::support::{Cluster, NODE};

fn name(pod: &str) -> PodName {
    PodName { namespace: "shop".into(), name: pod.into() }
}

fn attached(pod: &str, address: &str) -> Endpoint {
    Endpoint {
        pod: name(pod),
        addresses: vec![address.parse().expect("address")],
        interface: "tp0".into(),
        ifindex: 1,
        mac: MacAddress::default(),
        host_mac: MacAddress::default(),
        netns: None,
        l7: Default::default(),
    }
}

fn pod(pod: &str, app: &str, annotations: &Value) -> Value {
    let ports = json!([{"name": "http", "containerPort": 8080}]);
    json!({
        "metadata": {"namespace": "shop", "name": pod, "uid": pod, "labels": {"app": app}, "annotations": annotations},
        "spec": {"nodeName": NODE, "containers": [{"name": "c", "ports": ports}]},
    })
}

fn network_policy(spec: &Value) -> Value {
    json!({"metadata": {"namespace": "shop", "name": "p"}, "spec": spec})
}

/// Writes what the index wishes for, until it wishes for nothing.
fn grant(cluster: &mut Cluster) {
    let mut version = 0;
    while let Some(wishes) = cluster.index.take_wishes(Timestamp::UNIX_EPOCH, false) {
        for wish in wishes {
            version += 1;
            match wish {
                Wish::Create { id, labels } => {
                    let mut identity = TwinplaneIdentity::new(id, labels);
                    identity.metadata.resource_version = Some(version.to_string());
                    cluster.index.observe(Event::Apply(identity));
                }
                Wish::Publish { endpoint, .. } => {
                    let mut endpoint = *endpoint;
                    endpoint.metadata.resource_version = Some(version.to_string());
                    cluster.index.observe(Event::Apply(endpoint));
                }
                Wish::Keep { .. }
                | Wish::Mark { .. }
                | Wish::Remove { .. }
                | Wish::Withdraw { .. }
                | Wish::Judge { .. } => {}
            }
        }
    }
    cluster.settle();
}

/// Two pods, client and server, and everything but policies listed.
fn without_policies() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.list::<Namespace>(&[json!({"metadata": {"name": "shop"}})]);
    cluster.list::<TwinplaneIdentity>(&[]);
    cluster.list::<TwinplaneEndpoint>(&[]);
    for (of, address) in [("client", "10.20.0.2"), ("server", "10.20.0.3")] {
        cluster.apply::<Pod>(&pod(of, of, &json!({})));
        cluster.index.set_endpoint(attached(of, address));
    }
    grant(&mut cluster);
    cluster
}

fn with_policies(policies: &[Value]) -> Cluster {
    let mut cluster = without_policies();
    cluster.list::<NetworkPolicy>(policies);
    cluster.list::<ClusterNetworkPolicy>(&[]);
    grant(&mut cluster);
    cluster
}

fn identity(cluster: &Cluster, pod: &str) -> IdentityId {
    let views = cluster.index.endpoint_views();
    views.into_iter().find(|view| view.pod == name(pod)).expect("an endpoint").identity
}

fn verdict(cluster: &Cluster, direction: Direction, of: &str, identity: IdentityId, port: u16) -> Verdict {
    let (peer, l4) = (PeerAddress { identity, prefix: None }, L4::Port(Protocol::Tcp, port));
    let endpoint = &name(of);
    cluster.snapshot.policy.decide(&Question { endpoint, direction, peer, l4, loopback: false }).verdict
}

#[test]
fn nothing_is_said_before_both_kinds_of_policy_were_listed() {
    let mut cluster = without_policies();
    let deny = network_policy(&json!({"podSelector": {}}));
    cluster.list::<NetworkPolicy>(std::slice::from_ref(&deny));
    cluster.settle();
    assert!(!cluster.index.policies_known() && cluster.snapshot.policy.endpoints.is_empty());
    cluster.list::<ClusterNetworkPolicy>(&[]);
    cluster.settle();
    assert_eq!(cluster.snapshot.policy.endpoints.len(), 2);
    let client = identity(&cluster, "client");
    assert_eq!(verdict(&cluster, Direction::Ingress, "server", client, 80), Verdict::Deny);
    cluster.list::<NetworkPolicy>(&[]);
    cluster.settle();
    assert_eq!(verdict(&cluster, Direction::Ingress, "server", client, 80), Verdict::Allow);
}

#[test]
fn pods_are_who_their_identities_say_and_their_ports_are_their_own() {
    let rule =
        json!({"from": [{"podSelector": {"matchLabels": {"app": "client"}}}], "ports": [{"port": "http"}]});
    let spec = json!({"podSelector": {"matchLabels": {"app": "server"}}, "ingress": [rule]});
    let mut cluster = with_policies(&[network_policy(&spec)]);
    let (client, server) = (identity(&cluster, "client"), identity(&cluster, "server"));
    assert_eq!(verdict(&cluster, Direction::Ingress, "server", client, 8080), Verdict::Allow);
    assert_eq!(verdict(&cluster, Direction::Ingress, "server", client, 80), Verdict::Deny);
    assert_eq!(verdict(&cluster, Direction::Ingress, "server", server, 8080), Verdict::Deny);
    assert_eq!(verdict(&cluster, Direction::Ingress, "client", server, 1), Verdict::Allow);
    cluster.apply::<Pod>(&pod("client", "other", &json!({})));
    grant(&mut cluster);
    assert_ne!(identity(&cluster, "client"), client);
    let now = identity(&cluster, "client");
    assert_eq!(verdict(&cluster, Direction::Ingress, "server", now, 8080), Verdict::Deny);
    cluster.index.remove_endpoint(&name("client"));
    cluster.settle();
    assert_eq!(cluster.snapshot.policy.endpoints.len(), 1);
}

#[test]
fn ports_by_name_of_other_nodes_pods_come_with_their_endpoints() {
    let spec = json!({"podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Egress"],
        "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "far"}}}], "ports": [{"port": "http"}]}]});
    let mut cluster = with_policies(&[network_policy(&spec)]);
    let labels = json!({"k8s:app": "far", "k8s:io.kubernetes.pod.namespace": "shop"});
    cluster.apply::<TwinplaneIdentity>(&json!({"metadata": {"name": "4000"}, "spec": {"labels": labels}}));
    let far = IdentityId::from_raw(4000);
    let endpoint = |port: u16| {
        let ports = json!([{"name": "http", "protocol": "TCP", "port": port}]);
        json!({"metadata": {"namespace": "shop", "name": "far"},
            "status": {"node": "node-b", "identity": 4000, "addresses": ["10.20.1.2"], "ports": ports}})
    };
    for port in [81, 82] {
        cluster.apply::<TwinplaneEndpoint>(&endpoint(port)).settle();
        for asked in [81, 82] {
            let wanted = if asked == port { Verdict::Allow } else { Verdict::Deny };
            assert_eq!(verdict(&cluster, Direction::Egress, "client", far, asked), wanted);
        }
    }
    cluster.delete::<TwinplaneEndpoint>(&endpoint(82)).settle();
    assert_eq!(verdict(&cluster, Direction::Egress, "client", far, 82), Verdict::Deny);
}

#[test]
fn an_agent_tells_the_others_of_its_pods_ports() {
    let mut cluster = Cluster::new();
    cluster.list::<Namespace>(&[json!({"metadata": {"name": "shop"}})]);
    cluster.list::<TwinplaneIdentity>(&[]);
    cluster.list::<TwinplaneEndpoint>(&[]);
    cluster.apply::<Pod>(&pod("server", "server", &json!({})));
    cluster.index.set_endpoint(attached("server", "10.20.0.3"));
    let mut told = vec![];
    while let Some(wishes) = cluster.index.take_wishes(Timestamp::UNIX_EPOCH, false) {
        for wish in wishes {
            match wish {
                Wish::Create { id, labels } => {
                    cluster.index.observe(Event::Apply(TwinplaneIdentity::new(id, labels)));
                }
                Wish::Publish { endpoint, .. } => told.push(endpoint.status.ports),
                _ => {}
            }
        }
    }
    let ports: Vec<_> = told.concat().into_iter().map(|port| (port.name, port.protocol, port.port)).collect();
    assert_eq!(ports, [("http".to_owned(), Protocol::Tcp, 8080)]);
}

#[test]
fn audit_is_said_by_the_pod_before_its_namespace() {
    let mut cluster = with_policies(&[]);
    let mode = |cluster: &mut Cluster| {
        cluster.settle();
        cluster.snapshot.policy.endpoints[&name("server")].mode
    };
    let said = |word: &str| json!({POLICY_ANNOTATION: word});
    let namespace = |word: &str| json!({"metadata": {"name": "shop", "annotations": said(word)}});
    assert_eq!(mode(&mut cluster), Mode::Enforce);
    cluster.apply::<Namespace>(&namespace("audit"));
    assert_eq!(mode(&mut cluster), Mode::Audit);
    cluster.apply::<Pod>(&pod("server", "server", &said("enforce")));
    assert_eq!(mode(&mut cluster), Mode::Enforce);
    cluster.apply::<Pod>(&pod("server", "server", &json!({})));
    assert_eq!(mode(&mut cluster), Mode::Audit);
    cluster.apply::<Namespace>(&namespace("loose"));
    assert_eq!(mode(&mut cluster), Mode::Enforce);
    let told = r#"Namespace shop: metadata.annotations[twinplane.dev/policy]: unknown mode "loose": want audit or enforce"#;
    assert_eq!(cluster.problems(), [told]);
}

#[test]
fn what_is_wrong_with_a_policy_is_reported_on_it_while_it_is_there() {
    let bad =
        network_policy(&json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "?"}}]}]}));
    let mut cluster = with_policies(std::slice::from_ref(&bad));
    let told = r#"NetworkPolicy shop/p: spec.ingress[0].from[0].ipBlock.cidr: invalid prefix "?": want address/length"#;
    assert_eq!(cluster.problems(), [told]);
    let nodes = json!({"metadata": {"name": "c"}, "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}},
        "egress": [{"action": "Accept", "to": [{"nodes": {}}]}]}});
    cluster.apply::<ClusterNetworkPolicy>(&nodes);
    assert_eq!(
        cluster.problems()[0],
        "ClusterNetworkPolicy c: spec.egress[0].to[0]: nodes peers are not supported"
    );
    cluster.delete::<ClusterNetworkPolicy>(&nodes).delete::<NetworkPolicy>(&bad);
    assert!(cluster.problems().is_empty());
    assert_eq!(<ClusterNetworkPolicy as Kind>::KIND, "ClusterNetworkPolicy");
}

#[test]
fn another_pod_of_known_labels_costs_one_address_and_no_row_of_a_list() {
    let rule =
        json!({"from": [{"podSelector": {"matchLabels": {"app": "client"}}}], "ports": [{"port": 80}]});
    let spec = json!({"podSelector": {"matchLabels": {"app": "server"}}, "ingress": [rule]});
    let mut cluster = with_policies(&[network_policy(&spec)]);
    let known = identity(&cluster, "client");
    let (new, labels) =
        (4001, json!({"k8s:app": "client", "k8s:io.kubernetes.pod.namespace": "shop", "k8s:v": "2"}));
    cluster.apply::<TwinplaneIdentity>(&json!({"metadata": {"name": "4001"}, "spec": {"labels": labels}}));
    let mut told = |address: &str, identity: u32| {
        let name = format!("far-{}", address.replace('.', "-"));
        let status = json!({"node": "node-b", "identity": identity, "addresses": [address]});
        let metadata = json!({"namespace": "shop", "name": name});
        cluster.apply::<TwinplaneEndpoint>(&json!({"metadata": metadata, "status": status}));
        let update = cluster.index.take_update().expect("an update");
        cluster.snapshot.advance(update.clone());
        (update.addresses, update.policy)
    };
    let (_, policy) = told("10.20.1.2", new);
    assert_eq!(policy.peers.len(), 1, "labels that nobody had: {policy:?}");
    for (address, identity) in [("10.20.1.3", new), ("10.20.1.4", known.get())] {
        let (addresses, policy) = told(address, identity);
        let prefix = IpNet::from(address.parse::<IpAddr>().expect("address"));
        assert_eq!(addresses, [(prefix, Some(IdentityId::from_raw(identity)))].into());
        assert!(policy.is_empty(), "{policy:?}");
    }
    // On this node it has a row of its own, which refers to lists that are there.
    let mut before = cluster.snapshot.policy.clone();
    cluster.apply::<Pod>(&pod("client-2", "client", &json!({})));
    cluster.index.set_endpoint(attached("client-2", "10.20.0.4"));
    grant(&mut cluster);
    assert_eq!(identity(&cluster, "client-2"), known);
    before.endpoints.insert(name("client-2"), before.endpoints[&name("client")]);
    assert_eq!(cluster.snapshot.policy, before);
}
