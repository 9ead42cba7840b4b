//! Objects in few words, and an index that is told of them.

use cluster::{Index, Kind, Settings};
use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::runtime::watcher::Event;
use model::{
    Backend, Frontend, FrontendAddress, FrontendKind, ServicePort, Snapshot, Target, oracle::Origin,
};
use serde_json::{Value, json};

/// The node that the tests look from.
pub(crate) const NODE: &str = "node-a";

/// An index with a snapshot that follows it.
pub(crate) struct Cluster {
    pub(crate) index: Index,
    pub(crate) snapshot: Snapshot,
}

impl Cluster {
    /// All lists complete and the own node known.
    pub(crate) fn new() -> Self {
        let mut cluster = Self::unsynced();
        cluster.list::<Service>(&[]);
        cluster.list::<EndpointSlice>(&[]);
        cluster.list::<Pod>(&[]);
        cluster.list::<Node>(&[node(NODE, json!({}))]);
        cluster.settle();
        cluster
    }

    pub(crate) fn unsynced() -> Self {
        let cluster_cidrs = vec!["10.20.0.0/16".parse().expect("prefix")];
        let index = Index::new(Settings {
            node: NODE.into(),
            cluster_cidrs,
            node_ports: model::NodePortAddresses::All,
        });
        Self { index, snapshot: Snapshot::default() }
    }

    pub(crate) fn list<K: Kind + serde::de::DeserializeOwned>(&mut self, objects: &[Value]) {
        self.index.observe(Event::<K>::Init);
        for object in objects {
            self.index.observe(Event::InitApply(read::<K>(object)));
        }
        self.index.observe(Event::<K>::InitDone);
    }

    pub(crate) fn apply<K: Kind + serde::de::DeserializeOwned>(&mut self, object: &Value) -> &mut Self {
        self.index.observe(Event::Apply(read::<K>(object)));
        self
    }

    pub(crate) fn delete<K: Kind + serde::de::DeserializeOwned>(&mut self, object: &Value) -> &mut Self {
        self.index.observe(Event::Delete(read::<K>(object)));
        self
    }

    /// Brings the snapshot up to date; returns the service ports that moved, as text.
    pub(crate) fn settle(&mut self) -> Vec<String> {
        let Some(update) = self.index.take_update() else { return vec![] };
        let moved = update.services.keys().map(|id| format!("{id}/{}", id.protocol)).collect();
        self.snapshot.advance(update);
        moved
    }

    /// A cluster with one Service and its slices.
    pub(crate) fn with(service: &Value, slices: &[Value]) -> Self {
        let mut cluster = Self::new();
        cluster.apply::<Service>(service);
        for slice in slices {
            cluster.apply::<EndpointSlice>(slice);
        }
        cluster.settle();
        cluster
    }

    /// The only service port there is.
    pub(crate) fn only(&self) -> &ServicePort {
        let mut ports = self.snapshot.services.values();
        let port = ports.next().expect("a service port");
        assert!(ports.next().is_none(), "more than one: {:?}", self.snapshot.services.keys());
        port
    }

    /// Every service port with its frontends, as text.
    pub(crate) fn frontends(&self) -> Vec<String> {
        let ports = self.snapshot.services.values();
        ports.flat_map(|port| port.frontends.iter().map(move |f| frontend_text(port, f))).collect()
    }

    pub(crate) fn problems(&self) -> Vec<String> {
        self.index.problems().map(ToString::to_string).collect()
    }
}

fn frontend_text(port: &ServicePort, frontend: &Frontend) -> String {
    let address = match frontend.address {
        FrontendAddress::Ip(ip) => std::net::SocketAddr::new(ip, frontend.port.get()).to_string(),
        FrontendAddress::Node => format!("node:{}", frontend.port),
    };
    format!("{} {:?} {address}/{}", port.id, frontend.kind, port.id.protocol)
}

/// What a client gets at the frontend of `kind`, in short.
pub(crate) fn target(port: &ServicePort, kind: FrontendKind, origin: Origin) -> String {
    let frontend = port.frontends.iter().find(|f| f.kind == kind).expect("a frontend of that kind");
    match port.target(frontend, origin) {
        Target::Backends(backends, _) => addresses(backends),
        Target::NoEndpoints => "REJECT".into(),
        Target::NoLocalEndpoints => "DROP".into(),
    }
}

pub(crate) fn addresses(backends: &[Backend]) -> String {
    backends.iter().map(|b| b.address.to_string()).collect::<Vec<_>>().join(" ")
}

pub(crate) fn read<K: serde::de::DeserializeOwned>(object: &Value) -> K {
    serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}: {object}"))
}

/// `base` with `patch` merged in (RFC 7396).
pub(crate) fn merged(mut base: Value, patch: &Value) -> Value {
    fn merge(base: &mut Value, patch: &Value) {
        let (Some(target), Some(fields)) = (base.as_object_mut(), patch.as_object()) else {
            *base = patch.clone();
            return;
        };
        for (key, value) in fields {
            if value.is_null() {
                target.remove(key);
            } else {
                merge(target.entry(key).or_insert(json!({})), value);
            }
        }
    }
    merge(&mut base, patch);
    base
}

/// Service ns/NAME, cluster IP 10.24.0.1, port 80.
pub(crate) fn service(name: &str, patch: Value) -> Value {
    let base = json!({
        "metadata": {"namespace": "ns", "name": name},
        "spec": {"type": "ClusterIP", "clusterIP": "10.24.0.1", "clusterIPs": ["10.24.0.1"],
                 "ports": [{"port": 80, "protocol": "TCP"}]},
    });
    merged(base, &patch)
}

/// A load balancer at 203.0.113.10 with node port 30080.
pub(crate) fn load_balancer(patch: Value) -> Value {
    let base = json!({
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80, "nodePort": 30080}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.10"}]}},
    });
    service("web", merged(base, &patch))
}

/// Slice ns/NAME of Service ns/web, one unnamed TCP port 8080.
pub(crate) fn slice(name: &str, endpoints: Value, patch: Value) -> Value {
    let base = json!({
        "metadata": {"namespace": "ns", "name": name, "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "", "protocol": "TCP", "port": 8080}],
        "endpoints": endpoints,
    });
    merged(base, &patch)
}

/// An endpoint: address, node and the letters of its state: r ready, s serving, t terminating.
pub(crate) fn endpoint(address: &str, node: &str, state: &str) -> Value {
    json!({
        "addresses": [address],
        "nodeName": node,
        "conditions": {"ready": state.contains('r'), "serving": state.contains('s'),
                       "terminating": state.contains('t')},
    })
}

pub(crate) fn node(name: &str, patch: Value) -> Value {
    let base = json!({
        "metadata": {"name": name, "labels": {}},
        "spec": {"podCIDR": "10.20.0.0/24", "podCIDRs": ["10.20.0.0/24"]},
        "status": {"addresses": [{"type": "Hostname", "address": name},
                                 {"type": "InternalIP", "address": "10.128.0.11"}]},
    });
    merged(base, &patch)
}
