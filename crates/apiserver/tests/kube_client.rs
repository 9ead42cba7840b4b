//! kube-rs as a client: what the agent and the lab's controllers are built on.

mod common;

use std::{collections::BTreeMap, time::Duration};

use common::{Server, config};
use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Node, Pod, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    discovery::Discovery,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde_json::json;

fn client(server: &Server) -> Client {
    Client::try_from(Config::new(server.url.parse().expect("a URL"))).expect("make a client")
}

fn map(name: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        ..ConfigMap::default()
    }
}

/// Reads a watch until the names it has seen are the wanted ones; answers how often it listed anew.
async fn until<S>(stream: &mut S, seen: &mut BTreeMap<String, String>, wanted: &[&str]) -> usize
where
    S: Stream<Item = Result<Event<ConfigMap>, watcher::Error>> + Unpin,
{
    let name = |map: &ConfigMap| map.metadata.name.clone().unwrap_or_default();
    let version = |map: &ConfigMap| map.metadata.resource_version.clone().unwrap_or_default();
    let mut relisted: Option<BTreeMap<String, String>> = None;
    let mut lists = 0;
    let read = async {
        while relisted.is_some() || !seen.keys().map(String::as_str).eq(wanted.iter().copied()) {
            match stream.next().await.expect("watches do not end") {
                Ok(Event::Init) => relisted = Some(BTreeMap::new()),
                Ok(Event::InitApply(map)) => {
                    relisted.as_mut().expect("an Init came first").insert(name(&map), version(&map));
                }
                Ok(Event::InitDone) => {
                    *seen = relisted.take().expect("an Init came first");
                    lists += 1;
                }
                Ok(Event::Apply(map)) => {
                    seen.insert(name(&map), version(&map));
                }
                Ok(Event::Delete(map)) => {
                    seen.remove(&name(&map));
                }
                // The watcher recovers by itself from a version that expired.
                Err(error) => println!("{error}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), read).await.expect("the watch gets there in time");
    lists
}

/// How long a watch of the expiry tests lasts.
const WATCH: Duration = Duration::from_secs(1);

async fn follow(watcher_config: watcher::Config) {
    // Two changes of history: whoever is away for three has to list again.
    let server = Server::with(apiserver::Config { history: 2, ..config() });
    let api: Api<ConfigMap> = Api::namespaced(client(&server), "default");
    let create = async |name: &str| api.create(&PostParams::default(), &map(name)).await.expect("create");
    create("a").await;
    let mut stream =
        Box::pin(watcher(api.clone(), watcher_config.timeout(WATCH.as_secs() as u32)).default_backoff());
    let mut seen = BTreeMap::new();
    until(&mut stream, &mut seen, &["a"]).await;
    create("b").await;
    api.delete("a", &DeleteParams::default()).await.expect("delete");
    until(&mut stream, &mut seen, &["b"]).await;
    // The watch ends by its own time-out; not polled, the watcher asks for no other until its version has expired.
    tokio::time::sleep(WATCH + Duration::from_millis(300)).await;
    for name in ["c", "d", "e", "f", "g"] {
        create(name).await;
    }
    let lists = until(&mut stream, &mut seen, &["b", "c", "d", "e", "f", "g"]).await;
    assert_eq!(lists, 1, "the watcher was told 410 and listed anew");
    create("h").await;
    until(&mut stream, &mut seen, &["b", "c", "d", "e", "f", "g", "h"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_survives_its_version_s_expiry() {
    follow(watcher::Config::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streaming_watcher_survives_its_version_s_expiry() {
    follow(watcher::Config::default().streaming_lists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_outlives_the_server() {
    let server = Server::start();
    let url: std::net::SocketAddr = server.url.trim_start_matches("http://").parse().expect("an address");
    let api: Api<ConfigMap> = Api::namespaced(client(&server), "default");
    for name in ["a", "b", "c"] {
        api.create(&PostParams::default(), &map(name)).await.expect("create");
    }
    let mut stream = Box::pin(watcher(api.clone(), watcher::Config::default()).default_backoff());
    let mut seen = BTreeMap::new();
    until(&mut stream, &mut seen, &["a", "b", "c"]).await;
    tokio::task::spawn_blocking(move || drop(server)).await.expect("the server ends with a watch open");
    // Another cluster at the same address, with lower versions than the watcher has seen.
    let next = apiserver::ApiServer::new(config()).expect("set up the server");
    let listener = tokio::net::TcpListener::bind(url).await.expect("bind the same port");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(async move {
        let shutdown = async {
            let _ = stopped.await;
        };
        next.serve(listener, shutdown).await
    });
    api.create(&PostParams::default(), &map("z")).await.expect("create");
    until(&mut stream, &mut seen, &["z"]).await;
    drop(stop);
    drop(stream);
    serving.await.expect("no panic").expect("serve");
}

#[tokio::test(flavor = "multi_thread")]
async fn typed_objects_of_every_kind_the_agent_reads() {
    let server = Server::start();
    let client = client(&server);
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let service: Service =
        serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort",
        "ports": [{"port": 80, "targetPort": "http"}]}}))
        .expect("a Service");
    let created = services.create(&PostParams::default(), &service).await.expect("create");
    let spec = created.spec.expect("a spec");
    assert!(spec.cluster_ip.is_some_and(|ip| ip.starts_with("10.24.")));
    assert!(spec.ports.expect("ports")[0].node_port.is_some_and(|port| (30000..=32767).contains(&port)));
    let slices: Api<EndpointSlice> = Api::all(client.clone());
    assert!(
        slices
            .list(&ListParams::default().labels("!service.kubernetes.io/headless"))
            .await
            .expect("list")
            .items
            .is_empty()
    );
    let nodes: Api<Node> = Api::all(client.clone());
    let node = serde_json::from_value(json!({"metadata": {"name": "n"}})).expect("a Node");
    nodes.create(&PostParams::default(), &node).await.expect("create");
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.128.0.11"}]}});
    nodes.patch_status("n", &PatchParams::default(), &Patch::Merge(&status)).await.expect("patch status");
    let named = nodes.list(&ListParams::default().fields("metadata.name=n")).await.expect("list");
    assert!(named.items[0].status.as_ref().is_some_and(|status| status.addresses.is_some()));
    let missing = services.get_opt("other").await.expect("a 404 is an answer");
    assert!(missing.is_none());
    let taken = services.create(&PostParams::default(), &service).await.expect_err("it exists");
    assert!(matches!(&taken, kube::Error::Api(status) if status.is_already_exists()), "{taken}");
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_and_scale() {
    let server = Server::start();
    let deployments: Api<Deployment> = Api::default_namespaced(client(&server));
    let wanted = |replicas: i64| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": replicas,
            "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    };
    let one = PatchParams::apply("one");
    deployments.patch("d", &one, &Patch::Apply(wanted(1))).await.expect("apply");
    let same = deployments.patch("d", &one, &Patch::Apply(wanted(1))).await.expect("apply again");
    assert_eq!(same.metadata.generation, Some(1));
    let scale = Patch::Merge(json!({"spec": {"replicas": 4}}));
    let scaled = deployments.patch_scale("d", &PatchParams::default(), &scale).await.expect("scale");
    assert_eq!(scaled.spec.and_then(|spec| spec.replicas), Some(4));
    let conflict =
        deployments.patch("d", &one, &Patch::Apply(wanted(2))).await.expect_err("another set the replicas");
    assert!(matches!(&conflict, kube::Error::Api(status) if status.is_conflict()), "{conflict}");
    let forced =
        deployments.patch("d", &one.force(), &Patch::Apply(wanted(2))).await.expect("apply with force");
    assert_eq!(forced.metadata.generation, Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_and_bindings() {
    let server = Server::start();
    let client = client(&server);
    let discovery = Discovery::new(client.clone()).run().await.expect("discover");
    assert!(discovery.groups().any(|group| group.name() == "discovery.k8s.io"));
    let pods: Api<Pod> = Api::default_namespaced(client);
    let pod = serde_json::from_value(json!({"metadata": {"generateName": "p-"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}))
    .expect("a Pod");
    let name =
        pods.create(&PostParams::default(), &pod).await.expect("create").metadata.name.expect("a name");
    let binding = json!({"metadata": {"name": name}, "target": {"name": "node-a"}});
    let _: serde_json::Value =
        pods.create_subresource("binding", &name, &PostParams::default(), &binding).await.expect("bind");
    let bound = pods.list(&ListParams::default().fields("spec.nodeName=node-a")).await.expect("list");
    assert_eq!(bound.items.len(), 1);
    let watch = pods.watch(&kube::api::WatchParams::default().timeout(1), "0").await.expect("watch");
    let events: Vec<_> = watch.try_collect().await.expect("events");
    assert!(!events.is_empty());
}
