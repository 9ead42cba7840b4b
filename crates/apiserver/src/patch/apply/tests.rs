//! The laws of server-side apply.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Applier, apply, fields, first, record_update};
use crate::{ops::Part, resource::Registry, schema::Type, status::ApiError};

fn applier(manager: &str) -> Applier<'_> {
    Applier { manager, part: Part::Main, force: false, now: "2026-01-01T00:00:00Z" }
}

fn run(current: &Value, config: &Value, by: Applier<'_>) -> Result<Value, ApiError> {
    let services = Registry::new().find("", "v1", "services").unwrap();
    apply(current, config, &services, by)
}

fn created(config: &Value, by: Applier<'_>) -> Value {
    let services = Registry::new().find("", "v1", "services").unwrap();
    let mut object = config.clone();
    object["metadata"]["managedFields"] = first(config, &services, by);
    object
}

fn service(labels: Value, ports: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x", "labels": labels}, "spec": {"ports": ports}})
}

#[test]
fn another_manager_s_field_is_a_conflict_unless_forced() {
    let object = created(&service(json!({"a": "1"}), json!([{"port": 80, "name": "web"}])), applier("one"));
    let wanted = service(json!({"a": "2"}), json!([{"port": 80, "name": "http"}]));
    let error = run(&object, &wanted, applier("two")).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("Apply failed with 2 conflicts: conflicts with \"one\":"), "{text}");
    assert!(text.contains("- .metadata.labels.a"), "{text}");
    assert!(text.contains("- .spec.ports[port=80,protocol=\"TCP\"].name"), "{text}");
    assert_eq!(error.code(), (409, "Conflict"));

    let forced = run(&object, &wanted, Applier { force: true, ..applier("two") }).unwrap();
    assert_eq!(forced["metadata"]["labels"]["a"], "2");
    // The first manager no longer owns the label: the second gives it up for good.
    let dropped =
        run(&forced, &service(json!({}), json!([{"port": 80, "name": "http"}])), applier("two")).unwrap();
    assert!(dropped["metadata"]["labels"]["a"].is_null());
}

#[test]
fn the_same_value_is_shared() {
    let object = created(&service(json!({"a": "1"}), json!([])), applier("one"));
    let shared = run(&object, &service(json!({"a": "1"}), json!([])), applier("two")).unwrap();
    let left = run(&shared, &service(json!({}), json!([])), applier("one")).unwrap();
    assert_eq!(left["metadata"]["labels"]["a"], "1");
    let gone = run(&left, &service(json!({}), json!([])), applier("two")).unwrap();
    assert!(gone["metadata"]["labels"].is_null() || gone["metadata"]["labels"] == json!({}));
}

#[test]
fn dropped_fields_and_elements_go() {
    let object =
        created(&service(json!({"a": "1", "b": "2"}), json!([{"port": 80}, {"port": 443}])), applier("one"));
    let mut defaulted = object.clone();
    defaulted["spec"]["ports"][1]["nodePort"] = 30000.into();
    defaulted["spec"]["clusterIP"] = "10.0.0.1".into();
    let next = run(&defaulted, &service(json!({"a": "1"}), json!([{"port": 80}])), applier("one")).unwrap();
    assert_eq!(next["metadata"]["labels"], json!({"a": "1"}));
    assert_eq!(next["spec"], json!({"ports": [{"port": 80}], "clusterIP": "10.0.0.1"}));
}

#[test]
fn an_object_from_before_belongs_to_before_first_apply() {
    let object = service(json!({"a": "1"}), json!([{"port": 80}]));
    let error = run(&object, &service(json!({"a": "2"}), json!([])), applier("one")).unwrap_err();
    assert!(error.to_string().contains("\"before-first-apply\" using v1"), "{error}");
}

#[test]
fn a_plain_update_takes_what_it_changes() {
    let services = Registry::new().find("", "v1", "services").unwrap();
    let object = created(&service(json!({"a": "1", "b": "1"}), json!([])), applier("one"));
    let mut updated = object.clone();
    updated["metadata"]["labels"]["a"] = "2".into();
    record_update(&object, &mut updated, &services, applier("editor"));
    let again = run(&updated, &service(json!({"a": "1", "b": "1"}), json!([])), applier("one")).unwrap_err();
    let text = again.to_string();
    assert_eq!(
        text,
        "Apply failed with 1 conflict: conflict with \"editor\" using v1 at 2026-01-01T00:00:00Z: .metadata.labels.a"
    );
}

#[test]
fn field_sets_survive_their_written_form() {
    let config =
        service(json!({"a": "1"}), json!([{"port": 80, "name": "web"}, {"port": 53, "protocol": "UDP"}]));
    let set = fields::without_server_owned(fields::fields_of(
        &config,
        Type::Object(crate::resource::Builtin::Service),
    ));
    let written = fields::to_value(&set);
    assert_eq!(fields::from_value(&written), set);
    assert_eq!(
        written["f:spec"]["f:ports"]["k:{\"port\":80,\"protocol\":\"TCP\"}"],
        json!({".": {}, "f:port": {}, "f:name": {}})
    );
}

fn config() -> impl Strategy<Value = Value> {
    let labels = prop::collection::btree_map("[ab]", "[12]", 0..3);
    let ports = prop::collection::btree_map(1u16..4, "[xy]", 0..3);
    (labels, ports).prop_map(|(labels, ports)| {
        let ports: Vec<Value> =
            ports.iter().map(|(port, name)| json!({"port": port, "name": name})).collect();
        service(json!(labels), json!(ports))
    })
}

/// What an object says, without what it means to be empty and who manages it.
fn wanted(object: &Value) -> (Value, Vec<Value>) {
    let mut ports = object["spec"]["ports"].as_array().cloned().unwrap_or_default();
    ports.sort_by_key(|port| port["port"].as_u64());
    let labels = &object["metadata"]["labels"];
    (if labels.is_null() { json!({}) } else { labels.clone() }, ports)
}

proptest! {
    #[test]
    fn applying_again_changes_nothing(start in config(), next in config()) {
        let object = created(&start, applier("one"));
        let once = run(&object, &next, applier("one")).unwrap();
        let twice = run(&once, &next, applier("one")).unwrap();
        prop_assert_eq!(once, twice);
    }

    /// Of a sole manager the object has exactly what it last applied.
    #[test]
    fn a_sole_manager_gets_what_it_says(steps in prop::collection::vec(config(), 1..5)) {
        let mut object = created(&steps[0], applier("one"));
        for step in &steps {
            object = run(&object, step, applier("one")).unwrap();
            prop_assert_eq!(wanted(&object), wanted(step));
        }
    }

    /// A forced apply always has its way.
    #[test]
    fn force_wins(first in config(), second in config()) {
        let object = created(&first, applier("one"));
        let forced = run(&object, &second, Applier { force: true, ..applier("two") }).unwrap();
        let (labels, ports) = wanted(&second);
        for (key, value) in labels.as_object().unwrap() {
            prop_assert_eq!(&forced["metadata"]["labels"][key], value);
        }
        for port in ports {
            prop_assert!(forced["spec"]["ports"].as_array().unwrap().contains(&port));
        }
    }
}
