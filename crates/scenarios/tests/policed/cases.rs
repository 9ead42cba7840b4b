//! The reachability cases of the Kubernetes end-to-end suite between real sockets: at the pods and at their Services, by sockets
//! and by packets, in both families, from pods of both nodes. What they ask by SCTP is answered by the oracle and the table
//! only: no machine's kernel has its sockets for certain.

use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path, time::Duration};

use model::{Family, Plane, PodName, Protocol, policy::L4};
use policy::{
    compile::{ContainerPort, ContainerPorts},
    world::World,
};
use scenarios::{
    places::{Node, cluster_ip},
    planes::Setting,
    policed::{Client, Listens, Mesh, Published, ask},
};
use serde_json::{Value, json};

/// The suite's pods; the third part of an address says the node.
const PODS: &[(&str, &str, Node, u8)] = &[
    ("x", "a", Node::A, 11),
    ("x", "b", Node::A, 12),
    ("x", "c", Node::B, 13),
    ("y", "a", Node::B, 21),
    ("y", "b", Node::A, 22),
    ("y", "c", Node::B, 23),
    ("z", "a", Node::A, 31),
    ("z", "b", Node::B, 32),
];
const PORTS: [Listens; 4] =
    [(Protocol::Tcp, 80), (Protocol::Tcp, 81), (Protocol::Udp, 80), (Protocol::Udp, 81)];
/// Long enough for an answer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is not answered by then is not answered: a first SYN is tried again after 1 s.
const SILENCE: Duration = Duration::from_millis(500);

fn texts(value: &Value) -> BTreeMap<String, String> {
    serde_json::from_value(value.clone()).expect("texts by key")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} of {value}"))
}

fn named(namespace: &str, name: &str) -> PodName {
    PodName { namespace: namespace.into(), name: name.into() }
}

fn pod(value: &Value) -> PodName {
    named(text(value, "namespace"), text(value, "name"))
}

fn listed(name: &Value) -> PodName {
    let (namespace, name) = name.as_str().and_then(|name| name.split_once('/')).expect("namespace/name");
    named(namespace, name)
}

/// The case's namespaces and pods, in place of the last one's.
fn begin(mesh: &mut Mesh, case: &Value) {
    let World { nodes, .. } = std::mem::take(&mut mesh.world);
    mesh.world.nodes = nodes;
    mesh.withdraw();
    for (name, labels) in case["namespaces"].as_object().expect("namespaces") {
        mesh.world.set_namespace(name, texts(labels));
    }
    for (number, object) in case["pods"].as_array().expect("pods").iter().enumerate() {
        let name = pod(object);
        let ports = case["port_sets"][text(object, "ports_ref")].as_array().expect("ports");
        let ports = ports.iter().map(|port| ContainerPort {
            name: text(port, "name").into(),
            protocol: text(port, "protocol").parse().expect("protocol"),
            number: port["port"].as_u64().expect("port") as u16,
        });
        mesh.know(&name, &[]);
        let reading = mesh.world.pods.get_mut(&name).expect("known");
        (reading.labels, reading.ports) = (texts(&object["labels"]), ContainerPorts::new(ports));
        let given: std::net::IpAddr = text(object, "ip").parse().expect("address");
        assert_eq!(reading.addresses[0], given, "{name}");
        for (place, port) in PORTS.into_iter().enumerate() {
            let number = service_number(number, place);
            mesh.publish(
                Published { number, port, target: port.1, outside: None },
                std::slice::from_ref(&name),
            );
        }
    }
}

const fn service_number(pod: usize, port: usize) -> u8 {
    (1 + pod * PORTS.len() + port) as u8
}

fn act(world: &mut World, action: &Value) {
    match text(action, "type") {
        "create_policy" | "update_policy" => {
            let policy = with_both_families(action["policy"].clone());
            world.set_network_policy(serde_json::from_value(policy).expect("NetworkPolicy"), None);
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

/// Whoever a block means has an address of the other family, too.
fn with_both_families(mut policy: Value) -> Value {
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let rules = policy["spec"][direction].as_array_mut().into_iter().flatten();
        for peers in rules.filter_map(|rule| rule[peers].as_array_mut()) {
            let blocks: Vec<&Value> = peers.iter().filter_map(|peer| peer.get("ipBlock")).collect();
            let other = |block: &&Value| {
                let except = block["except"].as_array().into_iter().flatten().map(of_v6);
                json!({"ipBlock": {"cidr": of_v6(&block["cidr"]), "except": except.collect::<Vec<_>>()}})
            };
            let others: Vec<Value> = blocks.iter().map(other).collect();
            peers.extend(others);
        }
    }
    policy
}

fn of_v6(cidr: &Value) -> String {
    match cidr.as_str().expect("cidr").split(['.', '/']).collect::<Vec<_>>()[..] {
        ["0", "0", "0", "0", "4"] => "f000::/4".into(),
        ["10", "20", node, last, "32"] => {
            let last: u8 = last.parse().expect("a number");
            format!("fd00:20:0:{node}::{last:x}/128")
        }
        _ => panic!("no case has {cidr}"),
    }
}

fn asked(l4: &str) -> Listens {
    let (protocol, port) = l4.split_once('/').expect("PROTO/port");
    (protocol.parse().expect("protocol"), port.parse().expect("port"))
}

struct Question {
    from: PodName,
    client: Client,
    at: SocketAddr,
    protocol: Protocol,
    wanted: bool,
}

/// Compares the model's answers, and returns what is to be asked of a plane.
fn questions(mesh: &Mesh, plane: Plane, case: &Value, step: &Value) -> Vec<Question> {
    let pods: Vec<PodName> = case["initial"]["pods"].as_array().expect("pods").iter().map(pod).collect();
    let order: Vec<PodName> = step["order"].as_array().expect("order").iter().map(listed).collect();
    let mut questions = vec![];
    for (l4, tables) in step["expected"].as_object().expect("expected") {
        let (protocol, port) = asked(l4);
        for (row, from) in tables["combined"].as_array().expect("rows").iter().zip(&order) {
            let columns = row.as_str().expect("row").chars().zip(&order);
            for (wanted, to) in columns.filter(|(c, _)| ".X".contains(*c)) {
                let wanted = wanted == '.';
                for family in Family::ALL {
                    let model = mesh.allows(from, to, family, L4::Port(protocol, port));
                    assert_eq!(model, wanted, "{}: {from} -> {to} {l4}", case["id"]);
                    let Some(place) = PORTS.iter().position(|listens| *listens == (protocol, port)) else {
                        continue;
                    };
                    let number = pods.iter().position(|pod| pod == to).expect("a pod of the case");
                    let service = cluster_ip(service_number(number, place)).of(family);
                    let ways = [(mesh.address(to, family), false), (service, false), (service, true)];
                    // The other plane has nothing that sees sockets.
                    for (ip, by_socket) in ways.into_iter().filter(|way| !way.1 || plane == Plane::Ebpf) {
                        let (client, at) = (mesh.client(from, by_socket), SocketAddr::new(ip, port));
                        questions.push(Question { from: from.clone(), client, at, protocol, wanted });
                    }
                }
            }
        }
    }
    questions
}

/// How many answers were compared.
fn run(mesh: &mut Mesh, plane: Plane, case: &Value) -> usize {
    begin(mesh, &case["initial"]);
    let mut compared = 0;
    for step in case["steps"].as_array().expect("steps") {
        step["actions"].as_array().expect("actions").iter().for_each(|action| act(&mut mesh.world, action));
        mesh.program();
        let questions = questions(mesh, plane, case, step);
        std::thread::scope(|scope| {
            for question in &questions {
                scope.spawn(move || {
                    let Question { from, client, at, protocol, wanted } = question;
                    let patience = if *wanted { PATIENCE } else { SILENCE };
                    let answered = client.run(|| ask(*at, *protocol, 0, patience));
                    assert_eq!(answered, *wanted, "{}: {from} -> {at} {protocol:?} {client:?}", case["id"]);
                });
            }
        });
        compared += questions.len();
    }
    compared
}

fn the_end_to_end_suites_answers(plane: Plane) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/netpol-e2e");
    let Ok(files) = fs::read_dir(&folder) else {
        println!("skipped: no cases in {}", folder.display());
        return;
    };
    let paths = files.map(|file| file.expect("entry").path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
    paths.sort();
    assert_eq!(paths.len(), 48);
    let mut mesh = Mesh::new(Setting::usual(plane));
    for (namespace, name, node, last) in PODS {
        let name = named(namespace, name);
        mesh.attach(&name, *node, *last);
        mesh.listen(&name, &PORTS);
    }
    let mut compared = 0;
    for path in paths {
        // The pods' addresses are of this topology's ranges.
        let text = fs::read_to_string(path).expect("case");
        let text = text.replace("10.244.1.", "10.20.0.").replace("10.244.2.", "10.20.1.");
        compared += run(&mut mesh, plane, &serde_json::from_str(&text).expect("a case"));
    }
    println!("{compared} answers");
    // 506 verdicts, 32 of them by SCTP.
    let ways = if plane == Plane::Ebpf { 3 } else { 2 };
    assert!(compared >= 470 * ways * Family::ALL.len(), "{compared}");
}

super::on_both_planes! { the_end_to_end_suites_answers }
