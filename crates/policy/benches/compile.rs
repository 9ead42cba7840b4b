//! What compiling costs: 1,000 policies, 10,000 pods, 2,000 identities in 100 namespaces, from nothing and step by step.
//!
//! Measured is the time on the processor, which other work on the machine hardly moves.
//!
//! "node" is one with 250 pods; "cluster" one on which all 10,000 run.

use std::{collections::BTreeMap, hint::black_box, time::Duration};

use criterion::{
    BatchSize, Criterion, criterion_group, criterion_main,
    measurement::{Measurement, ValueFormatter, WallTime},
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use model::{IdentityId, Labels, PodName, Protocol, policy::Mode};
use nix::time::{ClockId, clock_gettime};
use policy::{
    Policy,
    compile::{Compiler, ContainerPort, ContainerPorts, Pod},
    read,
};
use serde_json::{Value, json};

const NAMESPACES: u32 = 100;
const IDENTITIES: u32 = 2_000;
const PODS: u32 = 10_000;
const POLICIES: u32 = 1_000;

fn labels(identity: u32, version: &str) -> Labels {
    let namespace = identity % NAMESPACES;
    let app = identity / NAMESPACES;
    let all = [
        ("k8s:app", format!("app{app}")),
        ("k8s:tier", format!("tier{}", app % 3)),
        ("k8s:version", version.to_owned()),
        ("k8s:io.kubernetes.pod.namespace", format!("ns{namespace}")),
        ("k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name", format!("ns{namespace}")),
        ("k8s:io.cilium.k8s.namespace.labels.team", format!("team{}", namespace % 10)),
        ("k8s:io.cilium.k8s.policy.cluster", "default".to_owned()),
        ("k8s:io.cilium.k8s.policy.serviceaccount", "default".to_owned()),
    ];
    Labels::from_iter(all.map(|(key, value)| (key.to_owned(), value)))
}

fn spec(number: u32, port: u16) -> Value {
    let app = |n: u32| json!({"matchLabels": {"app": format!("app{}", n % 20)}});
    match number / NAMESPACES {
        0 => json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}),
        1 => json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [
            {"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ns0"}},
                "podSelector": app(0)}],
            "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53}]}]}),
        2 => json!({"podSelector": app(1), "ingress": [{"from": [{"ipBlock": {"cidr": "0.0.0.0/0",
            "except": ["10.0.0.0/8", format!("172.16.{}.0/24", number % NAMESPACES)]}}], "ports": [{"port": port}]}]}),
        3 => json!({"podSelector": {"matchLabels": {"tier": "tier1"}}, "ingress": [
            {"from": [{"namespaceSelector": {"matchLabels": {"team": format!("team{}", number % 10)}}}],
            "ports": [{"port": 8000, "endPort": 8999}]}]}),
        4 => json!({"podSelector": app(3), "ingress": [{"from": [{"namespaceSelector": {}}],
            "ports": [{"port": "http"}]}]}),
        5 => json!({"podSelector": app(4), "policyTypes": ["Egress"], "egress": [
            {"to": [{"podSelector": app(5)}, {"ipBlock": {"cidr": format!("172.20.{}.0/24", number % NAMESPACES)}}],
            "ports": [{"port": "http"}]}]}),
        n => json!({"podSelector": app(n), "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"podSelector": app(n + 1)}, {"podSelector": app(n + 2)}], "ports": [{"port": port}]}],
            "egress": [{"to": [{"podSelector": {"matchExpressions": [
                {"key": "tier", "operator": "NotIn", "values": ["tier2"]}]}}]}]}),
    }
}

fn policy(number: u32, port: u16) -> Policy {
    let object = json!({"metadata": {"namespace": format!("ns{}", number % NAMESPACES), "name": format!("p{number}")},
        "spec": spec(number, port)});
    let object: NetworkPolicy = serde_json::from_value(object).expect("NetworkPolicy");
    let reading = read::network_policy(&object, None);
    assert!(reading.problems.is_empty(), "{:?}", reading.problems);
    reading.policy
}

fn pod(number: u32, identity: u32, local: bool) -> (PodName, Pod) {
    let name = PodName { namespace: format!("ns{}", identity % NAMESPACES), name: format!("pod{number}") };
    let http = ContainerPort { name: "http".into(), protocol: Protocol::Tcp, number: 8080 };
    let address = std::net::Ipv4Addr::from(0x0a00_0000 + number);
    let pod = Pod {
        identity: IdentityId::of_cluster(identity),
        addresses: vec![address.into()],
        ports: ContainerPorts::new([http]),
        local: local.then_some(Mode::Enforce),
    };
    (name, pod)
}

struct Cluster {
    identities: BTreeMap<IdentityId, Labels>,
    policies: Vec<Policy>,
    pods: Vec<(PodName, Pod)>,
}

impl Cluster {
    fn new(local: u32) -> Self {
        let identities = (0..IDENTITIES).map(|n| (IdentityId::of_cluster(n), labels(n, "v1"))).collect();
        let policies = (0..POLICIES).map(|n| policy(n, 80)).collect();
        let pods = (0..PODS).map(|n| pod(n, n % IDENTITIES, n % (PODS / local) == 0)).collect();
        Self { identities, policies, pods }
    }

    fn compile(&self) -> Compiler {
        let mut compiler = Compiler::default();
        for policy in &self.policies {
            compiler.set_policy(policy.clone());
        }
        for (id, labels) in &self.identities {
            compiler.set_identity(*id, Some(labels));
        }
        for (name, pod) in &self.pods {
            compiler.set_pod(name, Some(pod.clone()));
        }
        compiler.take_update();
        compiler
    }
}

/// Time that this thread ran.
struct OnProcessor;

impl Measurement for OnProcessor {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has it").into()
    }

    fn end(&self, start: Duration) -> Duration {
        self.start() - start
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        WallTime.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

/// Calls `change` with a number that differs each time, on one compiler that goes on living.
fn step(
    c: &mut Criterion<OnProcessor>,
    name: &str,
    cluster: &Cluster,
    mut change: impl FnMut(&mut Compiler, u32),
) {
    let mut compiler = cluster.compile();
    let mut number = 0;
    c.bench_function(name, |b| {
        b.iter_batched(
            || {
                number += 1;
                number
            },
            |number| {
                change(&mut compiler, number);
                black_box(compiler.take_update())
            },
            BatchSize::PerIteration,
        );
    });
}

fn from_nothing(c: &mut Criterion<OnProcessor>) {
    for (name, local) in [("node", 250), ("cluster", PODS)] {
        let cluster = Cluster::new(local);
        let compiler = cluster.compile();
        let table = compiler.table();
        println!(
            "{name}: {} endpoints, {} lists, {} rows, {} port maps, {} rules, {} prefixes",
            table.endpoints.len(),
            table.lists.len(),
            table.peers.len(),
            table.ports.len(),
            table.rules.len(),
            table.prefixes.len()
        );
        c.bench_function(&format!("{name}: from nothing"), |b| b.iter(|| black_box(cluster.compile())));
    }
}

fn changes(c: &mut Criterion<OnProcessor>) {
    for (of, local) in [("node", 250), ("cluster", PODS)] {
        let cluster = Cluster::new(local);
        step(c, &format!("{of}: a policy changes"), &cluster, |compiler, n| {
            compiler.set_policy(policy(600 + n % 400, 1_000 + (n % 1_000) as u16));
        });
        step(c, &format!("{of}: a policy for a whole namespace changes"), &cluster, |compiler, n| {
            let mut policy = policy(100 + n % 100, 80);
            policy.egress = policy.egress.filter(|_| n / 100 % 2 == 1).or(Some(vec![]));
            compiler.set_policy(policy);
        });
        step(c, &format!("{of}: a local pod gets other labels"), &cluster, |compiler, n| {
            let id = IdentityId::of_cluster(IDENTITIES + n % 1_000);
            compiler.set_identity(id, Some(&labels(n % IDENTITIES, &format!("v{n}"))));
            let (name, pod) = pod(0, n % IDENTITIES, true);
            compiler.set_pod(&name, Some(Pod { identity: id, ..pod }));
        });
        step(c, &format!("{of}: a pod of known labels starts elsewhere"), &cluster, |compiler, n| {
            let (name, pod) = pod(PODS + n, n % IDENTITIES, false);
            compiler.set_pod(&name, Some(pod));
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(OnProcessor).sample_size(10).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    targets = from_nothing, changes
}
criterion_main!(benches);
