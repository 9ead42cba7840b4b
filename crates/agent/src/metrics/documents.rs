//! What is written about metrics agrees with what is served: the document and the dashboard, with the whole page of an agent
//! and of a relay.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use abi::{EventCount, EventKind};
use flow::{
    feed::Feed,
    metrics::{KernelEvents, register_build, render},
    ring::Capacity,
    testing::{
        one_of_each,
        openmetrics::{self, Family},
    },
};
use observer::{
    connect::Target,
    export::ExportCounts,
    node::Identity,
    relay::{Config, Relay, Retry},
};

use super::{tests::view, *};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All that an agent can have to say.
fn agents_page() -> String {
    let mut flows = Registry::default();
    let mut feed = Feed::new(Capacity::DEFAULT);
    feed.register(&mut flows);
    feed.append(one_of_each());
    KernelEvents::new(&mut flows).set(&[(EventKind::New, vec![EventCount { offered: 1, lost: 0 }])]);
    drop(ExportCounts::new(&mut flows, feed.readers().0));
    let metrics = Metrics::default();
    metrics.synced(Duration::ZERO, None);
    metrics.answered_healthz(200);
    metrics.answered_livez(200);
    let counters = KUBE_PROXY_COUNTERS.map(|(name, ..)| (name, 1));
    metrics.render(&view(&[("rules nat ipv4", 1), ("nf_conntrack", 1)], &counters), &flows)
}

fn relays_page() -> String {
    let mut registry = Registry::default();
    register_build(&mut registry, "relay");
    let relay = Relay::start(Config {
        identity: Identity { name: "relay".into(), version: "r1".into() },
        peer_services: vec![Target { address: "unix:///nowhere".into(), server_name: None }],
        certificates: None,
        retry: Retry::default(),
    });
    relay.register(&mut registry);
    render([&registry])
}

/// Both pages, whole.
async fn all() -> BTreeMap<String, Family> {
    let mut families = BTreeMap::new();
    for page in [agents_page(), relays_page()] {
        families.extend(openmetrics::parse(&page).unwrap_or_else(|error| panic!("{error}\n{page}")));
    }
    families
}

#[tokio::test]
async fn every_metric_is_documented_once() {
    let served: BTreeSet<String> = all()
        .await
        .into_iter()
        .map(|(name, family)| match family.kind.as_str() {
            "counter" => name + "_total",
            "info" => name + "_info",
            _ => name,
        })
        .collect();
    let document = read("docs/metrics.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let mut documented: Vec<&str> = rows.map(|(name, _)| name).collect();
    documented.sort_unstable();
    let served: Vec<&str> = served.iter().map(String::as_str).collect();
    assert_eq!(documented, served);
}

/// Queries ask for what there is, by labels that it has.
#[tokio::test]
async fn the_dashboard_asks_for_metrics_and_labels_that_exist() {
    let mut known = BTreeMap::<String, BTreeSet<String>>::new();
    for (name, family) in all().await {
        let labels: BTreeSet<String> =
            family.samples.iter().flat_map(|sample| sample.labels.keys().cloned()).collect();
        known.extend(openmetrics::names(&name, &family.kind).into_iter().map(|name| (name, labels.clone())));
    }
    let dashboard: serde_json::Value =
        serde_json::from_str(&read("deploy/grafana/twinplane.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut asked = BTreeSet::new();
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let targets = panel["targets"].as_array().unwrap_or_else(|| panic!("no queries: {panel}"));
        assert!(!targets.is_empty(), "{panel}");
        for target in targets {
            let query = target["expr"].as_str().expect("a query");
            let names = words(query).filter(|word| {
                ["hubble_", "twinplane_", "kubeproxy_"].iter().any(|prefix| word.starts_with(prefix))
            });
            let names: Vec<&str> = names.collect();
            assert!(!names.is_empty(), "{query}");
            // What Prometheus adds.
            let mut labels: BTreeSet<&str> = ["job", "instance"].into();
            for name in &names {
                let of_it = known.get(*name).unwrap_or_else(|| panic!("{name} is no metric: {query}"));
                labels.extend(of_it.iter().map(String::as_str));
            }
            for by in query.split("by (").skip(1).filter_map(|rest| rest.split_once(')')) {
                let unknown: Vec<&str> = words(by.0).filter(|label| !labels.contains(label)).collect();
                assert!(unknown.is_empty(), "{unknown:?} are no labels: {query}");
            }
            asked.extend(names.into_iter().map(str::to_owned));
        }
    }
    assert!(asked.len() > 20, "{asked:?}");
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}
