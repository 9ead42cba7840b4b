//! All that the server holds, changed under one lock: objects, kinds and allocations stay in step because every write
//! goes through [`State::commit`] and [`State::erase`]. Never answers requests.

use std::{net::IpAddr, sync::Arc};

use serde_json::json;

use crate::{
    alloc::Allocations,
    config::Config,
    meta::{self, Object},
    resource::{Builtin, Registry, Resource},
    status::ApiError,
    store::{Key, Store},
};

/// Where the addresses and the ranges of Services are stored.
const IP_ADDRESSES: &str = "ipaddresses.networking.k8s.io";
const SERVICE_CIDRS: &str = "servicecidrs.networking.k8s.io";

/// Objects, kinds and allocations.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) registry: Registry,
    pub(crate) allocations: Allocations,
}

impl State {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            store: Store::new(config.history),
            registry: Registry::new(),
            allocations: Allocations::new(&config),
            config,
        }
    }

    /// The object, or the 404 that names it.
    pub(crate) fn get(&self, resource: &Resource, key: &Key) -> Result<Arc<Object>, ApiError> {
        self.store.get(&resource.storage, key).cloned().ok_or_else(|| ApiError::NotFound {
            group: resource.group.clone(),
            resource: resource.plural.clone(),
            name: key.name.clone(),
        })
    }

    /// Stores a finished object and what follows from it: its addresses and ports, or the kind it defines.
    pub(crate) fn commit(&mut self, resource: &Resource, object: Object) -> Arc<Object> {
        let object = self.store.put(&resource.storage, object);
        match resource.builtin() {
            Some(Builtin::Service) => self.hold(&object),
            Some(Builtin::ServiceCidr) => self.allocations.set_range(&object),
            Some(Builtin::CustomResourceDefinition) => self.registry.define(&object),
            _ => {}
        }
        object
    }

    /// Removes an object and what followed from it.
    pub(crate) fn erase(&mut self, resource: &Resource, key: &Key) -> Option<Arc<Object>> {
        let object = self.store.remove(&resource.storage, key)?;
        match resource.builtin() {
            Some(Builtin::Service) => self.release(key),
            Some(Builtin::ServiceCidr) => self.allocations.remove_range(&key.name),
            Some(Builtin::CustomResourceDefinition) => self.registry.undefine(meta::name(&object)),
            _ => {}
        }
        Some(object)
    }

    /// A Service's addresses are objects, too (KEP-1880).
    fn hold(&mut self, service: &Object) {
        let key = Key::of(service);
        let before = self.allocations.addresses_of(&key).to_vec();
        self.allocations.hold(service);
        let after = self.allocations.addresses_of(&key).to_vec();
        for ip in after.iter().filter(|ip| !before.contains(ip)) {
            self.store.put(&IP_ADDRESSES.into(), self.ip_address(*ip, &key));
        }
        self.drop_addresses(before.into_iter().filter(|ip| !after.contains(ip)));
    }

    fn release(&mut self, key: &Key) {
        let before = self.allocations.addresses_of(key).to_vec();
        self.allocations.release(key);
        self.drop_addresses(before.into_iter());
    }

    fn drop_addresses(&mut self, gone: impl Iterator<Item = IpAddr>) {
        for ip in gone {
            self.store.remove(&IP_ADDRESSES.into(), &Key::new("", ip.to_string()));
        }
        let closing: Vec<Key> = self
            .store
            .list(SERVICE_CIDRS, None)
            .filter(|range| meta::is_deleting(range) && !self.allocations.needs_range(meta::name(range)))
            .map(|range| Key::of(range))
            .collect();
        for key in closing {
            self.store.remove(&SERVICE_CIDRS.into(), &key);
            self.allocations.remove_range(&key.name);
        }
    }

    fn ip_address(&self, ip: IpAddr, service: &Key) -> Object {
        let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
            "metadata": {
                "name": ip.to_string(), "uid": self.config.uid(), "creationTimestamp": self.config.now(),
                "labels": {"ipaddress.kubernetes.io/ip-family": family,
                           "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"},
            },
            "spec": {"parentRef": {"group": "", "resource": "services", "namespace": service.namespace,
                                   "name": service.name}},
        })
    }

    /// The resource that a storage belongs to.
    pub(crate) fn resource_of(&self, storage: &str) -> Option<Arc<Resource>> {
        self.registry.all().find(|resource| &*resource.storage == storage).cloned()
    }
}
