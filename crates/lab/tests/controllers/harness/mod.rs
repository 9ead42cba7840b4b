//! A cluster for one test: embedded API, two nodes' namespaces, controllers, and a plugin made of a script.

mod fakes;
mod objects;
mod victim;

use std::{fs, net::SocketAddr, path::PathBuf, process::Command, sync::Mutex, time::Duration};

use futures::StreamExt as _;
use kube::{
    Api, Client, Config,
    api::{
        ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
    },
    core::GroupVersionKind,
};
use lab::{
    LabName, Topology,
    controllers::{self, Context, NodeContext},
    process::Registry,
};
use netns::{NetNs, Owned};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) use self::{
    fakes::{Balancers, Cni},
    objects::{deployment, pod, running_pods, service},
    victim::{READY, victim},
};

/// Everything that must happen happens within this, or the test fails.
const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const NAMESPACE: &str = "test";

pub(crate) struct Cluster {
    pub(crate) balancers: Balancers,
    client: Client,
    address: SocketAddr,
    topology: Topology,
    context: Context<Balancers>,
    directory: tempfile::TempDir,
    shutdown: CancellationToken,
    controllers: Option<JoinHandle<()>>,
    serving: JoinHandle<()>,
    _nodes: Vec<Owned>,
}

impl Cluster {
    pub(crate) async fn start(tag: &str, cni: Cni) -> Self {
        let name = LabName::new(format!("t{}-{tag}", std::process::id())).expect("name");
        let topology = Topology::new(name, model::Plane::Ebpf, 2).expect("size");
        let nodes: Vec<_> =
            topology.nodes.iter().map(|node| Owned::create(&node.namespace).expect("namespace")).collect();
        for (node, namespace) in topology.nodes.iter().zip(&nodes) {
            ip(namespace, &["addr", "add", &format!("{}/32", node.address()), "dev", "lo"]);
        }
        let config =
            apiserver::Config::new(topology.addressing.iter().map(|family| family.services).collect());
        let server = apiserver::ApiServer::new(config).expect("API");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let serving =
            tokio::spawn(async move { server.serve(listener, std::future::pending()).await.expect("serve") });
        let client =
            Client::try_from(Config::new(format!("http://{address}").parse().expect("url"))).expect("client");
        let directory = tempfile::tempdir().expect("directory");
        let balancers = Balancers::default();
        let context = Context {
            client: client.clone(),
            topology: topology.clone(),
            balancers: balancers.clone(),
            nodes: topology
                .nodes
                .iter()
                .map(|plan| NodeContext {
                    plan: plan.clone(),
                    agent_socket: directory.path().join(format!("{}.sock", plan.name)),
                    cgroup: None,
                })
                .collect(),
            state_dir: directory.path().join("state"),
            registry: Registry::new(directory.path().join("processes")),
            exe: PathBuf::from("/nonexistent/twinplane"),
            cni_plugin: fakes::plugin(directory.path(), cni),
        };
        let mut cluster = Self {
            balancers,
            client,
            address,
            topology,
            context,
            directory,
            shutdown: CancellationToken::new(),
            controllers: None,
            serving,
            _nodes: nodes,
        };
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        let api = Api::<DynamicObject>::all_with(cluster.client.clone(), &resource("v1", "namespaces"));
        let namespace = serde_json::from_value(namespace).expect("object");
        api.create(&PostParams::default(), &namespace).await.expect("namespace");
        cluster.run();
        cluster
    }

    fn run(&mut self) {
        self.shutdown = CancellationToken::new();
        self.controllers = Some(tokio::spawn(controllers::run(self.context.clone(), self.shutdown.clone())));
    }

    /// Ends the controllers as a crash does, and starts new ones on what they left.
    pub(crate) async fn restart(mut self) -> Self {
        if let Some(controllers) = self.controllers.take() {
            controllers.abort();
            let _ = controllers.await;
        }
        self.run();
        self
    }

    /// Ends everything and checks that nothing is left.
    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        let controllers = self.controllers.take().expect("running");
        tokio::time::timeout(PATIENCE, controllers).await.expect("ends in time").expect("no panic");
        assert_eq!(self.pod_namespaces(), 0, "namespaces left");
        let alive: Vec<_> = self.context.registry.all().expect("records");
        assert!(alive.iter().all(|record| !record.process.is_alive()), "processes left: {alive:?}");
    }

    // The API.

    fn api(&self, version: &str, plural: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), NAMESPACE, &resource(version, plural))
    }

    pub(crate) async fn create(&self, object: Value) {
        let version = object["apiVersion"].as_str().expect("version").to_owned();
        let plural = format!("{}s", object["kind"].as_str().expect("kind").to_lowercase());
        let object: DynamicObject = serde_json::from_value(object).expect("object");
        self.api(&version, &plural).create(&PostParams::default(), &object).await.expect("create");
    }

    pub(crate) async fn get(&self, version: &str, plural: &str, name: &str) -> Option<Value> {
        let object = self.api(version, plural).get_opt(name).await.expect("get")?;
        Some(serde_json::to_value(object).expect("JSON"))
    }

    pub(crate) async fn list(&self, version: &str, plural: &str) -> Vec<Value> {
        let list = self.api(version, plural).list(&Default::default()).await.expect("list");
        list.items.into_iter().map(|object| serde_json::to_value(object).expect("JSON")).collect()
    }

    pub(crate) async fn merge(&self, version: &str, plural: &str, name: &str, patch: Value) {
        let api = self.api(version, plural);
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("patch");
    }

    pub(crate) async fn delete(&self, version: &str, plural: &str, name: &str) {
        self.api(version, plural).delete(name, &DeleteParams::background()).await.expect("delete");
    }

    /// Waits for a state of one object, seeing every one in between.
    pub(crate) async fn until(
        &self,
        what: &str,
        version: &str,
        plural: &str,
        name: &str,
        reached: impl Fn(&Value) -> bool,
    ) -> Value {
        let api = self.api(version, plural);
        let last = Mutex::new(Value::Null);
        let wait = async {
            loop {
                let present = self.get(version, plural, name).await.unwrap_or_default();
                if reached(&present) {
                    return present;
                }
                let since = present["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
                *last.lock().expect("lock") = present;
                let parameters = WatchParams::default().fields(&format!("metadata.name={name}")).timeout(5);
                let Ok(events) = api.watch(&parameters, &since).await else { continue };
                let mut events = std::pin::pin!(events);
                while let Some(Ok(event)) = events.next().await {
                    let (WatchEvent::Added(object) | WatchEvent::Modified(object)) = event else { continue };
                    let object = serde_json::to_value(object).expect("JSON");
                    if reached(&object) {
                        return object;
                    }
                    *last.lock().expect("lock") = object;
                }
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(object) => object,
            Err(_) => panic!("{what}: {plural}/{name} is {:#}", last.lock().expect("lock")),
        }
    }

    pub(crate) async fn poll(&self, what: &str, reached: impl AsyncFn() -> bool) {
        let wait = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(20));
            while !reached().await {
                ticks.tick().await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            let pods = self.list("v1", "pods").await;
            let events = self.list("v1", "events").await;
            let messages: Vec<_> = events.iter().map(|event| &event["message"]).collect();
            panic!("{what}: never; pods {pods:#?} events {messages:#?}");
        }
    }

    pub(crate) async fn until_count(&self, version: &str, plural: &str, count: usize) {
        let what = format!("{count} {plural}");
        self.poll(&what, async || self.list(version, plural).await.len() == count).await;
    }

    pub(crate) async fn until_gone(&self, version: &str, plural: &str, name: &str) {
        let what = format!("{plural}/{name} gone");
        self.poll(&what, async || self.get(version, plural, name).await.is_none()).await;
    }

    pub(crate) async fn until_ready(&self, pod: &str) -> Value {
        let ready = |object: &Value| {
            let conditions = object["status"]["conditions"].as_array();
            let mut conditions = conditions.into_iter().flatten();
            conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
        };
        self.until("ready", "v1", "pods", pod, ready).await
    }

    pub(crate) async fn until_event(&self, object: &str, reason: &str) -> Value {
        let found = Mutex::new(Value::Null);
        self.poll(&format!("event {reason} of {object}"), async || {
            let events = self.list("v1", "events").await;
            let event = events
                .into_iter()
                .find(|event| event["involvedObject"]["name"] == object && event["reason"] == reason);
            let there = event.is_some();
            *found.lock().expect("lock") = event.unwrap_or_default();
            there
        })
        .await;
        found.into_inner().expect("lock")
    }

    pub(crate) async fn until_slice(
        &self,
        what: &str,
        service: &str,
        reached: impl Fn(&Value) -> bool,
    ) -> Value {
        let found = Mutex::new(Value::Null);
        self.poll(what, async || {
            let slices = self.list("discovery.k8s.io/v1", "endpointslices").await;
            let mut own = slices
                .into_iter()
                .filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == service);
            let slice = own.next().unwrap_or_default();
            assert!(own.next().is_none(), "one slice is enough");
            *found.lock().expect("lock") = slice.clone();
            reached(&slice)
        })
        .await;
        found.into_inner().expect("lock")
    }

    pub(crate) async fn until_ready_endpoints(&self, service: &str, count: usize) {
        let ready = |slice: &Value| {
            let endpoints = slice["endpoints"].as_array();
            let ready =
                endpoints.into_iter().flatten().filter(|endpoint| endpoint["conditions"]["ready"] == true);
            ready.count() == count
        };
        self.until_slice(&format!("{count} ready endpoints"), service, ready).await;
    }

    pub(crate) async fn kubectl(&self, args: &[&str]) -> String {
        let mut command = tokio::process::Command::new("kubectl");
        command.args(["-s", &format!("http://{}", self.address), "-n", NAMESPACE]).args(args);
        command.env("KUBECONFIG", "/dev/null").env("HOME", self.directory.path());
        let output = command.output().await.expect("kubectl");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    // The machine.

    fn namespace_of(&self, pod: &Value) -> NetNs {
        let uid = pod["metadata"]["uid"].as_str().expect("uid");
        NetNs::open(&self.topology.pod_namespace(uid)).expect("the pod's namespace")
    }

    pub(crate) fn curl(&self, pod: &Value, url: &str) -> String {
        let output =
            self.namespace_of(pod).command("curl").args(["-sSf", "-m", "10", url]).output().expect("curl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Namespaces of pods that exist now.
    pub(crate) fn pod_namespaces(&self) -> usize {
        let prefix = self.topology.pod_namespace("x");
        let (prefix, _) = prefix.rsplit_once('-').expect("an id at the end");
        NetNs::list(&format!("{prefix}-")).expect("list").len()
    }

    /// How often the plugin was called so.
    pub(crate) fn cni_calls(&self, command: &str) -> usize {
        let log = fs::read_to_string(self.directory.path().join("cni.log")).unwrap_or_default();
        log.lines().filter(|line| *line == command).count()
    }

    /// A file in the folder of the pod with this uid.
    pub(crate) fn file(&self, uid: &str, name: &str) -> Option<String> {
        fs::read_to_string(self.context.state_dir.join("pods").join(uid).join(name)).ok()
    }

    pub(crate) fn scratch(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }
}

impl Drop for Cluster {
    /// A test that failed leaves nothing either.
    fn drop(&mut self) {
        if let Some(controllers) = self.controllers.take() {
            controllers.abort();
        }
        self.serving.abort();
        for record in self.context.registry.all().unwrap_or_default() {
            let _ = record.process.signal(nix::sys::signal::Signal::SIGKILL);
        }
        let prefix = self.topology.pod_namespace("x");
        let (prefix, _) = prefix.rsplit_once('-').expect("an id at the end");
        for namespace in NetNs::list(&format!("{prefix}-")).unwrap_or_default() {
            let _ = NetNs::remove(&namespace);
        }
    }
}

fn resource(version: &str, plural: &str) -> ApiResource {
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, ""), plural)
}

fn ip(namespace: &NetNs, args: &[&str]) {
    let status = namespace.command("ip").args(args).status().expect("ip");
    assert!(status.success(), "ip {args:?}");
}

pub(crate) fn has(tool: &str) -> bool {
    Command::new(tool).arg("--help").output().is_ok()
}
