//! The reachability cases of the Kubernetes end-to-end suite between real sockets, at the pods and at their Services. What is asked by
//! SCTP is left out: the oracle's and the table's answers to it are compared elsewhere.

use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path};

use model::{Family, PodName, Protocol};
use policy::{
    compile::{ContainerPort, ContainerPorts},
    read::PodReading,
    world::World,
};
use serde_json::Value;

use super::star::{Listens, Star};

fn texts(value: &Value) -> BTreeMap<String, String> {
    serde_json::from_value(value.clone()).expect("texts by key")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} of {value}"))
}

fn pod(value: &Value) -> PodName {
    PodName { namespace: text(value, "namespace").into(), name: text(value, "name").into() }
}

fn listed(name: &Value) -> PodName {
    let (namespace, name) = name.as_str().and_then(|name| name.split_once('/')).expect("namespace/name");
    PodName { namespace: namespace.into(), name: name.into() }
}

fn initial(case: &Value) -> World {
    let mut world = World::default();
    for (name, labels) in case["namespaces"].as_object().expect("namespaces") {
        world.set_namespace(name, texts(labels));
    }
    for object in case["pods"].as_array().expect("pods") {
        let ports = case["port_sets"][text(object, "ports_ref")].as_array().expect("ports");
        let ports = ports.iter().map(|port| ContainerPort {
            name: text(port, "name").into(),
            protocol: text(port, "protocol").parse().expect("protocol"),
            number: port["port"].as_u64().expect("port") as u16,
        });
        let reading = PodReading {
            labels: texts(&object["labels"]),
            addresses: vec![text(object, "ip").parse().expect("address")],
            ports: ContainerPorts::new(ports),
            node: "n1".into(),
            ..PodReading::default()
        };
        world.pods.insert(pod(object), reading);
    }
    world
}

fn act(world: &mut World, action: &Value) {
    match text(action, "type") {
        "create_policy" | "update_policy" => {
            let policy = serde_json::from_value(action["policy"].clone()).expect("NetworkPolicy");
            world.set_network_policy(policy, None);
        }
        "delete_policy" => {
            assert!(world.network_policies.remove(&pod(action)).is_some(), "{action}");
        }
        "set_pod_labels" => {
            world.pods.get_mut(&pod(action)).expect("pod").labels = texts(&action["labels"]);
        }
        "set_namespace_labels" => world.set_namespace(text(action, "name"), texts(&action["labels"])),
        other => panic!("unknown action {other}"),
    }
}

fn asked(l4: &str) -> Option<Listens> {
    let (protocol, port) = l4.split_once('/').expect("PROTO/port");
    let protocol: Protocol = protocol.parse().expect("protocol");
    (protocol != Protocol::Sctp).then(|| (protocol, port.parse().expect("port")))
}

/// How many answers were compared.
fn run(case: &Value) -> usize {
    let steps = case["steps"].as_array().expect("steps");
    let all = steps.iter().flat_map(|step| step["expected"].as_object().expect("expected").keys());
    let mut ports: Vec<Listens> = all.filter_map(|l4| asked(l4)).collect();
    ports.sort_unstable();
    ports.dedup();
    let mut star = Star::new("case", initial(&case["initial"]), &ports);
    star.serve(&ports);
    let mut compared = 0;
    for step in steps {
        step["actions"].as_array().expect("actions").iter().for_each(|action| act(&mut star.world, action));
        star.program();
        let order: Vec<PodName> = step["order"].as_array().expect("order").iter().map(listed).collect();
        let mut questions = vec![];
        for (l4, tables) in step["expected"].as_object().expect("expected") {
            let Some((protocol, port)) = asked(l4) else { continue };
            for (row, from) in tables["combined"].as_array().expect("rows").iter().zip(&order) {
                for (wanted, to) in
                    row.as_str().expect("row").chars().zip(&order).filter(|(c, _)| ".X".contains(*c))
                {
                    for by_service in [false, true] {
                        let at = SocketAddr::new(star.address(to, Family::V4, by_service), port);
                        questions.push((from, at, protocol, wanted == '.'));
                    }
                }
            }
        }
        let star = &star;
        std::thread::scope(|scope| {
            for (from, at, protocol, wanted) in &questions {
                scope.spawn(move || {
                    let answered = star.ask(from, *at, *protocol, *wanted);
                    assert_eq!(answered, *wanted, "{}: {from} -> {at} {protocol:?}", case["id"]);
                });
            }
        });
        compared += questions.len();
    }
    compared
}

#[test]
fn the_end_to_end_suites_answers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/netpol-e2e");
    let Ok(files) = fs::read_dir(&folder) else {
        println!("skipped: no cases in {}", folder.display());
        return;
    };
    let paths = files.map(|file| file.expect("entry").path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
    paths.sort();
    assert_eq!(paths.len(), 48);
    let case = |path| serde_json::from_str(&fs::read_to_string(path).expect("case")).expect("a case");
    let compared: usize = paths.iter().map(|path| run(&case(path))).sum();
    println!("{compared} answers");
    assert!(compared >= 900, "{compared}");
}
