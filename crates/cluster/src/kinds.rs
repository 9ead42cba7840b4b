//! How each kind of object enters the [`Index`].

use std::collections::BTreeSet;

use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use model::{PodName, ServiceName};

use crate::{causes, host_port, index::Index, node, service, slice};

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

/// Every kind, in the order in which a missing list is named.
pub(crate) const KINDS: [&str; 4] = [Node::KIND, Service::KIND, EndpointSlice::KIND, Pod::KIND];

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
                index.set_pod(&name, host_port::read(self, &index.settings.node));
            }
        }

        fn remove((namespace, name): &Key, index: &mut Index) {
            index.set_pod(&PodName { namespace: namespace.clone(), name: name.clone() }, None);
        }

        fn known(index: &Index) -> BTreeSet<Key> {
            index.pods.keys().map(|pod| (pod.namespace.clone(), pod.name.clone())).collect()
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
