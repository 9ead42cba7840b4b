//! What changes the shape of all rules: host ports, further pod prefixes, the size of the cluster.

use model::{
    Family, Frontend, FrontendAddress, FrontendKind, Port, Protocol, ServicePort, ServicePortId,
    TrafficPolicy,
};

use super::{Driver, id, service, snapshot};
use crate::{names::ServiceChains, ruleset::Table};

fn host_port(pod: &str, n: u8) -> ServicePort {
    let mut service = service(pod, n, &[&format!("10.20.0.{n}:80")]);
    let name = model::PodName { namespace: "t".into(), name: pod.into() };
    let port = Port::new(8000 + u16::from(n)).expect("port");
    service.id = ServicePortId::of_host_port(&name, (None, port), Protocol::Tcp, Family::V4);
    service.frontends[0] = Frontend {
        kind: FrontendKind::HostPort,
        address: FrontendAddress::Node,
        port,
        policy: TrafficPolicy::Local,
        source_ranges: vec![],
    };
    service.local = service.cluster.clone();
    service
}

/// Their chain and the jumps to it are there while there are host ports, and kube-proxy's stay in front.
#[test]
fn host_ports_come_and_go_without_a_trace() {
    let mut driver = Driver::new();
    let web = || service("web", 1, &["10.20.1.1:80"]);
    driver.apply(snapshot([web()]));
    let before = driver.rules.kernel.saved.clone();
    driver.apply(snapshot([web(), host_port("one", 1)]));
    driver.assert_converged();
    driver.apply(snapshot([web(), host_port("one", 1), host_port("two", 2)]));
    driver.assert_converged();
    let rules = |driver: &Driver, chain: &str| {
        let rules = driver.rules.kernel.saved.chain(Table::Nat, chain).unwrap_or_default();
        rules
            .iter()
            .map(|rule| rule.text.rsplit(' ').next().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    for chain in ["PREROUTING", "OUTPUT"] {
        assert_eq!(rules(&driver, chain), ["KUBE-SERVICES", "KUBE-HOSTPORTS"], "{chain}");
    }
    assert_eq!(rules(&driver, "KUBE-HOSTPORTS").len(), 2);
    driver.apply(snapshot([web(), host_port("two", 2)]));
    driver.assert_converged();
    assert_eq!(rules(&driver, "KUBE-HOSTPORTS").len(), 1);
    driver.apply(snapshot([web()]));
    driver.assert_converged();
    assert_eq!(driver.rules.kernel.saved, before);
    driver.apply(snapshot([host_port("one", 1)]));
    driver.rules.clean_up().expect("clean up");
    let own = Table::ALL.into_iter().flat_map(|table| driver.rules.kernel.saved.chains(table));
    assert_eq!(own.filter(|(name, _)| name.is_own()).count(), 0);
}

#[test]
fn a_second_pod_prefix_has_a_chain_of_its_own_while_there_is_one() {
    let mut driver = Driver::new();
    let state = |cidrs: &[&str]| {
        let mut state = snapshot([service("web", 1, &["10.20.1.1:80"])]);
        state.node.cluster_cidrs = cidrs.iter().map(|cidr| cidr.parse().expect("prefix")).collect();
        state
    };
    driver.apply(state(&["10.20.0.0/16"]));
    let before = driver.rules.kernel.saved.clone();
    driver.apply(state(&["10.20.0.0/16", "10.21.0.0/16"]));
    driver.assert_converged();
    assert!(driver.has_chain(crate::names::OUTSIDE));
    driver.apply(state(&["10.20.0.0/16"]));
    driver.assert_converged();
    assert_eq!(driver.rules.kernel.saved, before);
}

#[test]
fn a_large_cluster_has_no_comments_on_rules_of_endpoints() {
    let mut driver = Driver::new();
    let many: Vec<_> = (0..=1000).map(|n| format!("10.20.{}.{}:80", n / 250, n % 250 + 1)).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let commented = |driver: &Driver| {
        let svc = ServiceChains::of(&id("web")).svc;
        let rules = driver.rules.kernel.saved.chain(Table::Nat, svc.as_str()).expect("chain");
        rules.iter().filter(|rule| rule.text.contains("->")).count()
    };
    driver.apply(snapshot([service("web", 1, &many[..1000])]));
    assert_eq!(commented(&driver), 1000);
    driver.apply(snapshot([service("web", 1, &many), service("two", 2, &[])]));
    assert_eq!(commented(&driver), 0);
    driver.assert_converged();
}

#[test]
fn a_large_cluster_deletes_unused_chains_with_the_next_comparison() {
    let mut driver = Driver::new();
    let many: Vec<_> = (0..=1000).map(|n| format!("10.20.{}.{}:80", n / 250, n % 250 + 1)).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let state = |endpoints: &[&str]| snapshot([service("many", 1, &many), service("web", 2, endpoints)]);
    driver.apply(state(&["10.21.0.1:80", "10.21.0.2:80"]));
    let gone = crate::names::endpoint_chain(&id("web"), "10.21.0.1:80".parse().expect("address"));
    let restores = driver.rules.kernel.restores;
    driver.apply(state(&["10.21.0.2:80"]));
    assert_eq!(driver.rules.kernel.restores, restores + 1, "one run for one change");
    assert!(driver.has_chain(gone.as_str()), "nothing leads to it, but it is there");
    driver.apply(state(&["10.21.0.1:80", "10.21.0.2:80"]));
    driver.assert_converged();
    assert!(driver.has_chain(gone.as_str()), "used again");
    driver.apply(state(&["10.21.0.2:80"]));
    driver.assert_converged();
    assert!(!driver.has_chain(gone.as_str()));
}
