//! A cluster's state as Kubernetes objects, what a node makes of it, and the file that reproduces a difference.
//!
//! Objects, not snapshots: so the code that reads them is compared, too. Never touches a kernel.

use std::collections::BTreeMap;

use cluster::{Index, Kind, Settings};
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use kube::{ResourceExt as _, runtime::watcher::Event};
use model::{Changed, Endpoint, Family, NodePortAddresses, Snapshot};
use scenarios::places::{self, Node};
use serde::{Deserialize, Serialize};

/// Everything that Services depend on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Objects {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<core::Node>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<core::Service>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoint_slices: Vec<discovery::EndpointSlice>,
    /// Those with host ports; the others matter to nobody here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<core::Pod>,
}

/// A state, and the one it is reached from: what is committed, replayed and shrunk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Case {
    /// What is tricky about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// The difference that was found, at the time it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Found>,
    /// kube-proxy's `--nodeport-addresses`.
    #[serde(default)]
    pub node_ports: NodePortAddresses,
    /// Programmed first, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Objects>,
    #[serde(flatten)]
    pub objects: Objects,
}

/// A difference as it is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Found {
    pub executor: String,
    pub probe: String,
    pub wanted: String,
    pub got: String,
    pub seed: u64,
}

/// A node's agent, as far as objects go: index and snapshot.
#[derive(Debug)]
pub struct Follower {
    index: Index,
    snapshot: Snapshot,
}

impl Follower {
    /// Knows nothing yet.
    pub fn new(node: Node, node_ports: NodePortAddresses, endpoints: Vec<Endpoint>) -> Self {
        let cluster_cidrs = Family::ALL.map(places::cluster_cidr).to_vec();
        let settings = Settings { node: node.name().to_owned(), cluster_cidrs, node_ports };
        let mut index = Index::new(settings);
        for endpoint in endpoints {
            index.set_endpoint(endpoint);
        }
        Self { index, snapshot: Snapshot::default() }
    }

    /// Lists all of `objects`, as after a start.
    ///
    /// # Panics
    /// `objects` lack this node.
    pub fn list(&mut self, objects: &Objects) -> Changed {
        list(&mut self.index, &objects.nodes);
        list(&mut self.index, &objects.services);
        list(&mut self.index, &objects.endpoint_slices);
        list(&mut self.index, &objects.pods);
        // Nothing would be compared with nothing, and be equal.
        assert_eq!(self.index.waiting_for(), None, "the objects are no whole cluster");
        self.settle()
    }

    /// Watches what leads from `before` to `after`, one event at a time.
    pub fn step(&mut self, before: &Objects, after: &Objects) -> Changed {
        watch(&mut self.index, &before.nodes, &after.nodes);
        watch(&mut self.index, &before.services, &after.services);
        watch(&mut self.index, &before.endpoint_slices, &after.endpoint_slices);
        watch(&mut self.index, &before.pods, &after.pods);
        self.settle()
    }

    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    fn settle(&mut self) -> Changed {
        self.index.take_update().map(|update| self.snapshot.advance(update)).unwrap_or_default()
    }
}

impl Case {
    /// What `node` programs from nothing.
    pub fn snapshot(&self, node: Node) -> Snapshot {
        let mut follower = Follower::new(node, self.node_ports.clone(), vec![]);
        follower.list(&self.objects);
        follower.snapshot
    }

    /// As a file has it.
    pub fn to_yaml(&self) -> Result<String, String> {
        serde_saphyr::to_string(self).map_err(|error| error.to_string())
    }

    /// # Errors
    /// Where and why the text is no case.
    pub fn from_yaml(text: &str) -> Result<Self, String> {
        serde_saphyr::from_str(text).map_err(|error| error.to_string())
    }
}

fn list<K: Kind + Clone>(index: &mut Index, objects: &[K]) {
    index.observe(Event::<K>::Init);
    for object in objects {
        index.observe(Event::InitApply(object.clone()));
    }
    index.observe(Event::<K>::InitDone);
}

fn watch<K: Kind + Clone + PartialEq>(index: &mut Index, before: &[K], after: &[K]) {
    let known: BTreeMap<_, _> = before.iter().map(|object| (object.name_any(), object)).collect();
    for object in before.iter().filter(|old| !after.iter().any(|new| new.name_any() == old.name_any())) {
        index.observe(Event::Delete(object.clone()));
    }
    for object in after.iter().filter(|new| known.get(&new.name_any()) != Some(new)) {
        index.observe(Event::Apply(object.clone()));
    }
}
