//! NetworkPolicies of one pod, compiled: who reaches it, what is told of it, in both families.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use dataplane::{Dataplane as _, PlaneStatus};
use ipnet::IpNet;
use model::{
    Backend, Family, FrontendKind, IdentityId, PolicyTable, Protocol, Reserved,
    policy::{Direction, Mode},
    told::{Stop, Stopped},
};
use policy::{offline::Offline, read::PodReading, world::World};
use serde_json::{Value, json};

use super::yard::{SOON, Yard, connects, node, ours, own, stopped};
use crate::{
    common::{frontend, id, node_port, service},
    tables,
};

const WEB: u16 = 8080;

/// d/web, and d/friend elsewhere, which has the first address of [`tables::peers`] in both families.
fn program(yard: &mut Yard, specs: &[Value], mode: Mode) {
    let mut world = World::default();
    world.set_namespace("d", [].into());
    let friend = Family::ALL.map(|family| tables::peers(family)[0]);
    for (pod, node, addresses) in [("web", "n1", Family::ALL.map(own)), ("friend", "n2", friend)] {
        let reading = PodReading {
            labels: [("app".to_owned(), pod.to_owned())].into(),
            addresses: addresses.to_vec(),
            node: node.into(),
            ..PodReading::default()
        };
        world.pods.insert(model::PodName { namespace: "d".into(), name: pod.into() }, reading);
    }
    for (number, spec) in specs.iter().enumerate() {
        let object = json!({"metadata": {"namespace": "d", "name": format!("p{number}")}, "spec": spec});
        world.set_network_policy(serde_json::from_value(object).expect("NetworkPolicy"), None);
    }
    let offline = Offline::of(&world);
    let mut table: PolicyTable = offline.table().clone();
    let web = table.endpoints.remove(&tables::pod()).expect("the pod");
    table.endpoints = [(tables::pod(), model::policy::EndpointPolicy { mode, ..web })].into();
    let mut addresses = ours();
    for (pod, identity) in offline.identities() {
        addresses.extend(world.pods[pod].addresses.iter().map(|ip| (IpNet::from(*ip), *identity)));
    }
    for gateway in Family::ALL.map(another_node) {
        addresses.insert(IpNet::from(gateway), Reserved::RemoteNode.id());
    }
    yard.enforce(table, &addresses);
}

fn another_node(family: Family) -> IpAddr {
    crate::common::ip(if family == Family::V4 { "192.168.50.1" } else { "fd00:50::1" })
}

fn isolated() -> Value {
    json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})
}

fn from_blocks(blocks: &[String]) -> Value {
    let from: Vec<_> = blocks.iter().map(|block| json!({"ipBlock": {"cidr": block}})).collect();
    json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": from}]})
}

/// Whether the pod's port is reached from an address outside.
fn reaches(yard: &Yard, from: IpAddr, wanted: bool) -> bool {
    let to = SocketAddr::new(own(Family::of(from)), WEB);
    yard.outside.run(|| connects(from, to, wanted)).expect("enter namespace")
}

#[test]
fn h1_h3_the_node_reaches_its_pod_from_whichever_of_its_addresses() {
    let mut yard = Yard::new("h1", false);
    program(&mut yard, &[isolated()], Mode::Enforce);
    for family in Family::ALL {
        let to = SocketAddr::new(own(family), WEB);
        for address in node(family) {
            assert!(yard.node.run(|| connects(address, to, true)).expect("enter namespace"), "{address}");
        }
        assert!(!reaches(&yard, tables::peers(family)[1], false), "{family:?}");
    }
}

/// Policies see the client's address, before it is replaced by the node's.
#[test]
fn h2_v3_a_masqueraded_outsider_is_not_the_node() {
    let mut yard = Yard::new("h2", false);
    program(&mut yard, &[isolated()], Mode::Enforce);
    let mut next = yard.snapshot.clone();
    for family in Family::ALL {
        let backend = Backend { address: SocketAddr::new(own(family), WEB), local: true, terminating: false };
        let cluster_ip = if family == Family::V4 { "10.96.0.1" } else { "fd00:96::1" };
        let frontends = vec![frontend(FrontendKind::ClusterIp, cluster_ip, 80), node_port(30_080)];
        let mut service = service(id("d", "web", "http", Protocol::Tcp), frontends, vec![backend]);
        service.id.family = family;
        next.services.insert(service.id.clone(), Arc::new(service));
    }
    yard.apply(next);
    let asks = |yard: &Yard, family, wanted| {
        let (from, to) = (tables::peers(family)[3], SocketAddr::new(node(family)[0], 30_080));
        yard.outside.run(|| connects(from, to, wanted)).expect("enter namespace")
    };
    for family in Family::ALL {
        assert!(!asks(&yard, family, false), "{family:?}");
    }
    let clients = Family::ALL.map(|family| IpNet::from(tables::peers(family)[3]).to_string());
    program(&mut yard, &[isolated(), from_blocks(&clients)], Mode::Enforce);
    for family in Family::ALL {
        assert!(asks(&yard, family, true), "{family:?}");
        let seen = yard.on_node(|plane, _| plane.connections(usize::MAX).expect("read"));
        let masqueraded = seen.iter().any(|seen| node(family).contains(&seen.source_seen.ip()));
        assert!(masqueraded, "{seen:?}");
    }
}

#[test]
fn h4_h5_another_node_and_its_host_network_pods_are_asked_about() {
    let mut yard = Yard::new("h4", false);
    let from_all_pods = json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}}]}]});
    program(&mut yard, std::slice::from_ref(&from_all_pods), Mode::Enforce);
    for family in Family::ALL {
        assert!(reaches(&yard, tables::peers(family)[0], true), "a pod: {family:?}");
        assert!(!reaches(&yard, another_node(family), false), "{family:?}");
    }
    let nodes = Family::ALL.map(|family| IpNet::from(another_node(family)).to_string());
    program(&mut yard, &[from_all_pods, from_blocks(&nodes)], Mode::Enforce);
    for family in Family::ALL {
        assert!(reaches(&yard, another_node(family), true), "{family:?}");
    }
}

/// B2: what a pod sends to its own node is judged, and a block may name the node.
#[test]
fn b2_the_node_is_an_address_like_others_to_what_its_pod_sends() {
    let mut yard = Yard::new("b2", false);
    yard.node
        .run(|| {
            let listener = TcpListener::bind((std::net::Ipv6Addr::UNSPECIFIED, 9100)).expect("bind");
            std::thread::spawn(move || listener.incoming().count());
        })
        .expect("enter namespace");
    let asks = |yard: &Yard, family, wanted| {
        let to = SocketAddr::new(node(family)[0], 9100);
        yard.pod.run(|| connects(own(family), to, wanted)).expect("enter namespace")
    };
    program(&mut yard, &[isolated()], Mode::Enforce);
    for family in Family::ALL {
        assert!(!asks(&yard, family, false), "{family:?}");
    }
    let to = Family::ALL.map(|family| json!({"ipBlock": {"cidr": IpNet::from(node(family)[0]).to_string()}}));
    let block = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": to}]});
    program(&mut yard, &[block], Mode::Enforce);
    for family in Family::ALL {
        assert!(asks(&yard, family, true), "{family:?}");
    }
}

fn counter(status: &PlaneStatus, name: &str) -> u64 {
    status.counters.iter().find(|counter| counter.name == name).map_or(0, |counter| counter.packets)
}

/// By which policy, and in which direction.
fn rule(yard: &Yard, stopped: &Stopped) -> Option<(String, Direction)> {
    let rule = yard.snapshot.policy.rules.get(&stopped.rule?)?;
    Some((rule.policy.name.clone(), rule.direction))
}

fn is_from(source: IpAddr) -> impl Fn(&Stopped) -> bool {
    move |stopped| stopped.tuple.is_some_and(|tuple| tuple.source == source)
}

#[test]
fn what_is_denied_is_told_of_with_its_rule_and_what_is_audited_gets_through() {
    let mut yard = Yard::new("audit", true);
    let mut telling = yard.telling();
    for (mode, why, gets_through) in [
        (Mode::Enforce, Stop::Policy, false),
        (Mode::Audit, Stop::Audited, true),
        (Mode::Enforce, Stop::Policy, false),
    ] {
        program(&mut yard, &[isolated()], mode);
        for family in Family::ALL {
            let outsider = tables::peers(family)[3];
            assert_eq!(reaches(&yard, outsider, gets_through), gets_through, "{mode:?} {family:?}");
            let told = stopped(&mut telling, is_from(outsider));
            assert_eq!((told.why, told.tcp_flags), (why, 2), "its SYN");
            assert_eq!(rule(&yard, &told), Some(("p0".to_owned(), Direction::Ingress)));
            let to = SocketAddr::new(outsider, 80);
            let sends = yard.pod.run(|| connects(own(family), to, gets_through)).expect("enter namespace");
            assert_eq!(sends, gets_through, "{mode:?} {family:?}");
            let told = stopped(&mut telling, is_from(own(family)));
            assert_eq!((told.why, rule(&yard, &told)), (why, Some(("p0".to_owned(), Direction::Egress))));
        }
    }
    let status = yard.on_node(|plane, _| plane.status());
    // A machine that is slow sends a SYN again.
    assert!(counter(&status, "audited_policy") >= 4, "{:?}", status.counters);
    assert!(
        counter(&status, "dropped_policy") >= 8,
        "outlives rules that are written anew: {:?}",
        status.counters
    );
}

/// What the client of an open flow sends is told of by the rule that denies it now; the flow goes on once it is allowed again.
#[test]
fn c3_a_held_flow_is_told_of_by_its_rule_and_goes_on_where_it_may() {
    let mut yard = Yard::new("held", true);
    let mut telling = yard.telling();
    for family in Family::ALL {
        program(&mut yard, &[], Mode::Enforce);
        let (outsider, web) = (tables::peers(family)[3], SocketAddr::new(own(family), WEB));
        let connect = || TcpStream::connect_timeout(&web, SOON).expect("connect");
        let mut stream = yard.outside.run(connect).expect("enter namespace");
        let client = stream.local_addr().expect("an address").ip();
        assert!(echoes(&mut stream, SOON));
        program(&mut yard, &[isolated()], Mode::Enforce);
        assert!(!echoes(&mut stream, Duration::from_millis(500)), "{family:?}");
        let told = stopped(&mut telling, is_from(client));
        assert_eq!(
            (told.why, rule(&yard, &told)),
            (Stop::Policy, Some(("p0".to_owned(), Direction::Ingress)))
        );
        assert_eq!(told.tcp_flags & 2, 0, "no SYN");
        assert!(!reaches(&yard, outsider, false));
        program(&mut yard, &[isolated(), from_blocks(&[IpNet::from(client).to_string()])], Mode::Enforce);
        let back = echo(&mut stream, SOON);
        assert!(matches!(back, Ok(1..)), "{family:?} {back:?}");
    }
}

/// Whether something comes back that was sent.
fn echoes(stream: &mut TcpStream, patience: Duration) -> bool {
    echo(stream, patience).is_ok_and(|length| length > 0)
}

fn echo(stream: &mut TcpStream, patience: Duration) -> std::io::Result<usize> {
    stream.set_read_timeout(Some(patience)).expect("a time-out");
    stream.write_all(b"?").expect("room for a byte");
    loop {
        // Signals that others' children send end it early.
        match stream.read(&mut [0; 64]) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

/// Somebody takes a family's rules away: what is read back has nothing, where the table still has it.
#[test]
fn what_is_not_in_the_kernel_is_not_read_back() {
    let mut yard = Yard::new("drift", false);
    program(&mut yard, &[isolated()], Mode::Enforce);
    let wanted = yard.snapshot.policy.clone();
    let read = |yard: &mut Yard| {
        yard.on_node(|plane, _| plane.enforced(&tables::pod(), &wanted).expect("read").expect("it enforces"))
    };
    let whole = read(&mut yard);
    let lists = |part: &PolicyTable| part.endpoints[&tables::pod()].ingress.network_policy.is_some();
    assert!(Family::ALL.iter().all(|family| lists(&whole.families[family])), "{whole:?}");
    yard.on_node(|_, _| crate::node::run("ip6tables", "-t mangle -D FORWARD -j TWINPLANE-POLICY"));
    let part = read(&mut yard);
    assert!(lists(&part.families[&Family::V4]) && !lists(&part.families[&Family::V6]), "{part:?}");
    yard.on_node(|plane, snapshot| plane.repair(snapshot).map(|_| ()).expect("repair"));
    assert_eq!(read(&mut yard).table.endpoints, whole.table.endpoints);
    let nobody = model::PodName { namespace: "d".into(), name: "nobody".into() };
    let none = yard.on_node(|plane, _| plane.enforced(&nobody, &wanted).expect("read").expect("it enforces"));
    assert!(none.table.endpoints.is_empty() && none.counts.is_empty());
    assert_eq!(
        yard.on_node(|plane, _| plane.identity_of(own(Family::V4)).expect("read")).map(IdentityId::get),
        Some(257)
    );
}
