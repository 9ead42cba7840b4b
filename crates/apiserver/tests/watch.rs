//! Watches as bytes on the wire.

mod common;

use common::router::{Api, MAPS, Watch, map, step};
use serde_json::{Value, json};

#[tokio::test]
async fn a_watch_follows_from_a_list_without_gap_or_repeat() {
    let api = Api::new();
    api.create(MAPS, map("before")).await;
    let (_, list) = api.get(MAPS).await;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut watch = api.watch(&format!("{MAPS}?watch=true&resourceVersion={version}")).await;
    api.create(MAPS, map("one")).await;
    api.json("PATCH", "/nowhere", json!({})).await;
    let patch = r#"{"data":{"k":"v"}}"#;
    api.send("PATCH", &format!("{MAPS}/one"), "application/merge-patch+json", patch).await;
    // Writing what is there is no change.
    api.send("PATCH", &format!("{MAPS}/one"), "application/merge-patch+json", patch).await;
    let (_, last) = api.send("DELETE", &format!("{MAPS}/one"), "", "").await;
    assert_eq!(watch.step().await, step("ADDED", "one"));
    let modified = watch.next().await.unwrap();
    assert_eq!(
        (modified["type"].as_str(), &modified["object"]["data"]["k"]),
        (Some("MODIFIED"), &json!("v"))
    );
    let deleted = watch.next().await.unwrap();
    assert_eq!(deleted["type"], "DELETED");
    assert_eq!(deleted["object"]["metadata"]["resourceVersion"], last["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn objects_enter_and_leave_a_selection_by_changing() {
    let api = Api::new();
    let mut watch = api.watch(&format!("{MAPS}?watch=true&labelSelector=on&timeoutSeconds=60")).await;
    api.create(MAPS, map("a")).await;
    let merge = "application/merge-patch+json";
    let uri = format!("{MAPS}/a");
    api.send("PATCH", &uri, merge, r#"{"metadata":{"labels":{"on":"1"}}}"#).await;
    let (_, off) = api.send("PATCH", &uri, merge, r#"{"metadata":{"labels":{"on":null}}}"#).await;
    assert_eq!(watch.step().await, step("ADDED", "a"));
    let left = watch.next().await.unwrap();
    assert_eq!(
        (left["type"].as_str(), &left["object"]["metadata"]["labels"]["on"]),
        (Some("DELETED"), &json!("1"))
    );
    assert_eq!(left["object"]["metadata"]["resourceVersion"], off["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn streaming_lists_end_with_a_marked_bookmark() {
    let api = Api::new();
    api.create(MAPS, map("a")).await;
    let created = api.create(MAPS, map("b")).await;
    let uri = "/api/v1/configmaps?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
        &allowWatchBookmarks=true&resourceVersion=0&timeoutSeconds=1";
    let mut watch = api.watch(uri).await;
    assert_eq!(watch.step().await, step("ADDED", "a"));
    assert_eq!(watch.step().await, step("ADDED", "b"));
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let version =
        |value: &Value| value["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(version(&bookmark["object"]) >= version(&created));
    // At its time-out it says where it was, and ends.
    let last = watch.next().await.unwrap();
    assert_eq!(
        (last["type"].as_str(), last["object"]["metadata"].get("annotations")),
        (Some("BOOKMARK"), None)
    );
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn a_version_that_is_not_kept_any_more_is_gone() {
    let api = Api::with(|config| config.history = 2);
    let (_, list) = api.get(MAPS).await;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    for name in ["a", "b", "c"] {
        api.create(MAPS, map(name)).await;
    }
    for version in [version.as_str(), "999999"] {
        let mut watch = api.watch(&format!("{MAPS}?watch=true&resourceVersion={version}")).await;
        let error = watch.next().await.unwrap();
        assert_eq!(error["type"], "ERROR");
        assert_eq!(
            (error["object"]["code"].as_i64(), error["object"]["reason"].as_str()),
            (Some(410), Some("Expired"))
        );
        assert!(watch.next().await.is_none());
    }
}

#[tokio::test]
async fn a_watch_of_tables_sends_its_columns_once() {
    let api = Api::new();
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let response = api.respond("GET", &format!("{MAPS}?watch=true"), &[("accept", accept)], "").await;
    let mut watch = Watch(response.into_body());
    api.create(MAPS, map("a")).await;
    api.create(MAPS, map("b")).await;
    let (first, second) = (watch.next().await.unwrap(), watch.next().await.unwrap());
    assert_eq!(first["object"]["kind"], "Table");
    assert_eq!(first["object"]["columnDefinitions"][0]["name"], "Name");
    assert_eq!(first["object"]["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(second["object"]["columnDefinitions"], Value::Null);
    assert_eq!(second["object"]["rows"][0]["cells"], json!(["b", 0, "0s"]));
}
