//! How each kind of object enters the [`Index`].

use std::collections::BTreeSet;

use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
    networking::v1::NetworkPolicy,
};
use model::{PodName, ServiceName, policy::PolicyKind};
use policy::{read, v1alpha2::ClusterNetworkPolicy};

use crate::{
    causes, host_port,
    identity::{TwinplaneEndpoint, TwinplaneIdentity},
    index::Index,
    node,
    problem::{ObjectRef, Report},
    service, slice,
};

/// Namespace (empty for a Node) and name.
pub(crate) type Key = (String, String);

/// A kind of object that an [`Index`] is told of.
pub trait Kind: kube::Resource<DynamicType = ()> + private::Entry {
    /// As the API spells it.
    const KIND: &'static str;
}

impl Kind for Node {
    const KIND: &'static str = "Node";
}

impl Kind for Service {
    const KIND: &'static str = "Service";
}

impl Kind for EndpointSlice {
    const KIND: &'static str = "EndpointSlice";
}

impl Kind for Pod {
    const KIND: &'static str = "Pod";
}

impl Kind for Namespace {
    const KIND: &'static str = "Namespace";
}

impl Kind for TwinplaneIdentity {
    const KIND: &'static str = "TwinplaneIdentity";
}

impl Kind for TwinplaneEndpoint {
    const KIND: &'static str = "TwinplaneEndpoint";
}

impl Kind for NetworkPolicy {
    const KIND: &'static str = "NetworkPolicy";
}

impl Kind for ClusterNetworkPolicy {
    const KIND: &'static str = "ClusterNetworkPolicy";
}

/// Kinds without which nothing is programmed, in the order in which a missing list is named.
pub(crate) const KINDS: [&str; 4] = [Node::KIND, Service::KIND, EndpointSlice::KIND, Pod::KIND];

/// Kinds that only identities need: where one of them cannot be listed, Services go on.
pub(crate) const IDENTITY_KINDS: [&str; 3] =
    [Namespace::KIND, TwinplaneIdentity::KIND, TwinplaneEndpoint::KIND];

pub(crate) fn key_of<K: kube::Resource>(object: &K) -> Key {
    let meta = object.meta();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

pub(crate) mod private {
    use super::*;

    /// Reached through [`Index::observe`] only.
    pub trait Entry {
        fn apply(&self, index: &mut Index);
        fn remove(key: &Key, index: &mut Index);
        fn known(index: &Index) -> BTreeSet<Key>;
    }

    impl Entry for Service {
        fn apply(&self, index: &mut Index) {
            if let Some(name) = service::name_of(self) {
                index.set_service(&name, service::read(self));
            }
        }

        fn remove((namespace, name): &Key, index: &mut Index) {
            let name = ServiceName { namespace: namespace.clone(), name: name.clone() };
            index.set_service(&name, None);
        }

        fn known(index: &Index) -> BTreeSet<Key> {
            index.services.keys().map(|name| (name.namespace.clone(), name.name.clone())).collect()
        }
    }

    impl Entry for EndpointSlice {
        fn apply(&self, index: &mut Index) {
            let read = slice::read(self, &index.settings.node);
            if index.set_slice(&key_of(self), read) {
                index.note_slice_change(causes::trigger_time(self));
            }
        }

        fn remove(key: &Key, index: &mut Index) {
            if index.set_slice(key, None) {
                index.note_slice_change(None);
            }
        }

        fn known(index: &Index) -> BTreeSet<Key> {
            index.slice_owners.keys().cloned().collect()
        }
    }

    impl Entry for Pod {
        fn apply(&self, index: &mut Index) {
            if let Some(name) = host_port::name_of(self) {
                let mut annotated = index.set_pod_visibility(&name, Some(self));
                annotated.extend(index.set_pod_mode(&name, Some(&self.metadata)));
                index.set_pod(&name, host_port::read(self, &index.settings.node), annotated);
                index.identities.set_pod(&name, Some(self));
            }
        }

        fn remove((namespace, name): &Key, index: &mut Index) {
            let pod = PodName { namespace: namespace.clone(), name: name.clone() };
            index.set_pod_visibility(&pod, None);
            index.set_pod_mode(&pod, None);
            index.set_pod(&pod, None, vec![]);
            index.identities.set_pod(&pod, None);
        }

        fn known(index: &Index) -> BTreeSet<Key> {
            let pods = index.pods.keys().chain(index.identities.pods()).chain(index.annotated_pods());
            let pods = pods.chain(index.pods_with_mode());
            pods.map(|pod| (pod.namespace.clone(), pod.name.clone())).collect()
        }
    }

    impl Entry for Namespace {
        fn apply(&self, index: &mut Index) {
            let labels = self.metadata.labels.clone().unwrap_or_default();
            index.identities.set_namespace(&key_of(self).1, Some(labels));
            let problems = index.set_namespace_mode(&key_of(self).1, Some(&self.metadata));
            index.set_namespace_visibility(&key_of(self).1, Some(self), problems);
        }

        fn remove((_, name): &Key, index: &mut Index) {
            index.identities.set_namespace(name, None);
            let problems = index.set_namespace_mode(name, None);
            index.set_namespace_visibility(name, None, problems);
        }

        fn known(index: &Index) -> BTreeSet<Key> {
            index.identities.namespaces().map(|name| (String::new(), name.to_owned())).collect()
        }
    }

    impl Entry for NetworkPolicy {
        fn apply(&self, index: &mut Index) {
            index.set_policy(read::network_policy(self, None));
        }

        fn remove(key: &Key, index: &mut Index) {
            index.remove_policy(PolicyKind::NetworkPolicy, key);
        }

        fn known(index: &Index) -> BTreeSet<Key> {
            index.policies(PolicyKind::NetworkPolicy)
        }
    }

    impl Entry for ClusterNetworkPolicy {
        fn apply(&self, index: &mut Index) {
            index.set_policy(read::cluster_network_policy(self, None));
            index.set_told(&key_of(self).1, Some(self));
        }

        fn remove(key: &Key, index: &mut Index) {
            index.remove_policy(PolicyKind::ClusterNetworkPolicy, key);
            index.set_told(&key.1, None);
        }

        fn known(index: &Index) -> BTreeSet<Key> {
            index.policies(PolicyKind::ClusterNetworkPolicy)
        }
    }

    impl Entry for TwinplaneIdentity {
        fn apply(&self, index: &mut Index) {
            index.set_identity(&key_of(self).1, Some(self));
        }

        fn remove((_, name): &Key, index: &mut Index) {
            index.set_identity(name, None);
        }

        fn known(index: &Index) -> BTreeSet<Key> {
            index.identities.identities().map(|id| (String::new(), id.to_string())).collect()
        }
    }

    impl Entry for TwinplaneEndpoint {
        fn apply(&self, index: &mut Index) {
            index.set_published(&key_of(self), Some(self));
        }

        fn remove(key: &Key, index: &mut Index) {
            index.set_published(key, None);
        }

        fn known(index: &Index) -> BTreeSet<Key> {
            let pods = index.identities.published();
            pods.map(|pod| (pod.namespace.clone(), pod.name.clone())).collect()
        }
    }

    impl Index {
        fn set_identity(&mut self, name: &str, object: Option<&TwinplaneIdentity>) {
            let mut report = Report::of(ObjectRef::identity(name));
            self.identities.set_identity(name, object, &mut report);
            let problems = if object.is_some() { report.finish() } else { vec![] };
            self.note_problems(ObjectRef::identity(name), problems);
        }

        fn set_published(&mut self, (namespace, name): &Key, object: Option<&TwinplaneEndpoint>) {
            let pod = PodName { namespace: namespace.clone(), name: name.clone() };
            let mut report = Report::of(ObjectRef::endpoint(&pod));
            self.identities.set_published(&pod, object, &mut report);
            self.note_problems(ObjectRef::endpoint(&pod), report.finish());
        }
    }

    impl Entry for Node {
        fn apply(&self, index: &mut Index) {
            if let Some((node, problems)) = node::read(self) {
                index.set_node(&node.name.clone(), Some((node, problems)));
            }
        }

        fn remove((_, name): &Key, index: &mut Index) {
            index.set_node(name, None);
        }

        fn known(index: &Index) -> BTreeSet<Key> {
            index.nodes.keys().map(|name| (String::new(), name.clone())).collect()
        }
    }
}
