//! The embedded API in a namespace of its own, where a proxy reaches it over loopback.

use std::sync::{
    atomic::{AtomicU32, Ordering},
    mpsc,
};

use apiserver::{ApiServer, Config};
use axum::{Router, body::Body};
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tower::ServiceExt as _;

use crate::states::{NODE_ADDRESSES, State};

pub(crate) const NODE: &str = "node1";

/// The server, and the namespace that plays the node.
pub(crate) struct Api {
    pub namespace: netns::Owned,
    pub url: String,
    router: Router,
    runtime: tokio::runtime::Runtime,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// A namespace with the node's addresses on a device of its own.
pub(crate) fn node_namespace(tag: &str) -> netns::Owned {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let name = format!("tp-wit-{}-{number}-{tag}", std::process::id());
    let namespace = netns::Owned::create(&name).expect("create namespace");
    let up = ["link add uplink type veth peer name wire", "link set wire up", "link set uplink up"];
    let addresses = NODE_ADDRESSES.map(|address| {
        let length = if address.contains(':') { "64 nodad" } else { "24" };
        let (length, flags) = length.split_once(' ').unwrap_or((length, ""));
        format!("addr add {address}/{length} dev uplink {flags}").trim_end().to_owned()
    });
    for arguments in up.map(str::to_owned).into_iter().chain(addresses) {
        let status = namespace.command("ip").args(arguments.split(' ')).status().expect("ip");
        assert!(status.success(), "ip {arguments}");
    }
    namespace
}

impl Api {
    pub(crate) fn start(tag: &str) -> Self {
        let namespace = node_namespace(tag);
        let ranges = ["10.96.0.0/12", "fd00:96::/112"].map(|range| range.parse().expect("prefix"));
        let server = ApiServer::new(Config::new(ranges.into())).expect("set up the server");
        let router = server.router();
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = mpsc::channel();
        let name = namespace.name().to_owned();
        let thread = std::thread::spawn(move || {
            let inside = netns::NetNs::open(&name).expect("open namespace");
            let serve = async move {
                let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("bind a port");
                tell.send(listener.local_addr().expect("read the port")).expect("tell the port");
                let shutdown = async {
                    let _ = stopped.await;
                };
                server.serve(listener, shutdown).await.expect("serve");
            };
            inside.run(|| runtime().block_on(serve)).expect("enter namespace");
        });
        let url = format!("http://{}", told.recv().expect("the server starts"));
        let api = Self { namespace, url, router, runtime: runtime(), stop: Some(stop), thread: Some(thread) };
        let addresses: Vec<_> =
            NODE_ADDRESSES.iter().map(|address| json!({"type": "InternalIP", "address": address})).collect();
        api.create("/api/v1/namespaces", &json!({"metadata": {"name": "d"}}));
        api.create(
            "/api/v1/nodes",
            &json!({
                "metadata": {"name": NODE, "labels": {"kubernetes.io/hostname": NODE}},
                "spec": {"podCIDR": "10.128.1.0/24", "podCIDRs": ["10.128.1.0/24", "fd00:20:0:1::/64"]},
                "status": {"addresses": addresses},
            }),
        );
        api
    }

    /// The cluster's Services and slices become those of `state`.
    pub(crate) fn replace(&self, state: &State) {
        const SERVICES: &str = "/api/v1/namespaces/d/services";
        const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/d/endpointslices";
        for list in [SERVICES, SLICES] {
            for object in self.list(list) {
                let name = object["metadata"]["name"].as_str().expect("name");
                self.send("DELETE", &format!("{list}/{name}"), &Value::Null);
            }
        }
        for service in &state.services {
            self.create(SERVICES, service);
        }
        for slice in &state.slices {
            self.create(SLICES, slice);
        }
    }

    pub(crate) fn list(&self, path: &str) -> Vec<Value> {
        let list = self.send("GET", path, &Value::Null);
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// Creates an object, and writes its status where it has one.
    fn create(&self, path: &str, object: &Value) {
        let mut made = self.send("POST", path, object);
        if object["status"].is_object() {
            made["status"] = object["status"].clone();
            let name = object["metadata"]["name"].as_str().expect("name");
            self.send("PUT", &format!("{path}/{name}/status"), &made);
        }
    }

    fn send(&self, method: &str, path: &str, body: &Value) -> Value {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        let request = request.body(Body::from(text)).expect("request");
        let (status, bytes) = self.runtime.block_on(async {
            let response = self.router.clone().oneshot(request).await.expect("answer");
            let status = response.status();
            (status, response.into_body().collect().await.expect("body").to_bytes())
        });
        let answer = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        assert!(matches!(status, StatusCode::OK | StatusCode::CREATED), "{method} {path}: {answer}");
        answer
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(std::thread::panicking() || ended.is_ok(), "the server ends when told to");
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("make a runtime")
}
