//! What is guaranteed of every change, on a kernel in memory.

use std::{net::SocketAddr, sync::Arc};

use model::{
    Backend, Changed, Family, Frontend, FrontendAddress, FrontendKind, NodeConfig, Port, Protocol,
    ServiceName, ServicePort, ServicePortId, Snapshot, TrafficPolicy,
};

use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::{select, subsequence},
};

mod shape;

use super::{FamilyRules, fake::Fake};
use crate::{names::ServiceChains, render::Options, ruleset::Table};

fn id(name: &str) -> ServicePortId {
    ServicePortId {
        service: ServiceName { namespace: "t".into(), name: name.into() },
        port: String::new(),
        protocol: Protocol::Tcp,
        family: Family::V4,
    }
}

/// Cluster IP 10.24.0.`n`, with these endpoints.
fn service(name: &str, n: u8, endpoints: &[&str]) -> ServicePort {
    let backend = |address: &&str| Backend {
        address: address.parse::<SocketAddr>().expect("socket address"),
        local: false,
        terminating: false,
    };
    ServicePort {
        id: id(name),
        frontends: vec![Frontend {
            kind: FrontendKind::ClusterIp,
            address: FrontendAddress::Ip([10, 24, 0, n].into()),
            port: Port::new(80).expect("port"),
            policy: TrafficPolicy::Cluster,
            source_ranges: vec![],
        }],
        cluster: endpoints.iter().map(backend).collect(),
        local: vec![],
        usable_anywhere: !endpoints.is_empty(),
        endpoints: vec![],
        affinity_seconds: None,
        health_check_port: None,
    }
}

fn snapshot(services: impl IntoIterator<Item = ServicePort>) -> Snapshot {
    let node = NodeConfig {
        name: "n".into(),
        addresses: vec!["10.128.0.11".parse().expect("address")],
        pod_cidrs: vec![],
        cluster_cidrs: vec!["10.20.0.0/16".parse().expect("prefix")],
        ..NodeConfig::default()
    };
    let services = services.into_iter().map(|service| (service.id.clone(), Arc::new(service))).collect();
    Snapshot { node, services, ..Default::default() }
}

/// Drives one family through snapshots in turn.
struct Driver {
    rules: FamilyRules<Fake>,
    before: Snapshot,
}

impl Driver {
    fn new() -> Self {
        Self {
            rules: FamilyRules::new(Family::V4, Fake::default(), Options::default()),
            before: Snapshot::default(),
        }
    }

    /// Applies, and returns the ids that failed.
    fn apply(&mut self, next: Snapshot) -> Vec<ServicePortId> {
        let changed = next.changed_since(&self.before);
        let failed = self.rules.apply(&next, &changed).expect("apply");
        self.before = next;
        failed.into_keys().collect()
    }

    /// The kernel has exactly what a plane that starts now would write.
    fn assert_converged(&mut self) {
        let (failed, differences) = self.rules.converge(&self.before).expect("converge");
        assert!(failed.is_empty(), "{failed:?}");
        assert_eq!(differences, [""; 0]);
    }

    fn has_chain(&self, chain: &str) -> bool {
        self.rules.kernel.saved.chain(Table::Nat, chain).is_some()
    }
}

#[test]
fn an_endpoint_change_writes_only_the_chains_of_its_service() {
    let mut driver = Driver::new();
    let other = || service("other", 2, &["10.20.1.9:80"]);
    driver.apply(snapshot([service("web", 1, &["10.20.1.1:80"]), other()]));
    driver.apply(snapshot([service("web", 1, &["10.20.1.1:80", "10.20.1.2:80"]), other()]));
    let written = driver.rules.kernel.last.clone();
    assert!(written.contains(ServiceChains::of(&id("web")).svc.as_str()), "{written}");
    assert!(!written.contains(ServiceChains::of(&id("other")).svc.as_str()), "{written}");
    assert!(!written.contains("KUBE-SERVICES"), "shared chains do not change: {written}");
    driver.assert_converged();
}

#[test]
fn a_long_shared_chain_is_edited_in_place() {
    let mut driver = Driver::new();
    let all = |skip: &[u32]| {
        let services = (0..700u32).filter(|n| !skip.contains(n)).map(|n| {
            let mut service = service(&format!("s{n:03}"), 1, &["10.20.1.1:80"]);
            service.frontends[0].address = FrontendAddress::Ip((0x0a18_0000 + n).to_be_bytes().into());
            service
        });
        snapshot(services)
    };
    for skip in [&[3, 350, 699][..], &[0, 350], &[], &[42]] {
        driver.apply(all(skip));
        driver.assert_converged();
    }
    // Deletions of unused chains follow in runs of their own.
    driver.apply(all(&[]));
    assert!(driver.rules.kernel.last.contains("-I KUBE-SERVICES 43 "), "{}", driver.rules.kernel.last);
}

#[test]
fn nothing_changed_writes_nothing() {
    let mut driver = Driver::new();
    let state = || snapshot([service("web", 1, &["10.20.1.1:80"])]);
    driver.apply(state());
    let restores = driver.rules.kernel.restores;
    driver
        .rules
        .apply(&state(), &Changed { services: [id("web")].into(), ..Default::default() })
        .expect("apply");
    driver.assert_converged();
    assert_eq!(driver.rules.kernel.restores, restores);
}

#[test]
fn chains_go_with_their_endpoints_and_services() {
    let mut driver = Driver::new();
    driver.apply(snapshot([service("web", 1, &["10.20.1.1:80", "10.20.1.2:80"])]));
    let svc = ServiceChains::of(&id("web")).svc;
    assert!(driver.has_chain(svc.as_str()));
    driver.apply(snapshot([service("web", 1, &["10.20.1.2:80"])]));
    driver.assert_converged();
    driver.apply(snapshot([service("web", 1, &[])]));
    assert!(!driver.has_chain(svc.as_str()), "a service without endpoints only rejects");
    driver.assert_converged();
    driver.apply(snapshot([]));
    let left: Vec<_> =
        driver.rules.kernel.saved.chains(Table::Nat).filter(|(name, _)| name.is_per_service()).collect();
    assert!(left.is_empty(), "{left:?}");
    driver.assert_converged();
}

#[test]
fn a_refused_service_does_not_stop_the_others() {
    let mut driver = Driver::new();
    driver.rules.kernel.poison = Some("10.20.6.6");
    let state = || snapshot([service("bad", 1, &["10.20.6.6:80"]), service("good", 2, &["10.20.1.1:80"])]);
    assert_eq!(driver.apply(state()), [id("bad")]);
    assert!(driver.has_chain(ServiceChains::of(&id("good")).svc.as_str()));
    assert!(!driver.has_chain(ServiceChains::of(&id("bad")).svc.as_str()));
    driver.rules.kernel.poison = None;
    let again = Changed { services: [id("bad")].into(), ..Default::default() };
    assert!(driver.rules.apply(&state(), &again).expect("apply").is_empty(), "retried by name alone");
    driver.assert_converged();
}

#[test]
fn a_refused_change_leaves_the_service_as_it_was() {
    let mut driver = Driver::new();
    driver.apply(snapshot([service("web", 1, &["10.20.1.1:80"])]));
    let before = driver.rules.kernel.saved.clone();
    driver.rules.kernel.poison = Some("10.20.6.6");
    assert_eq!(driver.apply(snapshot([service("web", 1, &["10.20.6.6:80"])])), [id("web")]);
    assert_eq!(driver.rules.kernel.saved, before);
}

#[test]
fn a_failing_partial_restore_becomes_a_whole_one() {
    let mut driver = Driver::new();
    driver.apply(snapshot([service("web", 1, &["10.20.1.1:80"])]));
    // Someone flushed the tables: the partial text leads to chains that are not there.
    driver.rules.kernel.saved = Fake::default().saved;
    assert!(driver.apply(snapshot([service("web", 1, &["10.20.1.2:80"])])).is_empty());
    driver.assert_converged();
}

#[test]
fn what_others_deleted_or_changed_is_written_again_and_named() {
    let mut driver = Driver::new();
    driver.apply(snapshot([service("web", 1, &["10.20.1.1:80"])]));
    let svc = ServiceChains::of(&id("web")).svc;
    let tables = &mut driver.rules.kernel.saved.tables;
    let nat = tables.get_mut(&Table::Nat).expect("nat");
    nat.get_mut("PREROUTING").expect("chain").clear();
    nat.get_mut(svc.as_str()).expect("chain").pop();
    nat.get_mut("KUBE-SERVICES").expect("chain").remove(0);
    tables.get_mut(&Table::Mangle).expect("mangle").remove("KUBE-PROXY-CANARY");
    let (_, repaired) = driver.rules.converge(&driver.before.clone()).expect("converge");
    assert_eq!(
        repaired,
        [
            format!("rewrote {svc} of t/web in table nat"),
            "rewrote KUBE-PROXY-CANARY in table mangle".to_owned(),
            "added the jump from PREROUTING to KUBE-SERVICES in table nat".to_owned(),
            "rewrote KUBE-SERVICES in table nat".to_owned(),
        ]
    );
    driver.assert_converged();
}

#[test]
fn chains_of_an_earlier_run_go() {
    let mut driver = Driver::new();
    driver.apply(snapshot([service("old", 1, &["10.20.1.1:80"])]));
    driver.rules = FamilyRules::new(Family::V4, driver.rules.kernel, Options::default());
    driver.before = Snapshot::default();
    driver.apply(snapshot([service("new", 2, &["10.20.1.1:80"])]));
    assert!(!driver.has_chain(ServiceChains::of(&id("old")).svc.as_str()));
    driver.assert_converged();
}

#[test]
fn a_restart_writes_nothing_where_all_is_there() {
    let mut driver = Driver::new();
    let state = || snapshot([service("web", 1, &["10.20.1.1:80"])]);
    driver.apply(state());
    driver.rules = FamilyRules::new(Family::V4, driver.rules.kernel, Options::default());
    let restores = driver.rules.kernel.restores;
    driver.before = Snapshot::default();
    driver.apply(state());
    assert_eq!(driver.rules.kernel.restores, restores);
}

#[test]
fn clean_up_leaves_what_others_made() {
    let mut driver = Driver::new();
    let nat =
        |driver: &mut Driver| driver.rules.kernel.saved.tables.get_mut(&Table::Nat).expect("nat").clone();
    let restore = |driver: &mut Driver, text: &str| {
        crate::kernel::Rules::restore(&mut driver.rules.kernel, text).expect("restore");
    };
    restore(&mut driver, "*nat\n:DOCKER - [0:0]\n-A PREROUTING -j DOCKER\nCOMMIT\n");
    let before = nat(&mut driver);
    driver.apply(snapshot([service("web", 1, &["10.20.1.1:80"])]));
    driver.rules.clean_up().expect("clean up");
    assert_eq!(nat(&mut driver), before);
    let own = Table::ALL.into_iter().flat_map(|table| driver.rules.kernel.saved.chains(table));
    assert_eq!(own.filter(|(name, _)| name.is_own()).count(), 0);
}

#[test]
fn clean_up_leaves_the_kubelets_firewall() {
    let mut driver = Driver::new();
    driver.apply(snapshot([]));
    let mangle = driver.rules.kernel.saved.tables.get_mut(&Table::Mangle).expect("mangle");
    mangle.insert(crate::names::KUBELET_CANARY.into(), vec![]);
    driver.rules.clean_up().expect("clean up");
    let filter = &driver.rules.kernel.saved.tables[&Table::Filter];
    assert!(filter.contains_key("KUBE-FIREWALL") && !filter.contains_key("KUBE-FORWARD"));
    assert_eq!(filter["INPUT"].len(), 1);
}

/// Endpoints by their last byte; whether outside clients reach it, and under which policy.
#[derive(Clone, Debug)]
struct Drawn {
    endpoints: Vec<u8>,
    external: Option<TrafficPolicy>,
}

/// Four services in up to eight states; `None`: the service is not there.
fn states() -> impl Strategy<Value = Vec<Vec<Option<Drawn>>>> {
    let endpoints = subsequence(vec![1, 2, 3, 4], 0..=4);
    let external = option::of(select(vec![TrafficPolicy::Cluster, TrafficPolicy::Local]));
    let drawn = (endpoints, external).prop_map(|(endpoints, external)| Drawn { endpoints, external });
    vec(vec(option::of(drawn), 4), 1..8)
}

proptest! {
    /// Whatever the way there, the kernel ends up with what a plane that starts now would write.
    #[test]
    fn changes_lead_where_a_fresh_start_does(states in states()) {
        let mut driver = Driver::new();
        for state in states {
            let services = (1..).zip(state).filter_map(|(number, drawn)| Some(drawn?.service(number)));
            prop_assert!(driver.apply(snapshot(services)).is_empty());
            driver.assert_converged();
        }
    }
}

impl Drawn {
    fn service(&self, number: u8) -> ServicePort {
        let endpoints: Vec<_> = self.endpoints.iter().map(|last| format!("10.20.0.{last}:80")).collect();
        let endpoints: Vec<_> = endpoints.iter().map(String::as_str).collect();
        let mut service = service(&format!("s{number}"), number, &endpoints);
        service.frontends.extend(self.external.map(|policy| Frontend {
            kind: FrontendKind::LoadBalancer,
            address: FrontendAddress::Ip([203, 0, 113, number].into()),
            policy,
            ..service.frontends[0].clone()
        }));
        service
    }
}
