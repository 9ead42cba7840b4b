//! What an isolated pod's clients experience.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use model::{
    IdentityId, PodName, PolicyTable, Protocol, Reserved,
    policy::{
        Action, Direction, DirectionPolicy, EndpointPolicy, L4Match, ListId, Peer, PeerKey, PortAction,
        PortMap, PortPrefix, PortsId, Rank, RuleId, RuleList, Tier,
    },
};

use super::{
    cluster::{Cluster, Setting, USUAL},
    talk::ask_tcp,
};
use crate::model_of::{address, cluster_ip, service, with_backends};

/// Less than a second SYN takes.
const A_MOMENT: Duration = Duration::from_millis(800);

fn id(pod: &str) -> IdentityId {
    IdentityId::from_raw(match pod {
        "a1" => 300,
        "a2" => 301,
        _ => 302,
    })
}

/// As `node` knows them.
fn identities(cluster: &Cluster, node: IpAddr) -> BTreeMap<IpNet, IdentityId> {
    let pods = cluster.pods().map(|pod| (IpNet::from(pod.ip), id(pod.name)));
    let everything = ("0.0.0.0/0".parse().expect("prefix"), Reserved::World.id());
    let nodes = [cluster.a.ip, cluster.b.ip].map(|ip| {
        let who = if ip == node { Reserved::Host } else { Reserved::RemoteNode };
        (IpNet::from(ip), who.id())
    });
    pods.chain(nodes).chain([everything]).collect()
}

/// The pods of a node; `isolated` among them gets only what comes from, or sends only what goes to, port 8080 of `friends`.
fn table(pods: &[&str], isolated: &str, direction: Direction, friends: &[&str], round: u32) -> PolicyTable {
    let (list, ports) = (ListId(round), PortsId(round));
    let rule = PortAction { rank: Rank(0), action: Action::Allow, rule: RuleId(round) };
    let http = L4Match::Ports(Protocol::Tcp, PortPrefix::one(8080));
    let isolating = DirectionPolicy { network_policy: Some(list), ..DirectionPolicy::default() };
    let endpoint = |pod: &&str| {
        let (ingress, egress) = match direction {
            _ if *pod != isolated => Default::default(),
            Direction::Ingress => (isolating, DirectionPolicy::default()),
            Direction::Egress => (DirectionPolicy::default(), isolating),
        };
        let name = PodName { namespace: "test".into(), name: (*pod).into() };
        (name, EndpointPolicy { ingress, egress, ..EndpointPolicy::default() })
    };
    let isolation = Some(RuleId(1000));
    PolicyTable {
        endpoints: pods.iter().map(endpoint).collect(),
        lists: [(list, RuleList { direction, tier: Tier::NetworkPolicy, isolation })].into(),
        peers: friends.iter().map(|pod| (PeerKey { list, peer: Peer::Identity(id(pod)) }, ports)).collect(),
        ports: [(ports, Arc::new(PortMap::new([(http, rule)])))].into(),
        ..PolicyTable::default()
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("socket address")
}

/// Nothing comes back, neither an answer nor a refusal.
#[track_caller]
fn times_out(space: &netns::NetNs, to: SocketAddr) {
    let result = space.run(|| TcpStream::connect_timeout(&to, A_MOMENT)).expect("enter");
    let error = result.expect_err("nobody answers");
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{to}: {error}");
}

#[test]
fn clients_of_an_isolated_pod_are_served_or_time_out() {
    let mut cluster = Cluster::new(Setting { policy: true, ..USUAL });
    cluster.serve();
    let frontends = vec![cluster_ip(address("10.24.0.10"), 80)];
    let web = with_backends(service("web", Protocol::Tcp, frontends), &[(at("10.20.1.7:8080"), false)]);
    cluster.program(&[web]);
    let (of_a, of_b) = (identities(&cluster, cluster.a.ip), identities(&cluster, cluster.b.ip));
    let (pod, frontend, other) = (at("10.20.1.7:8080"), at("10.24.0.10:80"), at("10.20.0.6:8080"));
    cluster.a.enforce(of_a.clone(), table(&["a1", "a2"], "", Direction::Ingress, &[], 1));
    cluster.b.enforce(of_b.clone(), table(&["b1"], "b1", Direction::Ingress, &["a1"], 2));
    let body: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
    for to in [pod, frontend] {
        assert_eq!(ask_tcp(&cluster.a.pods[0].space, to, &body).server, "b1");
        times_out(&cluster.a.pods[1].space, to);
        // Another node is nobody special.
        times_out(&cluster.a.space, to);
    }
    assert_eq!(ask_tcp(&cluster.b.space, pod, b"probe").server, "b1", "its own node");
    assert_eq!(ask_tcp(&cluster.b.pods[0].space, other, b"out").server, "a2", "what it asks is answered");
    assert!(cluster.b.counter("dropped_policy_ingress") > 0);

    let open = |space: &netns::NetNs, to: SocketAddr| {
        let stream = space.run(|| TcpStream::connect(to)).expect("enter").expect("connect");
        stream.set_read_timeout(Some(A_MOMENT)).expect("timeout");
        stream
    };
    let echoes = |mut stream: &TcpStream| {
        stream.write_all(b"x").expect("written");
        let mut buffer = [0; 64];
        // The greeting comes first.
        loop {
            match stream.read(&mut buffer) {
                Ok(count) if count > 0 && buffer[count - 1] == b'x' => return true,
                Ok(count) if count > 0 => {}
                _ => return false,
            }
        }
    };
    let cut = open(&cluster.a.pods[0].space, frontend);
    let kept = open(&cluster.a.pods[0].space, other);
    assert_eq!((echoes(&cut), echoes(&kept)), (true, true));
    cluster.b.enforce(of_b, table(&["b1"], "b1", Direction::Ingress, &["a2"], 3));
    assert_eq!((echoes(&cut), echoes(&kept)), (false, true));
    assert_eq!(ask_tcp(&cluster.a.pods[1].space, frontend, &body).server, "b1");

    // The other way round: what a pod may ask, also through a service.
    cluster.a.enforce(of_a, table(&["a1", "a2"], "a2", Direction::Egress, &["b1"], 4));
    assert_eq!(ask_tcp(&cluster.a.pods[1].space, frontend, &body).server, "b1");
    times_out(&cluster.a.pods[1].space, at("10.20.0.5:8080"));
    assert_eq!(ask_tcp(&cluster.a.pods[0].space, other, b"to it").server, "a2", "it answers");
    cluster.clean_up();
}
