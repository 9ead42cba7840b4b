//! One node: its namespace, an API server and an agent inside it.

use std::{
    future::Future,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use agent::{Config, Observer, Opened, Routing, client::Client};
use apiserver::ApiServer;
use dataplane::{Backoff, Timing, fake::Fake};
use netns::Owned;
use policy::compile::FirstNumbers;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::oneshot};

/// Longest wait for anything; reached only where a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Node {
    pub(crate) namespace: Owned,
    pub(crate) fake: Fake,
    /// What the agent is started with.
    pub(crate) config: Config,
    pub(crate) client: Client,
    /// Whether policies are asked for.
    pub(crate) enforces: bool,
    directory: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    api: String,
    agent: Option<Running>,
    api_server: Option<Running>,
}

/// A thread inside the namespace, told to end when dropped.
struct Running {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // The thread may have ended already.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("a thread of the node panicked");
        }
    }
}

impl Node {
    /// Node "node-a" with an uplink "up0" at 10.128.0.11, API server and agent running.
    pub(crate) fn start() -> Self {
        let mut node = Self::without_agent();
        node.start_agent();
        node
    }

    pub(crate) fn without_agent() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let name = format!("tp-agent-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let namespace = Owned::create(&name).expect("create a namespace (root is needed)");
        for line in [
            "link add up0 type veth peer name wire0",
            "link set wire0 up",
            "addr add 10.128.0.11/24 dev up0",
            "link set up0 up",
        ] {
            run(namespace.command("ip").args(line.split(' ')));
        }
        let (port, api_server) = inside(&namespace, |address, stopped| async move {
            let listener = TcpListener::bind("0.0.0.0:0").await.expect("bind");
            address.send(listener.local_addr().expect("address").port().to_string()).expect("told");
            new_api_server().serve(listener, async move { drop(stopped.await) }).await.expect("serve");
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("runtime");
        let directory = tempfile::tempdir().expect("directory");
        let socket = directory.path().join("agent.sock");
        let config = Config {
            node: "node-a".into(),
            socket: socket.clone(),
            uplinks: vec!["up0".into()],
            cluster_cidrs: vec![
                "10.20.0.0/16".parse().expect("prefix"),
                "fd20::/48".parse().expect("prefix"),
            ],
            node_ports: model::NodePortAddresses::All,
            routing: Routing::Native,
            metrics_bind: Some(([127, 0, 0, 1], 10249).into()),
            conntrack: Some(agent::Conntrack::default()),
            healthz_bind: Some(([127, 0, 0, 1], 10256).into()),
            timing: Timing {
                retry: Backoff { first: Duration::from_millis(20), longest: Duration::from_millis(100) },
                repair_every: Duration::from_secs(60),
            },
            fill_every: Duration::from_millis(20),
            identity_within: Duration::ZERO,
            observer: Observer::default(),
        };
        Self {
            namespace,
            fake: Fake::default(),
            config,
            client: Client::new(socket),
            enforces: false,
            directory,
            runtime,
            api: format!("http://127.0.0.1:{port}"),
            agent: None,
            api_server: Some(api_server),
        }
    }

    /// Node "node-b" at the other end of this node's uplink, with an agent of the same API server.
    pub(crate) fn start_peer(&self) -> Self {
        let name = format!("{}-b", self.namespace.name());
        let namespace = Owned::create(&name).expect("create a namespace");
        run(self.namespace.command("ip").args(["link", "set", "wire0", "netns", &name]));
        for line in ["link set lo up", "addr add 10.128.0.12/24 dev wire0", "link set wire0 up"] {
            run(namespace.command("ip").args(line.split(' ')));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let directory = tempfile::tempdir().expect("directory");
        let socket = directory.path().join("agent.sock");
        let uplinks = vec!["wire0".into()];
        let config = Config { node: "node-b".into(), socket: socket.clone(), uplinks, ..self.config.clone() };
        let mut peer = Self {
            namespace,
            fake: Fake::default(),
            config,
            client: Client::new(socket),
            enforces: self.enforces,
            directory,
            runtime: runtime.expect("runtime"),
            api: self.api.replace("127.0.0.1", "10.128.0.11"),
            agent: None,
            api_server: None,
        };
        peer.start_agent();
        peer
    }

    pub(crate) fn start_agent(&mut self) {
        let config = self.config.clone();
        let (plane, api) = (self.fake.clone(), self.api.clone());
        let policies = self.enforces.then(FirstNumbers::default);
        let (_, running) = inside(&self.namespace, |started, stopped| async move {
            let kube = kube::Client::try_from(kube::Config::new(api.parse().expect("URL"))).expect("client");
            started.send(String::new()).expect("told");
            let stop = async move { drop(stopped.await) };
            agent::run(config, Opened { plane: Box::new(plane), events: None, policies }, kube, stop)
                .await
                .expect("the agent ends well");
        });
        self.agent = Some(running);
        self.until("the agent answers", async || self.client.status().await.ok());
    }

    /// Ends the agent as SIGTERM does, and waits for it.
    pub(crate) fn stop_agent(&mut self) {
        self.agent = None;
    }

    /// Ends the API server and what it knows.
    pub(crate) fn stop_api_server(&mut self) {
        self.api_server = None;
    }

    /// Starts a new API server where the former one was, once `fill` has given it what it is to know.
    pub(crate) fn restart_api_server(&mut self, fill: &dyn Fn(&Self)) {
        let public = self.api.clone();
        let place = public.trim_start_matches("http://").to_owned();
        let open = Arc::new(tokio::sync::Notify::new());
        let opened = Arc::clone(&open);
        let (private, running) = inside(&self.namespace, |address, stopped| async move {
            let server = new_api_server();
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
            address.send(listener.local_addr().expect("address").to_string()).expect("told");
            let same = server.clone();
            tokio::spawn(async move {
                opened.notified().await;
                let listener = TcpListener::bind(place).await.expect("the former place");
                same.serve(listener, std::future::pending()).await.expect("serve");
            });
            server.serve(listener, async move { drop(stopped.await) }).await.expect("serve");
        });
        self.api_server = Some(running);
        self.api = format!("http://{private}");
        fill(self);
        open.notify_one();
        self.api = public;
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    pub(crate) fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Asks again and again until there is an answer.
    pub(crate) fn until<T>(&self, what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        self.wait(async {
            loop {
                if let Some(answer) = ask().await {
                    return answer;
                }
                assert!(Instant::now() < deadline, "waited in vain: {what}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
    }

    /// What `kubectl` prints.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        run(self.namespace.command("kubectl").arg("--server").arg(&self.api).args(arguments))
    }

    /// An HTTP request to the API server.
    pub(crate) fn api(&self, method: &str, path: &str, body: &Value) -> Value {
        let content = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let mut curl = self.namespace.command("curl");
        curl.args(["-sS", "-X", method, "-H", &format!("content-type: {content}")]);
        if !body.is_null() {
            curl.args(["-d", &body.to_string()]);
        }
        let output = run(curl.arg(format!("{}{path}", self.api)));
        let answer: Value = serde_json::from_str(&output).unwrap_or_else(|e| panic!("{e}: {output}"));
        assert_ne!(answer["status"], "Failure", "{method} {path}: {answer}");
        answer
    }

    /// The Node object of this node, and of a second one.
    pub(crate) fn create_nodes(&self) {
        self.create_node_objects();
        self.until_known();
    }

    pub(crate) fn create_node_objects(&self) {
        self.create_node_objects_with(&[
            ("node-a", &["10.128.0.11"], &["10.20.0.0/24"]),
            ("node-b", &["10.128.0.12"], &["10.20.1.0/24"]),
        ]);
    }

    /// Node objects by name, addresses and pod prefixes.
    pub(crate) fn create_nodes_with(&self, nodes: &[(&str, &[&str], &[&str])]) {
        self.create_node_objects_with(nodes);
        self.until_known();
    }

    fn create_node_objects_with(&self, nodes: &[(&str, &[&str], &[&str])]) {
        for (name, addresses, cidrs) in nodes {
            let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
                              "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs}});
            self.api("POST", "/api/v1/nodes", &node);
            let address = |address: &&str| json!({"type": "InternalIP", "address": address});
            let addresses: Vec<_> = addresses.iter().map(address).collect();
            let status = json!({"status": {"addresses": addresses}});
            self.api("PATCH", &format!("/api/v1/nodes/{name}/status"), &status);
        }
    }

    /// Waits until the agent has all lists and its Node.
    pub(crate) fn until_known(&self) {
        self.until("everything is known", async || {
            self.client.status().await.ok().filter(|status| status.waiting_for.is_none())
        });
    }

    /// A file of this machine's, fetched over HTTP from within the namespace: status line, headers, body.
    pub(crate) fn get(&self, url: &str) -> String {
        let mut curl = self.namespace.command("curl");
        let output = curl.args(["-sS", "-i", "-m", "5", url]).output().expect("curl");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn new_api_server() -> ApiServer {
    let config = apiserver::Config::new(vec!["10.24.0.0/20".parse().expect("prefix")]);
    ApiServer::new(config).expect("an API server")
}

/// Runs `work` on a thread and a runtime inside `namespace`; returns what it told first.
fn inside<F: Future<Output = ()>>(
    namespace: &Owned,
    work: impl FnOnce(std::sync::mpsc::Sender<String>, oneshot::Receiver<()>) -> F + Send + 'static,
) -> (String, Running) {
    let (tell, told) = std::sync::mpsc::channel();
    let (stop, stopped) = oneshot::channel();
    let handle = netns::NetNs::open(namespace.name()).expect("open");
    let thread = std::thread::spawn(move || {
        let entered = handle.run(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.expect("runtime").block_on(work(tell, stopped));
        });
        entered.expect("enter");
    });
    let running = Running { stop: Some(stop), thread: Some(thread) };
    (told.recv_timeout(PATIENCE).expect("the thread has started"), running)
}

/// Runs a command that must succeed; returns its output.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// A load balancer with Local policy, node port and health-check port.
pub(crate) fn load_balancer(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "selector": {"app": name},
                 "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    })
}

/// The slice of `service`, with endpoints as address and node.
pub(crate) fn slice(service: &str, endpoints: &[(&str, &str)]) -> Value {
    let endpoint = |(address, node): &(&str, &str)| json!({"addresses": [address], "nodeName": node, "conditions": {"ready": true}});
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{service}-1"), "namespace": "default",
                     "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

pub(crate) const SERVICES: &str = "/api/v1/namespaces/default/services";
pub(crate) const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
