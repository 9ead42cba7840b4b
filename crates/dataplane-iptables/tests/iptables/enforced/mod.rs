//! Network policies between real sockets.

mod star;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use dataplane_iptables::{Config, Heard, TellingConfig};
use model::{
    Family, PodName, Protocol,
    told::{Stop, Told},
};
use policy::{compile::ContainerPorts, read::PodReading, world::World};
use serde_json::{Value, json};

use self::star::{Star, carries};

const WEB: u16 = 8080;
const TCP: &[star::Listens] = &[(Protocol::Tcp, WEB)];
const SOON: Duration = Duration::from_secs(10);
const NEVER: Duration = Duration::from_secs(1);

fn name(name: &str) -> PodName {
    PodName { namespace: "d".into(), name: name.into() }
}

/// web, friend and other, each with an address of both families.
fn world() -> World {
    let mut world = World::default();
    world.set_namespace("d", BTreeMap::new());
    for (number, pod) in ["friend", "other", "web"].into_iter().enumerate() {
        let addresses = [format!("10.244.0.{}", number + 2), format!("fd00:244::{}", number + 2)];
        let reading = PodReading {
            labels: [("app".to_owned(), pod.to_owned())].into(),
            addresses: addresses.iter().map(|address| address.parse().expect("address")).collect(),
            ports: ContainerPorts::default(),
            node: "n1".into(),
            ..PodReading::default()
        };
        world.pods.insert(name(pod), reading);
    }
    world
}

fn policy(world: &mut World, name: &str, spec: Value) {
    let object = json!({"metadata": {"namespace": "d", "name": name}, "spec": spec});
    world.set_network_policy(serde_json::from_value(object).expect("NetworkPolicy"), None);
}

/// Who may reach web.
fn from_friends() -> Value {
    json!({"podSelector": {"matchLabels": {"app": "web"}},
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}], "ports": [{"port": WEB}]}]})
}

#[test]
fn friends_are_served_others_are_not_and_the_node_always_is() {
    let mut world = world();
    policy(&mut world, "web", from_friends());
    let mut star = Star::new("enforce", world, TCP);
    for family in Family::ALL {
        let web = SocketAddr::new(star.address(&name("web"), family, false), WEB);
        assert!(star.ask(&name("friend"), web, Protocol::Tcp, true), "{family:?}");
        assert!(!star.ask(&name("other"), web, Protocol::Tcp, false), "{family:?}");
        assert!(star.ask_from_node(web), "{family:?}");
        let friend = SocketAddr::new(star.address(&name("friend"), family, false), WEB);
        assert!(star.ask(&name("web"), friend, Protocol::Tcp, true), "not isolated in egress: {family:?}");
    }
    let counted = star.on_node(|plane, _| plane.rule_counts().expect("read"));
    assert!(counted.values().filter(|traffic| traffic.packets > 0).count() >= 2, "{counted:?}");
}

/// A policy that comes, and one that goes, are there for connections that were open before.
#[test]
fn a_policy_reaches_open_connections_at_once_and_lets_them_go_on() {
    for family in Family::ALL {
        let mut star = Star::new("reach", world(), TCP);
        let web = SocketAddr::new(star.address(&name("web"), family, false), WEB);
        let mut friend = star.connect(&name("friend"), web);
        let mut other = star.connect(&name("other"), web);
        assert!(carries(&mut friend, SOON) && carries(&mut other, SOON));
        policy(&mut star.world, "web", from_friends());
        star.program();
        assert!(!carries(&mut other, NEVER), "{family:?}");
        assert!(carries(&mut friend, SOON), "{family:?}");
        star.world.network_policies.clear();
        star.program();
        assert!(carries(&mut other, SOON), "what was held back is sent again: {family:?}");
    }
}

/// What a pod sends to itself by way of a Service comes back to its own interface.
#[test]
fn a_pod_is_not_kept_from_itself() {
    let mut world = world();
    policy(&mut world, "none", json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}));
    let mut star = Star::new("itself", world, TCP);
    star.serve(TCP);
    let service = |of: &str| SocketAddr::new(star.address(&name(of), Family::V4, true), WEB);
    assert!(star.ask(&name("web"), service("web"), Protocol::Tcp, true));
    assert!(!star.ask(&name("web"), service("other"), Protocol::Tcp, false));
}

#[test]
fn what_others_do_to_rules_is_repaired_and_nothing_is_left_behind() {
    let mut world = world();
    policy(&mut world, "web", from_friends());
    let mut star = Star::new("repair", world, TCP);
    let web = SocketAddr::new(star.address(&name("web"), Family::V4, false), WEB);
    let repaired = star.on_node(|plane, snapshot| {
        use dataplane::Dataplane as _;
        let first = plane.repair(snapshot).expect("repair");
        crate::node::run("iptables", "-t mangle -F TWINPLANE-POLICY");
        crate::node::run("iptables", "-t mangle -D FORWARD -j TWINPLANE-POLICY");
        (first, plane.repair(snapshot).expect("repair"), plane.repair(snapshot).expect("repair"))
    });
    assert_eq!((repaired.0.len(), repaired.1.len(), repaired.2.len()), (0, 2, 0), "{repaired:?}");
    assert!(!star.ask(&name("other"), web, Protocol::Tcp, false));
    star.on_node(|plane, _| {
        use dataplane::Dataplane as _;
        plane.clean_up().expect("clean up");
        let sets = std::process::Command::new("ipset").args(["list", "-n"]).output().expect("ipset");
        assert_eq!(String::from_utf8_lossy(&sets.stdout), "");
        assert!(!crate::node::saved().contains("TWINPLANE"), "{}", crate::node::saved());
    });
    assert!(star.ask(&name("other"), web, Protocol::Tcp, true));
}

/// What passes an admin's rule is left to the tiers behind it; what the admin denies no NetworkPolicy allows.
#[test]
fn tiers_are_asked_in_turn() {
    let mut world = world();
    policy(&mut world, "web", json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{}]}));
    let pods = |app: &str| json!([{"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": app}}}}]);
    let object = json!({"metadata": {"name": "admin"}, "spec": {"tier": "Admin", "priority": 1,
        "subject": {"namespaces": {}},
        "ingress": [
            {"name": "friends", "action": "Pass", "from": pods("friend")},
            {"name": "all", "action": "Deny", "from": [{"namespaces": {}}]}]}});
    world.set_cluster_network_policy(serde_json::from_value(object).expect("ClusterNetworkPolicy"), None);
    let star = Star::new("tiers", world, TCP);
    for family in Family::ALL {
        let web = SocketAddr::new(star.address(&name("web"), family, false), WEB);
        assert!(star.ask(&name("friend"), web, Protocol::Tcp, true), "{family:?}");
        assert!(!star.ask(&name("other"), web, Protocol::Tcp, false), "{family:?}");
        assert!(star.ask_from_node(web), "{family:?}");
    }
}

#[test]
fn what_is_denied_is_told_of_where_flows_are() {
    let mut world = world();
    policy(&mut world, "web", from_friends());
    let config = Config { telling: Some(TellingConfig::default()), ..Config::default() };
    let mut star = Star::with("told", world, TCP, config);
    let mut telling = star.on_node(|plane, _| plane.telling().expect("the kernel tells").expect("wanted"));
    let web = SocketAddr::new(star.address(&name("web"), Family::V4, false), WEB);
    assert!(star.ask(&name("friend"), web, Protocol::Tcp, true));
    assert!(!star.ask(&name("other"), web, Protocol::Tcp, false));
    let deadline = Instant::now() + SOON;
    loop {
        match telling.take().expect("a socket") {
            Some(Heard::Told(Told::Stopped(stopped))) => {
                assert_eq!(stopped.why, Stop::Policy);
                let tuple = stopped.tuple.expect("headers");
                let other = star.address(&name("other"), Family::V4, false);
                assert_eq!((tuple.source, tuple.destination), (other, web.ip()));
                break;
            }
            Some(_) => {}
            None => {
                assert!(Instant::now() < deadline, "not told");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}
