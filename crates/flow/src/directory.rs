//! Who and what the numbers in records stand for: endpoints by address and by identity, Services by frontend, interfaces.
//! Kept by what moved. Never asks anyone: what it was not told it does not know.
//!
//! The kernel's identity counts, because it is what decided; the directory adds names to it, as of when the record is read.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use model::{
    FrontendAddress, FrontendKind, PodName, Reserved, ServicePort, Update,
    policy::{RuleId, RuleRef},
};

use crate::{
    event::{Endpoint, Interface, Label, Service, Workload},
    prefixes::Prefixes,
};

/// The label that says an identity's namespace.
const NAMESPACE: (&str, &str) = ("k8s", "io.kubernetes.pod.namespace");

/// A pod of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    pub identity: u32,
    pub addresses: Vec<IpAddr>,
    pub workloads: Vec<Workload>,
}

/// What moved. `None` takes the key out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Labels as `source:key=value`, by identity.
    pub identities: BTreeMap<u32, Option<Vec<String>>>,
    pub pods: BTreeMap<PodName, Option<Pod>>,
    /// Cookies of the network namespaces of this node's pods.
    pub namespaces: BTreeMap<PodName, Option<u64>>,
}

/// An address, a port in host order, and an IANA protocol number.
type Frontend = (IpAddr, u16, u8);

/// See the module.
#[derive(Debug)]
pub struct Directory {
    cluster: String,
    pods: HashMap<PodName, (Pod, Arc<Endpoint>)>,
    by_address: HashMap<IpAddr, Arc<Endpoint>>,
    /// Endpoints of which no more is known than an identity.
    by_identity: HashMap<u32, Arc<Endpoint>>,
    /// Whose the addresses are that are no pod's.
    prefixes: Prefixes,
    /// Index of the host's end of the veth pair of each pod of this node.
    local: HashMap<PodName, u32>,
    interfaces: HashMap<u32, Arc<Interface>>,
    /// The pod of each network namespace of this node, and the other way round.
    namespaces: HashMap<u64, PodName>,
    cookies: HashMap<PodName, u64>,
    services: HashMap<Frontend, Arc<Service>>,
    /// What was entered in `services` for each port of a Service.
    entered: HashMap<model::ServicePortId, Vec<Frontend>>,
    /// Services at addresses of the node itself, by what they are entered for when the node's addresses move.
    at_node: BTreeMap<model::ServicePortId, Arc<ServicePort>>,
    node: model::NodeConfig,
    rules: HashMap<u32, Arc<RuleRef>>,
}

impl Directory {
    /// Of a node of `cluster`; it knows the reserved identities.
    pub fn new(cluster: &str) -> Self {
        let mut directory = Self {
            cluster: cluster.to_owned(),
            pods: HashMap::new(),
            by_address: HashMap::new(),
            by_identity: HashMap::new(),
            prefixes: Prefixes::default(),
            local: HashMap::new(),
            interfaces: HashMap::new(),
            namespaces: HashMap::new(),
            cookies: HashMap::new(),
            services: HashMap::new(),
            entered: HashMap::new(),
            at_node: BTreeMap::new(),
            node: model::NodeConfig::default(),
            rules: HashMap::new(),
        };
        for reserved in Reserved::ALL {
            let labels = reserved.labels().texts().map(|text| Label::parse(&text)).collect();
            directory.set_identity(reserved.id().get(), labels);
        }
        directory
    }

    /// Takes in what moved in the node's own state: Services, interfaces, addresses.
    pub fn update(&mut self, update: &Update) {
        if let Some(node) = &update.node {
            self.node = node.clone();
            for (id, port) in std::mem::take(&mut self.at_node) {
                self.set_service(&id, Some(&port));
            }
        }
        for (RuleId(number), rule) in &update.policy.rules {
            match rule {
                Some(rule) => _ = self.rules.insert(*number, Arc::clone(rule)),
                None => _ = self.rules.remove(number),
            }
        }
        for (id, port) in &update.services {
            self.set_service(id, port.as_ref());
        }
        for (prefix, identity) in &update.addresses {
            self.prefixes.set(*prefix, identity.map(model::IdentityId::get));
        }
        for (pod, endpoint) in &update.endpoints {
            if let Some(index) = self.local.remove(pod) {
                self.interfaces.remove(&index);
            }
            if let Some(endpoint) = endpoint {
                let (index, name) = (endpoint.ifindex, endpoint.interface.clone());
                self.local.insert(pod.clone(), index);
                self.interfaces.insert(index, Arc::new(Interface { index, name }));
            }
            if let Some((known, _)) = self.pods.get(pod) {
                let known = known.clone();
                self.set_pod(pod, Some(known));
            }
        }
    }

    /// Takes in what moved in the cluster.
    pub fn learn(&mut self, moved: Moved) {
        for (number, labels) in &moved.identities {
            match labels {
                Some(labels) => {
                    self.set_identity(*number, labels.iter().map(|text| Label::parse(text)).collect())
                }
                None => _ = self.by_identity.remove(number),
            }
        }
        if !moved.identities.is_empty() {
            let concerned =
                self.pods.iter().filter(|(_, (pod, _))| moved.identities.contains_key(&pod.identity));
            let concerned: Vec<_> = concerned.map(|(name, (pod, _))| (name.clone(), pod.clone())).collect();
            for (name, pod) in concerned {
                self.set_pod(&name, Some(pod));
            }
        }
        for (name, pod) in moved.pods {
            self.set_pod(&name, pod);
        }
        for (name, cookie) in moved.namespaces {
            if let Some(before) = self.cookies.remove(&name) {
                self.namespaces.remove(&before);
            }
            if let Some(cookie) = cookie {
                self.namespaces.insert(cookie, name.clone());
                self.cookies.insert(name, cookie);
            }
        }
    }

    /// Whose `address` it is, given what the kernel took it for.
    pub fn endpoint(&self, address: IpAddr, identity: u32) -> Arc<Endpoint> {
        match self.by_address.get(&address) {
            Some(endpoint) if endpoint.identity == identity => Arc::clone(endpoint),
            Some(endpoint) => {
                let labels = Arc::clone(&self.of_identity(identity).labels);
                Arc::new(Endpoint { identity, labels, ..Endpoint::clone(endpoint) })
            }
            None => self.of_identity(identity),
        }
    }

    /// Whose `address` it is, where no datapath took it for anyone's; identity 0: not known.
    pub fn owner(&self, address: IpAddr) -> Arc<Endpoint> {
        match self.by_address.get(&address) {
            Some(endpoint) => Arc::clone(endpoint),
            None => {
                self.prefixes.get(address).map_or_else(Arc::default, |identity| self.of_identity(identity))
            }
        }
    }

    /// The pod of this node whose network namespace has this cookie, and its addresses.
    pub fn in_namespace(&self, cookie: u64) -> Option<(&[IpAddr], Arc<Endpoint>)> {
        let (pod, endpoint) = self.pods.get(self.namespaces.get(&cookie)?)?;
        Some((&pod.addresses, Arc::clone(endpoint)))
    }

    /// The node's own, the first of the family.
    pub fn node_address(&self, is_v4: bool) -> Option<IpAddr> {
        self.node.addresses.iter().find(|address| address.is_ipv4() == is_v4).copied()
    }

    /// The Service that is reached there.
    pub fn service(&self, address: IpAddr, port: u16, protocol: u8) -> Option<Arc<Service>> {
        self.services.get(&(address, port, protocol)).cloned()
    }

    /// The policy's rule of a number; `None` for one that is gone, and for 0.
    pub fn rule(&self, number: u32) -> Option<&Arc<RuleRef>> {
        self.rules.get(&number)
    }

    /// A pod's interface, by index; others' are not known here.
    pub fn interface(&self, index: u32) -> Option<&Arc<Interface>> {
        self.interfaces.get(&index)
    }

    /// What is known of an identity alone.
    pub fn of_identity(&self, identity: u32) -> Arc<Endpoint> {
        let known = self.by_identity.get(&identity).cloned();
        known.unwrap_or_else(|| Arc::new(Endpoint { identity, ..Endpoint::default() }))
    }

    fn set_identity(&mut self, identity: u32, labels: Vec<Label>) {
        let namespace = labels.iter().find(|label| (label.source.as_str(), label.key.as_str()) == NAMESPACE);
        let namespace = namespace.map_or_else(String::new, |label| label.value.clone());
        let cluster = if namespace.is_empty() { String::new() } else { self.cluster.clone() };
        let endpoint =
            Endpoint { identity, labels: labels.into(), namespace, cluster, ..Endpoint::default() };
        self.by_identity.insert(identity, Arc::new(endpoint));
    }

    fn set_pod(&mut self, name: &PodName, pod: Option<Pod>) {
        if let Some((before, endpoint)) = self.pods.remove(name) {
            for address in &before.addresses {
                // Another pod may have the address by now.
                if self.by_address.get(address).is_some_and(|holder| Arc::ptr_eq(holder, &endpoint)) {
                    self.by_address.remove(address);
                }
            }
        }
        let Some(pod) = pod else { return };
        let endpoint = Arc::new(Endpoint {
            id: self.local.get(name).copied().unwrap_or_default(),
            identity: pod.identity,
            cluster: self.cluster.clone(),
            namespace: name.namespace.clone(),
            labels: Arc::clone(&self.of_identity(pod.identity).labels),
            pod: name.name.clone(),
            workloads: pod.workloads.clone(),
        });
        for address in &pod.addresses {
            self.by_address.insert(*address, Arc::clone(&endpoint));
        }
        self.pods.insert(name.clone(), (pod, endpoint));
    }

    fn set_service(&mut self, id: &model::ServicePortId, port: Option<&Arc<ServicePort>>) {
        self.at_node.remove(id);
        let (namespace, name) = (id.service.namespace.clone(), id.service.name.clone());
        let service = Arc::new(Service { name, namespace });
        for frontend in self.entered.remove(id).unwrap_or_default() {
            // Another Service may have the frontend by now.
            if self.services.get(&frontend) == Some(&service) {
                self.services.remove(&frontend);
            }
        }
        let Some(port) = port else { return };
        let mut entered = vec![];
        // A host port is a pod's, not a Service's.
        for frontend in port.frontends.iter().filter(|frontend| frontend.kind != FrontendKind::HostPort) {
            if frontend.address == FrontendAddress::Node {
                self.at_node.insert(id.clone(), Arc::clone(port));
            }
            for address in self.node.addresses_at(frontend, id.family) {
                let key = (address, frontend.port.get(), id.protocol.number());
                self.services.insert(key, Arc::clone(&service));
                entered.push(key);
            }
        }
        self.entered.insert(id.clone(), entered);
    }
}

#[cfg(test)]
mod tests;
