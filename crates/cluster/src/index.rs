//! The index of everything this node must know of the cluster. Pure: told of objects, answers with what moved.
//!
//! Objects arrive as [`watcher::Event`]s, in any order between kinds. A relist (`Init` … `InitDone`) only
//! removes what it did not list, at its end, so that no relist ever takes a Service down. Nothing is answered
//! before every kind was listed once: a Service whose slices are not known yet is not one without endpoints.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::watcher::Event;
use model::{
    Generation, NodeConfig, NodePortAddresses, PodName, ServiceName, ServicePort, ServicePortId, Tunnel,
    Update,
};

use crate::{
    causes::Causes,
    claims::{self, Claim, Claims},
    few::Few,
    host_port,
    identity::Identities,
    kinds::{KINDS, Key, Kind, key_of},
    node::Node,
    owner::Owner,
    problem::{ObjectRef, Problem},
    program,
    service::Service,
    slice::Slice,
};

mod identities;
mod judgements;
mod nodes;
mod pods;
mod policy;
mod visibility;

pub use self::judgements::Judgement;
pub use ::policy::read::POLICY_ANNOTATION;

/// What an index is made for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The Node object of this node.
    pub node: String,
    /// Prefixes of all pods of the cluster, both families.
    pub cluster_cidrs: Vec<IpNet>,
    /// Which of the node's addresses serve node ports.
    pub node_ports: NodePortAddresses,
}

/// See the module.
#[derive(Debug)]
pub struct Index {
    pub(crate) settings: Settings,
    pub(crate) services: BTreeMap<ServiceName, Service>,
    slices: BTreeMap<ServiceName, Few<String, Slice>>,
    /// Which Service each slice was last seen with: its label can change.
    pub(crate) slice_owners: BTreeMap<Key, ServiceName>,
    pub(crate) nodes: BTreeMap<String, Node>,
    /// Those of this node that have host ports.
    pub(crate) pods: BTreeMap<PodName, host_port::Pod>,
    pub(crate) identities: Identities,
    visibility: visibility::Visibility,
    policies: policy::Policies,
    /// Nodes, or who serves the API, moved since identities were told.
    surroundings_moved: bool,
    own_node_deleted: bool,
    local_addresses: Vec<IpAddr>,
    tunnel: Option<Tunnel>,
    claims: Claims,
    problems: BTreeMap<ObjectRef, Vec<Problem>>,
    conflicts: BTreeMap<Owner, Vec<Problem>>,
    listings: Listings,
    dirty: BTreeSet<Owner>,
    compiled: BTreeMap<Owner, Vec<Arc<ServicePort>>>,
    node_config: Option<NodeConfig>,
    pending: Update,
    causes: Causes,
    generation: Generation,
}

/// How far the first list, or a relist, of each kind is.
#[derive(Debug, Default)]
struct Listings {
    complete: BTreeSet<&'static str>,
    /// Keys known before the relist that it has not listed yet.
    unlisted: BTreeMap<&'static str, BTreeSet<Key>>,
}

impl Index {
    /// An index that knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            identities: Identities::new(&settings.node, &settings.cluster_cidrs),
            surroundings_moved: true,
            settings,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            slice_owners: BTreeMap::new(),
            nodes: BTreeMap::new(),
            pods: BTreeMap::new(),
            visibility: visibility::Visibility::default(),
            policies: policy::Policies::default(),
            own_node_deleted: false,
            local_addresses: vec![],
            tunnel: None,
            claims: Claims::default(),
            problems: BTreeMap::new(),
            conflicts: BTreeMap::new(),
            listings: Listings::default(),
            dirty: BTreeSet::new(),
            compiled: BTreeMap::new(),
            node_config: None,
            pending: Update::default(),
            causes: Causes::default(),
            generation: Generation::default(),
        }
    }

    /// Takes in what a watch saw.
    pub fn observe<K: Kind>(&mut self, event: Event<K>) {
        match event {
            Event::Apply(object) => object.apply(self),
            Event::Delete(object) => K::remove(&key_of(&object), self),
            Event::Init => {
                let known = K::known(self);
                self.listings.unlisted.insert(K::KIND, known);
            }
            Event::InitApply(object) => {
                if let Some(unlisted) = self.listings.unlisted.get_mut(K::KIND) {
                    unlisted.remove(&key_of(&object));
                }
                object.apply(self);
            }
            Event::InitDone => {
                for key in self.listings.unlisted.remove(K::KIND).unwrap_or_default() {
                    K::remove(&key, self);
                }
                self.listings.complete.insert(K::KIND);
            }
        }
    }

    /// The addresses that this node's interfaces have, whether its Node object names them or not. Those of the
    /// cluster's pods among them (another network's bridge, a tunnel) are no node's.
    pub fn set_local_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.local_addresses = addresses;
        self.refresh_node();
    }

    /// The device that leads to other nodes' pods, once it is there.
    pub fn set_tunnel(&mut self, tunnel: Option<Tunnel>) {
        self.tunnel = tunnel;
        self.refresh_node();
    }

    /// What is missing before anything can be programmed; `None` once all is there.
    pub fn waiting_for(&self) -> Option<String> {
        if let Some(kind) = KINDS.iter().find(|kind| !self.listings.complete.contains(*kind)) {
            return Some(format!("the list of {kind} objects"));
        }
        let name = &self.settings.node;
        match self.nodes.get(name) {
            _ if self.node_config.is_some() => None,
            None => Some(format!("Node {name}: not found")),
            Some(node) if node.internal_ips.is_empty() => {
                Some(format!("Node {name}: status.addresses: no valid InternalIP"))
            }
            Some(_) => Some(format!("Node {name}: spec.podCIDR: none assigned")),
        }
    }

    /// What moved since the last call; `None` where nothing did, or something is still waited for.
    pub fn take_update(&mut self) -> Option<Update> {
        if self.waiting_for().is_some() {
            return None;
        }
        for owner in mem::take(&mut self.dirty) {
            self.surroundings_moved |= identities::is_api_service(&owner);
            self.recompile(&owner);
        }
        self.update_addresses();
        self.update_policy();
        if self.pending.is_empty() {
            return None;
        }
        self.generation = self.generation.next();
        self.pending.generation = self.generation;
        Some(mem::take(&mut self.pending))
    }

    /// What brought the updates about since the last call.
    pub fn take_causes(&mut self) -> Causes {
        mem::take(&mut self.causes)
    }

    /// Everything wrong with any object, in order of object.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values().chain(self.conflicts.values()).flatten()
    }

    /// This node's configuration, once known.
    pub fn node_config(&self) -> Option<&NodeConfig> {
        self.node_config.as_ref()
    }

    /// Whether load balancers may send traffic here: the Node is neither deleted nor about to be.
    pub fn node_eligible(&self) -> bool {
        !self.own_node_deleted && self.nodes.get(&self.settings.node).is_none_or(|node| node.eligible)
    }

    fn recompile(&mut self, owner: &Owner) {
        let (ports, conflicts) = match owner {
            Owner::Service(name) => self.compile_service(name),
            Owner::Pod { name, .. } => self.compile_pod(owner, name),
        };
        self.note_conflicts(owner, conflicts);
        self.replace(owner, ports);
    }

    fn compile_service(&self, name: &ServiceName) -> (Vec<ServicePort>, Vec<Problem>) {
        let zone = self.nodes.get(&self.settings.node).and_then(|node| node.zone.as_deref());
        let Some(service) = self.services.get(name) else { return Default::default() };
        let slices = self.slices.get(name).into_iter().flat_map(Few::values);
        let mut ports = program::compile(service, slices, zone);
        let drop_foreign = |port| claims::drop_foreign(&self.claims, service, port);
        let conflicts = ports.iter_mut().flat_map(drop_foreign).collect();
        (ports, conflicts)
    }

    fn note_conflicts(&mut self, owner: &Owner, conflicts: Vec<Problem>) {
        if conflicts.is_empty() {
            self.conflicts.remove(owner);
        } else {
            self.conflicts.insert(owner.clone(), conflicts);
        }
    }

    /// Queues what differs between `ports` and what `owner` was compiled to before.
    fn replace(&mut self, owner: &Owner, ports: Vec<ServicePort>) {
        let before = self.compiled.remove(owner).unwrap_or_default();
        let find = |id: &ServicePortId| before.iter().find(|port| port.id == *id);
        let gone = before.iter().filter(|old| !ports.iter().any(|port| port.id == old.id));
        self.pending.services.extend(gone.map(|old| (old.id.clone(), None)));
        let mut after = Vec::with_capacity(ports.len());
        for port in ports {
            after.push(match find(&port.id).filter(|old| ***old == port) {
                Some(same) => Arc::clone(same),
                None => {
                    let port = Arc::new(port);
                    self.pending.services.insert(port.id.clone(), Some(Arc::clone(&port)));
                    port
                }
            });
        }
        if !after.is_empty() {
            self.compiled.insert(owner.clone(), after);
        }
    }

    pub(crate) fn note_problems(&mut self, object: ObjectRef, problems: Vec<Problem>) {
        if problems.is_empty() {
            self.problems.remove(&object);
        } else {
            self.problems.insert(object, problems);
        }
    }

    /// Everyone that gains or loses a place by it is compiled anew.
    fn claim(&mut self, owner: Owner, claims: BTreeSet<Claim>) {
        self.dirty.extend(self.claims.set(&owner, claims));
        self.dirty.insert(owner);
    }

    pub(crate) fn set_service(&mut self, name: &ServiceName, read: Option<(Service, Vec<Problem>)>) {
        let (service, problems) =
            read.map_or((None, vec![]), |(service, problems)| (Some(service), problems));
        self.note_problems(ObjectRef::service(name), problems);
        if self.services.get(name) == service.as_ref() {
            return;
        }
        self.causes.services += 1;
        let claims = service.as_ref().map(program::claims).unwrap_or_default();
        self.claim(Owner::Service(name.clone()), claims);
        match service {
            Some(service) => self.services.insert(name.clone(), service),
            None => self.services.remove(name),
        };
    }

    /// Returns whether anything about the slice is new.
    pub(crate) fn set_slice(&mut self, key: &Key, read: Option<(Slice, Vec<Problem>)>) -> bool {
        let (slice, problems) = read.map_or((None, vec![]), |(slice, problems)| (Some(slice), problems));
        self.note_problems(ObjectRef::slice(&key.0, &key.1), problems);
        let owner = slice.as_ref().map(|slice| slice.service.clone());
        let mut changed = false;
        if self.slice_owners.get(key) != owner.as_ref()
            && let Some(before) = self.slice_owners.remove(key)
        {
            self.drop_slice(&before, &key.1);
            changed = true;
        }
        let (Some(slice), Some(owner)) = (slice, owner) else { return changed };
        let slices = self.slices.entry(owner.clone()).or_default();
        if slices.get(&key.1) != Some(&slice) {
            slices.insert(key.1.clone(), slice);
            self.dirty.insert(Owner::Service(owner.clone()));
            changed = true;
        }
        self.slice_owners.insert(key.clone(), owner);
        changed
    }

    pub(crate) fn note_slice_change(&mut self, trigger: Option<Timestamp>) {
        let triggers = trigger.into_iter().collect();
        self.causes.merge(Causes { slices: 1, triggers, ..Causes::default() });
    }

    fn drop_slice(&mut self, service: &ServiceName, slice: &str) {
        if let Some(slices) = self.slices.get_mut(service) {
            slices.remove(slice);
            if slices.is_empty() {
                self.slices.remove(service);
            }
        }
        self.dirty.insert(Owner::Service(service.clone()));
    }
}
