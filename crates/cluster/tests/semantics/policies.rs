//! Network policies from objects to the snapshot: who has a policy when, what selectors and ports by name come to, what is wrong.

use cluster::{Index, Kind, TwinplaneEndpoint, TwinplaneIdentity, Wish};
use ipnet::IpNet;
use k8s_openapi::{
    api::{
        core::v1::{Namespace, Node, Pod, Service},
        discovery::v1::EndpointSlice,
        networking::v1::NetworkPolicy,
    },
    jiff::Timestamp,
};
use kube::runtime::watcher::Event;
use model::{
    Endpoint, IdentityId, MacAddress, PodName, Protocol, Snapshot,
    policy::{Direction, L4, PeerAddress, Question, Verdict},
};
use policy::{compile::FirstNumbers, v1alpha2::ClusterNetworkPolicy};
use serde_json::{Value, json};

use crate::support::{node, read};

/// Node-a, with all that its agent writes granted at once.
struct Agent {
    index: Index,
    snapshot: Snapshot,
}

fn pod(name: &str) -> PodName {
    PodName { namespace: "d".into(), name: name.into() }
}

fn address(last: u8) -> std::net::IpAddr {
    [10, 20, 0, last].into()
}

fn object(name: &str, role: &str, ports: Value) -> Pod {
    read(&json!({
        "metadata": {"namespace": "d", "name": name, "uid": name, "labels": {"role": role}},
        "spec": {"nodeName": "node-a", "containers": [{"name": "c", "ports": ports}]},
    }))
}

fn endpoint(name: &str, last: u8) -> Endpoint {
    Endpoint {
        pod: pod(name),
        addresses: vec![address(last)],
        interface: format!("tp{last}"),
        ifindex: last.into(),
        mac: MacAddress::default(),
        host_mac: MacAddress::default(),
        netns: None,
        l7: Default::default(),
    }
}

fn policy(name: &str, spec: Value) -> NetworkPolicy {
    read(&json!({"metadata": {"namespace": "d", "name": name}, "spec": spec}))
}

impl Agent {
    /// Two pods, web and client; all is listed but policies.
    fn start() -> Self {
        let settings = cluster::Settings {
            node: "node-a".into(),
            cluster_cidrs: vec!["10.20.0.0/16".parse().expect("prefix")],
            node_ports: model::NodePortAddresses::All,
        };
        let mut this = Self { index: Index::new(settings), snapshot: Snapshot::default() };
        this.index.enforce_policies(FirstNumbers::default());
        this.index.set_endpoint(endpoint("web", 2));
        this.index.set_endpoint(endpoint("client", 3));
        this.index.set_endpoints_known();
        this.list::<Service>(vec![]);
        this.list::<EndpointSlice>(vec![]);
        this.list(vec![read::<Node>(&node("node-a", json!({})))]);
        this.list(vec![read::<Namespace>(&json!({"metadata": {"name": "d", "labels": {"team": "x"}}}))]);
        let http = json!([{"name": "http", "containerPort": 8080}]);
        this.list(vec![object("web", "web", http), object("client", "client", json!([]))]);
        this.list::<TwinplaneIdentity>(vec![]);
        this.list::<TwinplaneEndpoint>(vec![]);
        this.settle();
        this
    }

    fn list<K: Kind>(&mut self, objects: Vec<K>) {
        self.index.observe(Event::<K>::Init);
        for object in objects {
            self.index.observe(Event::InitApply(object));
        }
        self.index.observe(Event::<K>::InitDone);
    }

    fn settle(&mut self) {
        if let Some(update) = self.index.take_update() {
            self.snapshot.advance(update);
        }
    }

    /// Writes what is wished for until nothing is.
    fn grant(&mut self) {
        while let Some(wishes) = self.index.take_wishes(Timestamp::UNIX_EPOCH, false) {
            for wish in wishes {
                match wish {
                    Wish::Create { id, labels } => {
                        self.index.observe(Event::Apply(TwinplaneIdentity::new(id, labels)));
                    }
                    Wish::Publish { endpoint, .. } => self.index.observe(Event::Apply(*endpoint)),
                    other => panic!("{other:?}"),
                }
            }
            self.settle();
        }
    }

    fn identity(&self, last: u8) -> IdentityId {
        self.snapshot.addresses[&IpNet::from(address(last))]
    }

    fn verdict(&self, endpoint: &str, direction: Direction, identity: IdentityId, port: u16) -> Verdict {
        let peer = PeerAddress { identity, prefix: None };
        let l4 = L4::Port(Protocol::Tcp, port);
        let endpoint = pod(endpoint);
        self.snapshot
            .policy
            .decide(&Question { endpoint: &endpoint, direction, peer, l4, loopback: false })
            .verdict
    }
}

#[test]
fn a_pod_has_no_policy_before_policies_and_its_identity_are_known() {
    let mut agent = Agent::start();
    agent.grant();
    assert!(agent.snapshot.policy.endpoints.is_empty() && !agent.index.is_settled(&pod("web")));
    agent.list::<NetworkPolicy>(vec![]);
    agent.settle();
    assert!(agent.snapshot.policy.endpoints.is_empty(), "the other kind is not listed yet");
    agent.list::<ClusterNetworkPolicy>(vec![]);
    agent.settle();
    assert_eq!(agent.snapshot.policy.endpoints.len(), 2);
    assert!(agent.index.is_settled(&pod("web")) && agent.index.is_settled(&pod("nobody")));
    // One that comes later waits for its identity.
    agent.index.set_endpoint(endpoint("late", 4));
    agent.settle();
    assert!(agent.snapshot.endpoints.contains_key(&pod("late")) && !agent.index.is_settled(&pod("late")));
    agent.index.observe(Event::Apply(object("late", "late", json!([]))));
    agent.settle();
    assert!(!agent.index.is_settled(&pod("late")), "its identity is not granted yet");
    agent.grant();
    assert!(agent.index.is_settled(&pod("late")));
    assert!(agent.snapshot.policy.endpoints.contains_key(&pod("late")));
    agent.index.remove_endpoint(&pod("late"));
    agent.settle();
    assert!(!agent.snapshot.policy.endpoints.contains_key(&pod("late")));
    assert!(agent.index.is_settled(&pod("late")), "whoever waits for its end waits for nothing else");
}

#[test]
fn selectors_and_named_ports_are_decided_by_what_is_known_of_pods_and_what_is_wrong_is_told() {
    let mut agent = Agent::start();
    agent.grant();
    let from_client = json!({"podSelector": {"matchLabels": {"role": "client"}}});
    let ingress = policy(
        "in",
        json!({
            "podSelector": {"matchLabels": {"role": "web"}},
            "ingress": [{"from": [from_client], "ports": [{"port": "http"}]}],
        }),
    );
    let egress = policy(
        "out",
        json!({
            "podSelector": {"matchLabels": {"role": "client"}}, "policyTypes": ["Egress"],
            "egress": [{"ports": [{"port": "http"}]}],
        }),
    );
    agent.list(vec![ingress, egress]);
    agent.list::<ClusterNetworkPolicy>(vec![]);
    agent.settle();
    let (web, client) = (agent.identity(2), agent.identity(3));
    let (inward, outward) = (Direction::Ingress, Direction::Egress);
    assert_eq!(agent.verdict("web", inward, client, 8080), Verdict::Allow);
    assert_eq!(agent.verdict("web", inward, client, 8081), Verdict::Deny);
    assert_eq!(agent.verdict("web", inward, web, 8080), Verdict::Deny);
    assert_eq!(agent.verdict("client", outward, web, 8080), Verdict::Allow);
    assert_eq!(agent.verdict("client", outward, web, 80), Verdict::Deny);
    assert_eq!(agent.verdict("client", inward, web, 80), Verdict::Allow, "isolated one way only");

    // Another node's pod tells of its ports by its endpoint.
    let mut there = TwinplaneEndpoint::new(&pod("far"), "far", cluster::EndpointStatus::default());
    there.status.node = "node-b".into();
    there.status.identity = web;
    there.status.addresses = vec!["10.20.1.9".into()];
    let labels = agent.index.identity_views();
    assert!(labels.iter().any(|view| view.id == web));
    there.status.ports = vec![cluster::NamedPort { name: "http".into(), protocol: "TCP".into(), port: 8080 }];
    agent.index.observe(Event::Apply(there.clone()));
    agent.settle();
    assert_eq!(agent.verdict("client", outward, web, 8080), Verdict::Allow);

    // Other labels are another identity, and another policy.
    agent.index.observe(Event::Apply(object("client", "other", json!([]))));
    agent.settle();
    agent.grant();
    let other = agent.identity(3);
    assert_ne!(other, client);
    assert_eq!(agent.verdict("web", inward, other, 8080), Verdict::Deny);
    assert_eq!(agent.verdict("client", outward, web, 80), Verdict::Allow);

    let bad = policy(
        "bad",
        json!({
            "podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "nonsense"}}]}],
        }),
    );
    agent.index.observe(Event::Apply(bad.clone()));
    agent.settle();
    let problems: Vec<String> = agent.index.problems().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].starts_with("NetworkPolicy d/bad: spec.ingress[0].from[0].ipBlock.cidr: "),
        "{problems:?}"
    );
    assert_eq!(agent.verdict("client", inward, web, 80), Verdict::Deny, "isolated all the same");
    agent.index.observe(Event::Delete(bad));
    agent.settle();
    assert_eq!(agent.index.problems().count(), 0);
    assert_eq!(agent.verdict("client", inward, web, 80), Verdict::Allow);
}
