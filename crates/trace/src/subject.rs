//! The Service under trace and everything its cluster allotted to it, read through the API.

use std::{net::IpAddr, time::Duration};

use lab::status::PodInfo;
use model::ServiceName;
use serde_json::Value;

use crate::{
    bench::{Bench, Error, until},
    normalise::{Role, Vocabulary},
};

/// How long a pod may take to become ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// A LoadBalancer Service and what stands behind it.
#[derive(Clone, Debug)]
pub struct Subject {
    pub namespace: String,
    pub name: String,
    pub cluster_ip: IpAddr,
    pub vip: IpAddr,
    pub port: u16,
    pub node_port: u16,
    pub target_port: u16,
    /// Zero unless the policy is Local.
    pub health_check_node_port: u16,
    /// `Cluster` or `Local`.
    pub policy: String,
    /// The Deployment whose pods the selector chooses, and its replicas.
    pub deployment: String,
    pub replicas: u64,
    /// What its pods are chosen by, as the object has it.
    pub selector: Value,
}

impl Subject {
    /// The Service as the API has it now.
    ///
    /// # Errors
    /// No such Service, or one without the addresses of a load-balanced one.
    pub fn read(bench: &Bench, service: &ServiceName) -> Result<Self, Error> {
        let (namespace, name) = (service.namespace.as_str(), service.name.as_str());
        let object = bench.object(&["-n", namespace, "get", "service", name])?;
        let deployments = bench.object(&["-n", namespace, "get", "deployments"])?;
        let missing = |what: &str| Error::Missing { what: format!("{what} of service {namespace}/{name}") };
        let address = |pointer: &str, what: &str| {
            let text = object.pointer(pointer).and_then(Value::as_str);
            text.and_then(|text| text.parse().ok()).ok_or_else(|| missing(what))
        };
        let number = |pointer: &str| {
            object.pointer(pointer).and_then(Value::as_u64).and_then(|n| u16::try_from(n).ok()).unwrap_or(0)
        };
        let selector = object.pointer("/spec/selector").ok_or_else(|| missing("selector"))?;
        let deployment = chosen(&deployments, selector).ok_or_else(|| missing("deployment"))?;
        let port = number("/spec/ports/0/port");
        let target_port = match number("/spec/ports/0/targetPort") {
            0 => named_port(deployment, &object["spec"]["ports"][0]["targetPort"]).unwrap_or(port),
            target => target,
        };
        Ok(Self {
            cluster_ip: address("/spec/clusterIP", "cluster IP")?,
            vip: address("/status/loadBalancer/ingress/0/ip", "load-balancer address")?,
            port,
            node_port: number("/spec/ports/0/nodePort"),
            target_port,
            health_check_node_port: number("/spec/healthCheckNodePort"),
            policy: object["spec"]["externalTrafficPolicy"].as_str().unwrap_or("Cluster").to_owned(),
            deployment: deployment["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            replicas: deployment["spec"]["replicas"].as_u64().unwrap_or(1),
            selector: selector.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }

    /// Where a client outside reaches it.
    pub fn url(&self) -> String {
        url(self.vip, self.port)
    }

    /// Where a pod reaches it.
    pub fn inside_url(&self) -> String {
        url(self.cluster_ip, self.port)
    }

    /// Prefix of its pods' names, as flows are asked for by it: `namespace/deployment`.
    pub fn namespaced_deployment(&self) -> String {
        format!("{}/{}", self.namespace, self.deployment)
    }

    /// The Service's pods that are ready.
    ///
    /// # Errors
    /// The API does not answer.
    pub fn ready_pods(&self, bench: &Bench) -> Result<Vec<PodInfo>, Error> {
        let mut pods = bench.lab.pods()?;
        let prefix = format!("{}-", self.deployment);
        pods.retain(|pod| pod.ready && pod.namespace == self.namespace && pod.name.starts_with(&prefix));
        Ok(pods)
    }

    /// Moves pods until every node has a ready one, as long as there are enough of them.
    ///
    /// # Errors
    /// The API does not answer, or a moved pod does not become ready in time.
    pub fn spread(&self, bench: &Bench) -> Result<(), Error> {
        let wanted = usize::try_from(self.replicas).unwrap_or(usize::MAX);
        let all_ready = || Ok(Some(self.ready_pods(bench)?).filter(|pods| pods.len() == wanted));
        for _ in 0..bench.lab.topology().nodes.len() {
            let pods = until("every pod to be ready", PATIENCE, all_ready)?;
            let on = |node: &str| pods.iter().filter(|pod| pod.node == node).count();
            let nodes = bench.lab.topology().nodes.iter().map(|node| node.name.as_str());
            let crowded = nodes.clone().max_by_key(|node| on(node)).filter(|node| on(node) > 1);
            let Some(crowded) = crowded.filter(|_| nodes.clone().any(|node| on(node) == 0)) else { break };
            if let Some(pod) = pods.iter().find(|pod| pod.node == crowded) {
                bench.order(&["-n", &self.namespace, "delete", "pod", &pod.name])?;
            }
        }
        Ok(())
    }

    /// What this cluster allotted, for the comparison. Call before and after a layer: pods come and go.
    ///
    /// # Errors
    /// The API does not answer.
    pub fn teach(&self, bench: &Bench, vocabulary: &mut Vocabulary) -> Result<(), Error> {
        vocabulary.learn(self.cluster_ip.to_string(), Role::ClusterIp);
        vocabulary.learn(self.vip.to_string(), Role::Vip);
        for (port, role) in
            [(self.node_port, Role::NodePort), (self.health_check_node_port, Role::HealthCheckNodePort)]
        {
            if port != 0 {
                vocabulary.learn(port.to_string(), role);
            }
        }
        for pod in bench.lab.pods()? {
            if let Some((replica_set, _)) = pod.name.rsplit_once('-') {
                vocabulary.learn(replica_set, Role::ReplicaSet);
            }
            vocabulary.learn(pod.name, Role::Pod);
            vocabulary.learn(pod.netns, Role::Namespace);
            vocabulary.learn(pod.ip.map(|ip| ip.to_string()).unwrap_or_default(), Role::PodAddress);
        }
        for family in &bench.lab.topology().addressing {
            vocabulary.learn(family.client().to_string(), Role::Client);
        }
        for node in &bench.lab.topology().nodes {
            for address in node_addresses(bench, &node.name)? {
                vocabulary.learn(address.to_string(), Role::Node);
            }
        }
        Ok(())
    }
}

/// The root of a web server, with the port where it is not the usual one.
pub fn url(ip: IpAddr, port: u16) -> String {
    match ip {
        IpAddr::V4(ip) => format!("http://{ip}:{port}/"),
        IpAddr::V6(ip) => format!("http://[{ip}]:{port}/"),
    }
    .replace(":80/", "/")
}

/// Every address that a node answers to.
///
/// # Errors
/// `ip` cannot be run there.
pub fn node_addresses(bench: &Bench, node: &str) -> Result<Vec<IpAddr>, Error> {
    let line =
        crate::command::Line::new(lab::Place::Node(node.to_owned()), ["ip", "-json", "address", "show"]);
    let output = bench.run(&line, Duration::from_secs(10))?;
    let links: Value = serde_json::from_str(&output.stdout)
        .map_err(|source| Error::Answer { command: line.to_string(), source })?;
    let addresses = links.as_array().into_iter().flatten().flat_map(|link| link["addr_info"].as_array());
    let addresses = addresses.flatten().filter_map(|info| info["local"].as_str()?.parse::<IpAddr>().ok());
    Ok(addresses.filter(|address| !address.is_loopback()).collect())
}

/// The Deployment whose pods carry every label of the selector.
fn chosen<'a>(deployments: &'a Value, selector: &Value) -> Option<&'a Value> {
    let wanted = selector.as_object()?;
    deployments["items"].as_array()?.iter().find(|deployment| {
        let labels = &deployment["spec"]["template"]["metadata"]["labels"];
        wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
    })
}

/// The number of a container port of that name.
fn named_port(deployment: &Value, name: &Value) -> Option<u16> {
    let containers = deployment["spec"]["template"]["spec"]["containers"].as_array()?;
    let mut ports = containers.iter().filter_map(|container| container["ports"].as_array()).flatten();
    let port = ports.find(|port| name.is_string() && port["name"] == *name)?;
    u16::try_from(port["containerPort"].as_u64()?).ok()
}
