//! Deleting: grace, owners, finalizers, namespaces, collections.

mod common;

use common::router::{Api, MAPS, PODS, map};
use http::StatusCode;
use serde_json::json;

#[tokio::test]
async fn pods_bound_to_a_node_end_gracefully() {
    let api = Api::new();
    let pod = |name: &str| json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let created = api.create(PODS, pod("p")).await;
    assert_eq!(created["status"]["phase"], "Pending");
    let binding = json!({"target": {"name": "node-a"}});
    let (status, _) = api.json("POST", &format!("{PODS}/p/binding"), binding.clone()).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(api.json("POST", &format!("{PODS}/p/binding"), binding).await.0, StatusCode::CONFLICT);
    let (_, listed) =
        api.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-a,status.phase%21%3DFailed").await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    let (_, ending) = api.send("DELETE", &format!("{PODS}/p"), "", "").await;
    assert_eq!(ending["metadata"]["deletionTimestamp"], "2026-01-01T00:00:30Z");
    assert_eq!(ending["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(api.get(&format!("{PODS}/p")).await.0, StatusCode::OK);
    api.json("DELETE", &format!("{PODS}/p"), json!({"gracePeriodSeconds": 0})).await;
    assert_eq!(api.get(&format!("{PODS}/p")).await.0, StatusCode::NOT_FOUND);
    api.create(PODS, pod("unbound")).await;
    api.send("DELETE", &format!("{PODS}/unbound"), "", "").await;
    assert_eq!(api.get(&format!("{PODS}/unbound")).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn owners_take_their_dependents_along_or_leave_them() {
    for (policy, owner_stays, dependent_stays) in
        [("Background", false, false), ("Foreground", false, false), ("Orphan", false, true)]
    {
        let api = Api::new();
        let owner = api.create(MAPS, map("owner")).await;
        let mut dependent = map("dependent");
        dependent["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner",
            "uid": owner["metadata"]["uid"], "blockOwnerDeletion": true}]);
        api.create(MAPS, dependent).await;
        api.json("DELETE", &format!("{MAPS}/owner"), json!({"propagationPolicy": policy})).await;
        let exists = async |name: &str| api.get(&format!("{MAPS}/{name}")).await.0 == StatusCode::OK;
        assert_eq!(
            (exists("owner").await, exists("dependent").await),
            (owner_stays, dependent_stays),
            "{policy}"
        );
    }
}

#[tokio::test]
async fn finalizers_hold_an_object_and_its_namespace() {
    let api = Api::new();
    api.create("/api/v1/namespaces", map("n")).await;
    let mut held = map("held");
    held["metadata"]["finalizers"] = json!(["example.dev/hold"]);
    let maps = "/api/v1/namespaces/n/configmaps";
    api.create(maps, held).await;
    api.create(maps, map("free")).await;
    let (_, namespace) = api.send("DELETE", "/api/v1/namespaces/n", "", "").await;
    assert_eq!(namespace["status"]["phase"], "Terminating");
    assert_eq!(api.get(&format!("{maps}/free")).await.0, StatusCode::NOT_FOUND);
    let (status, refused) = api.json("POST", maps, map("late")).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(refused["message"].as_str().unwrap().contains("because it is being terminated"), "{refused}");
    let release = r#"{"metadata":{"finalizers":null}}"#;
    api.send("PATCH", &format!("{maps}/held"), "application/merge-patch+json", release).await;
    assert_eq!(api.get("/api/v1/namespaces/n").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn deleting_a_collection_takes_what_is_selected() {
    let api = Api::new();
    for name in ["a", "b", "c"] {
        let mut object = map(name);
        object["metadata"]["labels"] = json!({"name": name});
        api.create(MAPS, object).await;
    }
    let (status, _) = api.send("DELETE", &format!("{MAPS}?labelSelector=name%20in%20(a,b)"), "", "").await;
    assert_eq!(status, StatusCode::OK);
    let (_, left) = api.get(MAPS).await;
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
}
