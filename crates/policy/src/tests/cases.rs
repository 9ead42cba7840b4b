//! The reachability cases of the Kubernetes end-to-end suite.

use std::{collections::BTreeMap, fs, path::Path};

use model::{
    PodName,
    policy::{L4, Verdict},
};
use serde::Deserialize;
use serde_json::Value;

use super::world::{ask, name};
use crate::{
    compile::{ContainerPort, ContainerPorts},
    offline::Offline,
    read::PodReading,
    world::World,
};

#[derive(Deserialize)]
struct Case {
    id: String,
    initial: Initial,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Initial {
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    port_sets: BTreeMap<String, Vec<CasePort>>,
    pods: Vec<CasePod>,
}

#[derive(Clone, Deserialize)]
struct CasePort {
    name: String,
    port: u16,
    protocol: String,
}

#[derive(Deserialize)]
struct CasePod {
    namespace: String,
    name: String,
    labels: BTreeMap<String, String>,
    ip: String,
    ports_ref: String,
}

#[derive(Deserialize)]
struct Step {
    actions: Vec<CaseAction>,
    order: Vec<String>,
    expected: BTreeMap<String, BTreeMap<String, Vec<String>>>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum CaseAction {
    CreatePolicy { policy: Value },
    UpdatePolicy { policy: Value },
    DeletePolicy { namespace: String, name: String },
    SetPodLabels { namespace: String, name: String, labels: BTreeMap<String, String> },
    SetNamespaceLabels { name: String, labels: BTreeMap<String, String> },
}

fn initial(case: &Initial) -> World {
    let mut world = World::default();
    for (name, labels) in &case.namespaces {
        world.set_namespace(name, labels.clone());
    }
    for pod in &case.pods {
        let ports = case.port_sets[&pod.ports_ref].iter().map(|port| ContainerPort {
            name: port.name.clone(),
            protocol: port.protocol.parse().expect("protocol"),
            number: port.port,
        });
        let reading = PodReading {
            labels: pod.labels.clone(),
            addresses: vec![pod.ip.parse().expect("address")],
            ports: ContainerPorts::new(ports),
            node: "n1".into(),
            ..PodReading::default()
        };
        world.pods.insert(PodName { namespace: pod.namespace.clone(), name: pod.name.clone() }, reading);
    }
    world
}

fn act(world: &mut World, action: &CaseAction) {
    match action {
        CaseAction::CreatePolicy { policy } | CaseAction::UpdatePolicy { policy } => {
            world.set_network_policy(serde_json::from_value(policy.clone()).expect("NetworkPolicy"), None);
        }
        CaseAction::DeletePolicy { namespace, name } => {
            let name = PodName { namespace: namespace.clone(), name: name.clone() };
            assert!(world.network_policies.remove(&name).is_some(), "{name}");
        }
        CaseAction::SetPodLabels { namespace, name, labels } => {
            let name = PodName { namespace: namespace.clone(), name: name.clone() };
            world.pods.get_mut(&name).expect("pod").labels = labels.clone();
        }
        CaseAction::SetNamespaceLabels { name, labels } => world.set_namespace(name, labels.clone()),
    }
}

/// How many verdicts were compared.
fn run(case: &Case) -> usize {
    let mut world = initial(&case.initial);
    let mut offline = Offline::default();
    let mut compared = 0;
    for (number, step) in case.steps.iter().enumerate() {
        step.actions.iter().for_each(|action| act(&mut world, action));
        offline.sync(&world);
        for (l4, tables) in &step.expected {
            let (protocol, port) = l4.split_once('/').expect("PROTO/port");
            let l4 = L4::Port(protocol.parse().expect("protocol"), port.parse().expect("port"));
            for (row, from) in tables["combined"].iter().zip(&step.order) {
                for (wanted, to) in row.chars().zip(&step.order) {
                    let connection = world.connection(from, to, l4);
                    let wanted = match wanted {
                        '.' => Verdict::Allow,
                        'X' => Verdict::Deny,
                        _ => continue,
                    };
                    let got = ask(&world, &offline, &connection).verdict();
                    assert_eq!(got, wanted, "{} step {number}: {from} -> {to} {l4}", case.id);
                    assert!(name(from) != name(to));
                    compared += 1;
                }
            }
        }
    }
    compared
}

pub(super) fn run_all() -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/netpol-e2e");
    let Ok(files) = fs::read_dir(&folder) else {
        println!("skipped: no cases in {}", folder.display());
        return 0;
    };
    let paths = files.map(|file| file.expect("entry").path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
    paths.sort();
    assert_eq!(paths.len(), 48);
    let text = |path| fs::read_to_string(path).expect("case");
    paths.iter().map(|path| run(&serde_json::from_str(&text(path)).expect("a case"))).sum()
}

#[test]
fn the_end_to_end_suites_verdicts() {
    let compared = run_all();
    println!("{compared} verdicts");
    assert!(compared == 0 || compared >= 506, "{compared}");
}
