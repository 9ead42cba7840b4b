//! Who is hinted to which zone, and when nobody is.

use serde_json::{Value, json};

use super::*;

/// `"a:4"` is a ready node in zone a with four processors.
fn nodes(all: &[&str]) -> Vec<Arc<Node>> {
    let node = |(number, text): (usize, &&str)| {
        let (zone, processors) = text.split_once(':').expect("zone and processors");
        node(json!({
            "metadata": {"name": format!("n{number}"), "labels": {ZONE: zone}},
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "allocatable": {"cpu": processors},
            },
        }))
    };
    all.iter().enumerate().map(node).collect()
}

fn node(object: Value) -> Arc<Node> {
    Arc::new(serde_json::from_value(object).expect("node"))
}

/// A ready endpoint in each of these zones; one in capitals is not ready.
fn endpoints(zones: &str) -> Vec<Endpoint> {
    let endpoint = |zone: char| {
        let object = json!({
            "addresses": ["10.20.0.1"], "zone": zone.to_ascii_lowercase().to_string(),
            "conditions": {"ready": zone.is_ascii_lowercase()}, "hints": {"forZones": [{"name": "old"}]},
        });
        serde_json::from_value(object).expect("endpoint")
    };
    zones.chars().map(endpoint).collect()
}

/// The zones that endpoints are hinted to, `-` for none.
fn hinted(nodes: &[Arc<Node>], mut endpoints: Vec<Endpoint>) -> String {
    Zones::of(nodes).hint(endpoints.iter_mut());
    let hint = |endpoint: &Endpoint| {
        let zones = endpoint.hints.as_ref()?.for_zones.as_ref()?;
        assert_eq!(zones.len(), 1);
        Some(zones[0].name.clone())
    };
    endpoints.iter().map(|endpoint| hint(endpoint).unwrap_or_else(|| "-".to_owned())).collect()
}

#[test]
fn zones_get_endpoints_in_proportion_to_their_processors_their_own_first() {
    for (cluster, zones, expected) in [
        (&["a:2", "b:2"][..], "ab", "ab"),
        (&["a:2", "b:2"], "aabb", "aabb"),
        // One of three to the zone that has none.
        (&["a:4", "b:2"], "aaa", "baa"),
        (&["a:2", "b:2"], "aaaa", "bbaa"),
        (&["a:2000m", "b:1.5", "b:500m"], "aaaa", "bbaa"),
        (&["a:1", "b:3"], "aaaa", "bbba"),
        (&["a:1", "b:1", "c:1"], "aaaaab", "ccbaab"),
        // Half of one more is no reason.
        (&["a:1", "b:1"], "aaaabbb", "aaaabbb"),
        // Those that are not ready do not count and are for nobody.
        (&["a:2", "b:2"], "aAabBb", "a-ab-b"),
    ] {
        assert_eq!(hinted(&nodes(cluster), endpoints(zones)), expected, "{cluster:?} {zones}");
    }
}

#[test]
fn nobody_is_hinted_where_an_endpoint_would_be_overloaded_or_too_little_is_known() {
    for (cluster, zones) in [
        // One zone, or none.
        (&["a:2", "a:2"][..], "aa"),
        (&[], "ab"),
        // Fewer endpoints than zones, or none ready.
        (&["a:2", "b:2"], "a"),
        (&["a:2", "b:2"], "aB"),
        // Half of an odd number each: both would have to have more than half.
        (&["a:1", "b:1"], "abb"),
        (&["a:1", "b:1"], "aabba"),
        // Who has no processors, or says nonsense.
        (&["a:2", "b:0"], "aabb"),
        (&["a:2", "b:many"], "aabb"),
        (&["a:2", "b:2", ":2"], "aabb"),
    ] {
        let expected = "-".repeat(zones.len());
        assert_eq!(hinted(&nodes(cluster), endpoints(zones)), expected, "{cluster:?} {zones}");
    }
    let mut homeless = endpoints("aabb");
    homeless[2].zone = None;
    assert_eq!(hinted(&nodes(&["a:2", "b:2"]), homeless), "----");
}

#[test]
fn nodes_that_are_not_ready_or_run_the_control_plane_do_not_count() {
    let mut all = nodes(&["a:2", "b:2", "b:100", "c:100"]);
    let change = |node: &mut Arc<Node>, path: &str, value: Value| {
        let mut object = serde_json::to_value(node.as_ref()).expect("JSON");
        *object.pointer_mut(path).expect("there") = value;
        *node = self::node(object);
    };
    change(&mut all[2], "/status/conditions/0/status", json!("Unknown"));
    change(&mut all[3], "/metadata/labels", json!({ZONE: "c", "node-role.kubernetes.io/control-plane": ""}));
    assert_eq!(hinted(&all, endpoints("aaaa")), "bbaa");
    // Its zone counts all the same.
    assert_eq!(Zones::of(&all).of_node("n3").map(String::as_str), Some("c"));
}

#[test]
fn the_annotation_asks_and_the_older_one_counts() {
    let service = |annotations: Value| -> Service {
        serde_json::from_value(json!({"metadata": {"name": "web", "annotations": annotations}}))
            .expect("service")
    };
    let [older, newer] = MODES;
    for (annotations, auto) in [
        (json!({}), false),
        (json!({newer: "Auto"}), true),
        (json!({newer: "auto"}), true),
        (json!({newer: "AUTO"}), false),
        (json!({older: "Auto"}), true),
        (json!({older: "Disabled", newer: "Auto"}), false),
    ] {
        assert_eq!(is_auto(&service(annotations.clone())), auto, "{annotations}");
    }
}
