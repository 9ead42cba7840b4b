//! Memory of the real agent, as a process of its own, against an API server with many Services.

use std::{
    io::{self, ErrorKind},
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use agent::client::Client;
use anyhow::{Context as _, ensure};
use apiserver::ApiServer;
use axum::{Router, body::Body};
use flow::{
    proto::observer::{ServerStatusRequest, observer_client::ObserverClient},
    ring::Capacity,
};
use http::Request;
use http_body_util::BodyExt as _;
use model::{Family::V4, Plane, ServicePort};
use observer::connect;
use scenarios::{
    places::{Node, Place},
    topology::Topology,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

use crate::{
    Effort,
    fleet::{self, Running},
    machine, plane,
    rows::Report,
    scale,
};

/// Longest wait for an agent.
const PATIENCE: Duration = Duration::from_secs(120);
/// Memory has settled once it has not moved by a hundredth for this long.
const STILL: Duration = Duration::from_secs(2);
const SETTLE: Duration = Duration::from_secs(20);
/// Packets that are sent before it is looked how many were told of: fewer than the kernel keeps for the agent.
const BURST: usize = 4096;
/// The socket that an agent serves flows on, beside its own.
const OBSERVER: &str = "observer.sock";

/// A node with an API server that only its agent sees.
struct Home {
    topology: Topology,
    runtime: Runtime,
    router: Router,
    api: SocketAddr,
}

/// An agent that has programmed everything.
struct Started {
    agent: Running,
    folder: TempDir,
    /// Milliseconds.
    ready: f64,
    _pins: plane::Pins,
}

impl Started {
    fn observer(&self) -> PathBuf {
        self.folder.path().join(OBSERVER)
    }
}

/// What one agent came to.
struct Settled {
    /// Megabytes, settled and at most.
    resident: f64,
    peak: f64,
    /// Milliseconds from its start until everything was programmed.
    ready: f64,
}

pub(crate) fn measure(effort: Effort, report: &mut Report) -> anyhow::Result<()> {
    let services = effort.sizes.last().copied().unwrap_or(10_000);
    for kind in [Plane::Ebpf, Plane::Iptables] {
        let home = Home::new()?;
        let idle = home.agent(kind, 0)?;
        if kind == Plane::Ebpf {
            let words = "agent's memory, 65,535 flows kept, one service, ebpf";
            let control = (idle.resident, "no flows");
            report.add(("agent-rss-flows", words), (home.agent_with_flows()?, "MB"), control);
        }
        for index in 0..services {
            home.create(&scale::filler(index))?;
        }
        let full = home.agent(kind, services as usize)?;
        let suffix = if kind == Plane::Ebpf { "" } else { "-iptables" };
        let words = format!("{services} services, 25,000 endpoints, {kind}");
        let (memory, none) = ((idle.resident, "no services"), (idle.peak, "no services"));
        report.add(
            (format!("agent-rss-10k{suffix}"), format!("agent's memory, {words}")),
            (full.resident, "MB"),
            memory,
        );
        report.add(
            (format!("agent-peak-10k{suffix}"), format!("the most it had, {words}")),
            (full.peak, "MB"),
            none,
        );
        let what = format!("agent's start until all is programmed, {words}");
        report.add(
            (format!("agent-start-10k{suffix}"), what),
            (full.ready, "ms"),
            (idle.ready, "no services"),
        );
    }
    Ok(())
}

impl Home {
    fn new() -> anyhow::Result<Self> {
        let topology = Topology::new();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let server = ApiServer::new(apiserver::Config::new(vec!["10.24.0.0/16".parse()?]))?;
        let bind = || -> std::io::Result<std::net::TcpListener> {
            let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listener = topology.node(Node::A).run(bind)??;
        let (api, router) = (listener.local_addr()?, server.router());
        let listener = runtime.block_on(async { tokio::net::TcpListener::from_std(listener) })?;
        runtime.spawn(async move { server.serve(listener, std::future::pending()).await });
        let this = Self { topology, runtime, router, api };
        for node in Node::ALL {
            let object = json!({"metadata": {"name": node.name()},
                "spec": {"podCIDR": node.pod_cidr(V4), "podCIDRs": [node.pod_cidr(V4)]}});
            this.post("/api/v1/nodes", &object)?;
            let status = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name()},
                "status": {"addresses": [{"type": "InternalIP", "address": node.address(V4)}]}});
            this.send("PUT", &format!("/api/v1/nodes/{}/status", node.name()), &status)?;
        }
        this.post("/api/v1/namespaces", &json!({"metadata": {"name": "bench"}}))?;
        Ok(this)
    }

    /// A Service and its slice, as a cluster has them.
    fn create(&self, service: &ServicePort) -> anyhow::Result<()> {
        let name = &service.id.service.name;
        let port = json!({"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080});
        let object = json!({"metadata": {"name": name, "labels": {"app": name}},
            "spec": {"selector": {"app": name}, "ports": [port]}});
        let created = self.post("/api/v1/namespaces/bench/services", &object)?;
        let endpoint = |(index, backend): (usize, &model::Backend)| {
            json!({"addresses": [backend.address.ip()], "nodeName": "node-b", "zone": "zone-b",
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "namespace": "bench", "name": format!("{name}-{index}"),
                    "uid": format!("6f1de2b0-0c8e-4a55-9d2e-{:012}", index)}})
        };
        let endpoints: Vec<_> = service.cluster.iter().enumerate().map(endpoint).collect();
        let slice = json!({"metadata": {"name": format!("{name}-x2k4f"),
                "labels": {"kubernetes.io/service-name": name,
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": name, "controller": true,
                    "blockOwnerDeletion": true, "uid": created["metadata"]["uid"]}]},
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "http", "protocol": "TCP", "port": 8080}]});
        self.post("/apis/discovery.k8s.io/v1/namespaces/bench/endpointslices", &slice).map(drop)
    }

    fn post(&self, path: &str, object: &Value) -> anyhow::Result<Value> {
        self.send("POST", path, object)
    }

    fn send(&self, method: &str, path: &str, object: &Value) -> anyhow::Result<Value> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/json")
            .body(Body::from(object.to_string()))?;
        self.runtime.block_on(async {
            let answer = self.router.clone().oneshot(request).await?;
            let success = answer.status().is_success();
            let body = answer.into_body().collect().await?.to_bytes();
            ensure!(success, "{method} {path}: {}", String::from_utf8_lossy(&body));
            Ok(serde_json::from_slice(&body)?)
        })
    }

    /// Runs an agent until it has programmed `services` and its memory has settled.
    fn agent(&self, kind: Plane, services: usize) -> anyhow::Result<Settled> {
        let started = self.start(kind, services, &[])?;
        let resident = settle(started.agent.pid())?;
        let peak = machine::memory(started.agent.pid(), "VmHWM")?;
        Ok(Settled { resident, peak, ready: started.ready })
    }

    /// Megabytes of an agent whose ring of flows is full: of refusals, which every packet to a Service without endpoints is.
    fn agent_with_flows(&self) -> anyhow::Result<f64> {
        let ports = json!([{"name": "none", "protocol": "UDP", "port": 53}]);
        let object = json!({"metadata": {"name": "none"}, "spec": {"type": "NodePort", "ports": ports}});
        let created = self.post("/api/v1/namespaces/bench/services", &object)?;
        let port = created["spec"]["ports"][0]["nodePort"].as_u64().context("read the node port")?;
        let capacity = Capacity::MAX.get();
        let started = self.start(Plane::Ebpf, 1, &["--flow-capacity", &capacity.to_string()])?;
        let to = SocketAddr::new(Node::A.address(V4), u16::try_from(port)?);
        let client = self.topology.place(Place::Client);
        let deadline = Instant::now() + PATIENCE;
        while self.kept(&started.observer())? < capacity {
            ensure!(Instant::now() < deadline, "the ring of flows does not fill");
            client.run(|| send(to))??;
        }
        settle(started.agent.pid())
    }

    /// How many flows an agent keeps.
    fn kept(&self, observer: &Path) -> anyhow::Result<u64> {
        let target = connect::Target { address: format!("unix://{}", observer.display()), server_name: None };
        self.runtime.block_on(async {
            let mut client = ObserverClient::new(connect::connect(&target, None).await?);
            Ok(client.server_status(ServerStatusRequest {}).await?.into_inner().num_flows)
        })
    }

    /// Runs an agent until it has programmed `services`.
    fn start(&self, kind: Plane, services: usize, arguments: &[&str]) -> anyhow::Result<Started> {
        let folder = tempfile::tempdir()?;
        let socket = folder.path().join("agent.sock");
        let pins = plane::Pins::new(&format!("{}-{services}", self.topology.name));
        let mut command = fleet::command(self.topology.node(Node::A), &["agent", "--node", "node-a"])?;
        command.arg("--api-server").arg(format!("http://{}", self.api));
        command.arg("--dataplane").arg(kind.as_str()).arg("--bpffs").arg(pins.path());
        command.arg("--socket").arg(&socket).args(["--uplink", "eth0", "--cluster-cidr", "10.20.0.0/16"]);
        command.arg("--observer-socket").arg(folder.path().join(OBSERVER)).args(arguments);
        command.arg("--cgroup").arg(self.topology.group(Node::A).path());
        command.args(["--healthz-bind", "none"]).env("TWINPLANE_LOG", "error");
        let start = Instant::now();
        let mut agent = Running::start(command)?;
        let client = Client::new(socket);
        while !self.programmed(&client, services) {
            agent.check()?;
            ensure!(start.elapsed() < PATIENCE, "the {kind} agent has not programmed {services} services");
            thread::sleep(Duration::from_millis(20));
        }
        let ready = start.elapsed().as_secs_f64() * 1e3;
        Ok(Started { agent, folder, ready, _pins: pins })
    }

    fn programmed(&self, client: &Client, services: usize) -> bool {
        let Ok(status) = self.runtime.block_on(client.status()) else { return false };
        status.waiting_for.is_none()
            && status.generation == status.programmed
            && status.objects.pending == 0
            && status.objects.programmed >= services
    }
}

/// A burst of datagrams, none of which waits for what became of another.
fn send(to: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    for _ in 0..BURST {
        match socket.send_to(b"?", to) {
            // Of an earlier one, or the device is busy.
            Err(error) if !matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::WouldBlock) => {
                return Err(error);
            }
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

/// Resident megabytes once they no longer move.
fn settle(pid: u32) -> anyhow::Result<f64> {
    let start = Instant::now();
    let (mut last, mut since) = (machine::memory(pid, "VmRSS").context("measure the agent")?, start);
    while since.elapsed() < STILL && start.elapsed() < SETTLE {
        thread::sleep(Duration::from_millis(100));
        let now = machine::memory(pid, "VmRSS")?;
        if (now - last).abs() > last / 100.0 {
            (last, since) = (now, Instant::now());
        }
    }
    machine::memory(pid, "VmRSS")
}
