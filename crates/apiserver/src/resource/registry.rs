//! The table of served resources, looked up by group, version and plural name. Never reads the store.

use std::sync::Arc;

use serde_json::Value;

use super::{Resource, builtin, custom};
use crate::meta::name;

/// Built-in resources first, then custom ones in the order they were defined.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    builtin: Vec<Arc<Resource>>,
    custom: Vec<(String, Vec<Arc<Resource>>)>,
}

impl Registry {
    pub(crate) fn new() -> Self {
        Self { builtin: builtin::resources(), custom: Vec::new() }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.builtin.iter().chain(self.custom.iter().flat_map(|(_, resources)| resources))
    }

    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        self.all().find(|r| r.plural == plural && r.group == group && r.version == version).cloned()
    }

    /// The resource that an owner reference's or manifest's `apiVersion` and `kind` mean.
    pub(crate) fn find_kind(&self, api_version: &str, kind: &str) -> Option<Arc<Resource>> {
        self.all().find(|r| r.kind == kind && r.api_version() == api_version).cloned()
    }

    /// One resource per storage: the view that objects are kept in.
    pub(crate) fn storages(&self) -> Vec<Arc<Resource>> {
        let mut seen: Vec<Arc<Resource>> = Vec::new();
        for resource in self.all() {
            if !seen.iter().any(|other| other.storage == resource.storage) {
                seen.push(Arc::clone(resource));
            }
        }
        seen
    }

    /// Adds or replaces what a CustomResourceDefinition defines.
    pub(crate) fn define(&mut self, definition: &Value) {
        let resources = custom::resources(definition);
        match self.custom.iter_mut().find(|(defined, _)| defined == name(definition)) {
            Some((_, old)) => *old = resources,
            None => self.custom.push((name(definition).to_owned(), resources)),
        }
    }

    /// Forgets what a definition defined.
    pub(crate) fn undefine(&mut self, definition: &str) {
        self.custom.retain(|(defined, _)| defined != definition);
    }
}
