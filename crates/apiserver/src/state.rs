//! All that the server holds, changed under one lock: objects, kinds and allocations stay in step because every write
//! goes through [`State::commit`] and [`State::erase`]. Never answers requests.

use std::sync::Arc;

use crate::{
    alloc::Allocations,
    config::Config,
    meta::{self, Object},
    resource::{Builtin, Registry, Resource},
    status::ApiError,
    store::{Key, Store},
};

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
            Some(Builtin::Service) => self.allocations.hold(&object),
            Some(Builtin::CustomResourceDefinition) => self.registry.define(&object),
            _ => {}
        }
        object
    }

    /// Removes an object and what followed from it.
    pub(crate) fn erase(&mut self, resource: &Resource, key: &Key) -> Option<Arc<Object>> {
        let object = self.store.remove(&resource.storage, key)?;
        match resource.builtin() {
            Some(Builtin::Service) => self.allocations.release(key),
            Some(Builtin::CustomResourceDefinition) => self.registry.undefine(meta::name(&object)),
            _ => {}
        }
        Some(object)
    }

    /// The resource that a storage belongs to.
    pub(crate) fn resource_of(&self, storage: &str) -> Option<Arc<Resource>> {
        self.registry.all().find(|resource| &*resource.storage == storage).cloned()
    }
}
