//! Full tables: what has no room is told, everything else goes on, and what fills is forecast.

use dataplane::{MapFill, ObjectState};
use serde_json::json;

use crate::{
    services::{backends, create_service},
    support::{Node, SLICES, slice},
};

fn table(maps: Vec<MapFill>, name: &str) -> MapFill {
    maps.into_iter().find(|map| map.name == name).expect("a table of that name")
}

#[test]
fn a_full_table_is_told_by_status_and_metrics_and_what_is_programmed_goes_on() {
    let node = Node::start();
    node.create_nodes();
    let serves = async |last: u8| {
        let rows = node.client.services().await.expect("services");
        backends(&rows, &format!("10.24.0.{last}:80")) == Some(vec![format!("10.20.1.{last}:8080")])
    };
    for (name, last) in [("first", 11), ("second", 12)] {
        create_service(&node, name, last);
        node.until("programmed", async || serves(last).await.then_some(()));
    }
    let entries = node.fake.kernel().frontends.len();
    node.fake.kernel().frontend_capacity = entries;
    create_service(&node, "third", 13);
    let status = node.until("the refusal is told", async || {
        let status = node.client.status().await.expect("status");
        let told = !status.problems.is_empty() && status.full_in_seconds.contains_key("frontends");
        told.then_some(status)
    });
    let [problem] = &status.problems[..] else { panic!("one problem: {:?}", status.problems) };
    assert_eq!((problem.name.as_str(), problem.state), ("default/third:http (TCP V4)", ObjectState::Failed));
    assert!(problem.reason.as_ref().is_some_and(|reason| reason.contains("table is full")), "{problem:?}");
    let full = table(status.dataplane.maps, "frontends");
    assert_eq!((full.entries, full.capacity), (entries as u64, entries as u64));
    assert!(full.refused > 0);
    assert_eq!(status.full_in_seconds, [("frontends".to_owned(), 0)].into());
    let metrics = node.get("http://127.0.0.1:10249/metrics");
    assert!(metrics.contains("twinplane_map_full_in_seconds{map=\"frontends\"} 0\n"), "{metrics}");
    assert!(!metrics.contains("twinplane_map_refused{map=\"frontends\"} 0\n"), "{metrics}");
    assert_eq!([11, 12, 13].map(|last| node.wait(serves(last))), [true, true, false]);

    node.fake.kernel().frontend_capacity = usize::MAX;
    node.until("the third is served, and nothing is full", async || {
        let status = node.client.status().await.expect("status");
        (status.problems.is_empty() && status.full_in_seconds.is_empty()).then_some(())
    });
    assert_eq!([11, 12, 13].map(|last| node.wait(serves(last))), [true, true, true]);
}

#[test]
fn a_table_that_fills_is_forecast_and_one_that_does_not_is_not() {
    let node = Node::start();
    node.create_nodes();
    node.fake.kernel().backend_capacity = 1000;
    create_service(&node, "web", 11);
    let mut count = 1;
    let forecast = node.until("a forecast", async || {
        count += 1;
        let addresses: Vec<_> = (0..count).map(|n| format!("10.20.1.{}", n + 1)).collect();
        let endpoints: Vec<_> = addresses.iter().map(|address| (address.as_str(), "node-b")).collect();
        let grown = json!({"endpoints": slice("web", &endpoints)["endpoints"]});
        node.api("PATCH", &format!("{SLICES}/web-1"), &grown);
        let status = node.client.status().await.expect("status");
        (!status.full_in_seconds.is_empty()).then_some(status.full_in_seconds)
    });
    assert_eq!(forecast.keys().collect::<Vec<_>>(), ["backends"]);
    assert!((1..3600).contains(&forecast["backends"]), "{forecast:?}");
    node.until("it is no longer said once it stands still", async || {
        node.client.status().await.expect("status").full_in_seconds.is_empty().then_some(())
    });
}
