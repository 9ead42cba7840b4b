//! The end of a namespace: its contents are deleted, then it is. Never ends one with contents left.

use super::delete::{self, DeleteOptions};
use crate::{
    meta::{self, Object},
    state::State,
    store::Key,
};

const STORAGE: &str = "namespaces.";

/// Deletes what a namespace holds, and the namespace if that emptied it.
pub(super) fn terminate(state: &mut State, name: &str) {
    for resource in state.registry.storages() {
        if !resource.namespaced {
            continue;
        }
        let keys: Vec<Key> =
            state.store.list(&resource.storage, Some(name)).map(|object| Key::of(object)).collect();
        for key in keys {
            // A NotFound means that its owner went first.
            let _ = delete::delete(state, &resource, &key, &DeleteOptions::default());
        }
    }
    finish_if_empty(state, name);
}

/// Removes a terminating namespace that holds nothing any more.
pub(super) fn finish_if_empty(state: &mut State, name: &str) {
    let Some(namespace) = state.store.get(STORAGE, &Key::new("", name)) else { return };
    if !meta::is_deleting(namespace) || meta::is_empty(&namespace["spec"]["finalizers"]) {
        return;
    }
    let storages = state.registry.storages();
    let holds = |storage: &str| state.store.list(storage, Some(name)).next().is_some();
    if storages.iter().any(|resource| resource.namespaced && holds(&resource.storage)) {
        return;
    }
    let mut namespace = Object::clone(namespace);
    meta::member(&mut namespace, "spec").remove("finalizers");
    let Some(resource) = state.resource_of(STORAGE) else { return };
    if delete::is_finished(&resource, &namespace) {
        delete::finish(state, &resource, namespace);
    } else {
        state.commit(&resource, namespace);
    }
}
