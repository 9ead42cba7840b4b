//! The API as bytes on the wire: status codes, bodies, optimistic updates.

mod common;

use common::router::{Api, MAPS, map};
use http::StatusCode;
use serde_json::json;

#[tokio::test]
async fn errors_are_status_objects_with_their_code() {
    let api = Api::new();
    api.create(MAPS, map("a")).await;
    let protobuf = "application/vnd.kubernetes.protobuf";
    for (method, uri, kind, body, code, reason) in [
        ("GET", "/nowhere", "", "", 404, "NotFound"),
        ("GET", "/api/v1/gadgets", "", "", 404, "NotFound"),
        ("GET", "/api/v1/namespaces/default/configmaps/b", "", "", 404, "NotFound"),
        ("GET", "/api/v1/namespaces/default/configmaps/a/scale", "", "", 404, "NotFound"),
        ("POST", MAPS, "application/json", r#"{"metadata":{"name":"a"}}"#, 409, "AlreadyExists"),
        ("POST", MAPS, "application/json", "{", 400, "BadRequest"),
        ("POST", MAPS, "application/json", "", 400, "BadRequest"),
        ("POST", MAPS, "application/json", "[]", 400, "BadRequest"),
        ("POST", MAPS, "application/json", r#"{"kind":"Secret","metadata":{"name":"b"}}"#, 400, "BadRequest"),
        ("POST", MAPS, "application/json", r#"{"metadata":{"name":"b","namespace":"x"}}"#, 400, "BadRequest"),
        ("POST", MAPS, "application/json", r#"{"metadata":{}}"#, 422, "Invalid"),
        ("POST", MAPS, protobuf, "k8s\0", 415, "UnsupportedMediaType"),
        ("POST", "/api/v1/configmaps", "application/json", "{}", 405, "MethodNotAllowed"),
        ("PUT", MAPS, "application/json", "{}", 405, "MethodNotAllowed"),
        (
            "PATCH",
            "/api/v1/namespaces/default/configmaps/a",
            "application/json",
            "{}",
            415,
            "UnsupportedMediaType",
        ),
        ("DELETE", "/api/v1/namespaces/default", "", "", 403, "Forbidden"),
        ("GET", "/api/v1/configmaps?labelSelector=a%20b", "", "", 400, "BadRequest"),
        ("GET", "/api/v1/configmaps?fieldSelector=data=x", "", "", 400, "BadRequest"),
        ("GET", "/api/v1/configmaps?watch=1&sendInitialEvents=true", "", "", 422, "Invalid"),
        ("GET", "/api/v1/configmaps?watch=1&resourceVersion=x", "", "", 400, "BadRequest"),
    ] {
        let (status, object) = api.send(method, uri, kind, body).await;
        assert_eq!(
            (status.as_u16(), object["reason"].as_str().unwrap_or("")),
            (code, reason),
            "{method} {uri} {body} {object}"
        );
        assert_eq!(object["kind"], "Status");
        assert_eq!(object["code"], code);
    }
    let (_, missing) = api.get("/apis/apps/v1/namespaces/default/deployments/d").await;
    assert_eq!(missing["message"], "deployments.apps \"d\" not found");
    assert_eq!(missing["details"], json!({"name": "d", "group": "apps", "kind": "deployments"}));
    let only_protobuf = api.respond("GET", MAPS, &[("accept", protobuf)], "").await;
    assert_eq!(only_protobuf.status(), StatusCode::NOT_ACCEPTABLE);
}

#[tokio::test]
async fn updates_are_optimistic() {
    let api = Api::new();
    let first = api.create(MAPS, map("a")).await;
    let uri = format!("{MAPS}/a");
    let mut next = first.clone();
    next["data"] = json!({"k": "1"});
    let (status, second) = api.json("PUT", &uri, next.clone()).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(second["metadata"]["uid"], first["metadata"]["uid"]);
    next["data"] = json!({"k": "2"});
    let (status, conflict) = api.json("PUT", &uri, next.clone()).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(
        conflict["message"],
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes \
         to the latest version and try again"
    );
    let stale = json!([{"op": "test", "path": "/data/k", "value": "9"}]).to_string();
    let (status, _) = api.send("PATCH", &uri, "application/json-patch+json", &stale).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    next["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let (status, unconditional) = api.json("PUT", &uri, next).await;
    assert_eq!((status, &unconditional["data"]["k"]), (StatusCode::OK, &json!("2")));
    let wrong = json!({"preconditions": {"uid": "other"}});
    assert_eq!(api.json("DELETE", &uri, wrong).await.0, StatusCode::CONFLICT);
    let (_, dry) = api.json("DELETE", &format!("{uri}?dryRun=All"), json!({})).await;
    assert_eq!(dry["metadata"]["name"], "a");
    assert_eq!(api.get(&uri).await.0, StatusCode::OK);
}

#[tokio::test]
async fn generated_names_yaml_bodies_and_warnings() {
    let api = Api::new();
    let generated = api.create(MAPS, json!({"metadata": {"generateName": "x-"}})).await;
    let name = generated["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("x-") && name.len() == 7, "{name}");
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: from-yaml\ndata:\n  a: '1'\n";
    let (status, made) = api.send("POST", MAPS, "application/yaml", yaml).await;
    assert_eq!((status, &made["data"]["a"]), (StatusCode::CREATED, &json!("1")), "{made}");
    let odd = r#"{"metadata":{"name":"z"},"dota":{}}"#;
    let response = api.respond("POST", MAPS, &[("content-type", "application/json")], odd).await;
    assert_eq!(response.headers()["warning"], r#"299 - "unknown field \"dota\"""#);
}

#[tokio::test]
async fn events_are_one_kind_in_two_groups() {
    let api = Api::new();
    let event = json!({"metadata": {"name": "e", "namespace": "default"}, "regarding": {"kind": "Node", "name": "n"},
        "note": "hello", "reason": "R", "type": "Normal", "reportingController": "c", "reportingInstance": "i",
        "action": "A", "eventTime": "2026-01-01T00:00:00.000000Z"});
    api.create("/apis/events.k8s.io/v1/namespaces/default/events", event).await;
    let (_, core) = api.get("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dn").await;
    assert_eq!(core["items"][0]["message"], "hello");
    assert_eq!(core["items"][0]["apiVersion"], "v1");
    let (_, new) = api.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await;
    assert_eq!((&new["note"], &new["apiVersion"]), (&json!("hello"), &json!("events.k8s.io/v1")));
}
